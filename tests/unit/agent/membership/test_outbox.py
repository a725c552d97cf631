"""The outbox to mainpc: stored once its request was acknowledged, in order, bounded, and no error report lost."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.agent.membership.outbox_bench import AGENT, OutboxBench
from twinhost.agent.membership import outbox as outbox_module
from twinhost.agent.membership.delivery import Kind
from twinhost.agent.membership.gauges import outbox_metrics
from twinhost.agent.membership.outbox import MAX_BYTES
from twinhost.secure_zmq.errors import LimitReached, MessageTooLarge, StoreUnavailable

pytestmark = pytest.mark.unified_memory_agent

SAMPLE, EVENT, ERROR = Kind
ROW = len(b'{"name":"n"}') + 256


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[OutboxBench]:
    with OutboxBench(tmp_path / "db") as bench:
        yield bench


def small(tmp_path: Path, most: int = 5, **bounds: int) -> OutboxBench:
    return OutboxBench(tmp_path / "small", most=most, **bounds)


def test_pending_events_survive_a_restart_in_order(bench: OutboxBench) -> None:
    """With its action, its fields, and the id of its request; whatever kind it is of."""
    for number, kind in enumerate((ERROR, EVENT, SAMPLE, ERROR, EVENT)):
        bench.enqueue(kind, str(number), text="é\u2028")
    before = list(bench.queue._waiting.values())
    bench.restart()
    assert list(bench.queue._waiting.values()) == before
    assert bench.waiting() == ["0", "1", "2", "3", "4"]
    assert (before[0].action, before[0].fields) == ("error_action", {"name": "0", "text": "é\u2028"})
    assert len({queued.request_id for queued in before}) == 5
    assert bench.counts_are_right()


def test_what_waits_is_exported(tmp_path: Path) -> None:
    """How many, since when, what mainpc refused, and what was dropped."""
    with small(tmp_path, most=2) as bench:
        for name in ("a", "b", "c"):
            bench.enqueue(EVENT, name)
        refused = bench.queue.oldest()
        assert refused is not None
        bench.queue.refused(refused, "not_granted")
        (waiting,) = bench.queue._waiting.values()
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in outbox_metrics(bench.queue.counts())
            for sample in family.samples
        }
    assert found == {
        ("twinhost_outbox_requests", "waiting"): 1,
        ("twinhost_outbox_requests", "set_aside"): 1,
        ("twinhost_outbox_oldest_timestamp_seconds",): waiting.added,
        ("twinhost_outbox_dropped_total", "sample"): 0,
        ("twinhost_outbox_dropped_total", "event"): 1,
        ("twinhost_outbox_dropped_total", "error"): 0,
    }


def test_the_link_gets_it_when_it_is_durable(bench: OutboxBench) -> None:
    """And not before: what is not on disk yet may never be."""
    with bench.database.transaction():
        bench.outbox.add(EVENT, "publish_event", {"name": "a"})
        assert bench.queue.oldest() is None
    assert bench.waiting() == ["a"]


def test_a_request_rolled_back_leaves_nothing_pending(bench: OutboxBench) -> None:
    """Alone, or as one of a batch whose others are kept."""
    bench.enqueue(EVENT, "before")

    def refused() -> None:
        with bench.database.savepoint():
            bench.outbox.add(ERROR, "report_error", {"name": "refused"})
            raise KeyError("the handler refused it")

    def lost() -> None:
        with bench.database.transaction():
            bench.outbox.add(ERROR, "report_error", {"name": "lost"})
            raise KeyError("a fault of the program")

    with bench.database.transaction():
        bench.outbox.add(EVENT, "publish_event", {"name": "kept"})
        with pytest.raises(KeyError):
            refused()
    with pytest.raises(KeyError):
        lost()
    assert bench.waiting() == ["before", "kept"]
    assert bench.counts_are_right()
    bench.restart()
    assert bench.waiting() == ["before", "kept"]


def test_room_that_was_made_for_what_is_undone_is_given_back(tmp_path: Path) -> None:
    """What would have given way is still there, and still sent."""
    with small(tmp_path, most=2) as bench:
        bench.enqueue(SAMPLE, "a")
        bench.enqueue(SAMPLE, "b")

        def undone() -> None:
            with bench.database.transaction():
                bench.outbox.add(ERROR, "report_error", {"name": "c"})
                raise KeyError("a fault of the program")

        with pytest.raises(KeyError):
            undone()
        assert bench.waiting() == ["a", "b"]
        assert bench.queue.document()["let_go"] == {}
        assert bench.counts_are_right()


def test_outside_a_transaction_nothing_is_queued(bench: OutboxBench) -> None:
    with pytest.raises(RuntimeError, match="in the transaction of the change"):
        bench.outbox.add(EVENT, "publish_event", {})
    assert bench.rows() == []


def test_what_has_arrived_is_gone_with_the_next_tick(bench: OutboxBench) -> None:
    """Killed before it, the agent sends it again, under the same id."""
    for name in "abc":
        bench.enqueue(EVENT, name)
    sent = bench.send(2)
    assert bench.waiting() == ["c"]
    bench.restart()
    assert bench.waiting() == ["a", "b", "c"]
    assert bench.send(2) == sent
    bench.outbox.tick()
    bench.restart()
    assert bench.waiting() == ["c"]
    assert bench.counts_are_right()


def test_the_oldest_that_are_worth_least_give_way_first(tmp_path: Path) -> None:
    """Samples, then events, each kind from its oldest on; and never an error report."""
    with small(tmp_path) as bench:
        for kind, name in ((ERROR, "x1"), (EVENT, "e1"), (SAMPLE, "s1"), (EVENT, "e2"), (SAMPLE, "s2")):
            bench.enqueue(kind, name)
        for name, left in (
            ("x2", ["x1", "e1", "e2", "s2", "x2"]),
            ("x3", ["x1", "e1", "e2", "x2", "x3"]),
            ("x4", ["x1", "e2", "x2", "x3", "x4"]),
            ("x5", ["x1", "x2", "x3", "x4", "x5"]),
        ):
            bench.enqueue(ERROR, name)
            assert bench.waiting() == left
        assert bench.queue.document()["let_go"] == {"sample": 2, "event": 2}
        assert "dropped because this agent's outbox was full: 4" in bench.queue.warnings()[0]
        assert bench.counts_are_right()
        bench.restart()
        assert bench.waiting() == ["x1", "x2", "x3", "x4", "x5"]


@pytest.mark.parametrize("kind", list(Kind))
def test_an_outbox_full_of_error_reports_refuses_more(tmp_path: Path, kind: Kind) -> None:
    """So that nothing acknowledged is lost; the error names what to do, and nothing has changed."""
    with small(tmp_path) as bench:
        for number in range(5):
            bench.enqueue(ERROR, str(number))
        with pytest.raises(LimitReached, match="5 requests wait for mainpc and none may be dropped for this"):
            bench.enqueue(kind, "more")
        assert bench.waiting() == ["0", "1", "2", "3", "4"]
        assert bench.counts_are_right()
        bench.send(1)
        bench.outbox.tick()
        bench.enqueue(kind, "more")
        assert bench.waiting() == ["1", "2", "3", "4", "more"]


def test_nothing_gives_way_to_what_is_worth_less(tmp_path: Path) -> None:
    """A sample drives out older samples, and no event."""
    with small(tmp_path, most=3) as bench:
        bench.enqueue(EVENT, "e1")
        bench.enqueue(SAMPLE, "s1")
        bench.enqueue(EVENT, "e2")
        bench.enqueue(SAMPLE, "s2")
        assert bench.waiting() == ["e1", "e2", "s2"]
        bench.enqueue(EVENT, "e3")
        assert bench.waiting() == ["e1", "e2", "e3"]
        with pytest.raises(LimitReached):
            bench.enqueue(SAMPLE, "s3")
        bench.enqueue(EVENT, "e4")
        assert bench.waiting() == ["e2", "e3", "e4"]


def test_it_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    """As many of the oldest give way as are needed for what is added."""
    with small(tmp_path, most=100, most_bytes=4 * ROW) as bench:
        for name in "abcd":
            bench.enqueue(EVENT, name)
        bench.enqueue(EVENT, "n" * (1 + ROW))
        assert bench.waiting() == ["c", "d", "n" * (1 + ROW)]
        assert bench.counts_are_right()
        with pytest.raises(LimitReached):
            bench.enqueue(ERROR, "n" * 5 * ROW)


def test_what_mainpc_would_not_take_is_refused_when_it_is_added(bench: OutboxBench) -> None:
    """And not when it is too late to know who caused it."""
    with pytest.raises(MessageTooLarge, match=f"and {MAX_BYTES} are allowed; send less"):
        bench.enqueue(EVENT, text="x" * MAX_BYTES)
    assert (bench.rows(), bench.queue.oldest()) == ([], None)


def test_what_gave_way_while_it_was_on_its_way_is_counted_once(tmp_path: Path) -> None:
    """The link may be about to send what the store has just let go."""
    with small(tmp_path, most=1) as bench:
        bench.enqueue(EVENT, "a")
        queued = bench.queue.oldest()
        assert queued is not None
        bench.enqueue(EVENT, "b")
        bench.queue.delivered(queued)
        bench.outbox.tick()
        assert bench.waiting() == ["b"]
        assert bench.counts_are_right()
        bench.enqueue(EVENT, "c")
        bench.queue.refused(queued, "not_granted")
        bench.queue.retry_refused()
        assert bench.waiting() == ["c"]


def test_events_of_other_threads_are_queued_at_the_next_tick(bench: OutboxBench) -> None:
    """In its order, and let go where there is no room for it: there is no request to refuse."""
    bench.queue.defer(SAMPLE, "report_metrics", {"name": "s1"})
    bench.queue.defer(EVENT, "publish_event", {"name": "e1"})
    assert (bench.waiting(), bench.rows()) == ([], [])
    bench.outbox.tick()
    bench.restart()
    assert bench.waiting() == ["s1", "e1"]


def test_what_is_left_where_there_is_no_room_is_let_go(tmp_path: Path) -> None:
    """It is counted, and so is what waits for a database that can't be written, beyond 1,000."""
    with small(tmp_path, most=1) as bench:
        bench.enqueue(ERROR, "x")
        bench.queue.defer(SAMPLE, "report_metrics", {"name": "s"})
        bench.queue.defer(EVENT, "publish_event", {"name": "e"})
        bench.outbox.tick()
        assert bench.waiting() == ["x"]
        assert bench.queue.document()["let_go"] == {"sample": 1, "event": 1}
        for _ in range(1_010):
            bench.queue.defer(SAMPLE, "report_metrics", {"name": "s"})
        assert bench.queue.document()["let_go"] == {"sample": 11, "event": 1}


