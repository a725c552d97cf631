"""Facts that change: keys, validity, history, the effect of a quarantine, and that stores agree."""

import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.unit.unified_memory_reasoning.bench import bench_of, migrations_before
from tests.unit.unified_memory_reasoning.memory_model_bench import (
    ANA,
    BEN,
    CAT,
    OPERATOR,
    MemoryBench,
    SearchedBench,
    SetableClock,
)
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.details import FOLDED_KEYS_MIGRATION
from twinhost.unified_memory_reasoning.memories.details import MIGRATION as DETAILS_MIGRATION
from twinhost.unified_memory_reasoning.memories.model import BY_DAYS
from twinhost.unified_memory_reasoning.memories.rows import strength_now

MAY, JUNE, JULY = "2026-05-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00", "2026-07-01T02:00:00+02:00"


bench = bench_of(lambda path: MemoryBench(path, SetableClock(), half_life_days=30.0))


def values(bench: MemoryBench, **named: Any) -> list[tuple[str, str | None]]:
    """Return the ids of a history and when each value ceases to be valid."""
    found = bench.ask("memory_history", **named)
    assert found["status"] == "ok", found
    return [(memory["id"], memory.get("valid_until")) for memory in found["memories"]]


def test_a_new_value_of_a_key_ends_the_previous_one(bench: MemoryBench) -> None:
    """The older one stays, and names the value that follows it, and since when."""
    bench.store("a", "rent 340", key="rent", valid_from=MAY)
    bench.store("b", "rent 355", key="rent", valid_from=JUNE)
    first, second = bench.ask("memory_history", key="rent")["memories"]
    assert (first["id"], first["valid_until"], first["superseded_by"]) == ("a", "2026-06-01T00:00:00.000+00:00", "b")
    assert (second["id"], "valid_until" in second, second["written_by"]) == ("b", False, "Ana")
    assert bench.ask("get_memory", key="rent")["memory"]["id"] == "b"


def test_values_follow_each_other_in_the_order_of_their_start(bench: MemoryBench) -> None:
    """Not in the order of storing; a value that is stored late gets its place."""
    bench.store("c", key="rent", valid_from=JULY)
    bench.store("a", key="rent", valid_from=MAY)
    bench.store("b", key="rent", occurred_at=JUNE)
    june, july = "2026-06-01T00:00:00.000+00:00", "2026-07-01T00:00:00.000+00:00"
    for named in ({"key": "rent"}, {"memory_id": "b"}, {"id": "a"}):
        assert values(bench, **named) == [("a", june), ("b", july), ("c", None)]


