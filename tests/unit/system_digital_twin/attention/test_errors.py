"""The detector of reported errors: the worst shape is named, each has a row, and a new one is news."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.troubles import Level, Trouble
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin.attention.errors import MOST_SHAPES, RECENT_S, ReportedErrors
from twinhost.system_digital_twin.events.events import Events, SevereErrors, Topic
from twinhost.system_digital_twin.state_files import MIGRATIONS


class Bench:
    def __init__(self, path: Path, clock: Clock) -> None:
        self.clock = clock
        self.database = Database(path, [REPLY_LOG_SCHEMA, *MIGRATIONS], clock)
        self.events = Events(self.database)
        self.look = ReportedErrors(self.events)

    def report(self, message: str, severity: str = "error", error_type: str = "T", agent: str = "a") -> None:
        fields = {"error_id": "x", "agent_id": agent, "severity": severity, "error_type": error_type}
        with self.database.transaction():
            self.events.add(Topic.ERROR, {**fields, "message": message}, agent)

    @property
    def found(self) -> Trouble | None:
        self.clock.let_pass(6.0)
        return next(iter(self.look()), None)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "twin.sqlite3", Clock())
    yield bench
    bench.database.close()


def test_a_critical_error_comes_before_many_others(bench: Bench) -> None:
    for number in range(3):
        bench.report(f"GPU {number} fell off the bus", "critical", "GpuLost", "vision")
    for number in range(60):
        bench.report(f"no reply within {number} s")
    for number in range(37):
        bench.report(f"file {number} is empty")
    found = bench.found
    assert found is not None
    assert (found.id, found.level) == ("errors", Level.BROKEN)
    assert found.what == "100 errors of 3 shapes, the worst: critical GpuLost from vision, 3 times"
    assert [name for name, _ in found.evidence] == ["critical GpuLost from vision", "error T from a", "error T from a"]
    assert "60 times, first 20" in found.evidence[1][1]
    assert len(set(found.members)) == 3
    assert any(f"acknowledge_errors shape_id={found.members[0]}" in remedy.command for remedy in found.remedies)


def test_a_long_report_is_a_short_line(bench: Bench) -> None:
    """Its type and its message are whatever an agent sends."""
    bench.report("the bus\n  is\tgone " * 100, error_type="T\n" * 100)
    found = bench.found
    assert found is not None
    assert (str(found.cause)[:29], len(str(found.cause))) == ("the bus is gone the bus is go", 160)
    assert found.what == f"1 error: error {'T ' * 39}T\u2026 from a"


def test_lesser_and_acknowledged_errors_are_no_trouble(bench: Bench) -> None:
    bench.report("a hint", "info")
    bench.report("a warning", "warning")
    assert bench.found is None
    bench.report("it failed")
    found = bench.found
    assert found is not None
    assert (found.what, found.level) == ("1 error: error T from a", Level.ATTENTION)
    with bench.database.transaction():
        bench.events.acknowledge("operator", bench.clock.time(), shape_id=found.members[0])
    assert bench.found is None


def test_a_day_after_the_last_error_the_trouble_ends(bench: Bench) -> None:
    bench.report("it failed")
    bench.clock.let_pass(RECENT_S / 2)
    first = bench.found
    bench.report("it failed")
    bench.clock.let_pass(RECENT_S / 2)
    last = bench.found
    assert first is not None
    assert last is not None
    assert first.since is not None
    assert last.since is not None
    assert last.since - first.since > RECENT_S / 3
    bench.clock.let_pass(RECENT_S)
    assert bench.found is None


def test_the_store_is_asked_only_after_a_change(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.report("it failed")
    assert bench.found is not None
    asked: list[float] = []

    def count(since: float, *_: int) -> SevereErrors:
        asked.append(since)
        return SevereErrors()

    monkeypatch.setattr(bench.events, "severe_shapes_since", count)
    bench.look()
    bench.report("it failed again")
    bench.look()
    assert asked == []  # it was asked within these 5 s
    bench.clock.let_pass(5.0)
    bench.look()
    bench.look()
    bench.clock.let_pass(6.0)
    bench.look()
    assert len(asked) == 1


def test_of_very_many_shapes_the_worst_are_told_apart(bench: Bench) -> None:
    words = [chr(97 + number // 26) + chr(97 + number % 26) for number in range(MOST_SHAPES + 5)]
    for word in words:
        bench.report(f"no {word}")
    found = bench.found
    assert found is not None
    assert found.what.startswith(f"{MOST_SHAPES + 5} errors of {MOST_SHAPES} or more shapes, the worst: ")
    assert len(found.members) == MOST_SHAPES
    assert found.evidence[-1] == ("further shapes", f"{MOST_SHAPES - 20}")
