"""One batch to its replies: permission, once-only execution, and each request's own fate."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.unit.secure_zmq.bench import AGENT, LIMIT, NAP_S, OPERATOR, Bench, inbound
from tests.unit.secure_zmq.test_trace_context import TRACEPARENT
from twinhost.secure_zmq import dispatch
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller
from twinhost.secure_zmq.errors import MalformedRequest, PeerNotLive
from twinhost.secure_zmq.framing.forms import ACCEPTED, MESSAGEPACK_FROM_BYTES
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.wire import Reply

READ = {"action": "read", "request_id": "1"}
HAS_READ = {"status": "ok", "sum": 0, "request_id": "1"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(Bench(tmp_path / "db")) as bench:
        yield bench


def test_a_batch_is_answered_in_its_order(bench: Bench) -> None:
    """Good and bad requests of a batch each get their own reply, at their own place."""
    replies = bench.ask({"action": "add", "amount": 2}, b"garbage", {"action": "read"}, {"action": "nope"})
    assert [reply.get("code", reply.get("sum")) for reply in replies] == [2, "malformed_request", 2, "unknown_action"]


def test_a_repeated_request_is_executed_once(bench: Bench) -> None:
    """Same caller, same id, same body: the same reply, byte for byte, and nothing done twice."""
    message = inbound({"action": "add", "amount": 2, "request_id": "1"})
    first = bench.dispatcher.answer([message])
    bench.ask({"action": "add", "amount": 5})
    assert bench.dispatcher.answer([message]) == first
    assert bench.executions == [2, 5]
    assert bench.sum == bench.rows() == 7


def test_a_repeated_request_within_one_batch_is_executed_once(bench: Bench) -> None:
    """A resend that is drained together with its original is no second execution."""
    message = {"action": "add", "amount": 2, "request_id": "1"}
    first, second = bench.ask(message, message)
    assert first == second
    assert bench.executions == [2]


def test_a_repeated_request_runs_once_across_a_restart(tmp_path: Path) -> None:
    """The stored reply is on disk with what it acknowledged."""
    message = inbound({"action": "add", "amount": 2, "request_id": "1"})
    with closing(Bench(tmp_path / "db")) as bench:
        first = bench.dispatcher.answer([message])
    with closing(Bench(tmp_path / "db")) as bench:
        assert bench.dispatcher.answer([message]) == first
        assert bench.executions == []
        assert bench.rows() == 2


def test_an_id_with_another_body_is_refused(bench: Bench) -> None:
    """An id names one request; the first one's reply is kept and the second is not executed."""
    bench.ask({"action": "add", "amount": 2, "request_id": "1"})
    for message in ({"action": "add", "amount": 5, "request_id": "1"}, {"action": "doom", "request_id": "1"}):
        (reply,) = bench.ask(message)
        assert reply["code"] == "request_id_reused"
        assert reply["request_id"] == "1"
    assert bench.executions == [2]


def test_the_same_id_of_another_caller_is_another_request(bench: Bench) -> None:
    """Nobody gets, or blocks, somebody else's reply."""
    for caller in (AGENT, OPERATOR):
        bench.ask({"action": "add", "amount": 2, "request_id": "1"}, caller=caller)
    assert bench.executions == [2, 2]


def test_without_an_id_every_request_is_a_new_one(bench: Bench) -> None:
    """A client that sends no id asked for no once-only execution."""
    bench.ask({"action": "add", "amount": 2}, {"action": "add", "amount": 2})
    assert bench.executions == [2, 2]


def test_a_reading_request_is_answered_afresh(bench: Bench) -> None:
    """Only replies to changes are stored; a read with a known id sees the present."""
    message = {"action": "read", "request_id": "1"}
    bench.ask(message)
    bench.ask({"action": "add", "amount": 2})
    assert bench.ask(message) == [{"status": "ok", "sum": 2, "request_id": "1"}]


