"""The store of interactions: tiers, windows, counters and summaries, whatever is added, cleared, hidden, and undone."""

import json
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.new_database import open_database
from tests.unit.unified_memory_reasoning.bench import MIGRATIONS, bench_of, migrations_before
from tests.unit.unified_memory_reasoning.memory import SDT
from tests.unit.unified_memory_reasoning.memory_bench import ANN, MALLORY, ContextBench
from twinhost.secure_zmq.actions import InParts, wholly
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.conversations import contexts
from twinhost.unified_memory_reasoning.conversations import interactions as interactions_module
from twinhost.unified_memory_reasoning.conversations.interactions import OCCURRED_MIGRATION, Interactions
from twinhost.unified_memory_reasoning.conversations.window import WindowItem, window_of

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "add", "clear", "clear own", "remove", "undone"]),
        st.sampled_from(["s", "t"]),
        st.sampled_from(["", "ann", "bob"]),
        st.sampled_from(["x", "remember x", "we decided on x"]),
        st.integers(1, 12),
    ),
    max_size=30,
)
_COUNTS = {
    "context_writers": "SELECT session_id, written_by, count(*), max(coalesce(occurred_at, created)) "
    "FROM interactions WHERE session_id = ? GROUP BY written_by",
    "context_speakers": "SELECT session_id, speaker, written_by, count(*) FROM interactions "
    "WHERE session_id = ? AND speaker <> '' GROUP BY speaker, written_by",
}
_SESSION = "SELECT id, speaker, importance, tier, written_by FROM interactions WHERE session_id = ? ORDER BY id DESC"


bench = bench_of(ContextBench)


def session(database: Database, session_id: str = "s") -> list[Any]:
    """Return the rows of a session, newest first."""
    return database.execute(_SESSION, (session_id,)).fetchall()


def fill(store: Interactions, database: Database, number: int, **fields: Any) -> None:
    with database.transaction():
        for place in range(number):
            store.add("s", "user_query", f"number {place}", SDT.name, **fields)


def words(number: int) -> str:
    """Return what somebody says: decisions among it, fewer than a summary holds."""
    return f"agreed {number}" if number % 10 == 0 else f"number {number}"


def require_consistent(store: Interactions, database: Database, small: tuple[int, ...]) -> None:
    """Require that counters, tiers, and totals say what the rows say, as a start would find them."""
    total = 0
    for session_id in ("s", "t"):
        rows = session(database, session_id)
        total += len(rows)
        for speaker in (None, "ann", "bob"):
            in_view = sum(speaker in (None, row[1]) for row in rows)
            assert store.context(session_id, speaker).in_view == in_view
        bounds = [sum(small[: tier + 1]) for tier in range(len(small))]
        assert [row[3] for row in rows] == [sum(place >= bound for bound in bounds) for place in range(len(rows))]
        counted = database.execute("SELECT * FROM context_sessions WHERE session_id = ?", (session_id,)).fetchall()
        if not rows:
            assert counted == []
            assert store.context(session_id).summary == type(store.context(session_id).summary)()
            continue
        oldest = [min((row[0] for row in rows if row[3] == tier), default=0) for tier in range(3)]
        assert counted == [(session_id, len(rows), *oldest)]
        for table, counts in _COUNTS.items():
            kept = database.execute(f"SELECT * FROM {table} WHERE session_id = ?", (session_id,)).fetchall()
            assert sorted(kept) == sorted(database.execute(counts, (session_id,)).fetchall())
    assert (store.count, store.session_count) == (total, sum(bool(session(database, name)) for name in ("s", "t")))
    again = Interactions(database)
    assert (again.count, again.session_count) == (store.count, store.session_count)


def cut_short(parts: InParts[int], number: int) -> None:
    for _ in islice(parts, number):
        pass


def left_of(database: Database, ids: list[int]) -> list[int]:
    there = {number for (number,) in database.execute("SELECT id FROM interactions")}
    return [number for number in ids if number in there]


