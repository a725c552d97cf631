"""`./twinhost switchover` and `promote`: in which container they run."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "twinhost"
DOCKER = """#!/bin/sh
case "$*" in
    "compose ps --services --status running") echo "$RUNNING" | tr " " "\\n" ;;
    *) echo "$*" ;;
esac
"""


def run(tmp_path: Path, running: str, *words: str) -> "subprocess.CompletedProcess[str]":
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RUNNING": running}
    return subprocess.run([SCRIPT, *words], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("running", "words", "service"),
    [
        ("mainpc mainpc-standby pc2", "promote", "mainpc-standby"),
        ("mainpc pc2-standby", "switchover SystemDigitalTwin", "mainpc"),
        ("mainpc pc2-standby", "promote pc2 --to pc2-standby", "pc2-standby"),
        ("pc2 mainpc-standby", "switchover --json UnifiedMemoryReasoningAgent", "pc2"),
    ],
)
def test_a_standby_that_runs_here_is_asked_first(running: str, words: str, service: str, tmp_path: Path) -> None:
    """In a container of the command's own: an agent that hands over ends its own."""
    done = run(tmp_path, running, *words.split())
    command = f"compose --progress quiet run --rm -T --no-deps {service} python -m twinhost.cli {words}\n"
    assert (done.returncode, done.stdout) == (0, command)


def test_without_a_process_here_it_says_where_to_go(tmp_path: Path) -> None:
    done = run(tmp_path, "mainpc pc2-standby-2", "promote", "pc2")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error [not_found]: no process of pc2 runs on this machine; run this on the other one"
    )


def test_no_database_is_promoted_but_one_of_two(tmp_path: Path) -> None:
    """All others have a witness that does it."""
    done = run(tmp_path, "mainpc pc2-standby", "promote", "database", "--other-machine-is-off")
    assert done.returncode == 1
    assert "This promotes the database of one of two machines" in done.stderr
