"""What is stored of memories lasts, is its writer's, is bounded, and is hidden while its writer is in quarantine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.memory_model_bench import (
    ANA,
    BEN,
    OPERATOR,
    MemoryBench,
    SetableClock,
)


@pytest.fixture
def clock() -> SetableClock:
    return SetableClock()


@pytest.fixture
def bench(tmp_path: Path, clock: SetableClock) -> Iterator[MemoryBench]:
    with MemoryBench(tmp_path / "db", clock) as bench:
        yield bench


def test_what_was_acknowledged_survives_a_restart(bench: MemoryBench) -> None:
    """Every field, in the order in which it was stored."""
    bench.store("m", "é\u2028\x00", keywords=["Zoë", "a"], source="s", strength=2.5)
    before = bench.ask("query_memory", ids=["m"])["memories"]
    bench.memories.upkeep.write_accesses()
    bench.reopen()
    assert bench.ask("query_memory")["memories"] == before
    assert (before[0]["content"], before[0]["keywords"]) == ("é\u2028\x00", ["Zoë", "a"])
    assert (bench.memories.count, bench.ids(keywords=["ZOË"])) == (1, ["m"])


def test_only_its_writer_or_an_operator_changes_a_memory(bench: MemoryBench) -> None:
    """Another may read and reinforce it; who stored it last is its writer then."""
    bench.store("m", "of Ana")
    for action, fields in (("store_memory", {"id": "m", "content": "of Ben"}), ("delete_memory", {"memory_id": "m"})):
        reply = bench.ask(action, BEN, **fields)
        assert (reply["code"], "memory 'm' belongs to Ana, and not to Ben" in reply["error"]) == ("not_granted", True)
        assert ("choose another id, or leave it out" in reply["error"]) == (action == "store_memory")
    assert bench.ask("get_memory", BEN, memory_id="m")["memory"]["content"] == "of Ana"
    assert bench.ask("reinforce_memory", BEN, memory_id="m")["status"] == "ok"
    assert bench.get()["written_by"] == "Ana"
    bench.store("m", "of the operator", OPERATOR)
    assert bench.get()["written_by"] == "operator"
    assert bench.ask("store_memory", ANA, id="m", content="x")["code"] == "not_granted"
    assert bench.ask("delete_memory", OPERATOR, memory_id="m")["status"] == "ok"


def test_omitted_fields_keep_their_values(bench: MemoryBench) -> None:
    """Keywords, source, and strength; the content is always given, and the id keeps its moment of creation."""
    bench.store("m", keywords=["k"], source="s", strength=2)
    created = bench.get()["created"]
    bench.clock.let_pass(5)
    reply = bench.store("m", "new text")
    kept = bench.get()
    assert (reply["new"], kept["content"], kept["created"]) == (False, "new text", created)
    assert (kept["keywords"], kept["source"], kept["strength"]) == (["k"], "s", 2)
    assert kept["revised"] > created
    bench.store("m", "new text", keywords=[], source="", strength=0.5)
    kept = bench.get()
    assert (kept["keywords"], kept["source"], kept["strength"]) == ([], "", 0.5)
    assert bench.ids(keywords=["k"]) == []


def test_what_is_stored_again_is_remembered_again(bench: MemoryBench) -> None:
    """A forgotten memory starts with strength 1 where none is given."""
    bench.ask("sync_memories", memories=[{"id": "m", "content": "x", "last_accessed": 5, "strength": 0.01}])
    assert (bench.ids(), bench.get()["forgotten"]) == ([], True)
    bench.store("m")
    assert (bench.ids(), bench.get()["strength"]) == (["m"], 1.0)


def test_a_wall_clock_that_was_set_back_makes_no_update_older(bench: MemoryBench) -> None:
    """What is stored later takes precedence over what was stored before, here and at another store."""
    bench.store("m", "first")
    first = bench.get()
    bench.clock.set_wall_clock(-3_600)
    bench.store("m", "second")
    second = bench.get()
    assert second["revised"] > first["revised"]
    assert second["last_accessed"] >= first["last_accessed"]
    bench.ask("delete_memory", memory_id="m")
    bench.store("m", "third")
    bench.ask("sync_memories", memories=[second])
    assert bench.get()["content"] == "third"


def test_a_request_that_fails_leaves_the_count_as_it_was(bench: MemoryBench) -> None:
    """In memory as on disk, whether it failed alone or with its whole batch."""
    bench.store("m")
    two = [{"id": "n", "content": "x", "last_accessed": 1}, {"id": "o", "content": "x" * 65_536, "last_accessed": 1}]
    bench.database.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON memories WHEN NEW.id = 'o' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    assert bench.ask("sync_memories", memories=two)["code"] == "store_unavailable"
    assert (bench.memories.count, bench.ids()) == (1, ["m"])
    bench.database.execute("PRAGMA query_only=ON")
    assert bench.ask("delete_memory", memory_id="m")["code"] == "store_unavailable"
    bench.database.execute("PRAGMA query_only=OFF")
    assert (bench.memories.count, bench.ids()) == (1, ["m"])


def test_no_more_than_may_be_are_stored(tmp_path: Path, clock: SetableClock) -> None:
    """One more is refused with what to do; an update is not, a sync is whole or not at all, and deletion makes room."""
    with MemoryBench(tmp_path / "db", clock, most=2) as bench:
        for memory_id in ("a", "b"):
            bench.store(memory_id)
        reply = bench.ask("store_memory", id="c", content="x")
        assert (reply["code"], "`delete_memory`" in reply["error"]) == ("limit_reached", True)
        bench.store("a", "new text")
        bench.ask("delete_memory", memory_id="b")
        two = [{"id": each, "content": "x", "last_accessed": 1} for each in "cd"]
        assert bench.ask("sync_memories", memories=two)["code"] == "limit_reached"
        assert (bench.ids(), bench.memories.count) == (["a"], 1)
        bench.store("c")


def test_a_writer_has_a_share(tmp_path: Path, clock: SetableClock) -> None:
    """One more is refused with what to do, over a restart too; another's has room, and a deletion makes some."""
    with MemoryBench(tmp_path / "db", clock, most=9, most_of_a_writer=2) as bench:
        for memory_id in "ab":
            bench.store(memory_id)
        two = [{"id": each, "content": "x", "last_accessed": 1} for each in "ac"]
        for _ in range(2):
            reply = bench.ask("store_memory", id="c", content="x")
            assert (reply["code"], reply["error"].split(";")[0]) == (
                "limit_reached",
                "2 memories of Ana are stored and that is the limit of one writer",
            )
            assert "`delete_memory`" in reply["error"]
            assert bench.ask("sync_memories", memories=two)["code"] == "limit_reached"
            bench.reopen()
        bench.store("a", "new text")
        bench.store("c", caller=BEN)
        assert bench.ask("reinforce_memory", BEN, memory_id="a")["status"] == "ok"
        bench.ask("delete_memory", memory_id="b")
        bench.store("d")
        assert bench.ask("store_memory", id="e", content="x")["code"] == "limit_reached"


