"""The entry point of the command line, in the standard library alone: it can say which package is missing."""

import sys
from collections.abc import Sequence

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    try:
        from twinhost.cli.program import run  # noqa: PLC0415 - guarded

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # during the imports, which take some 150 ms: later Typer returns the same
        return INTERRUPTED
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "twinhost"}:
            raise
        sys.stderr.write(
            f"twinhost: the package {package} is not installed; run: pip install --force-reinstall twinhost\n"
        )
        return 1
