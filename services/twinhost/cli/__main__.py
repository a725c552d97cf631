"""`python -m twinhost.cli`: the command line as a process."""

import sys

from twinhost.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
