"""Events and errors filtered, counted, grouped by shape, and acknowledged."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.system_digital_twin.event_bench import EventBench, error
from tests.unit.system_digital_twin.twin import NOBODY, OPERATOR, UMRA, Clock
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.system_digital_twin.events import events as events_module
from twinhost.system_digital_twin.events.events import Events, Filter, Topic

MANY = 100_000
SLOWEST_S = 1.0  # CPU time of one request at MANY rows; measured: 10 to 200 ms


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[EventBench]:
    with EventBench(tmp_path / "db", clock) as bench:
        yield bench


def iso(clock: Clock, ago_s: float = 0.0) -> str:
    return (datetime.fromtimestamp(clock.time(), UTC) - timedelta(seconds=ago_s)).isoformat()


def by_operator(bench: EventBench, error_id: str, agent: str, **fields: Any) -> None:
    bench.report(error_id, OPERATOR, agent_id=agent, **fields)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"type": "Timeout"}, ["c", "a"]),
        ({"agent": "Vision"}, ["c", "b"]),
        ({"severity": "critical"}, ["b"]),
        ({"text": "GPU 1"}, ["b"]),
        ({"text": "STRASSE"}, ["a"]),
        ({"text": 'say "no"\nand'}, ["c"]),
        ({"text": "deep inside"}, ["c"]),
        ({"text": "error_type"}, []),
        ({"type": "Timeout", "agent": "Vision", "severity": "error", "text": "say"}, ["c"]),
        ({"type": "Timeout", "severity": "critical"}, []),
        ({"agent": "vision"}, []),
    ],
)
def test_errors_are_filtered_by_every_field(bench: EventBench, fields: dict[str, Any], found: list[str]) -> None:
    by_operator(bench, "a", "Speech", message="in der Straße")
    by_operator(bench, "b", "Vision", error_type="OutOfMemory", severity="critical", stack_trace="at gpu 1")
    by_operator(bench, "c", "Vision", message='say "no"\nand go', context={"x": [{"y": "Deep Inside"}]})
    assert bench.error_ids(**fields) == found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"type": "model_loaded"}, ["b", "a"]),
        ({"agent": "Vision"}, ["c"]),
        ({"severity": "warning"}, ["c"]),
        ({"text": "LLAMA"}, ["b"]),
        ({"type": "model_loaded", "limit": 1}, ["b"]),
        ({"type": "model_loaded", "before": 2}, ["a"]),
    ],
)
def test_events_are_filtered_by_every_field(bench: EventBench, fields: dict[str, Any], found: list[str]) -> None:
    bench.publish("a")
    bench.publish("b", data={"model": "Llama"})
    bench.publish("c", OPERATOR, source_agent="Vision", event_type="full", data={"severity": "warning"})
    assert bench.ids(**fields) == found


def test_a_window_of_time_is_filtered(bench: EventBench, clock: Clock) -> None:
    for name in "abc":
        bench.report(name)
        clock.let_pass(60)
    window: dict[str, Any] = {"since": iso(clock, 130), "until": iso(clock, 70)}
    assert bench.error_ids(**window) == ["b"]
    assert bench.error_ids(until=iso(clock, 130)) == ["a"]
    counted = bench.ask("get_error_counts", **window)
    assert (counted["total"], counted["since"][:19]) == (1, window["since"][:19])


@pytest.mark.parametrize(
    ("window", "total"),
    [
        ({"since": "0001-01-01", "until": "9999-12-31T23:59:59.9999Z"}, 1),
        ({"until": "0001-01-01T00:00:01Z"}, 0),
        ({"until": "9999-12-31T23:59:59.9999Z"}, 0),
    ],
)
def test_errors_are_counted_to_the_ends_of_time(bench: EventBench, window: dict[str, Any], total: int) -> None:
    bench.report("a")
    assert bench.ask("get_error_counts", **window)["total"] == total


@pytest.mark.parametrize(
    ("action", "fields", "sentence"),
    [
        ("get_errors", {"severity": "fatal"}, "Invalid enum value 'fatal' - at `$.severity`"),
        ("get_errors", {"text": ""}, "at `$.text`"),
        ("get_errors", {"text": "x" * 257}, "at `$.text`"),
        (
            "get_events",
            {"until": "noon"},
            "such as 2026-11-27T08:00:00Z, got 'noon' - at `$.until`",
        ),
        ("get_events", {"until": 17}, "at `$.until`"),
        ("get_errors", {"since": "2026-11-02", "until": "2026-11-01"}, "Expected a time after `since` - at `$.until`"),
        ("get_error_counts", {"since": "2026-11-02", "until": "2026-11-02"}, "Expected a time after `since`"),
        (
            "get_error_counts",
            {"since": "x"},
            "such as 2026-11-27T08:00:00Z, got 'x' - at `$.since`",
        ),
        ("get_error_counts", {"limit": 201}, "at `$.limit`"),
        ("get_errors", {"shape_id": "(?m)lost"}, "at `$.shape_id`"),
        ("acknowledge_errors", {}, "Expected one of `shape_id` and `error_id`"),
        ("acknowledge_errors", {"shape_id": "0" * 16, "error_id": "x"}, "Expected one of `shape_id` and `error_id`"),
    ],
)
def test_a_wrong_filter_is_refused(bench: EventBench, action: str, fields: dict[str, Any], sentence: str) -> None:
    reply = bench.ask(action, OPERATOR, **fields)
    assert reply["code"] == "malformed_request"
    assert sentence in reply["error"]


def test_a_search_continues_where_it_ended(bench: EventBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads a limited number of bytes, and the reply says where to continue, even if it has found nothing."""
    monkeypatch.setattr(events_module, "MAX_SEARCHED_BYTES", 1_000)
    bench.report("old", message="the needle")
    for number in range(20):
        bench.report(f"{number}")
    found, reply = [], bench.ask("get_errors", text="NEEDLE")
    assert (reply["errors"], reply["more"]) == ([], True)
    while reply["more"]:
        reply = bench.ask("get_errors", text="NEEDLE", before=reply["next_before"])
        found += [each["error_id"] for each in reply["errors"]]
    assert (found, reply["next_before"]) == (["old"], None)


