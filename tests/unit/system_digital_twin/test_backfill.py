"""Turns and backfill, by any series of requests: no place is given twice, nobody starves, nobody is passed over."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinhost.system_digital_twin.capacity import waiting as rules
from twinhost.system_digital_twin.capacity.waiting import (
    NEVER,
    NOW,
    Place,
    PlacedLease,
    ServingOrder,
    Slot,
    WaitingRequest,
)

LIMIT_MB, LONGEST_S, PATIENCE_S = 100.0, 20, 10_000.0
FIRST: Slot = ("ram", "mainpc", None)
SECOND: Slot = ("ram", "pc2", None)


@dataclass(frozen=True)
class Asked:
    """A request of the series; each second has some."""

    holder: str
    amount_mb: int
    ttl_s: int
    priority: int
    waits: bool


@dataclass
class Memory:
    """Two places, those who wait, and the loop that serves them."""

    leases: dict[Slot, list[PlacedLease]] = field(default_factory=lambda: {FIRST: [], SECOND: []})
    waiting: list[tuple[WaitingRequest, int]] = field(default_factory=list)
    order: ServingOrder = field(default_factory=ServingOrder)
    now: float = 0.0
    numbers: int = 0
    served: list[WaitingRequest] = field(default_factory=list)

    def places(self) -> dict[Slot, Place]:
        return {
            slot: Place(LIMIT_MB, LIMIT_MB - sum(lease.amount_mb for lease in there), tuple(sorted(there)))
            for slot, there in self.leases.items()
        }

    def ask(self, asked: Asked, could: tuple[Slot, ...] = (FIRST, SECOND)) -> WaitingRequest:
        self.numbers += 1
        until = self.now + (PATIENCE_S if asked.waits else 0)
        request = WaitingRequest(
            number=self.numbers,
            holder=asked.holder,
            amount_mb=asked.amount_mb,
            priority=asked.priority,
            until=until,
            could=set(could),
        )
        if not self.serve(request, asked.ttl_s) and asked.waits:
            self.waiting.append((request, asked.ttl_s))
        return request

    def serve(self, request: WaitingRequest, ttl_s: int) -> bool:
        places, lease = self.places(), PlacedLease(self.now + ttl_s, request.amount_mb, request.holder)
        others = [other for other, _ in self.waiting if other is not request]
        for slot in sorted(request.could):
            if places[slot].free_mb >= request.amount_mb and self.order.may_have(request, slot, lease, places, others):
                self.order.given(request, slot, lease, places, others)
                self.leases[slot].append(lease)
                self.served.append(request)
                assert self.places()[slot].free_mb >= 0, "more is leased than there is"
                return True
        return False

    def tick(self) -> None:
        self.now += 1
        self.leases = {
            slot: [lease for lease in there if lease.ends_at > self.now] for slot, there in self.leases.items()
        }
        pending = list(self.waiting)
        while pending:
            entry = min(pending, key=lambda entry: self.order.order_of(entry[0]))
            pending.remove(entry)
            if self.serve(*entry):
                self.waiting.remove(entry)
            else:
                entry[0].was_not_met(self.places(), self.now)


@pytest.fixture(autouse=True)
def _few_overtake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_OVERTAKEN", 3)


requests = st.builds(
    Asked,
    holder=st.sampled_from(["ann", "ben", "cem"]),
    amount_mb=st.integers(1, 100),
    ttl_s=st.integers(1, LONGEST_S),
    priority=st.integers(0, 2),
    waits=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(before=st.lists(requests, max_size=6), series=st.lists(st.lists(requests, max_size=4), min_size=70, max_size=70))
def test_the_largest_request_is_not_starved(before: list[Asked], series: list[list[Asked]]) -> None:
    """Of the lowest priority, for a whole place: 3 delay it, and then it is met when the leases of then have ended."""
    memory = Memory()
    for asked in before:
        memory.ask(Asked(asked.holder, asked.amount_mb, asked.ttl_s, asked.priority, waits=False))
    large = memory.ask(Asked("large", 100, 5, -1, waits=True), (FIRST,))
    delayed_last = 0.0
    for asked_now in series:
        memory.tick()
        for asked in asked_now:
            overtaken = large.overtaken
            memory.ask(asked)
            delayed_last = memory.now if large.overtaken > overtaken else delayed_last
        assert large.overtaken <= rules.MAX_OVERTAKEN
        if large in memory.served:
            return
        if large.overtaken == rules.MAX_OVERTAKEN:
            assert memory.now <= (large.kept_until or memory.now), "it was not met when it was to be"
    raise AssertionError(f"delayed last at {delayed_last}, and not served at {memory.now}")


@settings(max_examples=300, deadline=None)
@given(series=st.lists(st.lists(requests, max_size=3), max_size=25))
def test_everybody_who_waits_is_served_in_the_end(series: list[list[Asked]]) -> None:
    """Once, and nobody is lost."""
    memory, waited = Memory(), []
    for asked_now in series:
        waited += [request for asked in asked_now if (request := memory.ask(asked)) and asked.waits]
        memory.tick()
    for _ in range(LONGEST_S * (len(waited) + 1)):
        memory.tick()
    numbers = [request.number for request in memory.served]
    assert len(numbers) == len(set(numbers))
    assert {request.number for request in waited} <= set(numbers)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 30)), max_size=6), st.integers(1, 100), st.integers(1, 40))
def test_who_ends_before_or_fits_beside_delays_nobody(held: list[tuple[int, int]], need: int, ttl_s: int) -> None:
    memory = Memory()
    for amount_mb, lasts_s in held:
        memory.ask(Asked("ann", amount_mb, lasts_s, 0, waits=False), (FIRST,))
    places = memory.places()
    large = WaitingRequest(number=1, holder="ben", amount_mb=need, priority=0, until=PATIENCE_S, could={FIRST})
    met_at = large.met_at(places)
    assert met_at < NEVER
    assert not large.is_delayed(FIRST, PlacedLease(max(met_at, 0.0), 1.0, "cem"), places) or met_at == NOW
    later = PlacedLease(ttl_s, 1.0, "cem")
    at = max(met_at, 0.0)
    left_mb = LIMIT_MB - sum(lease.amount_mb for lease in memory.leases[FIRST] if lease.ends_at > at)
    assert large.is_delayed(FIRST, later, places) == (ttl_s > at and need + 1 > left_mb)


def test_one_who_holds_the_memory_keeps_no_more_of_it() -> None:
    """Its own share is what it waits for, and nobody else is held back for that."""
    memory = Memory()
    memory.ask(Asked("ann", 60, 10, 0, waits=False), (FIRST,))
    large = WaitingRequest(
        number=1, holder="ann", amount_mb=60, priority=9, until=PATIENCE_S, share=0.9, could={FIRST}, overtaken=99
    )
    assert large.met_at(memory.places()) == NEVER
    assert large.within_share_at(memory.places()[FIRST]) == 10
