"""Whose requests come next: of those who used the least time, by connection in turn, within what may wait."""

from collections.abc import Iterable

import pytest
from msgspec import structs

from twinhost.secure_zmq import server as server_module
from twinhost.secure_zmq.actions import Action, InParts
from twinhost.secure_zmq.budgets import Budget, Budgets, BudgetTable
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.dispatch import SLICE_S
from twinhost.secure_zmq.errors import OverBudget, PeerNotLive
from twinhost.secure_zmq.framing.inbound import Batch, Inbound, Job, Return
from twinhost.secure_zmq.server import Server
from twinhost.secure_zmq.turns import BESIDE_PAYLOAD, Turns
from twinhost.secure_zmq.wire import Answer, Request

ANY_BYTES = 1 << 30


def caller(name: str) -> Caller:
    return Caller(name, "pc2", frozenset({"agent"}), f"SHA256:{name}")


def batch_of(*requests: tuple[str, str, int]) -> Batch:
    """Return requests as the caller, the connection, and the number that is the payload."""
    batch = Batch()
    for name, connection, number in requests:
        batch.add(Return([connection.encode()], None), Inbound(b"%d" % number, caller(name)))
    return batch


def many(name: str, count: int, connection: str = "a") -> list[tuple[str, str, int]]:
    return [(name, connection, number) for number in range(count)]


def taken(turns: Turns, most: int) -> list[tuple[str, int]]:
    batch = turns.next(most, ANY_BYTES)
    return [(inbound.caller.name, int(bytes(inbound.payload))) for inbound in batch.inbounds if inbound.caller]


def served(turns: Turns, rounds: int, seconds: float) -> list[str]:
    """Return who is served in some rounds, of one request that takes so long."""
    names = []
    for _ in range(rounds):
        ((name, _),) = taken(turns, 1)
        turns.charge([(caller(name), seconds)])
        names.append(name)
    return names


def test_who_used_less_time_comes_first() -> None:
    turns = Turns(Budgets())
    turns.keep(batch_of(*many("greedy", 10)))
    assert taken(turns, 2) == [("greedy", 0), ("greedy", 1)]
    turns.charge([(caller("greedy"), 0.02)])
    turns.keep(batch_of(("polite", "p", 0)))
    assert taken(turns, 2) == [("polite", 0)]  # whose reply does not wait for the other's next one
    turns.charge([(caller("polite"), 0.001)])
    assert taken(turns, 2) == [("greedy", 2), ("greedy", 3)]


def test_those_who_used_little_are_served_together() -> None:
    """Their changes share a commit."""
    turns = Turns(Budgets())
    turns.keep(batch_of(("first", "a", 0), ("second", "b", 0), ("third", "c", 0)))
    assert len(taken(turns, 9)) == 3


def test_equal_weights_get_equal_time() -> None:
    """Whether their requests take long or not."""
    turns = Turns(Budgets())
    turns.keep(batch_of(*many("slow", 50), *many("quick", 50)))
    seconds = {"slow": 0.0, "quick": 0.0}
    while seconds["slow"] < 0.1:
        ((name, _),) = taken(turns, 1)
        took = 0.02 if name == "slow" else 0.005
        seconds[name] += took
        turns.charge([(caller(name), took)])
    assert abs(seconds["slow"] - seconds["quick"]) < 0.03


def test_turns_of_the_budget_are_the_weight() -> None:
    turns = Turns(Budgets(lambda: BudgetTable(names={"heavy": {"turns": 3.0}})))
    turns.keep(batch_of(*many("heavy", 40), *many("light", 40)))
    assert served(turns, 40, 0.01).count("heavy") == 30


def test_nobody_saves_time_up() -> None:
    """Who asks for nothing for long has no more than one turn before the others."""
    turns = Turns(Budgets())
    turns.keep(batch_of(*many("steady", 50)))
    served(turns, 20, 0.01)
    turns.keep(batch_of(*many("late", 50)))
    assert served(turns, 10, 0.01).count("late") <= 6


def test_connections_of_an_identity_take_turns() -> None:
    """Each keeps its order."""
    turns = Turns(Budgets())
    turns.keep(batch_of(*many("peer", 4, "a"), *many("peer", 2, "b")))
    assert [number for _, number in taken(turns, 4)] == [0, 1, 0, 1]
    assert [number for _, number in taken(turns, 4)] == [2, 3]
    assert not turns.waiting


def test_what_was_not_reached_stays_first() -> None:
    turns = Turns(Budgets())
    batch = batch_of(*many("peer", 4))
    turns.put_back(batch, 1)
    turns.keep(batch_of(("peer", "a", 9)))
    assert [number for _, number in taken(turns, 9)] == [1, 2, 3, 9]


def test_more_than_may_wait_is_refused() -> None:
    """Of the one who sends too much; one request may always wait, and the others' are not touched."""
    turns = Turns(Budgets(lambda: BudgetTable(everybody=Budget(unhandled_bytes=3 * (BESIDE_PAYLOAD + 1)))))
    refused = turns.keep(batch_of(*many("greedy", 5), ("polite", "p", 0)))
    faults = [inbound.fault for inbound in refused.inbounds]
    assert [type(fault) for fault in faults] == [OverBudget, OverBudget]
    assert faults[0] is not None
    assert faults[0].reply_fields["budget"] == "unhandled_bytes"
    assert turns.waiting_bytes() == {"greedy": 3 * (BESIDE_PAYLOAD + 1), "polite": BESIDE_PAYLOAD + 1}
    assert len(list(_all(turns))) == 4