def test_errors_are_counted_by_type_agent_and_severity(bench: EventBench, clock: Clock) -> None:
    """Of the last 24 hours, unless another window is requested."""
    by_operator(bench, "old", "Speech")
    clock.let_pass(86_400 + 60)
    by_operator(bench, "a", "Speech")
    by_operator(bench, "b", "Vision", severity="critical")
    by_operator(bench, "c", "Vision", error_type="OutOfMemory")
    counts = bench.ask("get_error_counts")
    assert counts["total"] == 3
    assert counts["by_type"] == {"Timeout": 2, "OutOfMemory": 1}
    assert counts["by_agent"] == {"Vision": 2, "Speech": 1}
    assert counts["by_severity"] == {"error": 2, "critical": 1}
    assert bench.ask("get_error_counts", agent="Vision", type="Timeout")["by_severity"] == {"critical": 1}
    assert bench.ask("get_error_counts", since=iso(clock, 2 * 86_400))["by_agent"] == {"Speech": 2, "Vision": 2}


def test_errors_of_one_shape_are_one_group(bench: EventBench, clock: Clock) -> None:
    """With the times of the first and the last, and the number; the newest group first."""
    first = bench.report("a", message="10.0.0.7: no reply after 30 s")
    clock.let_pass(60)
    bench.report("b", message="disk is full")
    bench.report("c", UMRA, severity="critical", message="10.0.0.22: no reply after 7 s")
    reply = bench.ask("get_error_counts")
    newest, other = reply["groups"]
    stored = {each["seq"]: each for each in bench.ask("get_errors")["errors"]}
    assert (newest["count"], newest["first"], newest["last"]) == (2, stored[first["seq"]]["time"], stored[3]["time"])
    assert (newest["severity"], newest["message"]) == ("critical", "10.0.0.22: no reply after 7 s")
    assert r"no\s+reply\s+after\s+[0-9]" in newest["shape"]
    assert (other["count"], reply["shapes"]) == (1, 2)
    assert bench.error_ids(shape_id=newest["shape_id"]) == ["c", "a"]
    limited = bench.ask("get_error_counts", limit=1)
    assert ([group["count"] for group in limited["groups"]], limited["shapes"], limited["total"]) == ([2], 2, 3)


def test_a_group_shows_its_worst_severity(bench: EventBench) -> None:
    """Not that of the newest, which hides a critical one."""
    for severity in ("warning", "critical", "error", "info"):
        bench.report(severity, severity=severity, message="no reply after 30 s")
    (group,) = bench.ask("get_error_counts")["groups"]
    assert (group["severity"], group["count"]) == ("critical", 4)
    (found,) = bench.ask("get_error_counts", severity="info")["groups"]
    assert found["severity"] == "info"


