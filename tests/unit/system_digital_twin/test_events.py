"""Events and errors as they are kept: numbered for good, bounded, newest first, until they expire."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.older_database import REPLY_LOG_MIGRATIONS, downgrade
from tests.unit.system_digital_twin.event_bench import OLDER_MIGRATIONS, EventBench, error, event
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA, Clock
from twinhost.system_digital_twin.deduplication import Deduplication
from twinhost.system_digital_twin.events.events import MIGRATION, Topic

MOMENT = "2026-01-02T03:04:05Z"


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[EventBench]:
    with EventBench(tmp_path / "db", clock) as bench:
        yield bench


def test_numbering_continues_across_restarts_and_kinds(bench: EventBench) -> None:
    """One numbering for events and errors, which is what a follower of both can be ordered by."""
    assert [bench.publish("a")["seq"], bench.report("b")["seq"], bench.publish("c")["seq"]] == [1, 2, 3]
    bench.reopen()
    assert bench.report("d")["seq"] == 4
    assert [each["seq"] for each in bench.ask("get_events")["events"]] == [3, 1]
    assert [each["seq"] for each in bench.ask("get_errors")["errors"]] == [4, 2]
    assert bench.ask("get_events")["last_seq"] == bench.ask("get_errors")["last_seq"] == 4


def test_no_number_is_given_twice(bench: EventBench, clock: Clock) -> None:
    """Not even that of an event which is gone, over a restart."""
    assert bench.publish("short", ttl=1)["seq"] == 1
    clock.let_pass(20)
    bench.events.on_tick()
    assert bench.rows() == 0
    bench.reopen()
    assert bench.ask("get_events")["last_seq"] == 1
    assert bench.publish("next")["seq"] == 2


def test_since_a_number_is_after_it(bench: EventBench) -> None:
    for name in "abcde":
        bench.publish(name)
    assert bench.ids() == list("edcba")
    assert bench.ids(since=3) == ["e", "d"]
    assert bench.ids(since=5) == []
    assert bench.ids(since=0, limit=2) == ["e", "d"]
    assert bench.ids(since=1, before=4) == ["c", "b"]


def test_since_a_moment_is_from_it_on(bench: EventBench, clock: Clock) -> None:
    """As given with each event, in any zone, and in UTC where none is named."""
    bench.publish("old")
    clock.let_pass(60)
    bench.publish("new")
    stored_at = bench.ask("get_events")["events"][0]["time"]
    elsewhere = datetime.fromisoformat(stored_at).astimezone(datetime.now().astimezone().tzinfo) - timedelta(seconds=1)
    assert bench.ids(since=stored_at) == bench.ids(since=stored_at.removesuffix("+00:00")) == ["new"]
    assert bench.ids(since=elsewhere.isoformat()) == ["new"]
    assert bench.ids(since=(datetime.fromisoformat(stored_at) - timedelta(minutes=2)).isoformat()) == ["new", "old"]
    assert bench.ids(since=(datetime.now(UTC) + timedelta(days=1)).isoformat()) == []


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "17"])
def test_neither_number_nor_date_is_refused_with_its_path(bench: EventBench, since: str) -> None:
    reply = bench.ask("get_events", since=since)
    assert reply["code"] == "malformed_request"
    assert f"got {since!r} - at `$.since`" in reply["error"]


def test_the_oldest_give_way(tmp_path: Path, clock: Clock) -> None:
    """Of its own kind, and an answer has its last number."""
    with EventBench(tmp_path / "db", clock, most=5) as bench:
        bench.report("kept")
        for number in range(12):
            bench.publish(f"{number}")
        assert bench.ids() == ["11", "10", "9", "8", "7"]
        assert bench.ask("get_events")["let_go_to"] == 8
        bench.reopen()
        bench.publish("12")
        assert bench.ids() == ["12", "11", "10", "9", "8"]
        errors = bench.ask("get_errors")
        assert ([each["error_id"] for each in errors["errors"]], errors["let_go_to"]) == (["kept"], 0)
        assert bench.rows() == 6


def test_they_are_bounded_in_bytes_too(tmp_path: Path, clock: Clock) -> None:
    with EventBench(tmp_path / "db", clock, most_bytes=100_000) as bench:
        for number in range(12):
            bench.publish(f"{number}", data={"text": "x" * 20_000})
        assert bench.ids() == ["11", "10", "9", "8"]
        bench.publish("small")
        assert bench.ids() == ["small", "11", "10", "9", "8"]


def test_a_short_lived_event_is_returned_until_it_expires(bench: EventBench, clock: Clock) -> None:
    """0 and null are for ever; an expired event is soon removed from the disk, and no longer counts."""
    bench.publish("short", ttl=30)
    bench.publish("never", ttl=0)
    bench.publish("neither", ttl=None)
    clock.let_pass(29)
    assert bench.ids() == ["neither", "never", "short"]
    clock.let_pass(1.1)
    assert bench.ids() == ["neither", "never"]
    assert bench.rows() == 3
    bench.events.on_tick()
    assert bench.rows() == 2


def test_an_event_that_expires_before_it_is_sent_is_not_sent(bench: EventBench, clock: Clock) -> None:
    """A disk may take its time."""
    with bench.database.transaction():
        bench.ask("get_events")
        bench.events.add(Topic.EVENT, {"event_id": "late"}, UMRA.name, ttl_s=1)
        clock.let_pass(2)
    assert bench.sent == []


def test_a_page_is_as_large_as_an_answer_may_be(bench: EventBench) -> None:
    """And says that there is more, which `before` leads to; nothing is left out."""
    for number in range(20):
        bench.publish(f"{number}", data={"text": "x" * 30_000})
    found, page = [], bench.ask("get_events", limit=1_000)
    assert page["more"]
    while True:
        found += [each["event_id"] for each in page["events"]]
        if not page["more"]:
            break
        page = bench.ask("get_events", limit=1_000, before=page["events"][-1]["seq"])
    assert found == [f"{number}" for number in reversed(range(20))]


def test_a_rolled_back_batch_leaves_nothing_and_sends_nothing(bench: EventBench) -> None:
    """Neither a row, nor a number, nor room taken."""
    bench.publish("before")

    def failing() -> None:
        with bench.database.transaction():
            bench.events.add(Topic.EVENT, {"event_id": "lost"}, UMRA.name)
            raise KeyError("a fault of the program")

    held = dict(bench.events._usage)
    with pytest.raises(KeyError):
        failing()
    assert (bench.ids(), len(bench.sent), bench.events._usage) == (["before"], 1, held)
    assert bench.publish("after")["seq"] == 2


def test_a_refused_request_of_a_batch_sends_nothing(bench: EventBench) -> None:
    """And those beside it are sent in their order."""
    replies = bench.ask_together(
        ("publish_event", UMRA, {"event": event("a")}),
        ("publish_event", UMRA, {"event": event("b", source_agent="Somebody")}),
        ("report_error", UMRA, {"error": error("c")}),
    )
    assert [reply.get("code", "success") for reply in replies] == ["success", "not_granted", "success"]
    assert [(topic, fields["seq"]) for topic, fields in bench.sent] == [(b"EVENT:", 1), (b"ERROR:", 2)]


def test_a_retry_is_stored_once_and_sent_once(bench: EventBench) -> None:
    first = bench.ask("publish_event", event=event("a"), request_id="r1")
    bench.reopen()
    assert bench.ask("publish_event", event=event("a"), request_id="r1") == first
    assert (bench.ids(), len(bench.sent)) == (["a"], 1)


def test_what_is_sent_names_what_was_sent_before_it(bench: EventBench) -> None:
    """Under its topic, what was kept off the feed left out, over a restart."""
    bench.publish("a")
    bench.report("b")
    bench.publish("c", propagate=False)
    bench.reopen()
    bench.publish("d")
    bench.report("e")
    assert [(fields["seq"], fields["previous_seq"]) for _, fields in bench.sent] == [(1, 0), (2, 0), (4, 1), (5, 2)]


def test_an_event_takes_as_long_beside_many_unsent(bench: EventBench) -> None:
    """What was sent last is known, though nothing of the topic was, and is not looked for in all of them."""

    def steps() -> int:
        ran: list[None] = []
        bench.database._connection.set_progress_handler(lambda: ran.append(None), 100)
        bench.publish(propagate=False)
        bench.database._connection.set_progress_handler(None, 0)
        return len(ran)

    beside_few = steps()
    with bench.database.transaction():
        for _ in range(1_000):
            bench.events.add(Topic.EVENT, {"event_id": "u"}, UMRA.name, propagate=False)
    assert steps() <= beside_few + 2


def test_what_was_sent_last_is_named_though_it_is_gone(bench: EventBench, clock: Clock) -> None:
    """So a subscriber that has it misses nothing; what is rolled back was not sent."""
    bench.publish("short-lived", ttl=5)
    clock.let_pass(60)
    bench.events.on_tick()
    with suppress(ZeroDivisionError), bench.database.transaction():
        bench.events.add(Topic.EVENT, {"event_id": "lost"}, UMRA.name)
        raise ZeroDivisionError
    bench.publish()
    assert bench.rows() == 1
    assert bench.sent[-1][1]["previous_seq"] == bench.sent[0][1]["seq"]


def test_a_repeated_event_is_stored_once_and_sent_once(bench: EventBench) -> None:
    """In another request, over a restart of mainpc, in whatever order its keys are: the number is the first one's."""
    stored = bench.publish("a", timestamp=MOMENT, data={"m": 1, "n": {"x": 1, "y": 2}})
    reported = bench.report("x", timestamp=MOMENT, context={"b": 1, "a": 2})
    bench.reopen()
    again = bench.publish("a", data={"n": {"y": 2, "x": 1}, "m": 1}, timestamp=MOMENT)
    assert again == stored
    assert bench.report("x", timestamp=MOMENT, context={"a": 2, "b": 1}) == reported
    assert (bench.rows(), len(bench.sent)) == (2, 2)
    assert bench.publish("b")["seq"] == 3


