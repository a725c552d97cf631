"""The contract of the memory model's actions: what they answer, and what each makes of a bad input."""

from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.memory_model_bench import ANA, MemoryBench, SetableClock
from twinhost.secure_zmq.callers import UNAUTHENTICATED

RECORD: dict[str, Any] = {"id": "m", "content": "x", "last_accessed": "2026-01-02T03:04:05.678Z"}


bench = bench_of(lambda path: MemoryBench(path, SetableClock()))


def test_a_memory_is_answered_with_the_fields_of_the_contract(bench: MemoryBench) -> None:
    """And with who wrote it."""
    stored = bench.ask("store_memory", content="text", keywords=["a", "b", "a"], source="s", strength=2)
    assert (stored["status"], stored["new"], stored["strength"]) == ("ok", True, 2)
    reply = bench.ask("get_memory", memory_id=stored["memory_id"])
    memory = reply["memory"]
    assert memory.keys() == {
        "id", "content", "keywords", "source", "strength", "created", "last_accessed", "forgotten", "revised",
        "written_by",
    }  # fmt: skip
    assert (memory["id"], memory["content"], memory["keywords"]) == (stored["memory_id"], "text", ["a", "b"])
    assert (memory["source"], memory["strength"], memory["forgotten"], memory["written_by"]) == ("s", 2, False, "Ana")
    assert memory["created"].endswith("+00:00")


def test_a_memory_without_an_id_gets_one_of_its_own(bench: MemoryBench) -> None:
    ids = {bench.ask("store_memory", content="x")["memory_id"] for _ in range(3)}
    assert (len(ids), bench.memories.count) == (3, 3)


@pytest.mark.parametrize("name", ["memory_id", "id"])
def test_a_memory_is_named_by_memory_id_or_by_id(bench: MemoryBench, name: str) -> None:
    """In every action that names one; given twice and the same, it is returned once."""
    by_name: dict[str, Any] = {name: "m"}
    by_both: dict[str, Any] = {"memory_id": "m", "id": "m"}
    assert bench.ask("store_memory", content="x", **by_name)["memory_id"] == "m"
    assert bench.ask("store_memory", content="y", memory_id="m", id="m")["new"] is False
    for named in (by_name, by_both):
        assert bench.ask("get_memory", **named)["memory"]["content"] == "y"
        assert bench.ask("reinforce_memory", **named)["memory_id"] == "m"
    assert bench.ask("delete_memory", **by_name)["memory_id"] == "m"
    assert bench.memories.count == 0


@pytest.mark.parametrize("action", ["store_memory", "get_memory", "reinforce_memory", "delete_memory"])
def test_two_names_that_differ_name_no_memory(bench: MemoryBench, action: str) -> None:
    """Nothing is guessed, and nothing changes."""
    bench.store("m")
    bench.store("n")
    before = bench.all()
    content: dict[str, Any] = {"content": "other"} if action == "store_memory" else {}
    reply = bench.ask(action, memory_id="m", id="n", **content)
    assert reply["code"] == "malformed_request"
    assert "`memory_id` and `id` name different memories; leave one of them out" in reply["error"]
    assert bench.all() == before


def test_a_retry_stores_once(bench: MemoryBench) -> None:
    """With the same request_id, also where the id is made here."""
    replies = [bench.ask("store_memory", content="x", request_id="r") for _ in range(2)]
    assert replies[0] == replies[1]
    assert bench.memories.count == 1
    strengths = [
        bench.ask("reinforce_memory", memory_id=replies[0]["memory_id"], request_id="s")["strength"] for _ in range(2)
    ]
    assert strengths == [1.2, 1.2]


