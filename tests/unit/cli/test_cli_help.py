"""The help of every command: whole, in 80 columns, and with the options that all commands have."""

import subprocess
import sys
from typing import Any

import pytest
import typer

from tests.unit.cli.running import process_environment
from twinhost.cli.app import main
from twinhost.cli.program import COMMANDS, program


def commands_below(group: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found = {path: group}
    context = typer.Context(group, resilient_parsing=True)
    for name in getattr(group, "commands", ()):
        found |= commands_below(group.resolve_command(context, [name])[1], (*path, name))
    return found


PLACES = commands_below(typer.main.get_command(program()))
OWN_OUTPUT = {("lease",), ("mcp",), ("client",), ("notify", "run")}  # that of a program, a protocol, a module; a log


@pytest.mark.parametrize("path", PLACES, ids=" ".join)
def test_the_help_of_every_command_fits(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """In 80 columns, without an abbreviated summary; a command can print JSON, if its output is its own."""
    assert main([*path, "--help"]) == 0
    written = capsys.readouterr()
    lines = written.out.splitlines()
    assert lines[0].startswith(" ".join(["Usage: ./twinhost", *path, "["]))
    assert max(map(len, lines)) <= 80
    assert [line for line in lines[1:] if line.endswith("...")] == []
    assert written.err == ""
    if not hasattr(PLACES[path], "commands") and path not in OWN_OUTPUT:
        assert "--json" in {name for parameter in PLACES[path].params for name in parameter.opts}


def test_the_help_has_the_first_sentence_of_each_command() -> None:
    """It is printed without an import of the commands."""
    shown = {name: PLACES[name,].get_short_help_str(100) for name in COMMANDS}
    assert shown == {name: summary for name, (_, summary) in COMMANDS.items()}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command(option: str) -> None:
    """All of them take three times as long as a status of both agents."""
    code = f"import sys; from twinhost.cli.app import main; main(['{option}']); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=process_environment({}), capture_output=True, text=True, timeout=60, check=True)
    assert {module for module, _ in COMMANDS.values()} & set(done.stderr.split()) == set()


def test_the_versions_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Before any key is looked for."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("twinhost ")
