#!/usr/bin/env python3
"""Make and check the CURVE keys of both hosts: the command of certs-init, for a checkout with its venv's Python.

The tree is `/certificates`, or what TWINHOST_CERTIFICATES or `--root` names.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services"))

from twinhost.cli.certs_init import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