@settings(max_examples=60)
@given(STEPS)
def test_tiers_and_counters_follow_every_change(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, str, int]]
) -> None:
    """Added, cleared by session, speaker and writer, removed, and undone; with tiers small enough to fill."""
    small = (3, 4, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "TIERS", small)
        patch.setattr(contexts, "UP_TO_TIER", (3, 7, 13))
        from twinhost.unified_memory_reasoning.conversations import interactions

        patch.setattr(interactions, "_CLEARED_AT_ONCE", 2)
        patch.setattr(interactions, "_RANK_AGAIN", interactions._rank_again((3, 7, 13)))
        database = open_database(tmp_path_factory.mktemp("db") / "db", MIGRATIONS)
        store = Interactions(database)
        for what, session_id, speaker, content, number in steps:
            try:
                with database.transaction():
                    if what == "clear":
                        cut_short(store.clear(session_id, speaker or None), number)
                    if what == "clear own":
                        cut_short(store.clear(session_id, speaker or None, ANN.name), number)
                    if what == "remove" and (ids := [row[0] for row in session(database, session_id)][::number]):
                        wholly(store.remove(session_id, partial(left_of, database, ids)))
                    for place in range(number if what in ("add", "undone") else 0):
                        writer = (SDT, ANN)[place % 2].name
                        store.add(session_id, "user_query", content, writer, speaker=speaker, created=number - place)
                    if what == "undone":
                        wholly(store.clear("s"))
                        raise KeyError("a fault of the program")
            except KeyError:
                pass
            require_consistent(store, database, small)
        database.close()


def test_tiers_are_50_200_1000_and_the_rest(bench: ContextBench) -> None:
    """By recency in the session; every row stays, with its content."""
    fill(bench.interactions, bench.database, 1_300)
    tiers = [row[3] for row in session(bench.database)]
    assert tiers == [0] * 50 + [1] * 200 + [2] * 1_000 + [3] * 50
    assert bench.rows("interactions") == bench.interactions.count == 1_300
    contents = [each["content"] for each in bench.interactions.written_by(SDT.name, None, 2_000)]
    assert contents == [f"number {place}" for place in reversed(range(1_300))]


def test_an_interaction_is_folded_as_it_moves(bench: ContextBench) -> None:
    """The 51st makes the first a line of the summary; the window and the summary are there after a restart."""
    fill(bench.interactions, bench.database, 50)
    assert bench.context()["conversation_summary"] == ""
    fill(bench.interactions, bench.database, 2)
    assert bench.context()["conversation_summary"] == "[user_query]: number 0\n[user_query]: number 1"
    before = bench.context()
    bench.reopen()
    assert bench.context() == before


def test_decisions_and_errors_outlive_every_tier(bench: ContextBench) -> None:
    """After 1,300 more interactions, nothing else of that time is in the summary."""
    with bench.database.transaction():
        for kind, content in (("user_query", "We decided on red."), ("error", "read timed out"), ("user_query", "bye")):
            bench.interactions.add("s", kind, content, SDT.name)
    fill(bench.interactions, bench.database, 1_300)
    context = bench.context()
    assert context["key_decisions"] == ["We decided on red."]
    assert context["errors_encountered"] == [{"type": "timeout", "message": "read timed out"}]
    assert "bye" not in context["conversation_summary"]


def test_adding_costs_the_same_in_a_large_store(bench: ContextBench) -> None:
    """Counted in steps of SQLite's machine, for a session that fills all tiers."""

    def steps_of_adding() -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        bench.database._connection.set_progress_handler(count, 1)
        fill(bench.interactions, bench.database, 1, speaker="ann")
        bench.database._connection.set_progress_handler(None, 0)
        return steps

    fill(bench.interactions, bench.database, 1_400, speaker="ann")
    small = steps_of_adding()
    bench.database.execute(
        "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, created, tier, "
        "written_by) SELECT 'other' || (value % 100), '', 'code', 'x', '{}', 0.5, 1.0, 0.0, 3, 'x' FROM "
        "(WITH RECURSIVE numbers (value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM numbers LIMIT 60000) "
        "SELECT value FROM numbers)".replace("'{}'", "CAST('{}' AS BLOB)")
    )
    fill(bench.interactions, bench.database, 49, speaker="ann")  # the next one has its elder before all those
    assert small / 1.1 < steps_of_adding() < small * 1.1