@pytest.mark.parametrize(("amount", "code"), [(13, "not_found"), (0, "internal")])
def test_a_failing_request_rolls_back_alone(bench: Bench, amount: int, code: str) -> None:
    """Its neighbours in the batch stay, and its own change is undone in the file and in memory."""
    replies = bench.ask(
        {"action": "add", "amount": 2, "request_id": "1"},
        {"action": "add", "amount": amount, "request_id": "2"},
        {"action": "add", "amount": 3, "request_id": "3"},
    )
    assert [reply.get("code", reply.get("sum")) for reply in replies] == [2, code, 5]
    assert bench.sum == bench.rows() == 5


def test_a_failed_request_may_be_tried_again(bench: Bench) -> None:
    """A refusal is not stored: the same id is executed when it comes again."""
    message = {"action": "add", "amount": 13, "request_id": "1"}
    for _ in range(2):
        assert bench.ask(message)[0]["code"] == "not_found"
    assert bench.executions == [13, 13]


def test_a_program_fault_is_internal_and_reveals_nothing(bench: Bench) -> None:
    """The caller gets one sentence; the traceback is in the log, and the agent goes on."""
    with capture_logs() as lines:
        (reply,) = bench.ask({"action": "add", "amount": 0, "request_id": "1"})
    assert reply["code"] == "internal"
    assert "ZeroDivision" not in json.dumps(reply)
    failed = [line for line in lines if line["event"] == "request_failed"]
    assert [(line["peer"], line["action"], line["exc_info"]) for line in failed] == [("agent", "add", True)]
    assert bench.ask({"action": "read"})[0]["sum"] == 0


def test_an_operators_action_is_refused_to_others(bench: Bench) -> None:
    """Neither another agent, nor one called operator without the role, nor an unauthenticated caller may."""
    impostor = Caller("operator", "pc2", frozenset({"agent"}), "SHA256:x")
    for caller in (AGENT, impostor, UNAUTHENTICATED):
        (reply,) = bench.ask({"action": "reset"}, caller=caller)
        assert reply["code"] == "not_granted"
        assert f"reset is not granted to {caller.name} (role " in reply["error"]
    assert bench.ask({"action": "reset"}, caller=OPERATOR) == [{"status": "ok"}]


def test_the_caller_comes_from_the_connection(bench: Bench) -> None:
    """A name, a role, or a source_agent in the body changes nothing."""
    claim = {"source_agent": "operator", "caller": "operator", "roles": ["operator"], "User-Id": "operator"}
    assert bench.ask({"action": "reset", **claim})[0]["code"] == "not_granted"
    bench.ask({"action": "add", "amount": 2, **claim})
    assert bench.database.execute("SELECT written_by FROM sums").fetchall() == [("agent",)]


def test_a_message_without_a_live_caller_is_refused_unread(bench: Bench) -> None:
    """A revoked peer's request is not executed; the fault that the loop found is the reply."""
    payload = json.dumps({"action": "add", "amount": 2, "request_id": "1"}).encode()
    (reply,) = bench.answer([Inbound(payload, None, PeerNotLive("the key of agent is no longer authorised here"))])
    assert (reply["code"], reply["request_id"]) == ("peer_not_live", "1")
    (reply,) = bench.answer([Inbound(payload, AGENT, MalformedRequest("the message has 3 frames"))])
    assert reply["code"] == "malformed_request"
    (reply,) = bench.answer([Inbound(payload, None, None)])
    assert reply["code"] == "internal"
    assert bench.executions == []


def test_the_message_is_in_every_field_that_clients_read(bench: Bench) -> None:
    """`error` here, and `reason` beside it for pc2's clients."""
    (reply,) = bench.ask({"action": "nope", "request_id": "1"})
    assert reply["reason"] == reply["error"]
    assert (reply["status"], reply["code"], reply["request_id"]) == ("error", "unknown_action", "1")


def test_a_request_over_the_limit_gets_a_reply(bench: Bench) -> None:
    """Too much is an answer, not a silence."""
    (reply,) = bench.ask({"action": "read", "request_id": "1", "padding": "x" * LIMIT})
    assert (reply["code"], reply["request_id"]) == ("message_too_large", "1")


def test_an_older_dialect_is_answered_in_its_own_form(bench: Bench) -> None:
    """What today's dialect does not know is looked up in the older one."""
    bench.ask({"action": "add", "amount": 2})
    assert bench.ask(b"READ") == [{"SUM": 2}]


