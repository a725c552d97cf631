"""What another writer ends stays its writer's value: it is marked, not put back, and one call restores it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

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
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller, Grants
from twinhost.unified_memory_reasoning.memories.details import OWNERS_MIGRATION
from twinhost.unified_memory_reasoning.memories.validity import _ENDS, _ENDS_FOR_GOOD, _WRITERS

MARKS = ("superseded_by", "superseding_writer", "disputed_by")
APRIL, MAY, JUNE = "2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z"


bench = bench_of(lambda path: SearchedBench(path, SetableClock(), half_life_days=30.0))


def marks(document: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a memory is superseded by, who has written that, and who disputes it."""
    return tuple(document.get(name) for name in MARKS)


def value(bench: MemoryBench, caller: Caller, key: str = "rent") -> str:
    """Return the content that a caller reads by key."""
    reply = bench.ask("get_memory", caller, key=key)
    return str(reply["memory"]["content"] if reply["status"] == "ok" else reply["code"])


def attacked_by_key(bench: MemoryBench) -> None:
    bench.store("a", "the rent is 340", key="rent", valid_from=MAY)
    bench.store("b", "the rent is 999", BEN, key=" RENT", valid_from=JUNE)


def attacked_by_id(bench: MemoryBench) -> None:
    bench.store("a", "the rent is 340", valid_from=MAY)
    bench.store("b", "the rent is 999", BEN, supersedes=["a"], valid_from=JUNE)


def test_another_writers_value_leaves_its_writer_its_own(bench: SearchedBench) -> None:
    """Each writer reads its own, anybody else the later one, and all see that there is another, and whose."""
    attacked_by_key(bench)
    assert [value(bench, caller) for caller in (ANA, BEN, CAT)] == ["the rent is 340"] + 2 * ["the rent is 999"]
    assert marks(bench.get("a")) == ("b", "Ben", ["Ben"])
    assert marks(bench.get("b")) == (None, None, ["Ana"])
    assert marks(bench.ask("get_memory", CAT, key="rent")["memory"]) == (None, None, ["Ana"])
    assert bench.ask("get_memory", key="rent", as_of=JUNE)["memory"]["id"] == "b"
    for documents in (bench.ask("memory_history", key="rent")["memories"], bench.ask("query_memory")["memories"]):
        assert {each["id"]: marks(each) for each in documents} == {
            "a": ("b", "Ben", ["Ben"]),
            "b": (None, None, ["Ana"]),
        }


def test_a_search_does_not_put_back_what_another_ended(bench: SearchedBench) -> None:
    """By its key, or by naming it; it is marked. What its own writer ends is put back."""
    bench.store("a", "the rent of the attic", key="rent", valid_from=MAY)
    bench.store("c", "the rent of the cellar", valid_from=MAY)
    bench.store("b", "another thing", BEN, key="rent", supersedes=["c"])
    found = {each["id"]: each for each in bench.search("rent attic cellar")}
    for name in ("a", "c"):
        assert (marks(found[name])[:2], found[name]["score"]) == (("b", "Ben"), found[name]["similarity"])
    bench.store("a2", "now 355", key="rent")
    found = {each["id"]: each for each in bench.search("rent attic cellar")}
    assert found["a"]["score"] < found["a"]["similarity"]
    assert marks(found["a"])[2] is None


def test_one_call_restores_what_another_superseded(bench: SearchedBench) -> None:
    """For good: no other writer ends it again, by its key or by its id; its writer does."""
    attacked_by_id(bench)
    assert marks(bench.get("a")) == ("b", "Ben", None)
    assert bench.ids(as_of=JUNE) == ["b"]
    assert bench.ask("restore_memory", BEN, memory_id="a")["code"] == "not_granted"
    reply = bench.ask("restore_memory", memory_id="a")
    assert (reply["memory"]["id"], marks(reply["memory"])) == ("a", (None, None, ["Ben"]))
    assert bench.ids(as_of=JUNE) == ["b", "a"]
    refused = bench.ask("store_memory", BEN, content="again", supersedes=["a"])
    assert (refused["code"], "which its writer has restored" in refused["error"]) == ("not_granted", True)
    assert bench.ask("store_memory", BEN, id="b", content="changed")["status"] == "ok"
    assert bench.ids(as_of=JUNE) == ["b", "a"]
    bench.reopen()
    assert bench.ids(as_of=JUNE) == ["b", "a"]
    bench.store("a2", "of Ana", supersedes=["a"])
    assert marks(bench.get("a")) == ("a2", None, None)


