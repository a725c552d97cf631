"""Retention takes from the writer with most: a flood of one evicts its own, and nobody else's critical errors."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.system_digital_twin.event_bench import EventBench, error
from tests.unit.system_digital_twin.twin import UMRA, Clock
from twinhost.secure_zmq.budgets import Budget
from twinhost.secure_zmq.callers import Caller
from twinhost.system_digital_twin.events.events import Topic

FLOODER = Caller("Flooder", "pc2", frozenset({"agent"}), "SHA256:of-the-flooder")


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[EventBench]:
    with EventBench(tmp_path / "db", clock, most=6) as bench:
        yield bench


def test_a_flood_of_reports_evicts_its_writers_own(tmp_path: Path, clock: Clock) -> None:
    """10,050 of one key, of whatever severity, leave another's critical error, and the counts show both."""
    with EventBench(tmp_path / "db", clock) as bench:
        bench.report("the victim's", severity="critical")
        with bench.database.transaction():
            for number in range(10_050):
                report = error(f"{number}", agent_id=FLOODER.name, severity="critical")
                bench.events.add(Topic.ERROR, report, FLOODER.name)
        counts = bench.ask("get_error_counts")
        assert (counts["total"], counts["by_agent"]) == (10_000, {FLOODER.name: 9_999, UMRA.name: 1})
        assert bench.error_ids(agent=UMRA.name) == ["the victim's"]


def test_the_oldest_of_the_writer_with_most_gives_way(bench: EventBench) -> None:
    """Also to another, until both have as much; also after a restart."""
    for number in range(6):
        bench.publish(f"u{number}")
    bench.reopen()
    for number in range(5):
        bench.publish(f"f{number}", FLOODER)
    assert bench.ids() == ["f4", "f3", "f2", "u5", "u4", "u3"]


def test_a_critical_error_gives_way_to_no_other_writer(bench: EventBench) -> None:
    """As long as the other has any of its own; the writer's own reports evict it in their order."""
    for number in range(6):
        bench.report(f"u{number}", severity="critical" if number < 5 else "info")
    bench.report("f0", FLOODER)
    bench.report("f1", FLOODER)
    assert bench.error_ids() == ["f1", "u4", "u3", "u2", "u1", "u0"]
    bench.report("u6")
    assert bench.error_ids() == ["u6", "f1", "u4", "u3", "u2", "u1"]


def test_a_newcomer_is_stored_beside_critical_errors_alone(bench: EventBench) -> None:
    for number in range(6):
        bench.report(f"u{number}", severity="critical")
    bench.report("f0", FLOODER)
    assert bench.error_ids() == ["f0", "u5", "u4", "u3", "u2", "u1"]


def test_the_writer_with_most_bytes_makes_room_for_bytes(tmp_path: Path, clock: Clock) -> None:
    with EventBench(tmp_path / "db", clock, most_bytes=100_000) as bench:
        for number in range(10):
            bench.publish(f"u{number}")
        for number in range(6):
            bench.publish(f"f{number}", FLOODER, data={"text": "x" * 20_000})
        assert bench.ids() == ["f5", "f4", "f3", "f2", *(f"u{number}" for number in range(9, -1, -1))]


def test_one_identity_keeps_as_many_as_its_budget_says(tmp_path: Path, clock: Clock) -> None:
    with EventBench(tmp_path / "db", clock, budget=Budget(events=2, errors=1)) as bench:
        for number in range(4):
            bench.publish(f"f{number}", FLOODER)
            bench.report(f"f{number}", FLOODER)
        bench.publish("u")
        assert bench.ids() == ["u", "f3", "f2"]
        assert bench.error_ids() == ["f3"]
        assert bench.events.kept(Topic.EVENT) == {FLOODER.name: 2, UMRA.name: 1}


def test_a_reader_that_resumes_gets_all_that_is_left(bench: EventBench) -> None:
    """`let_go_to` is the newest that was evicted, and what is older and was kept follows all the same."""
    bench.publish("u0")
    for number in range(8):
        bench.publish(f"f{number}", FLOODER)
    for number in range(1, 3):
        bench.publish(f"u{number}")
    page = bench.ask("get_events", since=0)
    assert [entry["event_id"] for entry in page["events"]] == ["u2", "u1", "f7", "f6", "f5", "u0"]
    assert page["let_go_to"] == 6
    assert [fields["previous_seq"] for _, fields in bench.sent] == list(range(11))


def test_the_newest_evicted_number_never_falls(bench: EventBench) -> None:
    """Here an older event is evicted after a newer one."""
    for number in range(3):
        bench.publish(f"u{number}")
    for number in range(5):
        bench.publish(f"f{number}", FLOODER)
    assert bench.ask("get_events")["let_go_to"] == 5
    for number in range(3, 6):
        bench.publish(f"u{number}")
    assert bench.ids() == ["u5", "u4", "u3", "f4", "f3", "f2"]
    assert bench.ask("get_events")["let_go_to"] == 5


def test_shares_are_right_after_a_rollback(bench: EventBench) -> None:
    for number in range(5):
        bench.publish(f"u{number}")
    with suppress(ZeroDivisionError), bench.database.transaction():
        for number in range(4):
            bench.events.add(Topic.EVENT, {"event_id": f"f{number}"}, FLOODER.name)
        raise ZeroDivisionError
    assert bench.events.kept(Topic.EVENT) == {UMRA.name: 5}
    bench.publish("f4", FLOODER)
    assert bench.ids() == ["f4", "u4", "u3", "u2", "u1", "u0"]
