"""Replies with events and errors: by the agent concerned, whole, in bounds, and on the feed only where requested."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.system_digital_twin.event_bench import EventBench, error, event
from tests.unit.system_digital_twin.twin import NOBODY, OPERATOR, SDT, UMRA, Clock
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.feed import MAX_EVENT_BYTES

FULL_EVENT: dict[str, Any] = event(
    timestamp="2026-01-02T03:04:05Z", data={"model": "é\u2028", "n": [1, 2.5, None, True]}, propagate=True, ttl=3_600
)
FULL_ERROR: dict[str, Any] = error(
    severity="critical",
    timestamp=1_767_323_045.5,
    context={"deep": {"er": [{}]}},
    stack_trace="Traceback:\n  ...",
    related_task_id="task-7",
    recovery_attempted=True,
    recovery_successful=False,
)


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[EventBench]:
    with EventBench(tmp_path / "db", clock) as bench:
        yield bench


def test_every_field_is_kept_and_sent(bench: EventBench) -> None:
    """As the sender gave them, with the number, the moment of coming in, and who wrote it, over a restart."""
    published = bench.ask("publish_event", event=FULL_EVENT)
    reported = bench.ask("report_error", error=FULL_ERROR)
    assert (published["status"], published["event_id"], published["seq"]) == ("success", "e", 1)
    assert (reported["status"], reported["error_id"], reported["seq"]) == ("success", "x", 2)
    bench.reopen()
    (kept_event,) = bench.ask("get_events")["events"]
    (kept_error,) = bench.ask("get_errors")["errors"]
    for (topic, sent), kept, given, name in (
        (bench.sent[0], kept_event, FULL_EVENT, b"EVENT:"),
        (bench.sent[1], kept_error, FULL_ERROR, b"ERROR:"),
    ):
        assert topic == name
        assert {field: sent[field] for field in given} == {field: kept[field] for field in given} == given
        assert sent["written_by"] == kept["written_by"] == UMRA.name
        assert {**kept, "previous_seq": 0} == sent


def test_an_event_without_a_moment_gets_that_of_its_coming_in(bench: EventBench) -> None:
    bench.publish()
    (kept,) = bench.ask("get_events")["events"]
    assert kept["timestamp"] == kept["time"] == bench.sent[0][1]["timestamp"]


@pytest.mark.parametrize("caller", [UMRA, OPERATOR, NOBODY], ids=["agent", "operator", "open link"])
def test_an_event_needs_neither_an_id_nor_a_source(bench: EventBench, caller: Caller) -> None:
    """The id is unique, and a retry repeats it; the source is the caller."""
    request = {"event": {"event_type": "t", "event_id": None}, "request_id": "once"}
    first, retried = (bench.ask("publish_event", caller, **request) for _ in range(2))
    other = bench.ask("publish_event", caller, event={"event_type": "t"})
    assert first == retried
    assert len(bench.sent) == 2
    kept = bench.ask("get_events")["events"]
    assert [each["event_id"] for each in kept] == [other["event_id"], first["event_id"]]
    assert len({each["event_id"] for each in kept}) == 2
    assert {each["source_agent"] for each in kept} == {caller.name}


def test_what_is_not_to_be_propagated_is_kept_and_not_sent(bench: EventBench) -> None:
    assert bench.publish("quiet", propagate=False)["status"] == "success"
    assert (bench.ids(), bench.sent) == (["quiet"], [])


@pytest.mark.parametrize(
    ("caller", "name", "code"),
    [
        (UMRA, UMRA.name, None),
        (UMRA, "SomebodyElse", "not_granted"),
        (UMRA, SDT.name, "not_granted"),
        (OPERATOR, "SomebodyElse", None),
        (OPERATOR, SDT.name, "not_granted"),
        (NOBODY, "SomebodyElse", None),
        (NOBODY, SDT.name, "not_granted"),
        (SDT, SDT.name, None),
    ],
)
def test_no_agent_reports_for_another(bench: EventBench, caller: Any, name: str, code: str | None) -> None:
    """But for an operator, and on an open link; who it was is recorded beside it in any case."""
    replies = [
        bench.ask("publish_event", caller, event=event(source_agent=name)),
        bench.ask("report_error", caller, error=error(agent_id=name)),
    ]
    assert [reply.get("code") for reply in replies] == [code, code]
    kept = [*bench.ask("get_events")["events"], *bench.ask("get_errors")["errors"]]
    assert [each["written_by"] for each in kept] == ([] if code else [caller.name, caller.name])
    assert len(bench.sent) == len(kept)


@pytest.mark.parametrize(
    ("action", "fields", "sentence"),
    [
        ("publish_event", {}, "missing required field `event`"),
        ("publish_event", {"event": {}}, "missing required field `event_type` - at `$.event`"),
        ("publish_event", {"event": event(event_type="")}, "at `$.event.event_type`"),
        (
            "publish_event",
            {"event": event() | {"event_id": 7}},
            "Expected `str | null`, got `int` - at `$.event.event_id`",
        ),
        ("publish_event", {"event": event(ttl=-1)}, "at `$.event.ttl`"),
        ("publish_event", {"event": event(ttl="1")}, "at `$.event.ttl`"),
        ("publish_event", {"event": event(propagate="no")}, "at `$.event.propagate`"),
        ("publish_event", {"event": event(data=[])}, "at `$.event.data`"),
        ("report_error", {}, "missing required field `error`"),
        ("report_error", {"error": error(severity="fatal")}, "Invalid enum value 'fatal' - at `$.error.severity`"),
        ("report_error", {"error": error(message=None)}, "at `$.error.message`"),
        ("report_error", {"error": error(recovery_attempted=1)}, "at `$.error.recovery_attempted`"),
        ("report_error", {"error": error(stack_trace="x" * 32_769)}, "at `$.error.stack_trace`"),
        ("get_events", {"since": -1}, "at `$.since`"),
        ("get_events", {"since": 1.5}, "at `$.since`"),
        ("get_events", {"since": 2**63}, "at `$.since`"),
        ("get_events", {"limit": 0}, "at `$.limit`"),
        ("get_errors", {"limit": 1_001}, "at `$.limit`"),
        ("get_errors", {"since": []}, "at `$.since`"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_kept(
    bench: EventBench, action: str, fields: dict[str, Any], sentence: str
) -> None:
    reply = bench.ask(action, **fields)
    assert reply["code"] == "malformed_request"
    assert sentence in reply["error"]
    assert (bench.rows(), bench.sent) == (0, [])


def test_what_the_feed_can_not_carry_is_not_kept_either(bench: EventBench) -> None:
    """It is refused before it is on disk, so that whatever is kept can be sent; the largest one still fits the feed."""
    refused = bench.publish("large", data={"text": "x" * 60_000})
    assert refused["code"] == "message_too_large"
    assert "60000 are allowed" in refused["error"]
    assert bench.rows() == 0
    assert bench.publish("n" * 256, data={"text": "x" * 59_500})["status"] == "success"
    assert len(str(bench.sent[0][1])) < MAX_EVENT_BYTES


def test_depth_is_bounded_so_that_an_answer_can_be_written(bench: EventBench) -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for _ in range(depth - 1):
            value = {"in": value}
        return value

    assert bench.publish(data=nested(32))["status"] == "success"
    assert "nested at most 32 deep - at `$.event`" in bench.publish(data=nested(33))["error"]
    assert "nested at most 32 deep - at `$.error`" in bench.report(context=nested(33))["error"]
    assert len(bench.ask("get_events")["events"]) == 1


def test_a_hundred_are_answered_unless_more_are_asked_for(bench: EventBench) -> None:
    for number in range(101):
        bench.publish(f"{number}")
    answer = bench.ask("get_events")
    assert (len(answer["events"]), answer["more"]) == (100, True)
    assert (len(bench.ids(limit=1_000)), bench.ask("get_events", limit=101)["more"]) == (101, False)


def test_a_store_that_fails_refuses_and_sends_nothing(bench: EventBench) -> None:
    bench.database.execute("PRAGMA query_only=ON")
    assert bench.publish()["code"] == "store_unavailable"
    bench.database.execute("PRAGMA query_only=OFF")
    assert bench.sent == []
    assert bench.publish()["seq"] == 1
