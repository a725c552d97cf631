"""`completion`: the scripts complete what there is, in each shell that is installed here."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import COMMAND, Cli, process_environment

pytestmark = pytest.mark.thorough

REPOSITORY = Path(__file__).resolve().parents[3]
Complete = Callable[..., list[str]]
_RUNS = {
    "bash": 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _twinhost_completion twinhost;'
    ' printf "%s\n" "${COMPREPLY[@]}"',
    "zsh": r"""
        compdef() {}; _files() {}
        _arguments() { print -r -- "$1" | grep -oE '"[^"]+":"' | tr -d ':"' }
        source "$0"; words=("$@"); CURRENT=$#; _twinhost_completion
        """,
    "fish": 'source $argv[1]; complete --do-complete "$argv[2..]" | cut -f1',
}


@pytest.fixture(params=sorted(_RUNS))
def complete(request: pytest.FixtureRequest, hosts: TwoHosts, cli: Cli, tmp_path: Path) -> Complete:
    """Complete the last of some words with the script of a shell, in that shell."""
    name = request.param
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    script = tmp_path / f"script.{name}"
    ran = cli(hosts, "completion", name)
    assert (ran.status, ran.err) == (0, "")
    script.write_text(ran.out)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "twinhost"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    environment = process_environment(hosts.environment)
    environment["PATH"] = f"{command.parent}{os.pathsep}{environment['PATH']}"

    def complete(*words: str) -> list[str]:
        shell = [program, "-c", _RUNS[name], str(script), "twinhost", *words]
        done = subprocess.run(
            shell, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=30
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_each_word_is_completed_by_its_place(complete: Complete) -> None:
    """Commands, those of a group, options behind a hyphen, agents, and the actions of an agent."""
    assert complete("mem") == ["memory"]
    assert sorted(complete("keys", "rotate", "")) == ["client", "server"]
    assert complete("memory", "by", "someone", "--l") == ["--limit"]
    assert sorted(complete("call", "")) == [SDT, UMRA]
    assert complete("call", UMRA, "get_memo") == ["get_memory"]
    assert complete("explain", SDT, "get_memo") == []
    assert complete("agents", "unr") == ["unregister"]


def test_values_files_and_programs_are_left_to_the_shell(complete: Complete, tmp_path: Path) -> None:
    """Also what has the name of a command: `--speaker watch` is no command, nor is a program of `lease`."""
    (tmp_path / "memo.txt").touch()
    for words in (("memory", "search", "--speaker", "memo"), ("memory", "backup", "memo"), ("lease", "--", "memo")):
        assert complete(*words) in ([], ["memo.txt"]), words
    assert complete("memory", "search", "--speaker", "watch", "--si") == ["--since"]


def test_explain_completes_agents_and_actions(complete: Complete) -> None:
    """Its words may be an agent, an action, or both."""
    assert complete("explain", "Sys") == [SDT]
    assert complete("explain", "search_m") == ["search_memory"]
    assert complete("ping", "Uni") == [UMRA]


def test_without_a_configuration_there_are_no_agents(hosts: TwoHosts, complete: Complete) -> None:
    """Nothing is said at a TAB about what is missing."""
    (hosts.root / "network_config.yaml").unlink()
    assert not {SDT, UMRA} & set(complete("call", ""))
    assert complete("agents", "unr") == ["unregister"]


def test_the_program_of_a_checkout_starts_no_container(tmp_path: Path) -> None:
    """`./twinhost` asks the one in .venv; without it there is nothing to complete, and no key is made."""
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "docker").chmod(0o755)
    shutil.copy(REPOSITORY / "twinhost", tmp_path)
    asked = {"_TWINHOST_COMPLETE": "complete_bash", "COMP_WORDS": "twinhost mem", "COMP_CWORD": "1"}
    environment = {**os.environ, **asked, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for installed in ("", "memory"):
        done = subprocess.run(tmp_path / "twinhost", env=environment, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (installed, "")
        (tmp_path / ".venv/bin").mkdir(parents=True, exist_ok=True)
        program = tmp_path / ".venv/bin/twinhost"
        program.write_text("#!/bin/sh\nprintf memory\n")
        program.chmod(0o755)


def test_the_script_is_also_a_field_of_json(hosts: TwoHosts, cli: Cli) -> None:
    """As every command's output is; there is none for another shell."""
    document = json.loads(cli(hosts, "completion", "fish", "--json").out)
    assert document["script"] == cli(hosts, "completion", "fish").out.rstrip("\n")
    assert cli(hosts, "completion", "tcsh").status == 2
