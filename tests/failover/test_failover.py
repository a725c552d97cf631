"""Whatever is lost, what was acknowledged is on both machines once, and writes go on."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest

from tests.containers.test_failover import COMMANDS, PAGE
from tests.failover.faults import (
    AGENT_S,
    MACHINE_S,
    MARKS,
    Fault,
    Ledgers,
    apart,
    both,
    cut,
    killed,
    of_active,
    of_node,
    of_primary_machine,
    of_standbys,
    stopped,
    while_stopped,
    withstand,
)
from tests.failover.machines import MACHINES, PROCESSES_OF, Machines
from tests.failover.writers import SDT, UMRA, now
from tests.unit.store.replication.model import accept
from tests.waiting import PATIENCE_S, wait_until

pytestmark = MARKS

_REPORT_S = 1.5  # in which each node reports to the witness once
FAULTS: dict[str, tuple[float, Fault]] = {
    "kill -9 of the active SystemDigitalTwin": (AGENT_S, of_active(SDT, killed)),
    "kill -9 of the active UnifiedMemoryReasoningAgent": (AGENT_S, of_active(UMRA, killed)),
    "kill -9 of both standbys": (AGENT_S, of_standbys(killed)),
    "kill -9 of the primary database": (MACHINE_S, of_node("primary", killed)),
    "kill -9 of the secondary database": (MACHINE_S, of_node("secondary", killed)),
    "kill -9 of the witness": (AGENT_S, killed("witness")),
    "power-off of mainpc": (MACHINE_S, killed(*MACHINES["mainpc"])),
    "power-off of pc2": (MACHINE_S, killed(*MACHINES["pc2"])),
    "power-off of the primary's machine": (MACHINE_S, of_primary_machine(lambda mine, _: killed(*MACHINES[mine]))),
    "SIGSTOP of the active SystemDigitalTwin": (AGENT_S, of_active(SDT, stopped)),
    "SIGSTOP of the active UnifiedMemoryReasoningAgent": (AGENT_S, of_active(UMRA, stopped)),
    "SIGSTOP of the primary database": (MACHINE_S, of_node("primary", stopped)),
    "the primary's machine cut off from both others": (
        MACHINE_S,
        of_primary_machine(lambda mine, other: both(apart(mine, other), apart(mine, "third"))),
    ),
    "mainpc and pc2 cut": (MACHINE_S, apart("mainpc", "pc2")),
    "mainpc hears nothing of pc2": (MACHINE_S, cut("mainpc", "pc2")),
    "pc2 hears nothing of mainpc": (MACHINE_S, cut("pc2", "mainpc")),
    "the primary's machine and the witness cut": (MACHINE_S, of_primary_machine(lambda mine, _: apart(mine, "third"))),
    "the other machine and the witness cut": (MACHINE_S, of_primary_machine(lambda _, other: apart(other, "third"))),
    "the primary's machine hears nothing of the witness": (
        MACHINE_S,
        of_primary_machine(lambda mine, _: cut(mine, "third")),
    ),
    "the same, amid its report to the witness": (
        MACHINE_S,
        of_primary_machine(lambda mine, _: while_stopped("witness", _REPORT_S, cut(mine, "third"))),
    ),
    "the witness hears nothing of the primary's machine": (
        MACHINE_S,
        of_primary_machine(lambda mine, _: cut("third", mine)),
    ),
    "the other machine hears nothing of the witness": (
        MACHINE_S,
        of_primary_machine(lambda _, other: cut(other, "third")),
    ),
    "the witness hears nothing of the other machine": (
        MACHINE_S,
        of_primary_machine(lambda _, other: cut("third", other)),
    ),
}
_LONG_ENOUGH_S = 30.0  # a database that dies is replaced within 20 s
_IN_FLIGHT_S = 1.0
_KILLS = re.findall(r"^\| [^|]*`(docker compose kill [^`]*)` \|", PAGE, re.M)
# Which processes are active then, where the page names them.
_ACTIVE = {
    "docker compose kill pc2": ("pc2-standby",),
    "docker compose kill mainpc": ("mainpc-standby",),
    f"docker compose kill {' '.join(MACHINES['mainpc'])}": ("mainpc-standby", "pc2"),
}
_MORE = 3  # lines of a ledger: the calls of the first ones may have been under way


@pytest.fixture(scope="module")
def machines(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with Machines.started(tmp_path_factory.mktemp("machines"), {"TWINHOST_LOG_LEVEL": "debug"}) as machines:
        machines.wait_until_whole()
        yield machines


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_acknowledged_is_lost(machines: Machines, writing: str, tmp_path: Path, name: str) -> None:
    """Writes go on within the promised time, as often as the fault is repeated; then the account is right."""
    limit_s, make = FAULTS[name]
    withstand(machines, writing, tmp_path, name, limit_s, make)


def test_a_database_that_lacks_changes_does_not_take_over(machines: Machines, writing: str, tmp_path: Path) -> None:
    """The other one goes on alone in a cut, and then dies: until it is back, nobody acknowledges anything."""
    with Ledgers(machines, writing, tmp_path) as ledgers:
        with ExitStack() as cut_off:
            apart("mainpc", "pc2")(machines, cut_off)
            assert ledgers.outage(now(), MACHINE_S) < MACHINE_S
            alone = machines.node("wait_primary")
            machines.kill([alone])
            since = now() + _IN_FLIGHT_S
            time.sleep(_LONG_ENOUGH_S)
            assert not [at for writer in ledgers.all for at in writer.times("acknowledged") if at > since]
        machines.start([alone])
        machines.wait_until_whole()
        ledgers.wait_for_change(60)
        ledgers.end()


def test_who_follows_the_page_sees_that_nothing_was_lost(machines: Machines, tmp_path: Path) -> None:
    """Its program keeps a ledger through each of its kills; then its last command finds nothing that is lacking."""
    *begin, stop, find, count = COMMANDS["Kill this, look here"]
    assert len(_KILLS) == 5
    ended = tmp_path / "ended"
    os.mkfifo(ended)
    script = "\n".join([*begin, f"cat {ended}", stop, find, count])
    with subprocess.Popen(
        ["bash", "-c", script], cwd=machines.checkout.folder, stdout=subprocess.PIPE, text=True
    ) as shell:
        try:
            for kill in _KILLS:
                _follow(machines, kill)
        finally:
            ended.write_text("")
            out, _ = shell.communicate()
    assert (shell.returncode, out) == (0, "0\n")


def _follow(machines: Machines, kill: str) -> None:
    """Kill something, look at what the page says, and start it again."""

    def lines() -> int:
        return sum(len(path.read_text().splitlines()) for path in machines.checkout.folder.glob("ledger-*[0-9]"))

    wait_until(lambda: lines() >= _MORE, PATIENCE_S, "notes are stored")
    assert machines.checkout.run(kill).status == 0
    before = lines()
    wait_until(lambda: lines() >= before + _MORE, 3 * MACHINE_S, f"notes are stored after {kill}")
    for service in _ACTIVE.get(kill, ()):
        wait_until(lambda: machines.role(service) == "active", MACHINE_S, f"{service} is active")  # noqa: B023
    status = " ".join(machines.checkout.run("./twinhost status").out.split())
    assert ("1 copy" in status) == ("database" in kill), status
    assert ("witness silent" in status) == ("witness" in kill), status
    assert machines.checkout.run("docker compose up -d").status == 0
    machines.wait_until_whole()


@pytest.mark.parametrize("agent", PROCESSES_OF)
def test_the_model_does_what_the_processes_did(machines: Machines, agent: str) -> None:
    """In all of these faults, as their logs have it."""
    lines = [line for service in PROCESSES_OF[agent] for line in machines.log(service)]
    assert accept(lines) > 50
