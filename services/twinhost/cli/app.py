"""The entry point of the command line, in the standard library alone: it can say which package is missing."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; without arguments, as the process that was started for it."""
    if arguments is None:
        signal.signal(signal.SIGINT, _interrupted)  # before the imports, which take some 150 ms
        arguments = sys.argv[1:]
    try:
        from twinhost.cli.program import run  # noqa: PLC0415 - guarded

        return run(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "twinhost"}:
            raise
        sys.stderr.write(
            f"twinhost: the package {package} is not installed; run: pip install --force-reinstall twinhost\n"
        )
        return 1


def _interrupted(_: int, __: FrameType | None) -> None:
    raise SystemExit(INTERRUPTED)
