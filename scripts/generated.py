"""What the scripts that generate a page from the code have in common."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def write_or_check(
    script: str, description: str | None, page: Path, text: Callable[[], str], arguments: Sequence[str] | None
) -> int:
    """Write a page, or with `--check` compare it; return the exit status.

    Args:
        script: the path of the script that generates the page.
        description: for its help.
        page: the page's path.
        text: returns what the page is to be.
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    if not parser.parse_args(arguments).check:
        page.write_text(text(), encoding="utf-8")
    elif page.read_text(encoding="utf-8") != text():
        print(f"{page} is out of date; run: .venv/bin/python scripts/{Path(script).name}", file=sys.stderr)
        return 1
    return 0
