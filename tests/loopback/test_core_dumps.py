"""Processes and containers that hold secret keys leave no core dump, though an assertion of libzmq may abort them."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.loopback.agent_processes import Hosts
from tests.unit.cli.running import process_environment

COMPOSE_FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"
SHOWS_LIMIT = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"


@pytest.fixture
def unlimited() -> Iterator[None]:
    """Let whatever is started here dump its core."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    assert before[1] != 0, "the test needs a limit that can be raised"
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.mark.usefixtures("unlimited")
def test_an_agent_leaves_no_core_dump(tmp_path: Path) -> None:
    """Whatever the limit of whoever started it."""
    with Hosts(tmp_path) as hosts:
        for agent in hosts.start_both():
            assert resource.prlimit(agent.pid, resource.RLIMIT_CORE)[0] == 0


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("program", ["certs_init", "archive"])
def test_a_command_that_writes_keys_leaves_no_core_dump(program: str) -> None:
    code = f"from twinhost.cli.{program} import main; main(['--help']); {SHOWS_LIMIT}"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=process_environment({}), stdout=subprocess.PIPE, check=True
    )
    assert shown.stdout.split()[-1] == b"0"


def test_no_container_leaves_a_core_dump() -> None:
    """Also those of the command line, whose process may have been given another limit."""
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    assert {name for name, service in services.items() if service["ulimits"]["core"] != 0} == set()