def test_in_one_batch_too_it_is_kept_once(bench: EventBench) -> None:
    """And where the first of them is undone, none is there."""
    replies = bench.ask_together(
        *[("publish_event", UMRA, {"event": event("a", timestamp=MOMENT), "request_id": f"{n}"}) for n in "123"]
    )
    assert [reply["seq"] for reply in replies] == [1, 1, 1]
    assert len(bench.sent) == 1

    def failing() -> None:
        with bench.database.transaction():
            bench.events.add(Topic.EVENT, {"event_id": "lost", "timestamp": MOMENT}, UMRA.name)
            raise KeyError("a fault of the program")

    with pytest.raises(KeyError):
        failing()
    assert bench.events.add(Topic.EVENT, {"event_id": "lost", "timestamp": MOMENT}, UMRA.name) == 2


@pytest.mark.parametrize(
    "changed", [{"data": {"n": 2}}, {"event_type": "other"}, {"propagate": False}, {"ttl": 5}, {"timestamp": 1.0}]
)
def test_an_id_that_is_used_for_something_else_is_another_event(bench: EventBench, changed: dict[str, Any]) -> None:
    """An older client may restart its numbering with each start."""
    given: dict[str, Any] = {"timestamp": MOMENT, "data": {"n": 1}}
    assert bench.publish("a", **given)["seq"] == 1
    assert bench.publish("a", **{**given, **changed})["seq"] == 2
    assert bench.ids() == ["a", "a"]