def test_removing_costs_the_same_in_a_large_session(bench: ContextBench) -> None:
    """Counted in steps of SQLite's machine; but for what the newest 1,250 interactions take."""

    def steps_of_removing() -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        newest = session(bench.database)[0][0]
        bench.database._connection.set_progress_handler(count, 1)
        assert bench.ask("delete_interactions", SDT, session_id="s", ids=[newest])["deleted"] == [newest]
        bench.database._connection.set_progress_handler(None, 0)
        return steps

    fill(bench.interactions, bench.database, 1_400, speaker="ann")
    small = steps_of_removing()
    with bench.database.transaction():  # rows of tier 3, before those that there are
        bench.database.execute(
            "INSERT INTO interactions (id, session_id, speaker, type, content, metadata, importance, strength, "
            "created, tier, written_by) SELECT -value, 's', 'ann', 'code', 'x', x'7b7d', 0.5, 1.0, 0.0, 3, ? FROM "
            "(WITH RECURSIVE numbers (value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM numbers LIMIT 4000) "
            "SELECT value FROM numbers)",
            (SDT.name,),
        )
        for table in ("context_sessions", "context_writers", "context_speakers"):
            bench.database.execute(f"UPDATE {table} SET count = count + 4000")
    assert small / 1.1 < steps_of_removing() < small * 1.1


def test_a_given_importance_and_moment_are_kept(bench: ContextBench) -> None:
    """As an import gives them; the window goes by them."""
    with bench.database.transaction():
        for importance in (0.1, 0.1, 0.1):
            added = bench.interactions.add("s", "code", "x", SDT.name, importance=importance, created=1.5)
    assert added.window_size == 7
    (row, *_) = bench.interactions.written_by(SDT.name, None, 1)
    assert (row["importance"], row["created"], row["strength"]) == (0.1, "1970-01-01T00:00:01.500+00:00", 1.0)
    assert bench.context()["last_updated"] == "1970-01-01T00:00:01.500+00:00"


def test_a_writers_rows_are_listed_newest_first_in_pages(bench: ContextBench) -> None:
    """Also when the writer is hidden from every recall: the list is for those who look into it."""
    for number in range(5):
        bench.say(f"m{number}", MALLORY)
        bench.say(f"a{number}", ANN)
    bench.hide(MALLORY)
    page = bench.interactions.written_by(MALLORY.name, None, 3)
    assert [row["content"] for row in page] == ["m4", "m3", "m2"]
    assert [row["content"] for row in bench.interactions.written_by(MALLORY.name, page[-1]["id"], 3)] == ["m1", "m0"]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ANN, MALLORY]),
            st.sampled_from(["", "bob"]),
            st.sampled_from(["plain", "remember this?", "we decided on red", "Agreed."]),
        ),
        max_size=80,
    )
)
def test_a_quarantine_leaves_what_there_is_without_the_writer(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[Any, str, str]]
) -> None:
    """Windows and decisions are as if the writer had written nothing; released, all is as it was."""
    folder = tmp_path_factory.mktemp("quarantine")
    with ContextBench(folder / "with") as bench, ContextBench(folder / "without") as without:
        numbers = {}
        for caller, speaker, content in said:
            reply = bench.say(content, caller, speaker=speaker)
            if caller is ANN:
                numbers[without.say(content, caller, speaker=speaker)["interaction_id"]] = reply["interaction_id"]
        for view in (None, "bob"):
            before = bench.context(speaker=view)
            bench.hide(MALLORY)
            seen, expected = bench.context(speaker=view), without.context(speaker=view)
            for name in ("text", "tokens", "window", "stored", "key_decisions", "errors_encountered"):
                assert seen[name] == expected[name]
            assert seen["dropped_ids"] == [numbers[number] for number in expected["dropped_ids"]]
            bench.release(MALLORY)
            assert bench.context(speaker=view) == before


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ANN, MALLORY]),
            st.sampled_from(["", "bob", "eve"]),
            st.sampled_from(["plain", "remember this?", "we decided on red", "Agreed."]),
        ),
        max_size=40,
    ),
    st.sampled_from([None, "bob"]),
)
@pytest.mark.thorough
def test_clearing_takes_nothing_that_a_quarantine_hides(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[Any, str, str]], cleared: str | None
) -> None:
    """Released afterwards, what the hidden writer said is there as if the cleared texts had never been written."""
    folder = tmp_path_factory.mktemp("cleared")
    with ContextBench(folder / "with") as bench, ContextBench(folder / "without") as without:
        for caller, speaker, content in said:
            bench.say(content, caller, speaker=speaker)
            if caller is MALLORY or cleared not in (None, speaker):
                without.say(content, caller, speaker=speaker)
        bench.hide(MALLORY)
        visible = sum(caller is ANN and cleared in (None, speaker) for caller, speaker, _ in said)
        assert bench.ask("clear_context", session_id="s", speaker=cleared)["cleared"] == visible
        bench.release(MALLORY)
        for view in (None, "bob", "eve"):
            seen, expected = bench.context(speaker=view), without.context(speaker=view)
            for name in ("text", "stored", "key_decisions", "errors_encountered"):
                assert seen[name] == expected[name], name


