#!/usr/bin/env python3
"""certs-init: make, or check, the CURVE keys of both hosts; see README.md beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services"))

from twinhost.cli.certs_init import main

if __name__ == "__main__":
    sys.exit(main())
