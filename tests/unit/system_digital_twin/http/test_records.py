"""`/api/events`, `/api/errors`, and `/api/error_counts`: what is stored, by the fields of the requests for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.asked import Asked
from tests.unit.system_digital_twin.twin import OPERATOR, Clock
from twinhost.system_digital_twin.http import records as records_module


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Asked]:
    clock.stand_still()
    with Asked(environment_of(tmp_path, "mainpc"), clock) as twin:
        yield twin


def report(twin: Asked, number: int, **fields: Any) -> None:
    error = {"error_id": f"x{number}", "agent_id": "vision", "error_type": "disk_full", "severity": "error"}
    twin.call("report_error", OPERATOR, error={**error, "message": f"no space left on disk {number}", **fields})


def test_what_is_stored_comes_by_page(twin: Asked) -> None:
    """Also what is older than the newest 50, which the state has; each as `get_errors` returns it."""
    for number in range(130):
        report(twin, number)
    first = twin.get("/api/errors", limit=100).json()
    rest = twin.get("/api/errors", limit=100, before=first["next_before"]).json()
    errors = [*first["errors"], *rest["errors"]]
    assert [error["error_id"] for error in errors] == [f"x{number}" for number in range(129, -1, -1)]
    assert rest["next_before"] is None
    assert errors[:1] == twin.call("get_errors", OPERATOR, limit=1)["errors"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"severity": "critical"}, ["x1"]),
        ({"agent": "planner"}, ["x2"]),
        ({"type": "timeout"}, ["x3"]),
        ({"text": "DISK 4"}, ["x4"]),
        ({"since": "2001-01-01", "text": "disk 4"}, ["x4"]),
        ({"until": "2001-01-01"}, []),
        ({"acknowledged": "true"}, []),
        ({"acknowledged": "false", "severity": "critical"}, ["x1"]),
    ],
)
def test_errors_are_found_by_what_they_have(twin: Asked, query: dict[str, str], expected: list[str]) -> None:
    for number, fields in enumerate(
        [{}, {"severity": "critical"}, {"agent_id": "planner"}, {"error_type": "timeout"}, {}]
    ):
        report(twin, number, **fields)
    assert [error["error_id"] for error in twin.get("/api/errors", **query).json()["errors"]] == expected


def test_events_are_found_too(twin: Asked) -> None:
    for name in ("vision", "planner"):
        event = {"event_id": name, "event_type": "moved", "source_agent": name, "data": {"to": "shelf"}}
        twin.call("publish_event", OPERATOR, event=event)
    found = twin.get("/api/events", agent="planner", text="shelf").json()
    assert [event["event_id"] for event in found["events"]] == ["planner"]


def test_errors_are_counted_by_shape(twin: Asked, clock: Clock) -> None:
    """With the first and the last, as `get_error_counts` has them."""
    for number in range(3):
        report(twin, number)
        clock.let_pass(3_600)
    report(twin, 3, message="timed out")
    counts = twin.get("/api/error_counts", since="2001-01-01").json()
    assert [(group["count"], group["error_type"]) for group in counts["groups"]] == [(1, "disk_full"), (3, "disk_full")]
    assert counts["groups"] == twin.call("get_error_counts", OPERATOR, since="2001-01-01")["groups"]
    (shape,) = (group["shape_id"] for group in counts["groups"] if group["count"] == 3)
    assert len(twin.get("/api/errors", shape_id=shape).json()["errors"]) == 3


def test_a_search_ends_early_and_goes_on(twin: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the thread of the store is not held by it."""
    monkeypatch.setattr(records_module, "MAX_SEARCHED_BYTES", 1_000)
    for number in range(30):
        report(twin, number)
    found, before, rounds = list[dict[str, Any]](), None, 0
    while before is not None or not rounds:
        query = {"text": "disk 0", **({"before": before} if before else {})}
        answer = twin.get("/api/errors", **query).json()
        found, before, rounds = [*found, *answer["errors"]], answer["next_before"], rounds + 1
    assert [error["error_id"] for error in found] == ["x0"]
    assert rounds > 5


@pytest.mark.parametrize(
    ("path", "query", "words"),
    [
        ("/api/errors", {"severity": "bad"}, "Invalid enum value 'bad' - at `$.severity`"),
        ("/api/errors", {"limit": "101"}, "Expected `int` <= 100 - at `$.limit`"),
        ("/api/errors", {"limit": "0"}, "Expected `int` >= 1 - at `$.limit`"),
        ("/api/errors", {"before": "-1"}, "Expected `int` >= 0 - at `$.before`"),
        ("/api/errors", {"since": "yesterday"}, "Expected a sequence number or a time in ISO-8601"),
        ("/api/errors", {"since": "2026-01-02", "until": "2026-01-01"}, "Expected a time after `since` - at `$.until`"),
        ("/api/errors", {"shape_id": "x"}, "Expected `str` matching regex '^[0-9a-f]{16}$' - at `$.shape_id`"),
        ("/api/errors", {"text": "x" * 257}, "Expected `str` of length <= 256 - at `$.text`"),
        ("/api/events", {"shape_id": "0" * 16}, "Object contains unknown field `shape_id`"),
        ("/api/error_counts", {"until": "soon"}, "Expected a time in ISO-8601"),
    ],
)
def test_another_question_is_refused_in_a_sentence(twin: Asked, path: str, query: dict[str, str], words: str) -> None:
    answer = twin.get(path, **query)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