def test_what_names_no_moment_is_another_event_each_time(bench: EventBench) -> None:
    """Its moment is that of its coming in; an older client may report the same thing whenever it happens."""
    assert [bench.publish("a")["seq"], bench.publish("a", timestamp=None)["seq"], bench.report("x")["seq"]] == [1, 2, 3]
    assert bench.report("x")["seq"] == 4
    assert len(bench.sent) == 4


def test_two_callers_may_use_the_same_id(bench: EventBench) -> None:
    """And an event's id is no error's."""
    assert bench.ask("publish_event", UMRA, event=event("a", timestamp=MOMENT))["seq"] == 1
    assert bench.ask("publish_event", OPERATOR, event=event("a", timestamp=MOMENT))["seq"] == 2
    assert bench.report("a", timestamp=MOMENT)["seq"] == 3


def test_a_resent_event_that_was_evicted_does_not_return(tmp_path: Path, clock: Clock) -> None:
    """Its number is known for longer than itself."""
    with EventBench(tmp_path / "db", clock, most=2) as bench:
        for name in "abc":
            bench.publish(name, timestamp=MOMENT)
        bench.publish("short", timestamp=MOMENT, ttl=1)
        clock.let_pass(20)
        bench.events.on_tick()
        assert bench.publish("a", timestamp=MOMENT)["seq"] == 1
        assert bench.publish("short", timestamp=MOMENT, ttl=1)["seq"] == 4
        assert (bench.ids(), len(bench.sent)) == (["c"], 4)