def test_a_query_answers_what_every_field_fits(bench: MemoryBench) -> None:
    """Newest first; any of the keywords will do, in any case of letters."""
    bench.store("a", keywords=["Red", "blue"], source="s", strength=1)
    bench.store("b", keywords=["BLUE"], source="s", strength=2)
    bench.store("c", keywords=["green"], source="t", strength=3)
    weak = {**RECORD, "id": "weak", "strength": 0.05, "keywords": ["blue"], "source": "s"}
    bench.ask("sync_memories", memories=[weak])
    assert bench.ids() == ["c", "b", "a"]
    assert bench.ids(keywords=["blue"]) == ["b", "a"]
    assert bench.ids(keywords=["red", "GREEN"]) == ["c", "a"]
    assert bench.ids(source="s") == ["b", "a"]
    assert bench.ids(source="") == []
    assert bench.ids(min_strength=2) == ["c", "b"]
    assert bench.ids(keywords=["blue"], source="s", min_strength=1.5) == ["b"]
    assert bench.ids(ids=["a", "c", "nobody"]) == ["c", "a"]
    assert bench.ids(memory_id="a") == bench.ids(id="a") == ["a"]
    assert bench.ids(id="a", ids=["c"]) == ["c", "a"]
    assert bench.ids(id="weak") == []
    assert bench.ids(id="weak", include_forgotten=True) == ["weak"]
    assert bench.ids(keywords=["blue"], include_forgotten=True) == ["weak", "b", "a"]


def test_a_query_goes_on_where_the_last_page_ended(bench: MemoryBench) -> None:
    """By its limit, and by what an answer can hold; one memory is always answered."""
    for number in range(9):
        bench.store(f"{number}", "x" * 40_000)
    found: list[str] = []
    before = None
    while True:
        page = bench.ask("query_memory", limit=4, **({} if before is None else {"before": before}))
        assert page["count"] == len(page["memories"]) == (3 if page["more"] else 0) or not page["more"]
        found += [memory["id"] for memory in page["memories"]]
        before = page["next_before"]
        if not page["more"]:
            break
    assert (found, before) == ([*"876543210"], None)


def test_reinforce_makes_a_fifth_stronger_up_to_5(bench: MemoryBench) -> None:
    """It is an access as well."""
    bench.store(strength=4)
    before = bench.get()["last_accessed"]
    bench.clock.let_pass(1)
    strengths = [bench.ask("reinforce_memory", memory_id="m")["strength"] for _ in range(3)]
    assert strengths == [pytest.approx(4.8), 5, 5]
    assert bench.get()["last_accessed"] > before


def test_reinforce_brings_a_forgotten_memory_back(bench: MemoryBench) -> None:
    """In one, and it says so."""
    bench.ask("sync_memories", memories=[{**RECORD, "strength": 0}])
    assert bench.get()["forgotten"] is True
    reply = bench.ask("reinforce_memory", memory_id="m")
    assert (reply["recovered"], reply["forgotten"], reply["strength"]) == (True, False, pytest.approx(0.12))
    assert bench.ids() == ["m"]
    assert bench.ask("reinforce_memory", memory_id="m")["recovered"] is False


def test_what_is_deleted_is_gone(bench: MemoryBench) -> None:
    """A second deletion finds nothing, and the id is free."""
    bench.store(keywords=["k"])
    assert bench.ask("delete_memory", memory_id="m")["memory_id"] == "m"
    assert bench.ask("delete_memory", memory_id="m")["code"] == "not_found"
    assert (bench.ids(include_forgotten=True), bench.ids(keywords=["k"]), bench.memories.count) == ([], [], 0)
    assert bench.store("m")["new"] is True


def test_a_sync_reports_the_result_of_each_record(bench: MemoryBench) -> None:
    """Counts, and what is stored now, in the form in which another store takes it."""
    first = bench.ask("sync_memories", memories=[RECORD, {**RECORD, "id": "n"}])
    assert (first["added"], first["changed"], first["unchanged"], first["refused"]) == (2, 0, 0, 0)
    assert [memory["id"] for memory in first["memories"]] == ["m", "n"]
    assert first["memories"][0]["last_accessed"] == "2026-01-02T03:04:05.678+00:00"
    again = bench.ask("sync_memories", memories=[*first["memories"], {**RECORD, "id": "n", "strength": 3}])
    assert (again["added"], again["changed"], again["unchanged"]) == (0, 1, 2)
    assert [(memory["id"], memory["strength"]) for memory in again["memories"]] == [("m", 1), ("n", 3)]
    assert bench.ask("sync_memories", memories=[])["memories"] == []