def test_an_operator_may_have_all_there_is_room_for(tmp_path: Path, clock: SetableClock) -> None:
    """It carries other stores over; what it stores again is no longer its first writer's, who has room then."""
    with MemoryBench(tmp_path / "db", clock, most=5, most_of_a_writer=2) as bench:
        for memory_id in "abcd":
            bench.store(memory_id, caller=ANA if memory_id in "ab" else OPERATOR)
        bench.store("a", "new text", OPERATOR)
        bench.store("e")
        assert bench.ask("store_memory", id="f", content="x")["code"] == "limit_reached"
        assert bench.ask("store_memory", OPERATOR, id="f", content="x")["code"] == "limit_reached"
        assert bench.memories.count == 5


def test_a_request_that_fails_leaves_the_share_as_it_was(tmp_path: Path, clock: SetableClock) -> None:
    with MemoryBench(tmp_path / "db", clock, most=9, most_of_a_writer=2) as bench:
        bench.store("a")
        three = [{"id": each, "content": "x", "last_accessed": 1} for each in "bcd"]
        assert bench.ask("sync_memories", memories=three)["code"] == "limit_reached"
        bench.database.execute("PRAGMA query_only=ON")
        assert bench.ask("delete_memory", memory_id="a")["code"] == "store_unavailable"
        bench.database.execute("PRAGMA query_only=OFF")
        bench.store("b")
        assert bench.ask("store_memory", id="c", content="x")["code"] == "limit_reached"


def test_a_writers_tombstones_displace_its_own_alone(tmp_path: Path, clock: SetableClock) -> None:
    """By a sync of deletions of what never was, too."""
    with MemoryBench(tmp_path / "db", clock, most=9, most_of_a_writer=2) as bench:
        bench.store("his", caller=BEN)
        bench.ask("delete_memory", BEN, memory_id="his")
        for _ in range(2):
            gone = [{"id": f"g{number}", "deleted": True, "last_accessed": 1} for number in range(12)]
            assert bench.ask("sync_memories", memories=gone)["status"] == "ok"
            assert [each["id"] for each in bench.all()] == ["his", "g10", "g11"]
            bench.reopen()


