"""Refused connections are counted by cause and address for a day, within bounds, and survive a restart."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.refusals import LATE_S, MIGRATION, MOST_KEPT, OTHERS, UNKNOWN, Refusals
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.peers import Outcome
from twinhost.store.database import Database

DAY_S = 86_400.0


class Bench:
    def __init__(self, path: Path) -> None:
        self.clock, self.path = Clock(), path
        self.owners: dict[str, str] = {}
        self.open()

    def open(self) -> None:
        self.database = Database(self.path, [MIGRATION], self.clock)
        self.refusals = Refusals(self.database, lambda fingerprint: self.owners.get(fingerprint, ""))

    def restart(self) -> None:
        self.database.close()
        self.open()

    def refuse(self, address: str, times: int = 1, outcome: Outcome = Outcome.KEY_NOT_AUTHORIZED, **more: str) -> None:
        for _ in range(times):
            self.refusals.note(outcome, {"address": address, **more})

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        return {(one.address, one.peer): one.count for one in self.refusals.recent()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "x.sqlite3")
    yield bench
    bench.database.close()


def test_refusals_survive_a_restart(bench: Bench) -> None:
    bench.refuse("192.0.2.9", 250, fingerprint="SHA256:x")
    bench.refusals.on_tick()
    before = bench.refusals.recent()
    bench.restart()
    assert bench.refusals.recent() == before
    bench.refuse("192.0.2.9")
    (one,) = bench.refusals.recent()
    assert (one.cause, one.count, one.fingerprint) == (Outcome.KEY_NOT_AUTHORIZED, 251, "")
    assert one.first == before[0].first < one.last


def test_they_are_forgotten_after_a_day(bench: Bench) -> None:
    bench.refuse("192.0.2.1", 3)
    bench.clock.let_pass(DAY_S / 2)
    bench.refuse("192.0.2.1", 2)
    bench.refuse("192.0.2.2")
    bench.refusals.save()
    bench.clock.let_pass(DAY_S / 2 + 1)
    assert bench.counts == {("192.0.2.1", ""): 2, ("192.0.2.2", ""): 1}
    bench.clock.let_pass(DAY_S)
    assert bench.counts == {}
    bench.refusals.save()
    assert bench.database.value("SELECT count(*) FROM refusals") == 0


def test_a_flood_from_many_addresses_hides_no_persistent_one(bench: Bench) -> None:
    for number in range(5 * MOST_KEPT):
        bench.refuse(f"10.0.{number // 256}.{number % 256}")
        if number % 10 == 0:
            bench.refuse("192.0.2.9")
    bench.refusals.save()
    bench.restart()
    counts = bench.counts
    assert len(counts) <= MOST_KEPT + 1
    assert counts["192.0.2.9", ""] == MOST_KEPT / 2
    assert sum(counts.values()) == 5.5 * MOST_KEPT
    assert counts[OTHERS, ""] > 4 * MOST_KEPT


def test_the_most_frequent_come_first(bench: Bench) -> None:
    for address, times in (("192.0.2.1", 2), ("192.0.2.2", 5), ("192.0.2.3", 1)):
        bench.refuse(address, times)
    assert [one.count for one in bench.refusals.recent()] == [5, 2, 1]


def test_a_row_has_the_hours_of_a_day(bench: Bench) -> None:
    """However long somebody goes on."""
    for _ in range(72):
        bench.refuse("192.0.2.1")
        bench.clock.let_pass(3_600)
    bench.refusals.save()
    assert len(json.loads(bench.database.value("SELECT record FROM refusals"))["hours"]) <= 24


def test_the_owner_of_a_known_key_is_named(bench: Bench) -> None:
    bench.owners["SHA256:old"] = "Camera"
    bench.refuse("192.0.2.1", 2, Outcome.KEY_REVOKED, fingerprint="SHA256:old")
    bench.refuse("192.0.2.1", 1, Outcome.KEY_REVOKED, fingerprint="SHA256:other")
    bench.refuse("192.0.2.1", 1, Outcome.TOO_MANY_SESSIONS, peer="Watcher", fingerprint="SHA256:w")
    assert bench.counts == {("192.0.2.1", "Camera"): 2, ("192.0.2.1", ""): 1, ("192.0.2.1", "Watcher"): 1}


def test_accepted_keys_are_not_counted(bench: Bench) -> None:
    bench.refuse("192.0.2.1", 1, Outcome.ACCEPTED, peer="Camera")
    assert (bench.counts, bench.refusals.changes) == ({}, 0)


def test_a_peer_that_is_accepted_again_settles_its_refusals(bench: Bench) -> None:
    """Of its old key, a wrong pin, and its lack of CURVE, at that address; nobody else's."""
    bench.owners["SHA256:old"] = "Camera"
    for address in ("192.0.2.1", "192.0.2.9"):
        bench.refuse(address, 40, Outcome.KEY_REVOKED, fingerprint="SHA256:old")
        bench.refuse(address, 30, Outcome.BROKEN_OFF)
        bench.refuse(address, 28, Outcome.NOT_ZMTP)
        bench.refuse(address, 25, Outcome.WRONG_KEYS)
        bench.refuse(address, 20, Outcome.KEY_NOT_AUTHORIZED)
    bench.refuse("192.0.2.1", 1, Outcome.ACCEPTED, peer="Camera", fingerprint="SHA256:new")
    bench.refusals.save()
    bench.restart()

    def left() -> dict[tuple[str, Outcome], int]:
        return {(one.address, one.cause): one.count for one in bench.refusals.recent()}

    others = {
        ("192.0.2.1", Outcome.KEY_NOT_AUTHORIZED): 20,
        ("192.0.2.9", Outcome.KEY_REVOKED): 40,
        ("192.0.2.9", Outcome.BROKEN_OFF): 30,
        ("192.0.2.9", Outcome.NOT_ZMTP): 28,
        ("192.0.2.9", Outcome.WRONG_KEYS): 25,
        ("192.0.2.9", Outcome.KEY_NOT_AUTHORIZED): 20,
    }
    assert left() == others
    settled_at = bench.clock.time()
    bench.clock.let_pass(1.0)
    bench.refuse("192.0.2.1", 1, Outcome.KEY_REVOKED, fingerprint="SHA256:old")
    assert left() == {**others, ("192.0.2.1", Outcome.KEY_REVOKED): 1}
    (again,) = (one for one in bench.refusals.recent() if one.count == 1)
    assert again.first > settled_at