def test_a_database_that_can_not_be_written_loses_nothing(bench: OutboxBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has arrived and what was left is tried again, after a second and not at every tick."""
    monkeypatch.setattr(outbox_module, "_RETRY_S", 0.05)
    bench.enqueue(EVENT, "a")
    bench.send()
    bench.queue.defer(SAMPLE, "report_metrics", {"name": "s"})
    bench.database.execute("PRAGMA query_only=ON")
    with pytest.raises(StoreUnavailable):
        bench.outbox.tick()
    bench.outbox.tick()  # not yet due
    bench.database.execute("PRAGMA query_only=OFF")
    assert bench.waiting() == []
    bench.outbox._retry_at = 0.0
    bench.outbox.tick()
    assert bench.waiting() == ["s"]
    bench.restart()
    assert bench.waiting() == ["s"]
    assert bench.counts_are_right()


def test_what_is_refused_blocks_nothing_and_is_kept(bench: OutboxBench) -> None:
    """It is reported with its code, survives a restart, and is sent again in its place."""
    for name in "abcd":
        bench.enqueue(EVENT, name)
    refused = {"a": "not_granted", "c": "malformed_request"}
    sent = bench.send(4, lambda queued: refused.get(queued.fields["name"]))
    assert [queued.fields["name"] for queued in sent] == list("abcd")
    document = bench.queue.document()
    assert (document["waiting"], document["set_aside"], document["oldest"]) == (0, 2, None)
    assert bench.queue.warnings() == [
        "mainpc refused requests from this agent's outbox: 2 (malformed_request, not_granted); they are kept and "
        "retried every 10 minutes; check mainpc's grants and this agent's log"
    ]
    bench.outbox.tick()
    bench.enqueue(EVENT, "e")
    bench.queue.retry_refused()
    assert bench.waiting() == ["a", "c", "e"]
    bench.restart()
    assert bench.waiting() == ["a", "c", "e"]
    assert bench.queue.warnings() == []


STRANGE: dict[str, tuple[str, str]] = {  # a column of a row on disk, and what a stranger writes there
    "an unknown kind": ("kind", "'zzz'"),
    "a kind that is no text": ("kind", "CAST(x'ff' AS TEXT)"),
    "an action that is no text": ("action", "CAST(x'ff' AS TEXT)"),
    "an id that is no text": ("request_id", "CAST(x'ff' AS TEXT)"),
    "a moment without end": ("added", "9e999"),
    "a moment before the epoch": ("added", "-1.0"),
    "more than there may be": ("fields", "zeroblob(1000000)"),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_a_foreign_row_stops_no_start_and_is_not_sent(tmp_path: Path, strange: str) -> None:
    """As a restored backup may have it: it stays on disk, is reported, and the others are sent and evicted as usual."""
    column, value = STRANGE[strange]
    with small(tmp_path, most=3, most_bytes=50_000) as bench:
        bench.enqueue(EVENT, "strange")
        for name in "ab":
            bench.enqueue(EVENT, name)
        bench.database.execute(f"UPDATE outbox SET {column} = {value} WHERE seq = 1")
        for _ in range(2):
            bench.restart()
            assert bench.waiting() == ["a", "b"]
            document = bench.queue.document()
            assert (document["waiting"], document["set_aside"]) == (2, 1)
            assert bench.queue.warnings() == [
                "rows of the outbox that this agent did not write: 1; they are kept and never sent; check which "
                "backup was restored last"
            ]
        for name in "cd":
            bench.enqueue(EVENT, name)
        assert bench.waiting() == ["b", "c", "d"]
        assert bench.database.execute("SELECT count(*) FROM outbox").fetchone() == (4,)
        bench.restart()
        assert bench.waiting() == ["b", "c", "d"]


def test_more_rows_than_the_outbox_holds_are_not_all_loaded(tmp_path: Path) -> None:
    """The oldest are; the rest of a stranger's rows stays on disk."""
    with small(tmp_path, most=3) as bench:
        for name in "abc":
            bench.enqueue(ERROR, name)
        bench.database.execute(
            "INSERT INTO outbox (kind, action, fields, request_id, added, written_by) "
            "SELECT kind, action, fields, request_id, added, written_by FROM outbox"
        )
        bench.restart()
        assert bench.waiting() == ["a", "b", "c"]
        assert bench.queue.document()["set_aside"] == 3


def test_health_says_how_much_waits_and_since_when(bench: OutboxBench) -> None:
    assert bench.queue.document() == {"waiting": 0, "oldest": None, "set_aside": 0, "let_go": {}}
    bench.enqueue(EVENT, "a")
    oldest = bench.queue.document()["oldest"]
    bench.enqueue(EVENT, "b")
    assert bench.queue.document() == {"waiting": 2, "oldest": oldest, "set_aside": 0, "let_go": {}}
    assert bench.queue.warnings() == []


def test_an_event_and_an_error_are_whole(bench: OutboxBench) -> None:
    """Ids of their own, the reporter, and the time; and the row has whose request caused it."""
    with bench.database.transaction():
        bench.outbox.publish("tier_folded", {"n": 1}, written_by="alice")
        bench.outbox.report_error("Timeout", "m" * 20_000, severity="critical", context={"n": 2})
    event, error = (queued for queued in bench.queue._waiting.values())
    assert (event.kind, event.action, error.kind, error.action) == (EVENT, "publish_event", ERROR, "report_error")
    reported: dict[str, Any] = event.fields["event"]
    assert reported == {
        "event_id": reported["event_id"],
        "event_type": "tier_folded",
        "source_agent": AGENT,
        "timestamp": reported["timestamp"],
        "data": {"n": 1},
    }
    report: dict[str, Any] = error.fields["error"]
    assert (report["agent_id"], report["severity"], report["context"]) == (AGENT, "critical", {"n": 2})
    assert len(report["message"]) == 16_384
    assert len({reported["event_id"], report["error_id"]}) == 2
    writers = bench.database.execute("SELECT written_by FROM outbox ORDER BY seq").fetchall()
    assert writers == [("alice",), (AGENT,)]


def test_a_droppable_event_is_accepted_from_anywhere(bench: OutboxBench) -> None:
    """With the transaction under way, or after it; one that is rolled back reports nothing."""
    with bench.database.transaction():
        bench.outbox.publish("a", {})
        bench.database.after_commit(lambda: bench.outbox.publish("b", {}))

    def undone_request() -> None:
        with bench.database.savepoint():
            bench.outbox.publish("undone", {})
            raise KeyError("the handler refused it")

    with bench.database.transaction(), suppress(KeyError):
        undone_request()
    with bench.database.transaction():
        bench.outbox.publish("c", {})
    bench.outbox.tick()
    bench.restart()
    assert [queued.fields["event"]["event_type"] for queued in bench.queue._waiting.values()] == ["a", "c", "b"]


def test_a_full_outbox_drops_the_event_and_not_the_request(tmp_path: Path) -> None:
    with small(tmp_path, most=1) as bench:
        bench.enqueue(ERROR, "x")
        with bench.database.transaction():
            bench.outbox.publish("a", {})
        assert bench.waiting() == ["x"]
        assert bench.queue.document()["let_go"] == {"event": 1}
        assert bench.counts_are_right()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), st.sampled_from(list(Kind)), st.integers(0, 600)),
        st.tuples(st.sampled_from(["send", "refuse", "tick", "again", "restart", "undone"]), st.none(), st.none()),
    ),
    max_size=60,
)


