"""A line of each answered request, with its trace."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from tests.unit.secure_zmq.bench import AGENT, OPERATOR, Bench, inbound
from tests.unit.secure_zmq.test_trace_context import TRACE_ID, TRACEPARENT
from twinhost.secure_zmq.answer_log import LoggingDispatcher
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.wire import as_messagepack


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(Bench(tmp_path / "db", kind=LoggingDispatcher)) as bench:
        yield bench


@pytest.fixture(autouse=True)
def log() -> Iterator[LogCapture]:
    capture, before = LogCapture(), structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture], cache_logger_on_first_use=False)
    yield capture
    structlog.configure(**before)


def lines(log: LogCapture) -> list[dict[str, Any]]:
    return [dict(entry) for entry in log.entries if entry["event"] == "request_answered"]


def brief(log: LogCapture) -> list[tuple[Any, ...]]:
    return [(line["peer"], line["action"], line["request_id"], line["outcome"]) for line in lines(log)]


def test_each_request_of_a_batch_has_a_line(bench: Bench, log: LogCapture) -> None:
    """Plain, repeated, refused, or unreadable; what arrived during the commit too."""
    later = [[inbound({"action": "read", "request_id": "later"}, OPERATOR)], []]
    add = inbound({"action": "add", "amount": 2, "request_id": "1"})
    batch = [add, add, inbound({"action": "add", "amount": 13}), inbound({"action": "reset"}), inbound(b"garbage")]
    replies = bench.dispatcher.answer(batch, lambda: later.pop(0))
    assert len(replies) == len(batch) + 1
    assert brief(log) == [
        ("agent", "add", "1", "ok"),
        ("agent", "add", "1", "ok"),
        ("agent", "add", None, "not_found"),
        ("agent", "reset", None, "not_granted"),
        ("agent", None, None, "malformed_request"),
        ("operator", "read", "later", "ok"),
    ]
    assert all(line["ms"] > 0 and line["log_level"] == "debug" for line in lines(log))


def test_the_line_has_the_trace(bench: Bench, log: LogCapture) -> None:
    bench.ask({"action": "read", "traceparent": TRACEPARENT}, {"action": "read"})
    assert [line.get("trace_id") for line in lines(log)] == [TRACE_ID, None]


def test_a_deferred_request_has_its_line_with_the_reply(bench: Bench, log: LogCapture) -> None:
    bench.dispatcher.answer([inbound({"action": "defer", "request_id": "7", "traceparent": TRACEPARENT})])
    assert lines(log) == []
    (deferred,) = bench.dispatcher.take_deferred().values()
    bench.deferred[0].set_result({"status": "ok"})
    bench.dispatcher.settle(deferred)
    assert brief(log) == [("agent", "defer", "7", "ok")]
    assert lines(log)[0]["trace_id"] == TRACE_ID


def test_a_request_in_parts_has_one_line(bench: Bench, log: LogCapture) -> None:
    for _ in bench.handed_in_again({"action": "count", "upto": 200_000}):
        assert lines(log) == []
    assert brief(log) == [("agent", "count", None, "ok")]


def test_messagepack_is_logged_as_json_is(bench: Bench, log: LogCapture) -> None:
    bench.dispatcher.answer(
        [Inbound(as_messagepack(b'{"action":"nope"}'), AGENT), Inbound(as_messagepack(b'{"action":"read"}'), AGENT)]
    )
    assert [outcome for *_, outcome in brief(log)] == ["unknown_action", "ok"]


def test_replies_are_those_of_the_other_dispatcher(tmp_path: Path) -> None:
    messages: list[dict[str, Any] | bytes] = [
        {"action": "add", "amount": 2, "request_id": "1"},
        b"garbage",
        {"action": "read"},
        b"ping",
    ]
    replies = []
    for kind in (Dispatcher, LoggingDispatcher):
        with closing(Bench(tmp_path / kind.__name__, kind=kind)) as bench:
            replies.append(bench.dispatcher.answer([inbound(message) for message in messages]))
    assert replies[0] == replies[1]
