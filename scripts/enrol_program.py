#!/usr/bin/env python3
"""Make a key for a program on this machine: the command `enrol_program` of the package, for a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services"))

from twinhost.cli.enrol_program import run

if __name__ == "__main__":
    run()