def undone(bench: OutboxBench, name: str) -> None:
    """Queue an event in a transaction that is rolled back."""
    with suppress(LimitReached, KeyError), bench.database.transaction():
        bench.outbox.add(EVENT, "publish_event", {"name": name})
        raise KeyError


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_limits_hold_and_no_error_report_is_ever_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Kind | None, int | None]]
) -> None:
    """Every error report that was taken is on disk until it has arrived, and what is sent is sent in order."""
    with OutboxBench(tmp_path_factory.mktemp("outbox") / "db", most=6, most_bytes=2_500) as bench:
        taken: set[str] = set()
        arrived: set[str] = set()
        for number, (step, kind, size) in enumerate(steps):
            name = f"{number:03}"
            if step == "enqueue" and kind is not None and size is not None:
                try:
                    bench.enqueue(kind, name, text="x" * size)
                    taken |= {name} if kind is ERROR else set()
                except LimitReached:
                    assert name not in bench.waiting()
            elif step == "undone":
                undone(bench, name)
            elif step == "send" and bench.queue.oldest() is not None:
                arrived |= {queued.fields["name"] for queued in bench.send()}
            elif step == "refuse" and bench.queue.oldest() is not None:
                bench.send(1, lambda _: "code")
            elif step == "tick":
                bench.outbox.tick()
            elif step == "again":
                bench.queue.retry_refused()
            elif step == "restart":
                bench.restart()
            rows = bench.rows()
            assert len(rows) <= 6
            assert sum(size for _, size in rows) <= 2_500
            assert bench.counts_are_right()
            assert bench.waiting() == sorted(bench.waiting())
        bench.restart()
        assert taken - arrived <= set(bench.waiting())