def test_a_sync_returns_64_kib_at_most(bench: MemoryBench) -> None:
    """Its reply is stored for retries. It names the rest, which was merged all the same."""
    for number in range(9):
        bench.store(f"{number}", "x" * 40_000)
    records = [{"id": f"{number}", "content": "older", "last_accessed": 5, "created": 5} for number in range(9)]
    reply = bench.ask("sync_memories", memories=records, request_id="r")
    assert (reply["changed"], len(reply["memories"]), reply["left_out"]) == (9, 1, [*"12345678"])
    (stored,) = bench.database.execute("SELECT max(length(replies)) FROM replies").fetchone()
    assert stored < 66_000


def test_the_status_counts_and_measures(bench: MemoryBench) -> None:
    """Of none, and of some."""
    empty = bench.ask("memory_status")
    assert (empty["total_memories"], empty["strength"]["mean"], empty["last_decay"]) == (0, None, None)
    for memory_id, strength in (("a", 0.1), ("b", 1), ("c", 5)):
        bench.store(memory_id, strength=strength)
    bench.ask("sync_memories", memories=[{**RECORD, "strength": 0.1}])
    bench.decay()
    status = bench.ask("memory_status")
    assert (status["total_memories"], status["remembered"], status["forgotten"]) == (4, 3, 1)
    assert status["strength"]["bands"] == {
        "under_0.1": 1,
        "0.1_to_0.5": 1,
        "0.5_to_1": 0,
        "1_to_2": 1,
        "2_to_5": 1,
    }
    assert (status["strength"]["least"], status["strength"]["greatest"]) == (pytest.approx(0.09), 5)
    assert status["strength"]["mean"] == pytest.approx(6.19 / 4)
    assert (status["last_decay"]["decayed"], status["last_decay"]["forgotten"]) == (1, 1)
    bench.reopen()
    assert bench.ask("memory_status") == status


