"""The documents hold together: paths, links, anchors, lengths, and what is generated or copied from elsewhere."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from scripts import write_actions, write_log_events, write_troubles
from scripts.write_log_events import PACKAGE

REPOSITORY = Path(__file__).resolve().parents[2]
PLACES = (".ci", "certs-init", "config", "database", "docs", "examples", "monitoring", "scripts", "services", "tests")
NOT_TEXT = {".png", ".pyc", ".svg", ".xz"}
MAX_COLUMNS = 120
README_MAX_LINES = 129
RECORD_PARTS = ["Why.", "What would break."]

NAMED = re.compile(r"(?<![\w./-])docs/[\w./-]*\w")  # a path from the repository's root
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```", re.M)


def text_files() -> Iterator[Path]:
    """Yield the repository's own files, without what a tool or a build made."""
    inside = (path for place in PLACES for path in (REPOSITORY / place).rglob("*"))
    for path in (*REPOSITORY.iterdir(), *inside):
        made = "__pycache__" in path.parts or any(part.endswith(".egg-info") for part in path.parts)
        if path.is_file() and not made and path.suffix not in NOT_TEXT:
            yield path


def prose_of(path: Path) -> list[str]:
    """Return a page's lines, empty where they belong to a code block."""
    lines, in_code = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        fence = FENCE.match(line) is not None
        in_code ^= fence
        lines.append("" if in_code or fence else line)
    return lines


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as the repository host makes them."""
    titles = [line.lstrip("#").strip() for line in prose_of(path) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


PAGES = sorted(path for path in text_files() if path.suffix == ".md")
RECORDS = sorted((REPOSITORY / "docs/decisions").glob("0*.md"))


def page_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_every_named_document_exists() -> None:
    """A path that begins with docs/ leads somewhere, in code, configuration, error sentences, and pages alike."""
    missing = [
        f"{page_name(path)}: {named}"
        for path in text_files()
        for named in NAMED.findall(path.read_text(encoding="utf-8", errors="replace"))
        if not (REPOSITORY / named).exists()
    ]
    assert missing == []


def test_every_link_of_a_page_leads_somewhere() -> None:
    """Relative links have a file and, where they name one, an anchor; web addresses aren't looked at."""
    for page in PAGES:
        for target in LINK.findall("\n".join(prose_of(page))):
            if re.match(r"https?://", target):
                continue
            name, _, anchor = target.partition("#")
            linked = (page.parent / name).resolve() if name else page
            assert linked.exists(), f"{page_name(page)}: {target} leads nowhere"
            if anchor:
                assert anchor in anchors_of(linked), f"{page_name(page)}: {target}: no such heading"


def test_a_page_wraps_at_120_columns() -> None:
    """Tables and code blocks apart."""
    too_long = [
        f"{page_name(page)}:{number}"
        for page in PAGES
        for number, line in enumerate(prose_of(page), 1)
        if len(line) > MAX_COLUMNS and not line.startswith("|")
    ]
    assert too_long == []


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= README_MAX_LINES


def test_every_document_is_in_the_index() -> None:
    """A page that nothing lists isn't found."""
    listed = {
        (index.parent / link.partition("#")[0]).resolve()
        for index in (REPOSITORY / "docs/index.md", REPOSITORY / "docs/decisions/index.md")
        for link in LINK.findall(index.read_text(encoding="utf-8"))
    }
    pages = {path.resolve() for path in (REPOSITORY / "docs").rglob("*.md")} - {REPOSITORY / "docs/index.md"}
    assert pages - listed == set()


def test_a_decision_record_has_its_form() -> None:
    """The number of its file and what was decided; then why, and what would break."""
    for record in RECORDS:
        text = record.read_text(encoding="utf-8")
        number = int(record.name.split("-")[0])
        assert re.match(rf"# {number}\. .+\n\n[^\n*#]", text), record.name
        assert re.findall(r"^\*\*(.+?)\*\*", text, re.M) == RECORD_PARTS, record.name


def test_a_decision_record_has_a_number_of_its_own() -> None:
    numbers = [record.name.split("-")[0] for record in RECORDS]
    assert len(set(numbers)) == len(numbers)


def test_the_index_of_decisions_lists_what_exists() -> None:
    """Each record once, in order, under its own title."""
    index = (REPOSITORY / "docs/decisions/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\((0\d+-.+\.md)\) \|$", index, re.M)
    titles = [record.read_text(encoding="utf-8").partition("\n")[0] for record in RECORDS]
    assert [(f"# {number}. {title}", name) for number, title, name in listed] == [
        (title, record.name) for title, record in zip(titles, RECORDS, strict=True)
    ]


def test_the_reference_of_actions_is_current() -> None:
    """Otherwise run: .venv/bin/python scripts/write_actions.py."""
    assert write_actions.main(["--check"]) == 0


def test_the_reference_of_troubles_is_current() -> None:
    """Otherwise run: .venv/bin/python scripts/write_troubles.py."""
    assert write_troubles.main(["--check"]) == 0


def test_the_reference_of_log_events_is_current() -> None:
    """Otherwise run: .venv/bin/python scripts/write_log_events.py."""
    assert write_log_events.main(["--check"]) == 0
    loggers = (re.findall(r"(\S+) = structlog\.get_logger", path.read_text()) for path in PACKAGE.rglob("*.py"))
    assert {name for names in loggers for name in names} == {"_log"}  # by which it finds the calls


def test_the_diagrams_are_current() -> None:
    """Otherwise run: make generate. In a process of its own: one of them is recorded, without a run's plug-ins."""
    script = REPOSITORY / "scripts/write_diagrams.py"
    ran = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_pre_commit_runs_what_make_lint_runs() -> None:
    """The same commands with the same arguments, in the same order."""
    lint = (REPOSITORY / "scripts/setup/lint.sh").read_text(encoding="utf-8")
    document = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in document["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in document["repos"]} == {"local"}
    entries = [re.sub(r"(env \S+ )?\.venv/bin/", "", hook["entry"]) for hook in hooks]
    checks = [line.removeprefix("check ") for line in lint.splitlines() if line.startswith("check ")]
    assert [shlex.split(entry) for entry in entries] == [shlex.split(check) for check in checks]


def test_names_of_tests_have_at_most_60_characters() -> None:
    """As CONTRIBUTING.md says."""
    texts = (path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("*.py"))
    assert [name for text in texts for name in re.findall(r"def (test_\w+)", text) if len(name) > 60] == []


def test_ci_runs_every_long_target_in_turn() -> None:
    """Each that the reference lists; of the benchmark, every commit has each row (`bench-smoke`)."""
    page = (REPOSITORY / "docs/reference/command-line.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"Longer\s+tests have targets of their own: (.*?)\(", page, re.S)
    ci = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)`", listed)) - {"bench"}
    assert targets
    in_turn = {word for line in re.findall(r'^ +"make (.*)"$', ci, re.M) for word in line.split()}
    assert targets <= in_turn