def test_acknowledged_errors_are_counted_on_request_only(bench: EventBench) -> None:
    """By shape and by id, also after a restart; the error and the audit log record who acknowledged it, and when."""
    for number in range(3):
        bench.report(f"{number}", message=f"line {number} lost")
    bench.report("other", severity="critical")
    shape_id = bench.ask("get_error_counts")["groups"][1]["shape_id"]
    reply = bench.ask("acknowledge_errors", OPERATOR, shape_id=shape_id)
    assert (reply["acknowledged"], reply["acknowledged_by"]) == (3, OPERATOR.name)
    assert bench.audited == [
        (AuditEvent.ERRORS_ACKNOWLEDGED, {"name": OPERATOR.name, "count": 3, "shape_id": shape_id}),
    ]
    bench.reopen()
    assert (bench.ask("get_error_counts")["total"], bench.events.count_severe_since(0)) == (1, 1)
    assert bench.ask("get_error_counts", acknowledged=True)["groups"][1]["acknowledged"] == 3
    assert (bench.error_ids(acknowledged=False), bench.error_ids(acknowledged=True)) == (["other"], ["2", "1", "0"])
    stored = bench.ask("get_errors", acknowledged=True)["errors"][0]
    assert (stored["acknowledged_by"], stored["acknowledged_at"]) == (OPERATOR.name, reply["acknowledged_at"])
    assert bench.ask("acknowledge_errors", OPERATOR, error_id="other")["acknowledged"] == 1
    assert (bench.ask("get_error_counts")["groups"], bench.events.severe_since(0, 10)) == ([], [])
    assert len(bench.error_ids()) == 4


def test_a_later_error_of_an_acknowledged_shape_counts(bench: EventBench) -> None:
    bench.report("a", message="line 1 lost")
    shape_id = bench.ask("get_error_counts")["groups"][0]["shape_id"]
    bench.ask("acknowledge_errors", OPERATOR, shape_id=shape_id)
    bench.report("b", message="line 2 lost")
    assert bench.error_ids(acknowledged=False) == ["b"]
    assert [group["count"] for group in bench.ask("get_error_counts")["groups"]] == [1]


def test_acknowledging_again_changes_nothing(bench: EventBench) -> None:
    bench.report("a")
    first = bench.ask("acknowledge_errors", OPERATOR, error_id="a")
    bench.clock.let_pass(60)
    assert bench.ask("acknowledge_errors", OPERATOR, error_id="a")["acknowledged"] == 0
    assert bench.ask("get_errors")["errors"][0]["acknowledged_at"] == first["acknowledged_at"]
    assert len(bench.audited) == 1


@pytest.mark.sdt_security
@pytest.mark.parametrize("caller", [UMRA, NOBODY])
def test_an_agent_can_not_acknowledge_errors(bench: EventBench, caller: Any) -> None:
    """Only operators can: an agent could hide its own failure, or another's."""
    bench.report("a")
    assert bench.ask("acknowledge_errors", caller, error_id="a")["code"] == "not_granted"
    assert bench.error_ids(acknowledged=False) == ["a"]


@pytest.mark.parametrize("fields", [{"error_id": "b"}, {"shape_id": "0" * 16}])
def test_acknowledging_an_unknown_error_is_not_found(bench: EventBench, fields: dict[str, str]) -> None:
    bench.report("a")
    reply = bench.ask("acknowledge_errors", OPERATOR, **fields)
    assert reply["code"] == "not_found"
    assert "list them with get_error_counts" in reply["error"]


@pytest.mark.thorough
def test_a_hundred_thousand_errors_are_searched_quickly(tmp_path: Path, clock: Clock) -> None:
    with EventBench(tmp_path / "db", clock) as bench:
        rows = [
            (i * 1_000, msgspec.json.encode(error(f"{i}", error_type=f"T{i % 30}", message=f"line {i} lost")))
            for i in range(MANY)
        ]
        with bench.database.transaction():
            bench.database.execute_many(
                "INSERT INTO happenings (topic, time_ms, propagated, written_by, record, shape_id) "
                "VALUES ('ERROR:', ?, 1, 'x', ?, '0123456789abcdef')",
                rows,
            )
        events = Events(bench.database)
        for ask in (
            lambda: events.newest(Topic.ERROR, Filter(type="T3", agent="none"), limit=100, max_bytes=10**6),
            lambda: events.newest(Topic.ERROR, Filter(until=500.0), limit=100, max_bytes=10**6),
            lambda: events.newest(Topic.ERROR, Filter(text="not there"), limit=100, max_bytes=10**6),
            lambda: events.error_counts(Filter(severity="error"), 50),
            lambda: events.acknowledge("op", 0.0, error_id="77"),
        ):
            started = time.thread_time()
            ask()
            assert time.thread_time() - started < SLOWEST_S
