"""A request that is done in parts: others come between them, and a repetition after a crash does the rest."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.secure_zmq.bench import AGENT, OPERATOR, Bench, inbound
from tests.unit.secure_zmq.test_dispatch_store_failures import broken_bench
from twinhost.secure_zmq import dispatch
from twinhost.secure_zmq.budgets import Budgets
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.framing.inbound import Batch, Return
from twinhost.secure_zmq.turns import Turns

EACH = {"action": "add_each", "amounts": [1, 2, 3], "request_id": "1"}
DONE = {"status": "ok", "sum": 6, "request_id": "1"}
COUNT = {"action": "count", "upto": 2, "request_id": "2"}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    one_part_at_once(monkeypatch)
    with closing(Bench(tmp_path / "db")) as bench:
        yield bench


def one_part_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SLICE_S", 0.0)
    monkeypatch.setattr(dispatch, "_GROUP_COMMIT_S", 0.0)


def test_what_is_done_in_time_is_done_at_once(tmp_path: Path) -> None:
    with closing(Bench(tmp_path / "db")) as bench:
        assert bench.ask(EACH, COUNT) == [DONE, {"status": "ok", "sum": 6, "before": 6, "request_id": "2"}]


def test_requests_of_others_come_between_parts(bench: Bench) -> None:
    """Each part is durable by then."""
    sums = []
    for _ in bench.handed_in_again(EACH):
        sums.append(bench.ask({"action": "read"})[0]["sum"])
        assert bench.rows() == bench.sum
    assert sums == [1, 3, 6]
    assert bench.answered == DONE


def test_a_read_goes_on_after_others_were_served(bench: Bench) -> None:
    for _ in bench.handed_in_again(COUNT):
        bench.ask({"action": "add", "amount": 5})
    assert bench.answered == {"status": "ok", "before": 0, "sum": 10, "request_id": "2"}


def test_what_follows_waits_for_the_last_part(bench: Bench) -> None:
    """Requests of one connection are answered in their order."""
    first, second = inbound(EACH), inbound({"action": "read"})
    assert bench.dispatcher.answer([first, second]) == []
    assert bench.dispatcher.begun is not None


def test_the_reply_is_stored_with_the_last_part(bench: Bench) -> None:
    list(bench.handed_in_again(EACH))
    assert bench.ask(EACH) == [DONE]
    assert bench.executions == [1, 2, 3]


def test_a_repeated_request_begins_again_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_part_at_once(monkeypatch)
    with closing(Bench(tmp_path / "db")) as bench:
        next(bench.handed_in_again(EACH))
    with closing(Bench(tmp_path / "db")) as bench:
        assert bench.rows() == 1
        list(bench.handed_in_again(EACH))
        assert bench.executions == [1, 2, 3]
        assert bench.ask(EACH) == [bench.answered]


def test_a_request_sent_twice_meanwhile_has_one_reply(bench: Bench) -> None:
    """The one that is done first; the other gets its stored reply."""
    slow = bench.handed_in_again(EACH)
    next(slow)
    list(bench.handed_in_again(EACH))
    first = bench.answered
    assert list(slow) == []
    assert bench.answered == first
    assert bench.executions == [1, 1, 2, 3]


def test_an_error_in_a_part_ends_the_request(bench: Bench) -> None:
    """What earlier parts have changed stays, and a repetition begins from the start."""
    for _ in bench.handed_in_again({**EACH, "amounts": [1, 13, 2]}):
        pass
    assert bench.answered["code"] == "not_found"
    assert bench.rows() == bench.sum == 1


def test_a_caller_without_the_grant_gets_no_further_part(bench: Bench) -> None:
    again = inbound(EACH, OPERATOR)
    assert bench.dispatcher.answer([again]) == []
    again.begun, again.caller = bench.dispatcher.begun, replace(AGENT, roles=frozenset({"guest"}))
    (reply,) = bench.dispatcher.answer([again])
    assert b"not_granted" in reply
    assert bench.executions == [1]


def test_a_store_that_fails_refuses_what_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_part_at_once(monkeypatch)
    bench, store = broken_bench(tmp_path / "db", "commit")
    with closing(bench):
        store.broken = False
        again = bench.handed_in_again(EACH)
        next(again)
        store.broken = True
        list(again)
        assert bench.answered["code"] == "store_unavailable"
        assert bench.rows() == bench.sum == 1
        store.broken = False
        list(bench.handed_in_again(EACH))
        assert bench.answered == {**DONE, "sum": 7}


def test_a_read_goes_on_also_behind_what_others_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one who always asks for little would keep it at its first part."""
    again = inbound({**COUNT, "upto": 1}, OPERATOR)
    assert bench.dispatcher.answer([again]) == []
    again.begun = bench.dispatcher.begun
    bench.ask({"action": "add", "amount": 5})
    monkeypatch.setattr(dispatch, "SLICE_S", 60.0)
    assert bench.answer([inbound({"action": "read"}), again])[1]["before"] == 0