def test_one_call_restores_a_value_of_a_shared_key(bench: SearchedBench) -> None:
    attacked_by_key(bench)
    assert bench.ids(key="rent", as_of=JUNE) == ["b"]
    assert marks(bench.ask("restore_memory", id="a")["memory"]) == (None, None, ["Ben"])
    assert bench.ids(key="rent", as_of=JUNE) == ["b", "a"]
    bench.store("b2", "once more", BEN, key="rent")
    assert marks(bench.get("a")) == (None, None, ["Ben"])
    assert value(bench, CAT) == "once more"


def test_an_operator_restores_and_ends_every_writers_value(bench: SearchedBench) -> None:
    """Whoever may change a memory may end it: an operator's correction is what the writer reads."""
    attacked_by_key(bench)
    assert bench.ask("restore_memory", OPERATOR, memory_id="a")["status"] == "ok"
    bench.store("o", "the rent is 355", OPERATOR, key="rent")
    assert [value(bench, caller) for caller in (ANA, BEN, CAT)] == ["the rent is 355"] * 3
    assert marks(bench.get("a")) == ("o", "operator", None)
    bench.ask("reinforce_memory", BEN, memory_id="o")
    bench.ask("store_memory", OPERATOR, id="o", content="the rent is 356")
    assert value(bench, ANA) == "the rent is 356"
    bench.store("plain", "of Ana")
    bench.store("p", "of the operator", OPERATOR, supersedes=["plain"])
    bench.ask("restore_memory", memory_id="plain")
    assert marks(bench.get("plain")) == ("p", "operator", None)


def test_superseding_a_value_by_id_takes_no_key_from_it(bench: SearchedBench) -> None:
    """Both ways at once: the writer still reads its own value of the key."""
    attacked_by_key(bench)
    bench.store("b2", "and this", BEN, supersedes=["a"])
    assert value(bench, ANA) == "the rent is 340"
    bench.ask("delete_memory", BEN, memory_id="b")
    assert value(bench, ANA) == "the rent is 340"


def test_a_value_that_is_its_writers_no_more_is_not_read(bench: SearchedBench) -> None:
    """It has expired, its writer is hidden, or it was deleted."""
    bench.store("a", "the rent is 340", key="rent", valid_from=APRIL, valid_until=MAY)
    bench.store("b", "the rent is 999", BEN, key="rent", valid_from=MAY)
    assert value(bench, ANA) == "the rent is 999"
    assert marks(bench.get("b")) == (None, None, None)
    bench.store("a2", "now 355", key="rent")
    assert (value(bench, BEN), value(bench, ANA)) == ("the rent is 999", "now 355")
    bench.quarantine.add("Ben", "operator")
    assert (value(bench, BEN), marks(bench.get("a2"))) == ("now 355", (None, None, None))


def test_storing_a_value_says_who_has_another(bench: SearchedBench) -> None:
    assert "disputed_by" not in bench.store("a", "340", key="rent")
    assert bench.store("b", "999", BEN, key="rent")["disputed_by"] == ["Ana"]
    assert bench.store("a", "341")["disputed_by"] == ["Ben"]
    assert "disputed_by" not in bench.store("o", "355", OPERATOR, key="rent")


def test_the_audit_lists_what_is_disputed(bench: SearchedBench) -> None:
    """Values of one key by several writers, and pairs of a memory and another writer's that supersedes it."""
    attacked_by_key(bench)
    bench.store("c", "of Ana")
    bench.store("d", "of Ben", BEN, supersedes=["c"])
    bench.store("f", "of Ana", key="light")
    bench.store("g", "of Ana", key="light")
    groups = bench.ask("memory_audit")["disputed"]
    assert [[each["memory_id"] for each in group] for group in groups] == [["a", "b"], ["c", "d"]]
    bench.store("a2", "of Ana", supersedes=["a", "c"])
    assert bench.ask("memory_audit")["disputed"] == []


def test_a_taken_id_says_whose_it_is(bench: SearchedBench) -> None:
    """And the owner reads and deletes what it has under it."""
    bench.store("plan", "of Ana")
    refused = bench.ask("store_memory", BEN, id="plan", content="of Ben")
    assert refused["code"] == "not_granted"
    assert "memory 'plan' belongs to Ana, and not to Ben; choose another id, or leave it out" in refused["error"]
    assert bench.get("plan")["content"] == "of Ana"
    assert bench.ask("delete_memory", memory_id="plan")["status"] == "ok"