def test_an_older_outbox_is_read_and_sent_once(tmp_path: Path, clock: Clock) -> None:
    """Of what it kept no ids are known: reported again it is stored again, and from then on once."""
    with EventBench(tmp_path / "db", clock) as bench:
        bench.publish("a", timestamp=MOMENT)
        bench.database.close()
        downgrade(tmp_path / "db", [*REPLY_LOG_MIGRATIONS, MIGRATION])
        bench.open()
        assert [bench.publish("a", timestamp=MOMENT)["seq"] for _ in range(2)] == [2, 2]


def test_of_each_caller_the_newest_are_known_again(tmp_path: Path, clock: Clock) -> None:
    """More of one drive out none of another."""
    with EventBench(tmp_path / "db", clock) as bench:
        once = Deduplication(bench.database, most=3)
        for number in range(5):
            once.record("one", bytes([number]), number)
        once.record("other", b"\0", 7)
        assert [once.find("one", bytes([number])) for number in range(5)] == [None, None, 2, 3, 4]
        assert once.find("other", b"\0") == 7


@pytest.mark.parametrize("migrations", [OLDER_MIGRATIONS[:2], OLDER_MIGRATIONS])
def test_errors_of_earlier_versions_are_found(tmp_path: Path, clock: Clock, migrations: tuple[str, ...]) -> None:
    """Those that were stored before indexes, filters, and shapes existed, together with new ones."""
    with EventBench(tmp_path / "db", clock) as bench:
        bench.report("old", severity="critical", message="line 7 lost")
        bench.report("mild", severity="info")
        bench.publish("event", data={"severity": "critical"})
        bench.database.close()
        downgrade(tmp_path / "db", [*REPLY_LOG_MIGRATIONS, *migrations])
        bench.open()
        bench.report("new", message="line 8 lost")
        assert [each.fields["error_id"] for each in bench.events.severe_since(0, 10)] == ["new", "old"]
        assert bench.events.count_severe_since(0) == 2
        old = bench.error_ids(type="Timeout", agent=UMRA.name, severity="critical")
        (group, other) = bench.ask("get_error_counts")["groups"]
        assert (old, group["count"], other["count"]) == (["old"], 2, 1)


def test_a_severe_error_that_expired_is_not_found(bench: EventBench) -> None:
    """Neither shown nor counted."""
    with bench.database.transaction():
        bench.events.add(Topic.ERROR, {"severity": "critical"}, "agent", ttl_s=10)
    assert (len(bench.events.severe_since(0, 10)), bench.events.count_severe_since(0)) == (1, 1)
    bench.clock.let_pass(11)
    assert (bench.events.severe_since(0, 10), bench.events.count_severe_since(0)) == ([], 0)