def test_tombstones_are_bounded_and_the_oldest_goes_first(tmp_path: Path, clock: SetableClock) -> None:
    """Over a restart too, and when one is dug up and buried again."""
    with MemoryBench(tmp_path / "db", clock, most=2) as bench:
        for memory_id in ("a", "b", "a", "c", "d"):
            bench.store(memory_id)
            bench.ask("delete_memory", memory_id=memory_id)
            bench.reopen()
        assert [each["id"] for each in bench.all()] == ["c", "d"]
        assert bench.database.execute("SELECT count(*) FROM memory_changes").fetchone() == (2,)


def test_a_quarantined_writers_rows_are_not_returned(bench: MemoryBench) -> None:
    """By no read, nor by the reply to a sync or to a reinforce; it comes back when the quarantine is lifted."""
    for memory_id in ("hers", "gone"):
        bench.store(memory_id, "of Ana", ANA, keywords=["k"], source="s")
    bench.ask("delete_memory", memory_id="gone")
    bench.store("his", "of Ben", BEN, keywords=["k"], source="s")
    record = bench.get("hers")
    bench.quarantine.add("Ana", "operator")
    for fields in ({}, {"ids": ["hers", "his"]}, {"keywords": ["k"]}, {"source": "s"}, {"changed_since": 0}):
        assert bench.ids(**fields) == ["his"]
    for action in ("get_memory", "reinforce_memory", "delete_memory"):
        assert bench.ask(action, memory_id="hers")["code"] == "not_found"
    assert bench.ask("sync_memories", OPERATOR, memories=[{**record, "strength": 2}])["memories"] == []
    assert bench.ask("memory_status")["total_memories"] == 1
    assert [each["id"] for each in bench.memories.written_by("Ana", None, 10)] == ["hers"]
    bench.quarantine.lift("Ana")
    assert bench.ids(source="s") == ["his", "hers"]
    assert [each["id"] for each in bench.all()] == ["gone", "his", "hers"]


def test_an_operator_deletes_what_is_in_quarantine(bench: MemoryBench) -> None:
    bench.store("m")
    bench.quarantine.add("Ana", "operator")
    assert bench.ask("delete_memory", OPERATOR, memory_id="m")["status"] == "ok"
    assert bench.memories.count == 0


def test_what_somebody_wrote_is_listed_page_by_page(bench: MemoryBench) -> None:
    """Newest first, and of nobody else."""
    for number in range(5):
        bench.store(f"a{number}", caller=ANA)
        bench.store(f"b{number}", caller=BEN)
    first = bench.memories.written_by("Ana", None, 3)
    rest = bench.memories.written_by("Ana", first[-1]["number"], 3)
    assert [each["id"] for each in (*first, *rest)] == ["a4", "a3", "a2", "a1", "a0"]
    assert {each["written_by"] for each in (*first, *rest)} == {"Ana"}


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("SELECT 1 FROM memories m WHERE source = 's' AND m.number < 9 ORDER BY m.number DESC", "memories_by_source"),
        (
            "SELECT number FROM memories WHERE forgotten = 0 AND last_accessed <= 9 "
            "AND (last_accessed, number) > (5, 1) ORDER BY last_accessed, number",
            "memories_by_access",
        ),
        ("SELECT 1 FROM memories WHERE written_by = 'x' AND number < 9 ORDER BY number DESC", "memories_by_writer"),
        ("SELECT number FROM memory_keywords WHERE keyword IN ('a', 'b')", "PRIMARY KEY"),
    ],
)
def test_a_read_looks_at_what_it_answers_and_no_more(bench: MemoryBench, sql: str, index: str) -> None:
    """By an index, without sorting."""
    plan = " ".join(row[3] for row in bench.database.execute(f"EXPLAIN QUERY PLAN {sql}"))
    assert index in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize(
    ("action", "fields", "index"),
    [
        ("memory_status", {}, "memories_by_number"),
        ("query_memory", {}, "memories_by_number"),
        ("query_memory", {"min_strength": 5}, "memories_by_number"),
        ("query_memory", {"min_strength": 5, "source": "s", "before": 9}, "memories_by_source"),
    ],
)
def test_no_text_is_read_to_count_or_to_choose(
    bench: MemoryBench, action: str, fields: dict[str, Any], index: str
) -> None:
    """The index alone returns it, in the order of the answer; a memory takes 256 KiB at most, and there are 100,000."""
    statements: list[str] = []
    bench.database._connection.set_trace_callback(statements.append)
    assert bench.ask(action, **fields)["status"] == "ok"
    bench.database._connection.set_trace_callback(None)
    (choice,) = [statement for statement in statements if " FROM visible_memories" in statement]
    plan = " ".join(row[3] for row in bench.database.execute(f"EXPLAIN QUERY PLAN {choice}"))
    assert f"USING COVERING INDEX {index}" in plan
    assert "TEMP B-TREE" not in plan