def test_what_is_refused_anyway_does_not_wait() -> None:
    turns = Turns(Budgets())
    batch = Batch()
    batch.add(Return([b"a"], None), Inbound(b"1", None, PeerNotLive("the key is not valid")))
    assert turns.keep(batch).inbounds == batch.inbounds
    assert not turns.waiting


def _all(turns: Turns) -> Iterable[tuple[str, int]]:
    while turns.waiting:
        yield from taken(turns, 1)
        turns.charge([])


def test_a_connection_that_was_not_reached_comes_first() -> None:
    """Else one with slow requests would use up every turn of its identity."""
    turns = Turns(Budgets())
    turns.keep(batch_of(*many("peer", 40, "slow"), ("peer", "other", 99)))
    batch = turns.next(10, ANY_BYTES)
    turns.put_back(batch, 3)
    assert taken(turns, 1) == [("peer", 99)]


def job(name: str, *, begun: bool = True) -> Job:
    def parts() -> InParts[Answer]:
        yield
        return {}

    by = caller(name)
    job = Job(Request(), Action(Request, lambda *_: {}), by, b"", messagepack=False, parts=parts())
    return structs.replace(job, parts_for=by) if begun else job


def test_an_identity_has_one_request_that_has_begun() -> None:
    """It comes before what other connections of its identity ask for, and then they have their turn."""
    turns = Turns(Budgets())
    turns.keep(batch_of(*many("peer", 3, "slow"), ("peer", "other", 99)))
    turns.put_back(turns.next(9, ANY_BYTES), 1, job("peer"))
    assert taken(turns, 2) == [("peer", 1), ("peer", 99)]
    assert taken(turns, 9) == [("peer", 2)]


def test_what_was_not_reached_is_still_begun() -> None:
    """Of another identity, or a search that has waited for the meaning of its question."""
    turns = Turns(Budgets())
    for begun in (job("later"), job("later", begun=False)):
        batch = batch_of(("first", "a", 0), ("later", "b", 1), ("later", "c", 2))
        batch.inbounds[1].begun = begun
        turns.put_back(batch, 1)
        assert [inbound.begun for inbound in turns.next(9, ANY_BYTES).inbounds] == [begun, None]


def test_what_waited_for_something_else_does_not_come_first() -> None:
    """Else each one whose meaning is found would be begun, and left for the next."""
    turns = Turns(Budgets())
    turns.put_back(batch_of(("peer", "a", 0)), 0, job("peer"))
    resumed = batch_of(*many("peer", 2, "a"), ("peer", "b", 9))
    for inbound in resumed.inbounds:
        inbound.begun = job("peer", begun=False)
    turns.resume(resumed)
    assert taken(turns, 1) == [("peer", 0)]
    assert taken(turns, 9) == [("peer", 0), ("peer", 1), ("peer", 9)]


def test_who_asks_for_little_at_a_time_gains_nothing() -> None:
    """It never waits once it is served, and so what it has used must be known although nothing of it is left."""
    turns, names = Turns(Budgets()), []
    turns.keep(batch_of(*many("long", 50)))
    for number in range(60):
        if not turns.waiting_bytes().get("little"):
            turns.keep(batch_of(("little", "p", number)))
        ((name, _),) = taken(turns, 1)
        turns.charge([(caller(name), 0.005 if name == "long" else 0.001)])
        names.append(name)
    assert names.count("long") >= 8


@pytest.mark.parametrize(("names", "since_s", "waits"), [(1, SLICE_S, True), (2, 0.0, True), (2, SLICE_S, False)])
def test_a_change_of_several_waits_for_no_more(names: int, since_s: float, waits: bool) -> None:
    """Of one identity, and at first, a commit takes in what arrives; then the others have waited long enough."""
    batch = batch_of(*((f"agent-{number}", "a", number) for number in range(names)))
    server = Server.__new__(Server)
    server.turns, server._answering_since = Turns(Budgets()), 10.0
    received: list[Batch] = []
    values = {"_monotonic": lambda: 10.0 + since_s, "_receive": lambda further, *_: received.append(further)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(server, name, value, raising=False)
        assert (server._receive_further(batch) is not None) is waits
    assert bool(received) is waits


@pytest.mark.parametrize(("behind", "waits"), [("greedy", True), ("polite", False)])
def test_whoever_waits_behind_large_requests_is_seen(behind: str, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit takes in large requests of one identity only while nobody else waits, behind as many bytes as it has."""
    arriving = [batch_of(("greedy", "a", 1)), batch_of((behind, "b", 2))]
    arriving[0].size = server_module.MAX_BATCH_BYTES
    server = Server.__new__(Server)
    server.turns, server._answering_since, server._refused, server._most_in_turn = Turns(Budgets()), 10.0, Batch(), 1
    monkeypatch.setattr(server, "_monotonic", lambda: 10.0 + SLICE_S, raising=False)
    monkeypatch.setattr(server, "_receive", lambda further, *_: further.extend(arriving.pop(0)))
    monkeypatch.setattr(server, "_still_valid", lambda batch: batch)
    further = server._receive_further(batch_of(("greedy", "a", 0)))
    assert (further is not None) is waits
    assert not arriving
