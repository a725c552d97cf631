"""Any order of requests, releases, expiries, disconnections, and restarts, against a model of the cards.

The hosts are two machines, or both are on one, whose cards each of them numbers in its own order.
Nothing else uses the cards, so what is leased on one must never exceed what may be leased on it. The model knows every
lease that was acknowledged.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.system_digital_twin.metrics_bench import (
    OPERATOR,
    Clock,
    MetricsBench,
    Pending,
    with_gpus,
)
from twinhost.agent.host_metrics import MachineSample
from twinhost.secure_zmq.callers import Caller
from twinhost.system_digital_twin.capacity import reservations
from twinhost.system_digital_twin.capacity import waiting as rules

HOLDERS = [Caller(f"agent-{number}", "pc2", frozenset({"agent"}), f"SHA256:{number}") for number in range(3)]
APART = {"mainpc": {"GPU-m": 4_000.0}, "pc2": {"GPU-a": 8_000.0, "GPU-b": 10_000.0}}  # MB
TOGETHER = {"mainpc": {"GPU-b": 10_000.0, "GPU-a": 8_000.0}, "pc2": {"GPU-a": 8_000.0, "GPU-b": 10_000.0}}
Cards = dict[str, dict[str, float]]
SHARE = 0.95  # that may be leased
TTL_S, WAIT_S, DAY_S = 30.0, 100.0, 86_400.0
OLD = {
    "lease_id": "old", "resource": "vram", "host": "pc2", "amount_mb": 3_000.0, "holder": "agent-0",
    "state": "committed", "created": 0.0, "deadline": time.time() + 2 * 86_400.0, "ttl_s": 86_400.0,
}  # fmt: skip


@dataclass
class Waiting:
    """A request that waits, as the model sees it."""

    holder: Caller
    fields: dict[str, Any]
    reply: Pending


class Leases(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")  # hundreds of databases, each of which syncs
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(rules, "MAX_OVERTAKEN", 2)
        self.clock: Clock = Clock()
        self.bench = MetricsBench(Path(self.folder.name) / "twin.sqlite3", self.clock)
        self.waiting: list[Waiting] = []
        self.ends: dict[str, float] = {}  # of the leases that were acknowledged
        self.arrived = 0
        self.cards: Cards = APART

    def teardown(self) -> None:
        self.bench.close()
        self.patch.undo()
        self.folder.cleanup()

    @initialize(old=st.booleans(), cards=st.sampled_from([APART, TOGETHER]))
    def start(self, old: bool, cards: Cards) -> None:
        self.cards = cards
        if old:
            self.bench.database.execute("INSERT INTO leases VALUES ('old', ?)", (json.dumps(OLD).encode(),))
            self.ends["old"] = self.clock.monotonic() + DAY_S
        self.restart()

    @rule(
        holder=st.sampled_from(HOLDERS),
        amount_mb=st.integers(1, 11).map(lambda integer: integer * 900.0),
        host=st.sampled_from([None, "mainpc", "pc2"]),
        priority=st.integers(0, 1),
        wait_s=st.sampled_from([0.0, WAIT_S]),
    )
    def reserve(self, holder: Caller, **fields: Any) -> None:
        self.ask(holder, {**fields, "ttl_s": TTL_S, "request_id": f"r{self.arrived}"})

    @precondition(lambda self: self.ends)
    @rule(data=st.data(), act=st.sampled_from(["commit_lease", "release_lease"]))
    def use(self, data: st.DataObject, act: str) -> None:
        lease = list(self.ends)[data.draw(st.integers(0, len(self.ends) - 1))]
        assert self.bench.ask(act, OPERATOR, lease_id=lease)["status"] == "success"
        if act == "commit_lease":
            self.ends[lease] = max(self.ends[lease], self.clock.monotonic() + DAY_S)
        else:
            del self.ends[lease]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        """Let a client be gone for good; until it leaves the queue it keeps its place."""
        gone = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        gone.reply.disconnect()
        self.tick()
        self.pass_time(reservations.RECONNECT_S)

    @rule(seconds=st.sampled_from([1.0, TTL_S, WAIT_S]))
    def pass_time(self, seconds: float) -> None:
        self.clock.let_pass(seconds)
        self.measure()
        self.tick()

    @rule()
    def tick(self) -> None:
        self.bench.on_tick()
        self.expire()
        replies = [(each, each.reply.reply()) for each in self.waiting]
        self.waiting = [each for each, reply in replies if reply is None]
        for _, reply in replies:
            if reply is not None and reply["status"] == "success":
                self.granted(reply)

    @rule()
    def restart(self) -> None:
        """Kill the twin; the clients repeat their requests in any order, here that of their arrival."""
        waiting, self.waiting = self.waiting, []
        self.bench.restart(killed=True)
        for _ in range(2):
            self.measure()
        for each in waiting:
            self.ask(each.holder, each.fields)

    @rule()
    def drain(self) -> None:
        """Release everything, again and again: each time at least one of those who wait is served, until none does."""
        while self.waiting:
            before = len(self.waiting)
            for lease in list(self.ends):
                assert self.bench.ask("release_lease", OPERATOR, lease_id=lease)["status"] == "success"
                del self.ends[lease]
            self.tick()
            assert len(self.waiting) < before

    @invariant()
    def no_lease_is_lost(self) -> None:
        self.expire()
        assert {lease["lease_id"] for lease in self.bench.ask("list_leases")["leases"]} == self.ends.keys()

    @invariant()
    def no_card_is_over_its_capacity(self) -> None:
        leases = self.bench.ask("list_leases")["leases"]
        for host, totals in self.cards.items():
            for uuid, total in totals.items():
                there = [lease for lease in leases if self.cards is TOGETHER or lease["host"] == host]
                on_it = [each for each in there if (each["gpu"] or {"uuid": uuid})["uuid"] == uuid]
                assert sum(each["amount_mb"] for each in on_it) <= total * SHARE

    def ask(self, holder: Caller, fields: dict[str, Any]) -> None:
        reply = self.bench.ask_or_wait("reserve_vram", holder, **fields)
        self.expire()
        self.arrived += 1
        if isinstance(reply, Pending):
            self.waiting.append(Waiting(holder, fields, reply))
        elif reply["status"] == "success":
            self.granted(reply)
        else:
            assert reply["code"] == "limit_reached", reply

    def granted(self, lease: dict[str, Any]) -> None:
        self.ends[lease["lease_id"]] = self.clock.monotonic() + TTL_S

    def expire(self) -> None:
        now = self.clock.monotonic()
        self.ends = {name: end for name, end in self.ends.items() if end > now}

    def measure(self) -> None:
        for host, totals in self.cards.items():
            machine = MachineSample(boot_id="one" if self.cards is TOGETHER else host)
            used_and_total_mb = ((0.0, total) for total in totals.values())
            self.bench.measured(host, with_gpus(*used_and_total_mb, uuids=list(totals), machine=machine))


TestLeases = pytest.mark.thorough(Leases.TestCase)