def test_what_an_older_version_kept_as_settled_is_forgotten(bench: Bench) -> None:
    record = b'{"first":1,"last":2,"hours":{},"settled":{"5":3},"fingerprint":""}'
    bench.database.execute("INSERT INTO refusals VALUES ('key_revoked', '192.0.2.1', '', ?)", (record,))
    bench.restart()
    assert bench.counts == {}
    bench.refusals.save()
    assert bench.database.value("SELECT count(*) FROM refusals") == 0


def test_a_cause_of_a_later_version_is_not_read(bench: Bench) -> None:
    record = b'{"first":1,"last":2,"hours":{},"fingerprint":""}'
    bench.database.execute("INSERT INTO refusals VALUES ('of_a_later_version', '192.0.2.1', '', ?)", (record,))
    bench.restart()
    assert bench.counts == {}


def test_who_is_accepted_settles_what_came_from_nowhere(bench: Bench) -> None:
    """A check of a port ends before a busy agent has its address; what keeps coming counts again."""
    for outcome in (Outcome.BROKEN_OFF, Outcome.MECHANISM_MISMATCH, Outcome.WRONG_KEYS):
        for _ in range(12):
            bench.refusals.note(outcome, {})
    bench.refuse("192.0.2.1", 1, Outcome.ACCEPTED, peer="Camera", fingerprint="SHA256:x")
    assert [(one.cause, one.address, one.count) for one in bench.refusals.recent()] == [
        (Outcome.WRONG_KEYS, UNKNOWN, 12)
    ]
    bench.clock.let_pass(LATE_S)
    bench.refusals.note(Outcome.BROKEN_OFF, {})
    assert {one.cause: one.count for one in bench.refusals.recent()}[Outcome.BROKEN_OFF] == 1


def test_attempts_while_an_agent_was_paused_are_settled(bench: Bench) -> None:
    """It finds them all at once, those that were given up beside the last one, in any order."""
    for where in ({"address": "192.0.2.1"}, {}):
        bench.refuse("192.0.2.1", 1, Outcome.ACCEPTED, peer="notify", fingerprint="SHA256:x")
        for _ in range(12):
            bench.refusals.note(Outcome.BROKEN_OFF, where)
    bench.refuse("192.0.2.1", 12)  # a key that is not authorised is none of them
    bench.refuse("192.0.2.9", 3, Outcome.BROKEN_OFF)
    assert bench.counts == {("192.0.2.1", ""): 12, ("192.0.2.9", ""): 3}
    bench.clock.let_pass(LATE_S)
    bench.refuse("192.0.2.1", 2, Outcome.BROKEN_OFF)
    late = {(one.address, one.cause): one.count for one in bench.refusals.recent()}
    assert late["192.0.2.1", Outcome.BROKEN_OFF] == 2


def test_a_clock_that_jumps_ahead_and_back_hides_none(bench: Bench) -> None:
    bench.clock.set_wall_clock(7_200)
    bench.refuse("192.0.2.1")
    bench.clock.set_wall_clock(-7_200)
    bench.refuse("192.0.2.1")
    assert bench.counts == {("192.0.2.1", ""): 2}


def test_what_can_not_be_written_is_written_later(bench: Bench) -> None:
    bench.refuse("192.0.2.1")
    bench.database.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreUnavailable):
        bench.refusals.on_tick()
    bench.database.execute("PRAGMA query_only = 0")
    bench.refusals.save()
    bench.restart()
    assert bench.counts == {("192.0.2.1", ""): 1}