def test_a_finished_read_is_answered_though_the_commit_fails(tmp_path: Path) -> None:
    """Its parts are done again, since they may have read what is undone."""
    with closing(Bench(tmp_path / "db")) as bench:
        read, refused = bench.ask(COUNT, {"action": "doom"})
        assert read == {"status": "ok", "before": 0, "sum": 0, "request_id": "2"}
        assert refused["code"] == "store_unavailable"


def test_a_read_that_ended_in_a_lost_batch_is_done_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    again = inbound(COUNT)
    assert bench.dispatcher.answer([again]) == []
    again.begun = bench.dispatcher.begun
    monkeypatch.setattr(dispatch, "SLICE_S", 60.0)
    read, refused = bench.answer([again, inbound({"action": "doom"})])
    assert read == {"status": "ok", "before": 0, "sum": 0, "request_id": "2"}
    assert refused["code"] == "store_unavailable"


def test_a_read_that_saw_what_was_lost_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it handed in once more, since it is answered at once."""
    monkeypatch.setattr(dispatch, "_GROUP_COMMIT_S", 0.0)
    monkeypatch.setattr(dispatch, "SLICE_S", 0.2)
    bench, _ = broken_bench(tmp_path / "db", "commit")
    with closing(bench):
        bench.work_s = 0.3
        refused, read = bench.ask({"action": "add", "amount": 5}, COUNT)
        assert refused["code"] == "store_unavailable"
        assert read == {"status": "ok", "before": 0, "sum": 0, "request_id": "2"}
        assert bench.dispatcher.begun is None


def test_a_failed_store_is_no_time_for_long_reads(bench: Bench) -> None:
    """What there is no time for is handed in again, as ever."""
    assert len(bench.ask({"action": "doom"}, COUNT, COUNT)) == 1
    assert bench.dispatcher.counters.requests == 1


def test_who_may_do_less_by_now_begins_again(bench: Bench) -> None:
    """With what its grants, or its roles, allow it now."""
    again = inbound(EACH, OPERATOR)
    assert bench.dispatcher.answer([again]) == []
    again.begun, again.caller = bench.dispatcher.begun, replace(OPERATOR, roles=AGENT.roles)
    while not bench.dispatcher.answer([again]):
        pass
    assert bench.executions == [1, 1, 2, 3]


def test_a_long_read_is_done_beside_one_who_always_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time for little, which comes first; the read has half of the time, and keeps what it has done."""
    with closing(Bench(tmp_path / "db")) as bench:
        monkeypatch.setattr(dispatch, "SLICE_S", 0.005)
        monkeypatch.setattr(bench, "work_s", 0.001)
        turns = Turns(Budgets())
        turns.keep(batch_of({"action": "count", "upto": 20}, OPERATOR))
        for _ in range(100):
            turns.keep(batch_of({"action": "read"}, AGENT))
            batch = turns.next(64, 1 << 20)
            replies = bench.dispatcher.answer(batch.inbounds)
            if OPERATOR in [inbound.caller for inbound in batch.inbounds[: len(replies)]]:
                return
            turns.put_back(batch, len(replies), bench.dispatcher.begun)
            turns.charge(bench.dispatcher.spent)
        pytest.fail("it has not been answered in 100 turns")


def batch_of(message: dict[str, Any], caller: Caller) -> Batch:
    batch = Batch()
    batch.add(Return([caller.name.encode()], None), inbound(message, caller))
    return batch
