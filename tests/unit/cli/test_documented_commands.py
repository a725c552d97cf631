"""Every command that a page shows exists, with its options; other tests run the commands of most pages."""

import re
from pathlib import Path
from typing import Any

import typer

from tests.unit.cli.test_cli_help import commands_below
from twinhost.cli import archive, certs_init
from twinhost.cli.program import program

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "certs-init/README.md"]
HISTORY = "CHANGELOG.md"  # it names commands of its time
PROGRAMS = {
    "twinhost": commands_below(typer.main.get_command(program())),
    "certs-init": commands_below(typer.main.get_command(certs_init.commands)),
    "archive": commands_below(typer.main.get_command(archive.app)),
}
PROGRAMS["cli"] = PROGRAMS["twinhost"]
CODE = re.compile(r"^```\w*\n(.*?)^```|(?<!`)`([^`]+)`(?!`)", re.M | re.S)
LINE = re.compile(r"^ *(?:\w*\$ |docker |\./|\.venv/|~/|twinhost |source |\()(.*)", re.M)  # of a block: a command
COMMAND = re.compile(r"(?:^|(?<=[\s(])|/)(twinhost|cli|certs-init|archive) ((?:--profile \w+ )?[a-z][^\n|#<>)]*)")


def documented() -> set[tuple[str, str, str]]:
    """Return the page, the program, and the words of each command, of blocks and of the text."""
    return {
        (page.name, shown[1], shown[2].split(" -- ")[0].strip())
        for page in PAGES
        if page.name != HISTORY
        for block, span in CODE.findall(page.read_text(encoding="utf-8"))
        for line in ([" ".join(span.split())] if span else [found[0] for found in LINE.finditer(block)])
        for shown in COMMAND.finditer(line.replace("~/.config/twinhost", ""))
    }


def fault_of(places: dict[tuple[str, ...], Any], words: list[str]) -> str:
    """Return what of a command does not exist."""
    path: tuple[str, ...] = ()
    options = {"--help", "--json", "--profile"}
    for word in words:
        if hasattr(places[path], "commands") and re.fullmatch(r"[a-z-]+", word) and not word.startswith("-"):
            if (path := (*path, word)) not in places:
                return f"no command {word}"
        elif word.startswith("--"):
            known = {name for parameter in places[path].params for name in parameter.opts}
            if word.partition("=")[0] not in known | options:
                return f"no option {word}"
    return ""


def test_every_documented_command_exists() -> None:
    found = documented()
    faults = {
        f"{page}: {name} {words}: {fault}"
        for page, name, words in found
        if (fault := fault_of(PROGRAMS[name], re.sub(r"--profile \w+ ", "", f"{words} ").split()))
    }
    assert len(found) > 150
    assert faults == set()
