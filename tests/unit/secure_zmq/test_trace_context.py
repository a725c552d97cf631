"""`traceparent`: what is one, what it changes in the log, and that a repetition may have another one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.contextvars import get_contextvars
from structlog.testing import LogCapture

from tests.unit.secure_zmq.bench import AGENT, Bench
from twinhost.agent.membership.coordination import ForwardedRequest
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.trace_context import current_traceparent, in_trace

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
INVALID = {
    "another form": TRACE_ID,
    "version ff": f"ff-{TRACE_ID}-b7ad6b7169203331-01",
    "no trace": f"00-{'0' * 32}-b7ad6b7169203331-01",
    "no parent": f"00-{TRACE_ID}-{'0' * 16}-01",
    "capitals": TRACEPARENT.upper(),
    "more": f"{TRACEPARENT}-00",
    "a line": f"{TRACEPARENT}\n",
    "empty": "",
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "bench.sqlite3")
    yield bench
    bench.close()


@pytest.fixture
def log() -> Iterator[LogCapture]:
    """What is logged, as an agent is configured."""
    capture, before = LogCapture(), structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture], cache_logger_on_first_use=False)
    yield capture
    structlog.configure(**before)


def ask(bench: Bench, **fields: object) -> dict[str, object]:
    (reply,) = bench.dispatcher.answer([Inbound(json.dumps(fields, separators=(",", ":")).encode(), AGENT)])
    found: dict[str, object] = json.loads(reply)
    return found


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID.keys())
def test_what_is_no_traceparent_is_ignored(text: str, bench: Bench, log: LogCapture) -> None:
    with in_trace(text):
        assert current_traceparent() is None
    assert ask(bench, action="read", traceparent=text) == {"status": "ok", "sum": 0}
    ask(bench, action="reset", traceparent=text)
    assert "trace_id" not in log.entries[-1]


def test_log_lines_of_a_request_have_its_trace_id(bench: Bench, log: LogCapture) -> None:
    """And no line about the next request."""
    ask(bench, action="reset", traceparent=TRACEPARENT)
    ask(bench, action="reset")
    assert [entry.get("trace_id") for entry in log.entries] == [TRACE_ID, None]
    assert {entry["event"] for entry in log.entries} == {"request_refused"}


def test_a_deferred_replys_log_line_has_the_trace_id(bench: Bench, log: LogCapture) -> None:
    bench.dispatcher.answer([Inbound(json.dumps({"action": "defer", "traceparent": TRACEPARENT}).encode(), AGENT)])
    (deferred,) = bench.dispatcher.take_deferred().values()
    bench.deferred[0].set_exception(ValueError("from elsewhere"))
    bench.dispatcher.settle(deferred)
    assert [entry["trace_id"] for entry in log.entries] == [TRACE_ID, TRACE_ID]


def test_a_valid_traceparent_is_no_ignored_field(bench: Bench) -> None:
    with in_trace(TRACEPARENT):
        assert current_traceparent() == TRACEPARENT
    assert current_traceparent() is None
    assert ask(bench, action="read", traceparent=TRACEPARENT) == {"status": "ok", "sum": 0}
    refused = ask(bench, action="read", traceparent=7)
    assert refused["code"] == "malformed_request"
    assert "`$.traceparent`" in str(refused["error"])


def test_a_repetition_may_have_another_traceparent(bench: Bench) -> None:
    """The attempt is another one, and the request is the same: it is executed once."""
    first = ask(bench, action="add", request_id="once", amount=5, traceparent=TRACEPARENT)
    other = TRACEPARENT.replace("b7ad", "b7ae")
    assert ask(bench, action="add", request_id="once", amount=5, traceparent=other) == first
    assert ask(bench, action="add", request_id="once", amount=5) == first
    assert bench.executions == [5]
    assert ask(bench, action="add", request_id="once", amount=6, traceparent=other)["code"] == "request_id_reused"


def test_what_a_handler_forwards_belongs_to_its_requests_trace() -> None:
    """Without a line of the handler; in another trace it is the same request."""
    with in_trace(TRACEPARENT):
        forwarded = ForwardedRequest("agent", "ping", {}, 5, "caller", on_behalf=True, request_id="once")
    repeated = ForwardedRequest("agent", "ping", {}, 5, "caller", on_behalf=True, request_id="once")
    assert (forwarded.traceparent, repeated.traceparent) == (TRACEPARENT, None)
    assert forwarded == repeated


def test_requests_without_a_trace_bind_nothing() -> None:
    """Nor one with an empty one."""
    for traceparent in (None, ""):
        with in_trace(traceparent):
            assert current_traceparent() is None
            assert get_contextvars() == {}