def test_a_quarantined_writer_is_in_no_line_of_the_summary(bench: ContextBench) -> None:
    """Nor among errors and code; the others' folded lines stay."""
    for caller, word in ((MALLORY, "evil"), (ANN, "good")):
        for kind in ("user_query", "error", "code"):
            bench.say(f"we agreed on {word}", caller, kind)
    fill(bench.interactions, bench.database, 60)
    assert "evil" in str(bench.context())
    bench.hide(MALLORY)
    context = bench.context()
    assert "evil" not in str(context)
    assert context["key_decisions"] == ["we agreed on good"]
    assert "good" in context["conversation_summary"]
    assert context["stored"] == 63


def test_rows_are_found_by_number_unless_hidden(bench: ContextBench) -> None:
    """In the order of the numbers; those that are not there, or a quarantined writer's, are left out."""
    for caller, content in ((ANN, "one"), (MALLORY, "two"), (ANN, "three")):
        bench.say(content, caller)
    assert [row.content for row in bench.interactions.turns([3, 2, 9, 1])] == ["three", "two", "one"]
    bench.hide(MALLORY)
    assert [row.content for row in bench.interactions.turns([3, 2, 9, 1])] == ["three", "one"]


def test_clearing_takes_time_in_proportion_to_the_session(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine, where a hidden writer's rows are left, each of another speaker."""

    def steps_of_clearing(rows: int) -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        with ContextBench(tmp_path / f"{rows}") as bench:
            with bench.database.transaction():
                for number in range(rows):
                    bench.interactions.add("s", "user_query", "x", MALLORY.name, speaker=f"p{number}")
            bench.hide(MALLORY)
            bench.say("mine", ANN)
            bench.database._connection.set_progress_handler(count, 1)
            assert bench.ask("clear_context", session_id="s")["cleared"] == 1
            bench.database._connection.set_progress_handler(None, 0)
            assert bench.rows("context_windows") == rows + 1
        return steps

    assert steps_of_clearing(400) < 2.5 * steps_of_clearing(200)


@pytest.mark.parametrize(("said_since", "back"), [(240, True), (260, False)])
def test_what_a_cleared_speaker_had_replaced_comes_back(bench: ContextBench, said_since: int, back: bool) -> None:
    """From tiers 0 and 1, of those that are left; so that clearing reads no thousand contents for decisions."""
    bench.say("We decided on red.", speaker="ann")
    with bench.database.transaction():
        for number in range(32):
            bench.interactions.add("s", "user_query", f"We decided on {number}.", SDT.name, speaker="bob")
    fill(bench.interactions, bench.database, said_since)
    assert "We decided on red." not in bench.context()["key_decisions"]
    assert bench.ask("clear_context", session_id="s", speaker="bob")["cleared"] == 32
    assert bench.context()["key_decisions"] == (["We decided on red."] if back else [])


def test_clearing_a_speaker_leaves_the_others_as_if_alone(bench: ContextBench) -> None:
    """Rows, window, decisions and tiers; what is in tier 0 again is in no line."""
    with bench.database.transaction():
        for number in range(60):
            for speaker in ("ann", "bob"):
                bench.interactions.add("s", "user_query", f"{speaker} {words(number)}", SDT.name, speaker=speaker)
    assert wholly(bench.interactions.clear("s", "bob")) == 60
    with bench.database.transaction():
        for number in range(60):
            bench.interactions.add("alone", "user_query", f"ann {words(number)}", SDT.name, speaker="ann")
    require_alike(bench)


def require_alike(bench: ContextBench) -> None:
    """Require that the session `s` is as `alone`."""
    left, alone = bench.context(), bench.context(session_id="alone")
    assert left["text"] == alone["text"]
    assert left["key_decisions"] == alone["key_decisions"]
    assert left["conversation_summary"].splitlines() == alone["conversation_summary"].splitlines()
    assert "bob" not in str(left)
    assert bench.context(speaker="bob")["text"] == ""
    rows = session(bench.database)
    assert bench.interactions._contexts.window("s", "") == window_of(
        WindowItem(row[0], row[2]) for row in reversed(rows)
    )


@pytest.mark.parametrize("whole", [False, True], ids=["of one of two writers", "of the only one"])
def test_a_clear_that_was_cut_short_is_completed_later(
    bench: ContextBench, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Nothing of what the first one removed is left in a window, or in the summary."""
    monkeypatch.setattr(interactions_module, "_CLEARED_AT_ONCE", 7)
    with bench.database.transaction():
        for number in range(60):
            bench.interactions.add("s", "user_query", f"bob {words(number)}", ANN.name, speaker=f"bob {number}")
        for session_id in () if whole else ("s", "alone"):
            for number in range(60):
                bench.interactions.add(session_id, "user_query", f"ann {words(number)}", SDT.name, speaker="ann")
        cut_short(bench.interactions.clear("s", None, ANN.name), 4)
    assert bench.context()["stored"] == (32 if whole else 92)
    with bench.database.transaction():
        assert wholly(bench.interactions.clear("s", None, ANN.name)) == 32
    require_alike(bench)
    speakers = bench.database.execute("SELECT DISTINCT speaker FROM context_windows WHERE session_id = 's'").fetchall()
    assert sorted(speakers) == ([] if whole else [("",), ("ann",)])


@pytest.mark.parametrize("meanwhile", ["nothing", "an addition", "a deletion", "a quarantine", "a release"])
def test_what_is_left_is_as_if_removed_at_once(bench: ContextBench, meanwhile: str) -> None:
    """Windows and notes are computed before, in parts; where the session changes between two, again."""
    said = ("Shall we take the bus {}?", "We decided on plan {}.", "Yes.", "scrap that", "word {}")
    with bench.database.transaction():
        for session_id in ("s", "alone"):
            for number in range(300):
                speaker, writer = ("bob", ANN) if number % 3 else ("eve", SDT)
                text = said[number % 5].format(number)
                bench.interactions.add(session_id, "user_query", text, writer.name, speaker=speaker, created=number)
    store = bench.interactions
    chosen = {name: [row[0] for row in reversed(session(bench.database, name))][40:280:2] for name in ("s", "alone")}
    if meanwhile == "a release":
        bench.hide(SDT)

    def change(session_id: str) -> None:
        if meanwhile == "an addition":
            bench.say("we decided on blue", session_id=session_id)
        elif meanwhile == "a deletion":
            bench.ask("delete_interactions", ANN, session_id=session_id, ids=[chosen[session_id][1] + 1])
        elif meanwhile == "a quarantine":
            bench.hide(SDT)
        elif meanwhile == "a release":
            bench.release(SDT)

    parts = store.remove("s", partial(left_of, bench.database, chosen["s"]))
    assert len(list(islice(parts, 200))) == 200
    change("s")
    with bench.database.transaction():
        assert list(wholly(parts)) == chosen["s"]
    if meanwhile in ("an addition", "a deletion"):
        change("alone")
    with bench.database.transaction():
        wholly(store.remove("alone", partial(left_of, bench.database, chosen["alone"])))
    assert kept(bench, "s") == kept(bench, "alone")


def kept(bench: ContextBench, session_id: str) -> Any:
    """Return a session's context and its windows, by what they have."""
    texts = dict(bench.database.execute("SELECT id, content FROM interactions").fetchall())
    windows = bench.database.execute(
        "SELECT speaker, window FROM context_windows WHERE session_id = ? ORDER BY speaker", (session_id,)
    )
    items = [
        (speaker, size, [(texts[number], importance) for number, importance in placed])
        for speaker, window in windows
        for size, placed in (json.loads(window),)
    ]
    shown = bench.context(session_id=session_id, max_tokens=8_000)
    return {**shown, "last_updated": None, "dropped_ids": None, "cut_ids": None}, items


def test_an_interaction_is_as_old_as_when_it_was_said(bench: ContextBench) -> None:
    """A context orders by that time; when it was stored stays apart. What is not given is now."""
    bench.say("second", occurred_at="2026-05-02T00:00:00+00:00")
    bench.say("first", occurred_at="2026-05-01T08:00:00+08:00")
    bench.say("third")
    assert bench.shown() == [f"[user_query]: {name}" for name in ("first", "second", "third")]
    third, first, second = map(dict, bench.interactions.written_by(SDT.name, None, 9))
    assert first["occurred_at"] == "2026-05-01T00:00:00.000+00:00" < str(first["created"])
    assert ("occurred_at" in third, str(second["occurred_at"])[:10]) == (False, "2026-05-02")
    bench.say("old", session_id="t", occurred_at="2026-05-01T00:00:00Z")
    assert bench.context(session_id="t")["last_updated"] == "2026-05-01T00:00:00.000+00:00"
    bench.say("gone", session_id="t", speaker="Ann")
    bench.ask("clear_context", session_id="t", speaker="Ann")
    assert bench.context(session_id="t")["last_updated"] == "2026-05-01T00:00:00.000+00:00"


@pytest.mark.parametrize(
    ("occurred_at", "sentence"),
    [
        ("yesterday", "Expected a time in ISO-8601, such as"),
        ("2026-05-01T00:00:00-99:00", "ISO-8601"),
        ("0001-01-01T00:00:00+00:00", "in the years 1970 to 9999"),
        ("9999-01-01T00:00:00Z", "more than 60 s ahead of this host's clock"),
        (5, "at `$.occurred_at`"),
    ],
)
def test_a_time_that_can_not_be_is_refused(bench: ContextBench, occurred_at: object, sentence: str) -> None:
    reply = bench.say("x", occurred_at=occurred_at)
    assert (reply["code"], sentence in reply["error"]) == ("malformed_request", True), reply
    assert bench.rows("interactions") == 0


def test_an_older_database_gains_the_time(tmp_path: Path) -> None:
    """Rows of the version before have occurred when they were stored."""
    database = Database(tmp_path / "db", migrations_before(OCCURRED_MIGRATION))
    database.execute(
        "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, created, tier, "
        "written_by) VALUES ('s', '', 'code', 'x', x'7b7d', 0.5, 1.0, 5.0, 0, 'A')"
    )
    database.close()
    database = Database(tmp_path / "db", MIGRATIONS)
    (turn,) = Interactions(database).turns([1])
    assert turn.at == 5.0
    database.close()
