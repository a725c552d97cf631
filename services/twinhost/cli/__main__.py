"""`python -m twinhost.cli`: the command line as a process."""

import signal
import sys
from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def _interrupted(_: int, __: FrameType | None) -> None:
    raise SystemExit(INTERRUPTED)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupted)  # before the imports, which take some 150 ms
    from twinhost.cli.app import main

    sys.exit(main(sys.argv[1:]))