def test_a_fault_of_the_translator_is_that_requests_alone(bench: Bench) -> None:
    """No input ends the loop, not even through the edge where older dialects are read."""
    replies = bench.ask({"action": "read"}, b"BREAK", {"action": "read"})
    assert [reply.get("code", reply.get("sum")) for reply in replies] == [0, "internal", 0]


def test_requests_and_errors_are_counted(bench: Bench) -> None:
    """Health shows them."""
    counters = bench.dispatcher.counters
    assert (counters.requests, counters.errors, counters.last_request_time) == (0, 0, None)
    bench.ask({"action": "read"}, b"garbage", {"action": "add", "amount": 13})
    assert (counters.requests, counters.errors) == (3, 2)
    assert counters.last_request_time is not None


def test_a_reply_names_the_fields_that_were_ignored(bench: Bench) -> None:
    """That of a change, of a read, of a refusal, and one that comes later; and no reply to a request without any."""
    sent: list[dict[str, Any]] = [
        {"action": "add", "amount": 2, "amuont": 3},
        {"action": "read", "of": "x", "source_agent": "y"},
        {"action": "add", "amount": 13, "more": 1},
        {"action": "reset", "more": 1},
        {"action": "read", "timestamp": 1},
        {"action": "defer", "more": 1},
    ]
    *replies, _ = bench.dispatcher.answer([inbound(message) for message in sent])
    ignored = [json.loads(reply).get("ignored_fields") for reply in replies]
    assert ignored == [["amuont"], ["of"], ["more"], ["more"], None]
    bench.deferred[0].set_result({"status": "ok", "ignored_fields": ["there"]})
    (deferred,) = bench.dispatcher.take_deferred().values()
    assert json.loads(bench.dispatcher.settle(deferred))["ignored_fields"] == ["more", "there"]


def test_a_retry_names_the_same_ignored_fields(bench: Bench) -> None:
    """The stored reply is the whole reply."""
    message = {"action": "add", "amount": 2, "request_id": "1", "more": 1}
    first = bench.ask(message)
    assert first == bench.ask(message)
    assert (first[0]["ignored_fields"], bench.sum) == (["more"], 2)


def test_an_older_dialect_names_no_ignored_fields(bench: Bench) -> None:
    """Also behind a request that had some."""
    assert bench.ask({"action": "read", "more": 1}, b"READ")[1] == {"SUM": 0}


