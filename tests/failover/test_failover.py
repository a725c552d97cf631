"""Whatever is lost, what was acknowledged is on both machines once, and writes go on."""

import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.failover.account import account
from tests.failover.conftest import RAW, REPEAT
from tests.failover.machines import MACHINES, PROCESSES_OF, Machines
from tests.failover.writers import LEASE, SDT, UMRA, Writer, now

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(600 + 120 * REPEAT)]

# What is promised where an agent dies, and where a machine dies or is cut off.
AGENT_S, MACHINE_S = 5.0, 20.0
_STOPPED_S = 30.0
_PATIENCE = 3.0  # times a limit: a fault fails where it takes longer, and the table has what it took
Fault = Callable[[Machines, ExitStack], object]  # returns once it is there; what ends it is put on the stack


class Ledgers:
    """Writers of both agents, and two that compete for one lease."""

    def __init__(self, machines: Machines, writing: str, folder: Path) -> None:
        prefix = uuid.uuid4().hex[:8]
        kinds = (SDT, UMRA, LEASE, LEASE)
        self.all = [Writer(writing, kind, f"{prefix}{number}", folder) for number, kind in enumerate(kinds)]
        self.machines = machines
        self.wait_for_change(60)

    def wait_for_change(self, within_s: float, which: tuple[str, ...] = (SDT, UMRA)) -> float:
        """Return after how many seconds each kind of writer has a change acknowledged, from now on."""
        began = now()
        return max(writer.wait_for_change(began, within_s) for writer in self.all if writer.kind in which)

    def end(self) -> None:
        """End the writers, and compare their ledgers with both files and the log."""
        for writer in self.all:
            writer.end(60)
        for agent in PROCESSES_OF:
            account(self.machines, agent, [writer for writer in self.all if writer.kind == agent])
        held = sorted(
            (moment, what)
            for writer in self.all
            if writer.kind == LEASE
            for what in ("granted", "releasing")
            for moment in writer.times(what)
        )
        assert held, "no lease was granted"
        assert all(before[1] != after[1] for before, after in itertools.pairwise(held)), "two held one lease"


@pytest.fixture(scope="package")
def writing(machines: Machines) -> Iterator[str]:
    """A container that stays, of the cli: in it the writers run, on the network of both machines."""
    run = "docker compose --progress quiet run --detach --no-deps --entrypoint sleep cli infinity"
    done = machines.checkout.run(run)
    assert done.status == 0, done.err
    yield done.out.strip()
    machines.checkout.run(f"docker rm --force --volumes {done.out.strip()}")


def killed(*services: str) -> Fault:
    """Have processes end at once; they are started again afterwards."""

    def make(machines: Machines, ends: ExitStack) -> None:
        ends.callback(machines.start, services)
        machines.kill(services)

    return make


def stopped(*services: str) -> Fault:
    """Have processes stand still, for half a minute."""

    def make(machines: Machines, ends: ExitStack) -> None:
        ends.callback(machines.signal, services, "CONT")
        ends.callback(time.sleep, _STOPPED_S)
        machines.signal(services, "STOP")

    return make


def cut(hearers: str, speakers: str) -> Fault:
    """Have one machine hear nothing of another; clients reach both."""
    return lambda machines, ends: ends.enter_context(machines.cut(MACHINES[hearers], MACHINES[speakers]))


def both(*faults: Fault) -> Fault:
    def make(machines: Machines, ends: ExitStack) -> None:
        for one in faults:
            one(machines, ends)

    return make


def of_active(agent: str, make: Callable[[str], Fault]) -> Fault:
    """Have the fault at whichever process of an agent is active."""
    return lambda machines, ends: make(machines.with_role(agent, "active"))(machines, ends)


def of_node(state: str, make: Callable[[str], Fault]) -> Fault:
    """Have the fault at whichever database is `primary` or `secondary`."""
    return lambda machines, ends: make(machines.node(state))(machines, ends)


def of_primary_machine(make: Callable[[str, str], Fault]) -> Fault:
    """Have the fault at the machine of the database that takes writes; with it, the name of the other one."""

    def at(machines: Machines, ends: ExitStack) -> None:
        node = machines.node("primary")
        mine, other = ("mainpc", "pc2") if node in MACHINES["mainpc"] else ("pc2", "mainpc")
        make(mine, other)(machines, ends)

    return at


def apart(one: str, other: str) -> Fault:
    return both(cut(one, other), cut(other, one))


FAULTS: dict[str, tuple[float, Fault]] = {
    "kill -9 of the active SystemDigitalTwin": (AGENT_S, of_active(SDT, killed)),
    "kill -9 of the active UnifiedMemoryReasoningAgent": (AGENT_S, of_active(UMRA, killed)),
    "kill -9 of both standbys": (AGENT_S, killed("mainpc-standby", "pc2-standby")),
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
    "mainpc and the witness cut": (MACHINE_S, apart("mainpc", "third")),
    "pc2 and the witness cut": (MACHINE_S, apart("pc2", "third")),
}


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_acknowledged_is_lost(machines: Machines, writing: str, tmp_path: Path, name: str) -> None:
    """Writes go on within the promised time, as often as the fault is repeated; then the account is right."""
    limit_s, make = FAULTS[name]
    ledgers = Ledgers(machines, writing, tmp_path)
    with ExitStack() as abandoned:
        for writer in ledgers.all:
            abandoned.callback(writer.tell_to_end)
        for _ in range(REPEAT):
            with ExitStack() as ends:
                make(machines, ends)
                RAW.setdefault(name, []).append(ledgers.wait_for_change(limit_s * _PATIENCE))
            machines.wait_until_whole()
            ledgers.wait_for_change(30)
        abandoned.pop_all()
    ledgers.end()
