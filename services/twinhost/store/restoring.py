"""A restore of a host's whole state that was cut short: until it is finished, nobody uses what is half of another."""

from pathlib import Path

from twinhost.secure_zmq.errors import ConfigurationError

RESTORING = ".restoring"  # beside what it is to take the place of: what was received and checked
COMMIT = "commit"  # in it, once nothing is left to be checked: the exchange has begun, and is to be finished


def require_no_restore(folder: Path) -> None:
    """Refuse a folder of state, or of keys, in which a restore has begun to exchange files.

    Raises:
        ConfigurationError: it has.
    """
    if (folder / RESTORING / COMMIT).exists():
        raise ConfigurationError(
            f"{folder} is half of a state that is being restored; run that restore again with the same file, "
            "which finishes it"
        )
