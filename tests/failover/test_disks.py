"""A full disk of each part: what was acknowledged is there, and writes go on."""

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.failover.faults import (
    AGENT_S,
    MACHINE_S,
    MARKS,
    Fault,
    filled,
    of_active,
    of_node,
    of_standbys,
    withstand,
)
from tests.failover.machines import PROCESSES_OF, Machines
from tests.failover.writers import SDT, UMRA
from tests.faults.small_volumes import NoLoopDevice, ext4_volumes
from tests.unit.store.replication.model import accept

pytestmark = MARKS

OVERRIDE = Path(__file__).with_name("small_volumes.yaml")
# Each failover leaves 16 MB of PostgreSQL's log until 256 MB more were written.
_SQLITE_MIB, _DATABASE_MIB, _WITNESS_MIB = 64, 4_096, 320
SIZES_MIB = dict.fromkeys(("MAINPC", "PC2", "MAINPC_STANDBY", "PC2_STANDBY"), _SQLITE_MIB) | {
    "DATABASE_MAINPC": _DATABASE_MIB,
    "DATABASE_PC2": _DATABASE_MIB,
    "WITNESS": _WITNESS_MIB,
}

FAULTS: dict[str, tuple[float, Fault]] = {
    "full disk of the active SystemDigitalTwin": (AGENT_S, of_active(SDT, filled)),
    "full disk of the active UnifiedMemoryReasoningAgent": (AGENT_S, of_active(UMRA, filled)),
    "full disks of both standbys": (AGENT_S, of_standbys(filled)),
    "full disk of the primary database": (MACHINE_S, of_node("primary", filled)),
    "full disk of the secondary database": (MACHINE_S, of_node("secondary", filled)),
    "full disk of the witness": (AGENT_S, filled("witness")),
}


@pytest.fixture(scope="module")
def machines(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Everything on small file systems."""
    folder = tmp_path_factory.mktemp("small")
    try:
        with ext4_volumes(folder, SIZES_MIB) as variables:
            variables["TWINHOST_LOG_LEVEL"] = "debug"
            with Machines.started(folder, variables, OVERRIDE) as machines:
                machines.wait_until_whole()
                yield machines
    except NoLoopDevice as reason:
        pytest.skip(f"no small file system can be made here: {reason}")


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_acknowledged_is_lost(machines: Machines, writing: str, tmp_path: Path, name: str) -> None:
    """Writes go on within the promised time, as often as the fault is repeated; then the account is right."""
    limit_s, make = FAULTS[name]
    withstand(machines, writing, tmp_path, name, limit_s, make)


@pytest.mark.parametrize("agent", PROCESSES_OF)
def test_the_model_does_what_the_processes_did(machines: Machines, agent: str) -> None:
    """In all of these faults, as their logs have it."""
    lines = [line for service in PROCESSES_OF[agent] for line in machines.log(service)]
    assert accept(lines) > 50
