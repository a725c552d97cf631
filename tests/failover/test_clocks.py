"""A wrong clock of each machine: what was acknowledged is there, and writes go on."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import docker
import pytest

from tests.containers.stack import IMAGE, REPOSITORY
from tests.failover.faults import (
    AGENT_S,
    MARKS,
    Fault,
    both,
    killed,
    of_node,
    turned,
    withstand,
)
from tests.failover.machines import PROCESSES_OF, Machines
from tests.unit.store.replication.model import accept

pytestmark = MARKS

DATABASE_IMAGE = "twinhost-database:0.2.0"
OLDER_KEYS = REPOSITORY / "tests/faults/older_keys.yaml"
RECIPE = REPOSITORY / "tests/faults/turned_clock.Dockerfile"
_TWO_AT_ONCE_S = 30.0  # nothing is promised of them; a witness waits for 10 s after it was started again
_REPORTED_S = 3.0  # each node has told the witness since that it is there, by its new time

FAULTS: dict[str, tuple[float, Fault]] = {
    **{
        f"clock of {machine} {hours:+d} h": (AGENT_S, turned(machine, hours))
        for machine in ("mainpc", "pc2", "third")
        for hours in (1, -1)
    },
    **{
        f"clock of third {hours:+d} h, and kill -9 of the primary database": (
            _TWO_AT_ONCE_S,
            both(turned("third", hours, _REPORTED_S), of_node("primary", killed)),
        )
        for hours in (1, -1)
    },
    "kill -9 of the primary database, and clock of third -1 h": (
        _TWO_AT_ONCE_S,
        both(of_node("primary", killed), turned("third", -1)),
    ),
}


@pytest.fixture(scope="module")
def machines(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Everything with clocks that can be turned, and with keys that are a day old.

    Each look at a clock reads a file then, which takes the time of both processors: test_disks.py is without it.
    """
    images = {"TWINHOST_IMAGE": (IMAGE, "-ha"), "TWINHOST_DATABASE_IMAGE": (DATABASE_IMAGE, "")}
    variables = {"TWINHOST_LOG_LEVEL": "debug"}
    with ExitStack() as ends:
        for name, (image, suffix) in images.items():
            variables[name] = f"{image}-turned-clock"
            ends.enter_context(_with_a_clock(engine, f"{image}{suffix}", f"{variables[name]}{suffix}"))
        folder = tmp_path_factory.mktemp("turned")
        machines = ends.enter_context(Machines.started(folder, variables, OLDER_KEYS))
        machines.wait_until_whole()
        yield machines


@contextmanager
def _with_a_clock(engine: docker.DockerClient, image: str, tag: str) -> Iterator[None]:
    """Make an image whose wall clock can be turned, of another one."""
    command = ["docker", "build", "--quiet", "--tag", tag, "--build-arg", f"IMAGE={image}", "-"]
    built = subprocess.run(command, input=RECIPE.read_text(), capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip(f"no image with Debian's libfaketime can be built here: {built.stderr.strip().splitlines()[-1]}")
    yield
    engine.images.remove(tag)


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_acknowledged_is_lost(machines: Machines, writing: str, tmp_path: Path, name: str) -> None:
    """Writes go on within the promised time, as often as the fault is repeated; then the account is right."""
    limit_s, make = FAULTS[name]
    withstand(machines, writing, tmp_path, name, limit_s, make)


@pytest.mark.parametrize("agent", PROCESSES_OF)
def test_the_model_does_what_the_processes_did(machines: Machines, agent: str) -> None:
    """In all of these faults, as their logs have it; in the engine's time, since their own clocks were turned."""
    lines = [line | {"timestamp": line["came"]} for service in PROCESSES_OF[agent] for line in machines.log(service)]
    assert accept(lines) > 50