def test_a_new_value_counts_within_its_millisecond(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are rounded to milliseconds, so half of them are ahead of an exact clock."""
    clock = SetableClock()
    monkeypatch.setattr(clock, "time", lambda: 1_800_000_000.0006)
    bench.store("old", "The rent of the box room is 340")
    assert bench.store("new", "The rent of the box room is 355", supersedes=["old"])["conflicts"] == []
    assert bench.ask("memory_audit")["contradictory"] == []
    bench.store("value", "rent 355", key="rent")
    assert bench.ask("get_memory", key="rent")["memory"]["id"] == "value"


def test_many_values_of_one_moment_keep_their_order(bench: MemoryBench) -> None:
    """Without a given id, ids are random, and a batch stores several values in one millisecond."""
    for number in range(20):
        bench.ask("store_memory", content=f"{number}", key="k")
    history = bench.ask("memory_history", key="k")["memories"]
    assert [each["content"] for each in history] == [str(number) for number in range(20)]


@pytest.mark.parametrize(
    ("moment", "found"),
    [("2026-04-30T00:00:00Z", None), (MAY, "a"), ("2026-05-31T23:59:59Z", "a"), (JUNE, "b"), (JULY, None)],
)
def test_as_of_selects_what_was_valid_then(bench: MemoryBench, moment: str, found: str | None) -> None:
    """In `query_memory` and `get_memory`, by key and by the id of any value."""
    bench.store("a", key="rent", valid_from=MAY)
    bench.store("b", key="rent", valid_from=JUNE, valid_until=JULY)
    bench.store("other", key="light", valid_from=JULY)
    assert bench.ids(key="rent", as_of=moment) == ([found] if found else [])
    names: list[dict[str, Any]] = [{"key": "rent"}, {"memory_id": "a"}, {"id": "b"}]
    for named in names:
        reply = bench.ask("get_memory", as_of=moment, **named)
        assert (reply["memory"]["id"] if found else reply["code"]) == (found or "not_found")
        assert found or "was valid at 2026-0" in reply["error"]


def test_keys_are_compared_without_case_and_spaces(bench: MemoryBench) -> None:
    """Each value keeps its writer's spelling; it is trimmed."""
    bench.store("a", key=" Wifi Password\n", valid_from=MAY)
    bench.store("b", key="wifi  PASSWORD", caller=BEN, valid_from=JUNE)
    bench.store("n", key="NI\u00d1O", valid_from=MAY)
    bench.store("m", key="nin\u0303o", valid_from=JUNE)
    for key in ("wifi password", "WIFI PASSWORD ", "Wifi  Password"):
        assert bench.ask("get_memory", CAT, key=key)["memory"]["id"] == "b"
        assert bench.ask("get_memory", key=key)["memory"]["id"] == "a"
        assert bench.ask("get_memory", key=key, as_of=MAY)["memory"]["id"] == "a"
        assert bench.ids(key=key) == ["b", "a"]
        history = bench.ask("memory_history", key=key)["memories"]
        assert [each["key"] for each in history] == ["Wifi Password", "wifi  PASSWORD"]
    assert bench.ids(key="NIN\u0303O") == ["m", "n"]
    begins = bench.get("a")["valid_from"]
    assert bench.store("a", key="WIFI password")["new"] is False
    assert (bench.get("a")["key"], bench.get("a")["valid_from"]) == ("WIFI password", begins)


def test_older_keys_that_differ_in_case_become_one(tmp_path: Path) -> None:
    """Every value stays, in the history and by its id, with its spelling; blank keys stay apart, as they were."""
    clock = SetableClock()
    database = Database(tmp_path / "db", migrations_before(FOLDED_KEYS_MIGRATION))
    keys = ["Wifi", "wifi ", "\u00d1am", "\u00f1AM", " ", "  "]
    for number, key in enumerate(keys, start=1):
        database.execute(
            "INSERT INTO memories (id, content, keywords, source, strength, created, last_accessed, forgotten, "
            "written_by) VALUES (?, 'text', CAST('[]' AS BLOB), '', 1, ?2, 1790000000, 0, 'Ana')",
            (f"m{number}", number),
        )
        details = msgspec.json.encode({"key": key, "valid_from": float(number)}).decode()
        database.execute(
            "INSERT INTO memory_details (number, id, written_by, starts, details) "
            "VALUES (?1, 'm' || ?1, 'Ana', ?1, ?2)",
            (number, details),
        )
    database.close()
    for start in range(2):
        with capture_logs() as logs, MemoryBench(tmp_path / "db", clock, half_life_days=30.0) as bench:
            assert [log["keys"] for log in logs] == [[["Wifi", "wifi "], keys[2:4]]] * (1 - start)
            assert [memory["key"] for memory in bench.ask("memory_history", key="WIFI")["memories"]] == [
                "Wifi",
                "wifi ",
            ]
            assert [memory["key"] for memory in bench.ask("memory_history", id="m4")["memories"]] == keys[2:4]
            assert [bench.get(f"m{number}").get("superseded_by") for number in (1, 2, 3, 4)] == ["m2", None, "m4", None]
            assert [bench.get(name)["key"] for name in ("m5", "m6")] == [" ", "  "]
            assert values(bench, id="m5") == [("m5", None)]
            assert len(bench.ids()) == len(keys)


def test_another_stores_keys_are_merged_as_they_are(bench: MemoryBench) -> None:
    """A blank or untrimmed key of an older store refuses no record, and two stores have the same rows afterwards."""
    kept = {"content": "x", "last_accessed": "2026-11-27T00:00:00+00:00", "revised": 5.0}
    records = [{"id": "a", "key": " Rent", **kept}, {"id": "b", "key": " ", **kept}, {"id": "c", "key": "rent", **kept}]
    assert bench.ask("sync_memories", OPERATOR, memories=records)["added"] == 3
    assert [bench.get(name)["key"] for name in "abc"] == [" Rent", " ", "rent"]
    assert bench.ids(key="RENT") == ["c", "a"]
    assert bench.sync_to(bench)["unchanged"] == 3


def test_a_quarantine_makes_the_previous_value_current(bench: MemoryBench) -> None:
    """A key is shared: for others, Ben's value ends Ana's, until Ben is hidden; no value is lost."""
    bench.store("a", "of Ana", key="rent", valid_from=MAY)
    bench.store("b", "of Ben", BEN, key="rent", valid_from=JUNE)
    bench.store("plain", "of Ana, without a key")
    bench.store("c", "of Ben", BEN, supersedes=["plain"])
    assert bench.ask("get_memory", CAT, key="rent")["memory"]["id"] == "b"
    assert bench.get("plain")["superseded_by"] == "c"
    bench.quarantine.add("Ben", "operator")
    assert bench.ask("get_memory", CAT, key="rent")["memory"]["id"] == "a"
    assert (values(bench, key="rent"), "valid_until" in bench.get("plain")) == ([("a", None)], False)
    assert bench.ids(key="rent", as_of=JULY) == ["a"]
    bench.quarantine.lift("Ben")
    assert bench.ask("get_memory", CAT, key="rent")["memory"]["id"] == "b"


def test_a_deletion_makes_the_previous_value_current(bench: MemoryBench) -> None:
    bench.store("a", key="rent", valid_from=MAY)
    bench.store("b", key="rent", valid_from=JUNE)
    bench.ask("delete_memory", memory_id="b")
    assert values(bench, key="rent") == [("a", None)]


def test_what_is_superseded_by_id_has_a_history(bench: MemoryBench) -> None:
    """By the id of any of the memories."""
    bench.store("a")
    bench.clock.let_pass(1)
    bench.store("b", supersedes=["a"])
    bench.clock.let_pass(1)
    bench.store("c", supersedes=["b"])
    for memory_id in "abc":
        assert [each for each, _ in values(bench, memory_id=memory_id)] == ["a", "b", "c"]
    assert bench.get("a")["superseded_by"] == "b"
    now = bench.get("c")["created"]
    assert bench.ask("get_memory", memory_id="a", as_of=now)["memory"]["id"] == "c"


def test_no_memory_supersedes_what_supersedes_it(bench: MemoryBench) -> None:
    """Nothing of a cycle would be valid; a sync may bring one, whose memories have a history."""
    bench.store("a")
    bench.store("b", supersedes=["a"])
    bench.store("c", supersedes=["b"])
    for name in "bc":
        reply = bench.ask("store_memory", content="text", id="a", supersedes=[name])
        assert (reply["code"], f"memory '{name}' already supersedes this one" in reply["error"]) == (
            "malformed_request",
            True,
        )
    assert bench.get("a")["superseded_by"] == "b"
    record = {"id": "a", "content": "x", "last_accessed": bench.get("c")["revised"], "supersedes": ["c"]}
    assert bench.ask("sync_memories", memories=[record])["changed"] == 1
    assert len(values(bench, memory_id="b")) == 3


def test_a_memory_can_only_supersede_one_that_exists(bench: MemoryBench) -> None:
    """A misspelt id is refused, and one that is deleted or hidden; what is stored already stays."""
    for name, caller in (("a", ANA), ("bens", BEN), ("deleted", ANA)):
        bench.store(name, caller=caller)
    bench.store("m", supersedes=["a", "bens", "deleted"])
    bench.ask("delete_memory", id="deleted")
    bench.quarantine.add("Ben", "operator")
    for name in ("A", "bens", "deleted"):
        reply = bench.ask("store_memory", content="text", id="n", supersedes=["a", name])
        sentence = f"there is no memory {name!r} to supersede; `query_memory` lists them - at `$.supersedes`"
        assert (reply["code"], reply["error"]) == ("not_found", sentence)
    assert "n" not in bench.ids()
    bench.store("m", "new text", supersedes=["a", "bens", "deleted"])
    assert bench.get()["supersedes"] == ["a", "bens", "deleted"]


def test_a_memory_may_be_valid_to_the_end_of_time(bench: MemoryBench) -> None:
    """The last half millisecond of the year 9999 is not rounded into the next year, which ISO-8601 can't represent."""
    bench.store("m", valid_until="9999-12-31T23:59:59.9999Z")
    assert bench.get()["valid_until"][:19] == "9999-12-31T23:59:59"


def test_a_sync_may_bring_what_supersedes_first(bench: MemoryBench) -> None:
    """The records of another store come in any order, and in pages."""
    at = {"content": "x", "revised": 5.0}
    later = {"id": "b", "supersedes": ["a"], "last_accessed": "2026-11-27T00:00:00+00:00", **at}
    assert bench.ask("sync_memories", OPERATOR, memories=[later])["added"] == 1
    earlier = {"id": "a", "last_accessed": "2026-11-26T00:00:00+00:00", **at}
    assert bench.ask("sync_memories", OPERATOR, memories=[earlier])["added"] == 1
    assert bench.get("a")["superseded_by"] == "b"


def test_a_history_continues_where_its_page_ended(bench: MemoryBench) -> None:
    for number in range(5):
        bench.store(f"{number}", "x" * 60_000, key="k")
    first = bench.ask("memory_history", key="k")
    assert (first["count"], first["more"], first["next_skip"]) == (2, True, 2)
    rest = bench.ask("memory_history", key="k", skip=2, limit=2)
    last = bench.ask("memory_history", key="k", skip=4)
    assert [memory["id"] for memory in (*first["memories"], *rest["memories"], *last["memories"])] == [*"01234"]
    assert last["next_skip"] is None


@pytest.mark.parametrize(
    ("action", "fields", "sentence"),
    [
        ("store_memory", {"occurred_at": "yesterday"}, "Expected a time in ISO-8601, such as"),
        ("store_memory", {"occurred_at": "2999-05-01T00:00:00Z"}, "ahead of this host's clock"),
        ("store_memory", {"valid_from": "1969-05-01T00:00:00Z"}, "in the years 1970 to 9999"),
        ("store_memory", {"valid_from": JUNE, "valid_until": MAY}, "would end before it begins"),
        ("store_memory", {"valid_until": "soon"}, "at `$.valid_until`"),
        ("store_memory", {"supersedes": ["m"]}, "can't supersede itself"),
        ("store_memory", {"supersedes": ["x"] * 65}, "at `$.supersedes`"),
        ("store_memory", {"key": ""}, "at `$.key`"),
        ("store_memory", {"key": "k" * 257}, "at `$.key`"),
        ("store_memory", {"key": " \t"}, "a key can't be blank; name what the fact is about - at `$.key`"),
        ("store_memory", {"key": "\u200b\u0301\u3164 \u2800\0"}, "a key can't be blank"),
        ("query_memory", {"key": " "}, "a key can't be blank"),
        ("store_memory", {"review_at": 5}, "at `$.review_at`"),
        ("store_memory", {"pin": 1}, "at `$.pin`"),
        ("get_memory", {"key": "k"}, "`key` and an id name a memory twice"),
        ("get_memory", {"as_of": "then"}, "at `$.as_of`"),
        ("memory_history", {"key": "k"}, "`key` and an id name a memory twice"),
        ("query_memory", {"as_of": "then"}, "at `$.as_of`"),
        ("query_memory", {"changed_since": 0, "key": "k"}, "leave out all other fields"),
        ("sync_memories", {"memories": [{"id": "m", "content": "x", "last_accessed": 5, "valid_until": -1}]}, "at `$"),
    ],
)
def test_a_wrong_field_is_refused(bench: MemoryBench, action: str, fields: dict[str, Any], sentence: str) -> None:
    named: dict[str, Any] = {"id": "m", "content": "x"} if action == "store_memory" else {"id": "m"}
    reply = bench.ask(action, **({} if action == "sync_memories" else named), **fields)
    assert (reply["code"], sentence in reply["error"]) == ("malformed_request", True), reply
    assert bench.memories.count == 0


def test_the_audit_history_and_key_reads_find_nothing(bench: MemoryBench) -> None:
    """An unknown key or memory gives one sentence."""
    for action in ("get_memory", "memory_history"):
        names: list[dict[str, Any]] = [{"key": "none"}, {"memory_id": "none"}]
        for named in names:
            assert bench.ask(action, **named)["code"] == "not_found"


def test_details_stay_when_an_update_leaves_them_out(bench: MemoryBench) -> None:
    bench.store("m", key="k", valid_from=MAY, valid_until=JULY, review_at=JULY, occurred_at=MAY, pin=True)
    before = bench.get()
    bench.store("m", "new text")
    after = bench.get()
    for name in ("key", "valid_from", "valid_until", "review_at", "occurred_at", "pinned"):
        assert after[name] == before[name]
    bench.reopen()
    assert bench.get()["key"] == "k"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["p", "q", "r"]),
        st.sampled_from([None, "k", " K", "l"]),
        st.sampled_from([MAY, JUNE, JULY, None]),
        st.sampled_from([None, "2027-01-01T00:00:00Z"]),
        st.sampled_from([[], ["p"], ["q"]]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
@pytest.mark.thorough
def test_stores_agree_in_any_order_of_records(tmp_path: Path, steps: list[tuple[Any, ...]]) -> None:
    """On every field, including the computed ones; each store has records of several writers."""
    clock = SetableClock()
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    records: list[dict[str, Any]] = []
    stored: set[str] = set()
    with MemoryBench(tmp_path / "source", clock, half_life_days=30.0) as source:
        for memory_id, key, start, end, supersedes, pin, gone in steps:
            clock.let_pass(1)
            followed = [name for name in supersedes if name in stored]
            given = {"key": key, "valid_from": start, "valid_until": end, "supersedes": followed, "pin": pin}
            given = {name: value for name, value in given.items() if value is not None}
            if memory_id not in supersedes:
                source.store(memory_id, f"{key} {start}", OPERATOR, **given)
                records += source.all()
                stored.add(memory_id)
            if gone:
                stored.discard(memory_id)
                source.ask("delete_memory", OPERATOR, memory_id=memory_id)
                records += source.all()
    clock.let_pass(86_400)  # what is shown differs from what is stored
    known = []
    for place, order in enumerate([*permutations(records[-3:]), records, records[::-1]]):
        with MemoryBench(tmp_path / f"store{place}", clock, half_life_days=30.0) as store:
            for record in (*order, *records):
                assert store.ask("sync_memories", OPERATOR, memories=[record])["status"] == "ok"
            again = MemoryBench(tmp_path / f"again{place}", clock, half_life_days=30.0)
            with again:
                store.sync_to(again)
                assert again.known() == store.known()
            known.append(store.known())
    assert all(each == known[0] for each in known)


def test_a_search_marks_and_lowers_what_has_ended(tmp_path: Path) -> None:
    """The present value comes first, although the older one has more words of the query."""
    with SearchedBench(tmp_path / "db", SetableClock(), half_life_days=30.0) as bench:
        bench.store("old", "box room rent", key="rent", valid_from=MAY)
        bench.store("new", "the rent of the box room is another one since the landlord came", key="rent")
        for number in range(20):
            bench.store(f"{number}", "talk of the day")
        found = bench.search("box room rent")
        assert [each["id"] for each in found] == ["new", "old"]
        assert (found[1]["superseded_by"], found[1]["valid_until"] > MAY) == ("new", True)
        assert found[0].keys().isdisjoint({"superseded_by", "valid_until"})


def test_a_search_marks_and_lowers_what_is_not_yet_valid(tmp_path: Path) -> None:
    """The present value comes first, however badly it fits; as of a later time, the next one is the present value."""
    with SearchedBench(tmp_path / "db", SetableClock(), half_life_days=30.0) as bench:
        bench.store("now", "the usual code of the lot behind the house with the green gate is 1111", key="parking")
        bench.store("next", "parking code 2222", key="parking", valid_from="2999-06-01T00:00:00Z")
        bench.store("last", "parking code 3333", supersedes=["now"], valid_from="2999-07-01T00:00:00Z")
        bench.store("alone", "the parking code is on the board", valid_from="2999-06-01T00:00:00Z")
        for number in range(20):
            bench.store(f"{number}", "talk of the day")
        found = {each["id"]: each for each in bench.search("parking code")}
        assert next(each for each in found if each in ("now", "next", "last")) == "now"
        assert {name: each["valid_from"] for name, each in found.items() if "valid_from" in each} == {
            "next": "2999-06-01T00:00:00.000+00:00",
            "last": "2999-07-01T00:00:00.000+00:00",
            "alone": "2999-06-01T00:00:00.000+00:00",
        }
        later = bench.search("parking code", as_of="2999-06-15T00:00:00Z")
        assert later[0]["id"] in ("next", "alone")
        assert [each["id"] for each in later if "valid_from" in each] == ["last"]


def test_a_value_is_current_from_its_own_millisecond_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are rounded to milliseconds, so half of them are ahead of an exact clock."""
    clock = SetableClock()
    monkeypatch.setattr(clock, "time", lambda: 1_800_000_000.0006)
    with SearchedBench(tmp_path / "db", clock, half_life_days=30.0) as bench:
        bench.store("value", "parking code 1111", key="parking")
        assert "valid_from" not in bench.search("parking code")[0]


@pytest.mark.parametrize("ended", [False, True], ids=["a-millisecond-before", "at-its-end"])
def test_all_agree_when_a_memory_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """A search puts it back, an audit calls it expired, it contradicts nothing, and it has no present value."""
    clock = SetableClock()
    end = 1_800_000_000.0
    monkeypatch.setattr(clock, "time", lambda: end - 60.0)
    with SearchedBench(tmp_path / "db", clock, half_life_days=30.0) as bench:
        bench.store("code", "The parking code is 1111.", valid_until="2027-01-15T08:00:00Z")
        bench.store("board", "The board shows the parking code.", key="board")
        monkeypatch.setattr(clock, "time", lambda: end if ended else end - 0.001)
        found = {result["id"]: result for result in bench.search("parking code")}["code"]
        assert (found["score"] < found["similarity"]) == ended
        assert [each["memory_id"] for each in bench.ask("memory_audit")["expired"]] == ["code"] * ended
        stored = bench.store("other", "The parking code is 2222.")
        assert [conflict["memory_id"] for conflict in stored["conflicts"]] == ["code"] * (not ended)
        valid = bench.ids(as_of="2027-01-15T08:00:00Z" if ended else "2027-01-15T07:59:59.999Z")
        assert ("code" in valid) == (not ended)


def test_an_older_database_gains_the_details(tmp_path: Path) -> None:
    """Rows of the previous version are unchanged, and found by their claims once the agent has indexed them."""
    database = Database(tmp_path / "db", migrations_before(DETAILS_MIGRATION))
    for number, amount in enumerate((340, 355, 355)):
        content = f"the rent of the box room is {amount}"
        database.execute(
            "INSERT INTO memories (id, content, keywords, source, strength, created, last_accessed, forgotten, "
            "written_by) VALUES (?, ?, CAST('[]' AS BLOB), '', 1, 1.7e9, 1.7e9, 0, 'Ana')",
            (f"m{number}", content),
        )
    database.close()
    with MemoryBench(tmp_path / "db", SetableClock(), half_life_days=30.0) as bench:
        assert bench.ids(include_forgotten=True) == ["m2", "m1", "m0"]
        bench.memories.upkeep.on_tick()
        audit = bench.ask("memory_audit")
        assert [each["memory_id"] for each in audit["duplicates"][0]] == ["m1", "m2"]
        assert len(audit["contradictory"]) == 2


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (
            "SELECT id FROM memory_details WHERE folded_key = 'k' AND (starts, id) > (1, 'a') ORDER BY starts, id",
            "by_key",
        ),
        ("SELECT number FROM memory_supersedes WHERE superseded = 'x'", "PRIMARY KEY"),
        ("SELECT number FROM memory_claims WHERE mark = 'x' ORDER BY number DESC", "PRIMARY KEY"),
        ("SELECT number FROM memory_details WHERE valid_until <= 5 ORDER BY valid_until", "by_end"),
        ("SELECT number FROM memory_details WHERE review_at <= 5 ORDER BY review_at", "by_review"),
        (f"SELECT {strength_now(BY_DAYS, 'm', '5')} FROM memories m", "COVERING INDEX memories_by_number"),
    ],
)
def test_what_follows_a_value_is_looked_up(bench: MemoryBench, sql: str, index: str) -> None:
    """By an index, without sorting."""
    plan = " ".join(row[3] for row in bench.database.execute(f"EXPLAIN QUERY PLAN {sql}"))
    assert index in plan
    assert "TEMP B-TREE" not in plan
