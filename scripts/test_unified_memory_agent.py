#!/usr/bin/env python3
"""Test UnifiedMemoryReasoningAgent and its link: run the tests marked `unified_memory_agent` and print a verdict.

Arguments are pytest's; `--quick` leaves out what starts containers. Exit status: pytest's; 1 too where nothing was
checked.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.marked_tests import run_marked

if __name__ == "__main__":
    sys.exit(run_marked("unified_memory_agent", sys.argv[1:]))