@pytest.mark.parametrize(
    ("action", "fields", "sentence"),
    [
        ("store_memory", {}, "missing required field `content`"),
        ("store_memory", {"content": ""}, "at `$.content`"),
        ("store_memory", {"content": "x" * 65_537}, "length <= 65536 - at `$.content`"),
        ("store_memory", {"content": {"a": 1}}, "Expected `str`, got `object` - at `$.content`"),
        ("store_memory", {"content": "x", "id": ""}, "at `$.id`"),
        ("store_memory", {"content": "x", "id": 7}, "Expected `str | null`, got `int` - at `$.id`"),
        ("store_memory", {"content": "x", "memory_id": ""}, "at `$.memory_id`"),
        ("store_memory", {"content": "x", "keywords": "k"}, "at `$.keywords`"),
        ("store_memory", {"content": "x", "keywords": [""]}, "at `$.keywords[0]`"),
        ("store_memory", {"content": "x", "keywords": ["k"] * 65}, "at `$.keywords`"),
        ("store_memory", {"content": "x", "source": "s" * 257}, "at `$.source`"),
        ("store_memory", {"content": "x", "strength": 5.1}, "<= 5.0 - at `$.strength`"),
        ("store_memory", {"content": "x", "strength": 0.09}, ">= 0.1 - at `$.strength`"),
        ("store_memory", {"content": "x", "strength": "1"}, "at `$.strength`"),
        ("get_memory", {}, "missing required field `memory_id`, `id`, or `key`"),
        ("memory_history", {}, "missing required field `memory_id`, `id`, or `key`"),
        ("get_memory", {"memory_id": None}, "at `$.memory_id`"),
        ("get_memory", {"memory_id": "x" * 257}, "at `$.memory_id`"),
        ("get_memory", {"id": ""}, "at `$.id`"),
        ("reinforce_memory", {"id": None}, "missing required field `memory_id`"),
        ("query_memory", {"ids": []}, "at `$.ids`"),
        ("query_memory", {"ids": ["a"] * 1_001}, "at `$.ids`"),
        ("query_memory", {"ids": [1]}, "at `$.ids[0]`"),
        ("query_memory", {"keywords": []}, "at `$.keywords`"),
        ("query_memory", {"min_strength": -1}, "at `$.min_strength`"),
        ("query_memory", {"include_forgotten": 1}, "at `$.include_forgotten`"),
        ("query_memory", {"limit": 0}, "at `$.limit`"),
        ("query_memory", {"limit": 1_001}, "at `$.limit`"),
        ("query_memory", {"before": 2**63}, "at `$.before`"),
        ("query_memory", {"changed_since": -1}, "at `$.changed_since`"),
        ("query_memory", {"changed_since": 0, "source": "s"}, "leave out all other fields except `limit`"),
        ("reinforce_memory", {"memory_id": 1}, "at `$.memory_id`"),
        ("delete_memory", {"memory_id": ["m"]}, "at `$.memory_id`"),
        ("sync_memories", {}, "missing required field `memories`"),
        ("sync_memories", {"memories": {}}, "at `$.memories`"),
        ("sync_memories", {"memories": [RECORD] * 1_001}, "at `$.memories`"),
        ("sync_memories", {"memories": [{"id": "m", "content": "x"}]}, "`last_accessed` - at `$.memories[0]`"),
        ("sync_memories", {"memories": [{"id": "m", "last_accessed": 5}]}, "`content` must be given"),
        ("sync_memories", {"memories": [{**RECORD, "strength": 5.5}]}, "at `$.memories[0].strength`"),
        ("sync_memories", {"memories": [RECORD, {**RECORD, "created": "soon"}]}, "at `$.memories[1].created`"),
        ("sync_memories", {"memories": [{**RECORD, "revised": -1}]}, "at `$.memories[0].revised`"),
        ("sync_memories", {"memories": [{**RECORD, "revised": "1969-12-31T00:00:00Z"}]}, "in the years 1970 to 9999"),
        ("sync_memories", {"memories": [{**RECORD, "last_accessed": 9e10}]}, "ahead of this host's clock"),
        ("sync_memories", {"memories": [{**RECORD, "revised": "9999-12-31T00:00:00"}]}, "at `$.memories[0].revised`"),
        ("sync_memories", {"memories": [{**RECORD, "last_accessed": "0001-01-01T00:00:00+23:59"}]}, "at `$.memories"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_stored(
    bench: MemoryBench, action: str, fields: dict[str, Any], sentence: str
) -> None:
    reply = bench.ask(action, **fields)
    assert reply["code"] == "malformed_request"
    assert sentence in reply["error"]
    assert (bench.memories.count, bench.all()) == (0, [])


@pytest.mark.parametrize("action", ["get_memory", "reinforce_memory", "delete_memory"])
def test_what_is_not_there_is_not_found(bench: MemoryBench, action: str) -> None:
    """And a long name is not repeated whole."""
    reply = bench.ask(action, memory_id="n" * 256)
    assert (reply["code"], len(reply["error"]) < 200) == ("not_found", True)


def test_fields_that_nobody_knows_are_ignored(bench: MemoryBench) -> None:
    """Who asks is never taken from the body."""
    assert bench.ask("store_memory", id="m", content="x", written_by="Ben", source_agent="Ben")["status"] == "ok"
    assert bench.get()["written_by"] == ANA.name


def test_a_filter_that_is_named_wrongly_is_named(bench: MemoryBench) -> None:
    """In the reply with all memories that it did not select."""
    bench.store()
    assert bench.ask("query_memory", query="cat")["ignored_fields"] == ["query"]
    assert "ignored_fields" not in bench.ask("query_memory", keywords=["cat"])


def test_who_is_not_granted_an_action_gets_nothing(bench: MemoryBench) -> None:
    bench.store()
    for action, fields in (("get_memory", {"memory_id": "m"}), ("query_memory", {}), ("memory_status", {})):
        assert bench.ask(action, UNAUTHENTICATED, **fields)["code"] == "not_granted"
