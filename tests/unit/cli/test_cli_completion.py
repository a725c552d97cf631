"""`completion`: the scripts complete what there is, in each shell that is installed here."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import Cli
from twinhost.cli.completion import places

pytestmark = pytest.mark.thorough

Complete = Callable[..., list[str]]
_RUNS = {
    "bash": 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _twinhost; printf "%s\\n" "${COMPREPLY[@]}"',
    "zsh": 'compdef() {}; source "$0"; __twinhost_candidates "${@[-1]}" "${@[2,-2]}" | cut -d: -f1',
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

    def complete(*words: str) -> list[str]:
        command = [program, "-c", _RUNS[name], str(script), "twinhost", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=30)
        assert done.stderr == ""
        found = done.stdout.split()
        return [each for each in found if each.startswith(words[-1])]  # zsh selects itself, and fish by more

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


def test_every_command_has_its_place(hosts: TwoHosts, cli: Cli) -> None:
    """The script comes from the commands themselves; without a configuration it has no agents."""
    for path, place in places().items():
        assert "--help" in place.options, path
        assert all(0 < len(about) <= 60 for about in place.words.values()), path
    (hosts.root / "network_config.yaml").unlink()
    document = json.loads(cli(hosts, "completion", "fish", "--json").out)
    assert ("unregister" in document["script"], UMRA in document["script"]) == (True, False)
    assert cli(hosts, "completion", "tcsh").status == 2
