#!/usr/bin/env python3
"""Print the size of the code: files, lines, modules with one importer, the fullest folder, the longest text line."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ROOT / "services"


def main() -> int:
    """Print the figures of this checkout's tracked files."""
    modules = {_dotted(path): path for path in _tracked("services/*.py")}
    importers = _importers(modules)
    alone = sorted(name for name, found in importers.items() if len(found) == 1 and _package(name) == _package(*found))
    folders = Counter(path.parent for path in modules.values())
    fullest, files = folders.most_common(1)[0]
    longest, where = max(_markdown_lines())
    lines, tests = (sum(map(_lines, paths)) for paths in (modules.values(), _tracked("tests/*.py")))
    print(f"Python files under services/     {len(modules)}")
    print(f"lines in them                    {lines}")
    print(f"lines of tests                   {tests} ({tests / lines:.2f} times the code)")
    print(f"modules past 400 lines           {sum(_lines(path) > 400 for path in modules.values())}")
    print(f"most files in one folder         {files} ({fullest.relative_to(ROOT)})")
    print(f"modules with one importer        {len(alone)} within their own package")
    print(f"longest Markdown line            {longest} characters ({where})")
    if "--modules" in sys.argv[1:]:
        print(*(f"  {name}" for name in alone), sep="\n")
    return 0


def _tracked(pattern: str) -> list[Path]:
    names = subprocess.check_output(["git", "ls-files", "-z", pattern], cwd=ROOT, text=True)  # noqa: S603, S607
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(SERVICES).with_suffix("").parts).removesuffix(".__init__")


def _package(module: str) -> str:
    return module.rpartition(".")[0]


def _importers(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Return, by module, the modules that import it."""
    found: dict[str, set[str]] = defaultdict(set)
    for importer, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{name}" for name in names)]
            for name in names:
                if name in modules and name != importer:
                    found[name].add(importer)
    return found


def _markdown_lines() -> Iterator[tuple[int, str]]:
    """Yield length and place of each line of prose: none in a code block, no row of a table, and no bare link."""
    for path in _tracked("*.md"):
        fenced = False
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            fenced ^= line.lstrip().startswith("```")
            if not fenced and not line.startswith("|"):
                yield len(line), f"{path.relative_to(ROOT)}:{number}"


if __name__ == "__main__":
    sys.exit(main())
