"""What lets other frameworks use the agents; each module needs the extra of its name, and nothing else imports it."""


def missing_extra(extra: str, needed: str) -> ImportError:
    """Return the error of an adapter whose framework is not installed; it has the command that installs it."""
    return ImportError(f"{needed} is not installed, which this adapter needs; run: pip install 'twinhost[{extra}]'")
