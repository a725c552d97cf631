#!/usr/bin/env python3
"""Draw the diagrams that the documentation has of the code: each replaces what a page has between its two markers.

Exit status: 0 written; with `--check`, 1 where a page is out of date, and nothing is written.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "services"))

from twinhost.certificates.admission import ADMISSION  # noqa: E402  (after the path)
from twinhost.certificates.join import JOIN  # noqa: E402
from twinhost.certificates.rotate import ROTATION  # noqa: E402
from twinhost.secure_zmq.link import LINK  # noqa: E402

Diagram = tuple[str, str, Callable[[], str]]  # the page, the diagram's name in its markers, and what draws it
DIAGRAMS: tuple[Diagram, ...] = (
    ("docs/explanation/link.md", "link", LINK.mermaid),
    ("docs/explanation/enrolment.md", "admission", ADMISSION.mermaid),
    ("docs/explanation/enrolment.md", "join", JOIN.mermaid),
    ("docs/explanation/rotation.md", "rotation", ROTATION.mermaid),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the diagrams, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args(arguments).check
    for page, name, draw in DIAGRAMS:
        path = REPOSITORY / page
        text = path.read_text(encoding="utf-8")
        drawn = redrawn(text, name, draw())
        if not check:
            path.write_text(drawn, encoding="utf-8")
        elif text != drawn:
            print(f"{path} is out of date; run: make generate", file=sys.stderr)
            return 1
    return 0


def redrawn(text: str, name: str, diagram: str) -> str:
    """Return a page's text with another diagram between the markers of that name."""
    begin, end = f"<!-- drawn by scripts/write_diagrams.py: {name} -->\n", "<!-- end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise ValueError(f"the page has no markers of the diagram {name!r}: {begin.strip()} and {end}")
    return f"{before}{begin}\n```mermaid\n{diagram}\n```\n\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
