"""Memories that are stored and listed many at a time: further memories of one request, lists in brief, the graph."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of, migrations_before
from tests.unit.unified_memory_reasoning.memory_model_bench import (
    ANA,
    BEN,
    OPERATOR,
    MemoryBench,
    SearchedBench,
    SetableClock,
)
from twinhost.mcp.graph import Item
from twinhost.unified_memory_reasoning.memories.recall import MAY_CONTAIN
from twinhost.unified_memory_reasoning.memories.rows import GRAPH_MIGRATION, GRAPH_SOURCE

IN_BRIEF = ("id", "content", "written_by", "created", "key", "valid_from")


bench = bench_of(lambda path: SearchedBench(path, SetableClock()))


def further(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"content": f"further {number}", **fields} for number in range(count)]


def test_further_memories_are_as_if_stored_alone(bench: SearchedBench) -> None:
    """In the order of the request: in queries, in searches, as changes, with keywords and a key."""
    body: dict[str, Any] = {
        "content": "The rent is 400 euros",
        "keywords": ["Home", "Home"],
        "source": "s",
        "key": " Rent ",
        "pin": True,
    }
    alone = bench.ask("store_memory", **body)["memory_id"]
    reply = bench.ask("store_memory", content="first", also=[{**body, "key": "Rent of the shed"}, {"content": "bare"}])
    together, bare = reply["also"]
    one, other = bench.get(alone), bench.get(together)
    assert other == one | {
        name: other[name] for name in ("id", "created", "last_accessed", "revised", "valid_from", "key")
    }
    assert (other["key"], bench.get(bare)["content"]) == ("Rent of the shed", "bare")
    assert bench.ids() == [bare, together, reply["memory_id"], alone]
    assert set(bench.ids(keywords=["home"])) == {alone, together}
    assert {each["id"] for each in bench.search("rent euros")} == {alone, together}
    assert [each["id"] for each in bench.all()] == [alone, reply["memory_id"], together, bare]
    assert bench.ask("memory_audit")["duplicates"] == []  # as texts with a key are none
    assert "also" not in bench.ask("store_memory", content="alone")


def test_further_values_of_one_key_keep_their_order(bench: SearchedBench) -> None:
    bench.ask("store_memory", content="first", key="k", also=further(5, key="K"))
    history = bench.ask("memory_history", key="k")["memories"]
    assert [each["content"] for each in history] == ["first", *(f"further {number}" for number in range(5))]
    assert [each["superseded_by"] for each in history[:-1]] == [each["id"] for each in history[1:]]


def test_all_further_memories_are_stored_or_none(tmp_path: Path) -> None:
    """At the limit of a writer, at that of all, and where one of them is malformed."""
    with MemoryBench(tmp_path / "db", SetableClock(), most=6, most_of_a_writer=4) as bench:
        assert bench.ask("store_memory", content="x", also=further(4))["code"] == "limit_reached"
        assert bench.ask("store_memory", content="x", also=further(3, key="\u2800"))["code"] == "malformed_request"
        assert (bench.memories.count, bench.all()) == (0, [])
        assert len(bench.ask("store_memory", content="x", also=further(3))["also"]) == 3
        assert bench.ask("store_memory", OPERATOR, content="x", also=further(2))["code"] == "limit_reached"
        assert len(bench.ask("store_memory", OPERATOR, content="x", also=further(1))["also"]) == 1
        assert bench.memories.count == 6


def test_a_repeated_request_stores_further_ones_once(bench: SearchedBench) -> None:
    request = {"action": "store_memory", "request_id": "r", "content": "x", "also": further(3)}
    assert bench.send(request) == bench.send(request)
    assert bench.memories.count == 4


def test_new_ids_are_in_the_order_of_time(bench: SearchedBench) -> None:
    ids = []
    for _ in range(5):
        ids.append(bench.ask("store_memory", content="x")["memory_id"])
        bench.clock.let_pass(0.002)
    assert ids == sorted(ids)
    assert len({each[-20:] for each in ids}) == 5


def test_a_memory_in_brief_is_what_a_whole_one_has(bench: SearchedBench) -> None:
    """On every page; and no access is counted."""
    for number in range(5):
        bench.store(f"m{number}", f"text {number}", caller=(ANA, BEN)[number % 2])
    bench.store("m5", "text 5", key="k", valid_from="2026-01-01T00:00:00+00:00")
    bench.store("m6", "text 6", key="k")
    whole = bench.ask("query_memory")["memories"]
    found: list[dict[str, Any]] = []
    before = None
    while True:
        page = bench.ask("query_memory", brief=True, limit=3, **({} if before is None else {"before": before}))
        assert (page["memories"], page["count"]) == ([], len(page["brief"]))
        found += page["brief"]
        if not page["more"]:
            break
        before = page["next_before"]
    assert [
        {
            name: each[name]
            for name in IN_BRIEF
            if name in each and (name, each[name]) != ("valid_from", each["created"])
        }
        for each in whole
    ] == [{name: value for name, value in each.items() if name != "number"} for each in found]
    assert [each["content"] for each in found if "valid_from" in each] == ["text 5"]
    numbers = [each["number"] for each in found]
    assert numbers == sorted(numbers, reverse=True)
    bench.clock.let_pass(1)
    bench.ask("query_memory", brief=True, ids=["m1"])
    assert bench.ask("query_memory")["memories"] == whole


def test_a_blank_key_is_refused_where_it_stands(bench: SearchedBench) -> None:
    """The sentence has the whole path to it."""
    also = bench.ask("store_memory", content="x", also=[*further(1), {"content": "y", "key": " "}])
    assert also["error"].endswith(" - at `$.also[1].key`; ./twinhost explain store_memory lists the fields")
    keys = bench.ask("query_memory", keys=["k", " "])
    assert keys["error"].endswith(" - at `$.keys[1]`; ./twinhost explain query_memory lists the fields")


def test_one_of_several_keys_is_enough(bench: SearchedBench) -> None:
    """In any case, with every other field; a blank one is refused."""
    for number, key in enumerate(("Rent", "Light", "Water")):
        bench.store(f"m{number}", "x", key=key)
    bench.store("without", "x")
    assert bench.ids(keys=["rent", "WATER ", "none"]) == ["m2", "m0"]
    assert bench.ids(keys=["rent", "water"], source="other") == []
    assert bench.ids(keys=["rent", "water"], key="Rent") == ["m0"]
    assert bench.ask("query_memory", keys=["\u2800"])["code"] == "malformed_request"


class Graph:
    """A graph of parts, each stored as the MCP server stores it."""

    def __init__(self, bench: MemoryBench) -> None:
        self._bench = bench

    def add(self, kind: Any, *parts: str, caller: Any = ANA) -> None:
        request = {**Item(kind, parts).request}
        assert self._bench.ask("store_memory", caller, **request)["status"] == "ok"

    def with_text(self, text: str) -> set[str]:
        """Return the contents of the parts that are found."""
        reply = self._bench.ask(
            "query_memory", source=GRAPH_SOURCE, entities_with=text, brief=True, include_forgotten=True
        )
        return {each["content"] for each in reply["brief"]}


@pytest.fixture
def graph(bench: SearchedBench) -> Graph:
    """Ana, who likes tea and owns a shop, and Ben."""
    graph = Graph(bench)
    graph.add("entity", "Ana", "person")
    graph.add("observation", "Ana", "likes tea")
    graph.add("entity", "Shop", "place")
    graph.add("relation", "Ana", "owns", "Shop")
    graph.add("entity", "Ben", "person")
    bench.store("m", "Ana likes tea")
    return graph


@pytest.mark.parametrize("text", ["tea", "LIKES T", "Ana\nlikes"])
def test_a_text_finds_all_parts_of_its_entity(graph: Graph, text: str) -> None:
    """And its relations, but no other entity and no memory beside the graph."""
    assert graph.with_text(text) == {"Ana\nperson", "Ana\nlikes tea", "Ana\nowns\nShop"}


def test_a_text_of_a_relation_finds_nothing(graph: Graph) -> None:
    assert graph.with_text("owns") == set()


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ("stra\u00dfe", "STRA\u00dfE"),
        ("\u0130stanbul", "i\u0307stan"),
        ("300 \u212a", "300 k"),
        ("\u041d\u0410\u0421\u041e\u0421", "\u043d\u0430\u0441\u043e\u0441"),
        ("\u6f22\u5b57", "\u5b57"),
        ("a\0b", "\0B"),
        ("100 % of_it", "% OF_"),
    ],
    ids=["German", "Turkish", "Kelvin", "Russian", "Chinese", "NUL", "wildcards"],
)
def test_a_text_is_found_in_any_case_and_script(graph: Graph, stored: str, text: str) -> None:
    graph.add("observation", "Ben", stored)
    assert graph.with_text(text) == {"Ben\nperson", f"Ben\n{stored}"}


def test_a_hidden_writers_text_finds_nothing(graph: Graph, bench: SearchedBench) -> None:
    graph.add("observation", "Ben", "bakes bread", caller=BEN)
    assert "Ben\nperson" in graph.with_text("bread")
    bench.quarantine.add(BEN.name, "operator")
    assert graph.with_text("bread") == set()


def test_the_graph_of_an_older_volume_is_found(bench: SearchedBench) -> None:
    """It had no index of the graph's texts; the first start of this version adds it."""
    bench.database.close()
    bench.path.unlink()
    bench.open(migrations_before(GRAPH_MIGRATION))
    for number, item in enumerate([Item("entity", ("Ana", "person")), Item("observation", ("Ana", "likes tea"))]):
        bench.database.execute(
            "INSERT INTO memories (id, content, keywords, source, strength, created, last_accessed, forgotten, "
            "written_by) VALUES (?, ?, CAST('[]' AS BLOB), ?, 1, 1, 1790000000, 0, 'Ana')",
            (f"m{number}", item.request["content"], GRAPH_SOURCE),
        )
        for keyword in item.request["keywords"]:
            bench.database.execute("INSERT INTO memory_keywords VALUES (?, ?)", (keyword, number + 1))
    graph = Graph(bench)
    bench.reopen()
    assert graph.with_text("likes TEA") == {"Ana\nperson", "Ana\nlikes tea"}


def test_a_long_text_is_searched_as_quickly_as_a_word(bench: SearchedBench) -> None:
    """Also where each place of a text begins like it: another caller could keep the agent busy for minutes."""
    for number in range(20):
        bench.store(f"m{number}", "a" * 65_536, source=GRAPH_SOURCE)

    def taken_s(text: str) -> float:
        rounds = []
        for _ in range(3):
            begun = time.process_time()
            assert bench.ask("query_memory", entities_with=text, brief=True)["count"] == 0
            rounds.append(time.process_time() - begun)
        return min(rounds)

    assert taken_s("a" * 999 + "b") < 50 * taken_s("word")


def test_a_search_reads_the_graphs_texts_alone(bench: SearchedBench) -> None:
    """No row of a memory, of which there may be many around each part of the graph."""
    plan = bench.database.execute(f"EXPLAIN QUERY PLAN {MAY_CONTAIN}", ("%x%",)).fetchall()
    assert plan[0][3] == "SCAN memories USING COVERING INDEX memories_of_graph"
