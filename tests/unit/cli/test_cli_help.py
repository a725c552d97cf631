"""The help of every command: whole, in 80 columns, and with the options that all commands have."""

import pytest

from twinhost.cli.app import main
from twinhost.cli.completion import places_of_commands

PLACES = places_of_commands()
OWN_OUTPUT = {("lease",), ("mcp",), ("client",)}  # standard output is that of a program, a protocol, or a module


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
    if not PLACES[path].words and path not in OWN_OUTPUT:
        assert "--json" in PLACES[path].options


def test_the_versions_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Before any key is looked for."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("twinhost ")
