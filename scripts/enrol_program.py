#!/usr/bin/env python3
"""Make a key for a program on this machine: the older name of `twinhost join --local NAME`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services"))

from twinhost.cli.join import run_enrolment

if __name__ == "__main__":
    run_enrolment()
