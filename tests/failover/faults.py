"""What can happen to a deployment, and the ledgers of those who use it meanwhile."""

import itertools
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from tests.failover.account import account
from tests.failover.conftest import REPEAT, record
from tests.failover.machines import MACHINES, PROCESSES_OF, Machines
from tests.failover.writers import LEASE, REVOKED, SDT, UMRA, Writer, now

MARKS = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(600 + 120 * REPEAT)]

# What is promised where an agent dies, and where a machine dies or is cut off.
AGENT_S, MACHINE_S = 5.0, 20.0
REVOKED_S = 1.0  # no agent serves a revoked key for longer
_STOPPED_S = 30.0
_PATIENCE = 3.0  # times a limit: then a fault is given up
_OBSERVED_S = 12.0  # at most: a link that is cut may stop writes only a while later
_GAP_S = 2.0  # an agent that has acknowledged nothing for this long is waited for
Fault = Callable[[Machines, ExitStack], object]  # returns once it is there; what ends it is put on the stack


class Ledgers:
    """Writers of both agents, two that compete for one lease, and one whose key has just been revoked."""

    def __init__(self, machines: Machines, writing: str, folder: Path) -> None:
        prefix = uuid.uuid4().hex[:8]
        kinds = (SDT, UMRA, LEASE, LEASE)
        self.all = [Writer(writing, kind, f"{prefix}{number}", folder) for number, kind in enumerate(kinds)]
        self.machines = machines
        self.wait_for_change(60)
        name = f"revoked-{prefix}"
        self.revoked = Writer(writing, REVOKED, f"{prefix}r", folder, machines.enrol(writing, name))
        self.all.append(self.revoked)
        self.wait_for_change(60, (REVOKED,))
        machines.revoke(name)
        self.revoked_at = now()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.all:
            writer.tell_to_end()

    def wait_for_change(self, within_s: float, which: tuple[str, ...] = (SDT, UMRA)) -> float:
        """Return after how many seconds each kind of writer has a change acknowledged, from now on."""
        began = now()
        return max(writer.wait_for_change(began, within_s) for writer in self.all if writer.kind in which)

    def outage(self, began: float, limit_s: float) -> float:
        """Return for how many seconds an agent acknowledged nothing, at most, from a moment on."""
        time.sleep(min(limit_s, _OBSERVED_S))
        until = began + limit_s * _PATIENCE
        return max(self._longest_gap(writer, began, until) for writer in self.all if writer.kind in (SDT, UMRA))

    def _longest_gap(self, writer: Writer, began: float, until: float) -> float:
        while True:
            seen = [began, *(at for at in writer.times("acknowledged") if at > began)]
            if now() - seen[-1] < _GAP_S:
                return max(later - before for before, later in itertools.pairwise([*seen, now()]))
            writer.wait_for_change(seen[-1], until - now())

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
        served = [at - self.revoked_at for at in self.revoked.times("acknowledged") if at > self.revoked_at + REVOKED_S]
        assert not served, f"a revoked key was served {served} s afterwards"
        assert held, "no lease was granted"
        assert all(before[1] != after[1] for before, after in itertools.pairwise(held)), "two held one lease"


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
        until = now() + _STOPPED_S
        ends.callback(lambda: time.sleep(max(0.0, until - now())))
        machines.signal(services, "STOP")

    return make


def while_stopped(service: str, seconds: float, fault: Fault) -> Fault:
    """Have a fault come some time after a process stood still, which then goes on: amid what it was asked."""

    def make(machines: Machines, ends: ExitStack) -> None:
        machines.signal((service,), "STOP")
        try:
            time.sleep(seconds)
            fault(machines, ends)
        finally:
            machines.signal((service,), "CONT")

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


def of_standbys(make: Callable[..., Fault]) -> Fault:
    """Have the fault at whichever process of each agent stands by."""
    return lambda machines, ends: make(*(machines.with_role(agent, "standby") for agent in PROCESSES_OF))(
        machines, ends
    )


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


def filled(*services: str) -> Fault:
    """Leave no byte of space on the volumes of services."""

    def make(machines: Machines, ends: ExitStack) -> None:
        for service in services:
            ends.callback(machines.give_back, service)
            machines.fill(service)

    return make


def turned(machine: str, hours: int, before_s: float = 0.0) -> Fault:
    """Have the wall clocks of a machine's processes be wrong, and go on some time later; the monotonic ones go on."""

    def make(machines: Machines, ends: ExitStack) -> None:
        for service in MACHINES[machine]:
            ends.callback(machines.turn, service, 0)
            machines.turn(service, hours * 3_600)
        ends.callback(machines.require_turned, MACHINES[machine], hours * 3_600)
        time.sleep(before_s)

    return make


def withstand(machines: Machines, writing: str, folder: Path, name: str, limit_s: float, make: Fault) -> None:
    """Fail unless writes go on within a time, as often as the fault is repeated, and the account is right then.

    A fault that takes longer is made once more, since the machine may be shared: it fails if that takes longer too.
    """
    with Ledgers(machines, writing, folder) as ledgers:
        for _ in range(REPEAT):
            outage = _outage_of(ledgers, name, limit_s, make)
            if outage > limit_s:
                again = _outage_of(ledgers, name, limit_s, make)
                assert again <= limit_s, f"took {outage:.1f} and {again:.1f} s, not {limit_s:g}"
        ledgers.end()


def _outage_of(ledgers: Ledgers, name: str, limit_s: float, make: Fault) -> float:
    with ExitStack() as ends:
        began = now()
        make(ledgers.machines, ends)
        try:
            outage = ledgers.outage(began, limit_s)
        except AssertionError:
            record(name, limit_s, now() - began)
            raise
        record(name, limit_s, outage)
    ledgers.machines.wait_until_whole()
    ledgers.wait_for_change(30)
    return outage