def test_a_limited_caller_supersedes_its_own_alone(bench: SearchedBench) -> None:
    bench.store("a", "of Ana")
    limited = {"store_memory:own", "sync_memories:own", "get_memory", "query_memory"}
    bench.serve(bench.make(), Grants({"agent": limited}))
    record = {"id": "b", "content": "of Ben", "supersedes": ["a"], "last_accessed": MAY}
    synced = bench.ask("sync_memories", BEN, memories=[record])
    assert (synced["refused_ids"], synced["memories"], bench.ids()) == (["b"], [], ["a"])
    refused = bench.ask("store_memory", BEN, content="of Ben", supersedes=["a"])
    assert (refused["code"], "grant the action without `own`" in refused["error"]) == ("not_granted", True)
    assert bench.ask("store_memory", content="of Ana", supersedes=["a"])["status"] == "ok"


def test_an_open_link_has_one_writer(bench: SearchedBench) -> None:
    """So everything is as it was: the later value is the value."""
    bench.serve(bench.make(), Grants({"unauthenticated": {"store_memory", "get_memory", "query_memory"}}))
    bench.store("a", "340", UNAUTHENTICATED, key="rent")
    bench.store("b", "355", UNAUTHENTICATED, key="rent")
    assert value(bench, UNAUTHENTICATED) == "355"
    (later, first) = bench.ask("query_memory", UNAUTHENTICATED)["memories"]
    assert (marks(first), marks(later)) == (("b", None, None), (None, None, None))


def test_what_others_ended_before_stays_until_it_is_restored(tmp_path: Path) -> None:
    """A volume of the version before: nothing that had ended is a value again; one call restores it."""
    with MemoryBench(tmp_path / "db", SetableClock(), half_life_days=30.0) as bench:
        bench.database.close()
        bench.path.unlink()
        bench.open(migrations_before(OWNERS_MIGRATION))
        for number, (name, key, supersedes) in enumerate(
            [("Ana", "rent", []), ("Ben", "rent", []), ("Ana", None, []), ("Ben", None, ["m3"])], start=1
        ):
            details = {"key": key, "valid_from": float(number), "supersedes": supersedes}
            bench.database.execute(
                "INSERT INTO memories (id, content, keywords, source, strength, created, last_accessed, forgotten, "
                "written_by) VALUES (?1, ?1, CAST('[]' AS BLOB), '', 1, ?2, 1790000000, 0, ?3)",
                (f"m{number}", number, name),
            )
            bench.database.execute(
                "INSERT INTO memory_details (number, id, written_by, starts, details, folded_key) "
                "VALUES (?1, 'm' || ?1, ?2, ?1, ?3, ?4)",
                (number, name, msgspec.json.encode(details).decode(), key),
            )
            for superseded in supersedes:
                bench.database.execute("INSERT INTO memory_supersedes VALUES (?, ?)", (superseded, number))
        bench.reopen()
        assert [value(bench, caller) for caller in (ANA, BEN)] == ["m2", "m2"]
        assert [marks(bench.get(name)) for name in ("m1", "m2", "m3")] == [
            ("m2", "Ben", None),
            (None, None, None),
            ("m4", "Ben", None),
        ]
        for name in ("m1", "m3"):
            bench.ask("restore_memory", memory_id=name)
        assert [value(bench, caller) for caller in (ANA, BEN)] == ["m1", "m2"]
        assert [marks(bench.get(name)) for name in ("m1", "m2", "m3")] == [
            (None, None, ["Ben"]),
            (None, None, ["Ana"]),
            (None, None, ["Ben"]),
        ]


@pytest.mark.parametrize(("sql", "values"), [(_ENDS, ("[1]",)), (_ENDS_FOR_GOOD, ("[1]",)), (_WRITERS, ("k", 5.0, 8))])
def test_others_values_are_looked_up_and_not_counted(bench: SearchedBench, sql: str, values: tuple[Any, ...]) -> None:
    """However many values of a key one writer has stored, reading another's takes as long."""
    plan = [row[3] for row in bench.database.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    read = [step for step in plan if "memory_details" in step]
    assert read
    assert all("SEARCH" in step for step in read), plan
