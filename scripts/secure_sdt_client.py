#!/usr/bin/env python3
"""A minimal client of SystemDigitalTwin: the command `secure_sdt_client` of the package, for a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services"))

from twinhost.cli.secure_sdt_client import run

if __name__ == "__main__":
    run()