def test_a_batch_that_takes_long_is_answered_in_slices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request at least; the rest is counted, and executed, when it is handed in again. Alone, changes go on."""
    monkeypatch.setattr(dispatch, "SLICE_S", 0.0)
    reads = [inbound({"action": "read"})] * 3
    changes = [inbound({"action": "add", "amount": number}) for number in (1, 2, 3)]
    for batch in (reads, changes, [reads[0], *changes]):
        before = bench.dispatcher.counters.requests
        replies = bench.dispatcher.answer(batch, lambda: None)  # somebody else waits
        assert len(replies) == 1
        assert bench.dispatcher.counters.requests == before + 1
    assert bench.executions == [1]
    assert len(bench.dispatcher.answer(changes[1:], tuple)) == 2
    assert bench.executions == [1, 2, 3]


def test_what_may_be_read_follows_the_grants(bench: Bench) -> None:
    """From the next request on, whoever asks."""
    bench.dispatcher._grants.replace({"agent": {"read"}})
    assert bench.ask({"action": "read"})[0]["status"] == "ok"
    bench.dispatcher._grants.replace({"agent": {"add"}})
    assert bench.ask({"action": "read"})[0]["code"] == "not_granted"
    another = Caller("another", "pc2", frozenset({"reader"}), "SHA256:another")
    bench.dispatcher._grants.replace({"reader": {"read"}})
    assert bench.ask({"action": "read"}, caller=another)[0]["status"] == "ok"
    assert bench.ask({"action": "read"})[0]["code"] == "not_granted"


def refused(code: str) -> Reply:
    return {"status": "error", "code": code, "request_id": "1"}


@pytest.mark.parametrize(
    ("unusual", "caller", "reply"),
    [
        pytest.param(READ | {"accepts": ["json-seq"]}, AGENT, HAS_READ | {"accepts": [*ACCEPTED]}, id="accepts"),
        pytest.param(READ | {"traceparent": TRACEPARENT}, AGENT, HAS_READ, id="traceparent"),
        pytest.param(READ | {"on_behalf_of": "x"}, AGENT, refused("not_granted"), id="on_behalf_of"),
        pytest.param(READ | {"more": 1}, AGENT, HAS_READ | {"ignored_fields": ["more"]}, id="unknown field"),
        pytest.param({**READ, "action": "reset"}, OPERATOR, {"status": "ok", "request_id": "1"}, id="mutates"),
        pytest.param(READ, UNAUTHENTICATED, refused("not_granted"), id="not granted"),
        pytest.param(json.dumps(READ).encode().ljust(MESSAGEPACK_FROM_BYTES + 1), AGENT, HAS_READ, id="large"),
        pytest.param(msgspec.msgpack.encode(READ), AGENT, HAS_READ, id="MessagePack"),
    ],
)
def test_an_unusual_request_changes_nothing_for_its_neighbours(
    bench: Bench, unusual: dict[str, Any] | bytes, caller: Caller, reply: Reply
) -> None:
    """Each has the reply that it would have alone."""
    before, odd, after = bench.dispatcher.answer([inbound(READ), inbound(unusual, caller), inbound(READ)])
    assert json.loads(before) == json.loads(after) == HAS_READ
    decode = json.loads if odd.startswith(b"{") else msgspec.msgpack.decode
    assert {name: value for name, value in decode(odd).items() if name not in ("error", "reason")} == reply


def test_a_deferred_read_keeps_no_payload(bench: Bench) -> None:
    """What the caller sent may be large, and waits for another thread."""
    bench.dispatcher.answer([inbound(b'{"action": "defer"' + b" " * 9_000 + b"}")])
    (deferred,) = bench.dispatcher.take_deferred().values()
    assert deferred.job.payload == b""


@pytest.mark.parametrize("action", ["read", "add"])
def test_a_number_that_messagepack_has_not_is_answered_in_json(bench: Bench, action: str) -> None:
    """No reply ends the loop."""
    bench.sum = 2**70
    fields = {"amount": 1} if action == "add" else {}
    (reply,) = bench.dispatcher.answer([inbound(msgspec.msgpack.encode({"action": action, **fields}))])
    assert json.loads(reply)["sum"] >= 2**70


def test_callers_of_a_batch_spend_its_commit_too(bench: Bench) -> None:
    """Each its share of a slow disk's time; else who floods it has used too little to let others pass."""
    bench.database.before_every_commit(lambda: time.sleep(0.05))
    adds = [{"action": "add", "amount": number, "request_id": str(number)} for number in range(1, 5)]
    began = time.perf_counter()
    bench.answer([inbound(add, by) for add, by in zip(adds, (AGENT, AGENT, AGENT, OPERATOR), strict=True)])
    took = time.perf_counter() - began
    assert [caller for caller, _ in bench.dispatcher.spent] == [AGENT, OPERATOR]
    assert 0.05 <= sum(seconds for _, seconds in bench.dispatcher.spent) <= took


def test_who_changes_nothing_spends_no_commit(bench: Bench) -> None:
    """Else changes that others' disk is slow for would keep long reads from their turn."""
    bench.database.before_every_commit(lambda: time.sleep(0.05))
    bench.answer([inbound({"action": "read"}), inbound({"action": "add", "amount": 1}, OPERATOR)])
    spent = dict(bench.dispatcher.spent)
    assert spent[AGENT] < 0.05 <= spent[OPERATOR]


def test_what_has_transactions_of_its_own_is_spent_by_its_caller(bench: Bench) -> None:
    bench.answer([inbound({"action": "nap"}, OPERATOR), inbound({"action": "add", "amount": 1})])
    spent = dict(bench.dispatcher.spent)
    assert spent[AGENT] < NAP_S <= spent[OPERATOR]
