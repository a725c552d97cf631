"""The index between the requests of others: what was deleted leaves it, and what an older version stored is added.

Many interactions that are deleted together are gone at once, and leave the index later.
"""

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled
from tests.unit.unified_memory_reasoning.bench import migrations_before
from tests.unit.unified_memory_reasoning.memory import OPERATOR, SDT, assembled
from tests.unit.unified_memory_reasoning.older_volume import (
    INTERACTION,
    MAY,
    MEMORY,
    PASSAGES,
    TEXTS,
    make_older_volume,
    occur,
)
from tests.unit.unified_memory_reasoning.search_bench import SearchBench
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.damage import find_damage
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.__main__ import NAME
from twinhost.unified_memory_reasoning.search import index_tables, upkeep
from twinhost.unified_memory_reasoning.search.upkeep import IndexUpkeep, keep_for_index

MANY = upkeep.MOST_AT_ONCE + 72


@pytest.fixture(autouse=True)
def merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a merge follow the last one at once."""
    monkeypatch.setattr(upkeep, "_MERGED_EVERY_S", 0.0)


def fill(agent: Assembled, count: int = MANY) -> None:
    """Let Ana say much in one session, and Ben something between it; one word is hers alone."""
    for number in range(count):
        say(agent, "Ana", f"gateway {number} is zygomorphic" if number % 2 else f"remember gateway {number}")
        if number % 20 == 0:
            say(agent, "Ben", f"we decided on the gateway {number}")


def say(agent: Assembled, speaker: str, content: str) -> None:
    said = {"session_id": "s", "interaction_type": "user_query", "speaker": speaker, "content": content}
    assert agent.ask("add_interaction", SDT, **said)["status"] == "ok"


def clear(agent: Assembled, **fields: Any) -> dict[str, Any]:
    return agent.ask("clear_context", SDT, session_id="s", speaker="Ana", **fields)


def waiting(agent: Assembled) -> int:
    return int(agent.database.value("SELECT count(*) FROM recall_removed"))


def take_out_all(agent: Assembled) -> int:
    """Let ticks pass until nothing waits; return how many it took."""
    ticks = 0
    while waiting(agent):
        agent.assembly.on_tick()
        ticks += 1
    return ticks


def found(agent: Assembled, query: str) -> dict[int, str]:
    results = agent.ask("search_memory", SDT, query=query, limit=100)["results"]
    return {result["id"]: result["speaker"] for result in results}


def found_memories(agent: Assembled, query: str) -> list[str]:
    results = agent.ask("search_memory", SDT, query=query)["results"]
    return [result["id"] for result in results if result["kind"] == "memory"]


def documents(agent: Assembled, word: str) -> int:
    """Return in how many texts the index has a word."""
    agent.database.execute("CREATE VIRTUAL TABLE IF NOT EXISTS temp.terms USING fts5vocab (main, recall_passages, row)")
    return int(agent.database.value("SELECT coalesce(sum(doc), 0) FROM temp.terms WHERE term LIKE ?", (f"{word}%",)))


def test_what_was_cleared_is_in_no_reply_before_any_tick(agent: Assembled) -> None:
    """A repeated request has the same reply."""
    fill(agent)
    assert found(agent, "zygomorphic") != {}
    for _ in range(2):
        assert clear(agent, request_id="r1")["cleared"] == MANY
    assert waiting(agent) == MANY + 1
    assert found(agent, "zygomorphic") == {}
    assert set(found(agent, "gateway").values()) == {"Ben"}
    assert "zygomorphic" not in str(agent.ask("get_context", SDT, session_id="s", query="gateway", scope="all"))
    assert agent.database.value("SELECT count(*) FROM interactions WHERE speaker = 'Ana'") == 0
    assert clear(agent)["cleared"] == 0


def test_its_words_leave_the_index_in_parts(agent: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said meanwhile is found, and what others said stays."""
    monkeypatch.setattr(upkeep, "_AT_ONCE", 50)
    fill(agent)
    clear(agent)
    agent.assembly.on_tick()
    assert waiting(agent) == MANY + 1 - 50
    say(agent, "Ana", "the gateway is an axolotl")
    assert take_out_all(agent) > MANY // 50
    assert (documents(agent, "zygomorph"), documents(agent, "axolotl")) == (0, 1)
    assert sorted(set(found(agent, "gateway").values())) == ["Ana", "Ben"]
    agent.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")


def test_long_texts_leave_the_index_in_smaller_parts(agent: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_BYTES_AT_ONCE", 100)
    fill(agent)
    clear(agent)
    agent.assembly.on_tick()
    assert MANY - 10 < waiting(agent) < MANY
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0


def test_a_few_leave_the_index_at_once(agent: Assembled) -> None:
    """By their ids, too: of these, as many as of a session wait."""
    fill(agent, upkeep.MOST_AT_ONCE)
    clear(agent)
    assert (waiting(agent), documents(agent, "zygomorph")) == (0, 0)
    fill(agent)
    ids = [number for (number,) in agent.database.execute("SELECT id FROM interactions WHERE speaker = 'Ana'")]
    assert agent.ask("delete_interactions", SDT, session_id="s", ids=ids)["deleted"] == ids
    assert waiting(agent) == MANY + 1
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0


@pytest.mark.parametrize(("filler", "size", "count"), [("We talked of it. ", 65_000, 8), ("\0", 9_000, 12)])
def test_a_few_long_texts_leave_the_index_in_parts(
    agent: Assembled, monkeypatch: pytest.MonkeyPatch, filler: str, size: int, count: int
) -> None:
    """At once, they would take seconds in which nobody is answered; a single one, half a second."""
    monkeypatch.setattr(upkeep, "_BYTES_AT_ONCE", 20_000)
    long = f"{filler}zygomorphic{filler * (size // len(filler))}"
    say(agent, "Ana", long)
    clear(agent)
    assert (waiting(agent), found(agent, "zygomorphic")) == (2, {})
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0
    for _ in range(count):
        say(agent, "Ana", long)
    clear(agent)
    assert waiting(agent) == count + 1
    assert found(agent, "zygomorphic") == {}
    agent.assembly.on_tick()
    assert count - 3 < waiting(agent) < count + 1
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0


LONG = "We talked of it. " * 200


def store(agent: Assembled, content: str) -> None:
    assert agent.ask("store_memory", SDT, memory_id="m", content=content)["status"] == "ok"


@pytest.mark.parametrize("change", ["another text", "another keyword", "another writer", "deletion"])
def test_a_long_memory_s_old_words_leave_the_index_with_a_merge(agent: Assembled, change: str) -> None:
    """No search has them from the change on; at once, they would take as long as all others of the loop."""
    store(agent, f"{LONG} zygomorphic")
    assert waiting(agent) == 0
    agent.ask("reinforce_memory", SDT, memory_id="m")
    assert waiting(agent) == 0  # nothing leaves the index
    if change == "another text":
        store(agent, f"{LONG} axolotl")
    elif change == "another keyword":
        agent.ask("store_memory", SDT, memory_id="m", content=f"{LONG} axolotl", keywords=["axolotl"])
    elif change == "another writer":
        agent.ask("store_memory", OPERATOR, memory_id="m", content=f"{LONG} axolotl")
    else:
        agent.ask("delete_memory", SDT, memory_id="m")
    assert (waiting(agent), found_memories(agent, "zygomorphic")) == (1, [])
    assert found_memories(agent, "axolotl") == ([] if change == "deletion" else ["m"])
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0
    assert found_memories(agent, "axolotl") == ([] if change == "deletion" else ["m"])
    agent.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")


def test_a_short_memory_s_old_words_leave_the_index_at_once(agent: Assembled) -> None:
    store(agent, "a zygomorphic orchid")
    store(agent, "an orchid")
    assert (waiting(agent), documents(agent, "zygomorph")) == (0, 0)


def test_what_is_gone_since_a_merge_began_leaves_with_the_next(
    agent: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which begins no sooner than some minutes after the last, as each writes the whole index."""
    monkeypatch.setattr(upkeep, "_MERGED_EVERY_S", 3_600.0)
    for text in ("a word", "zygomorphic", "an orchid"):
        store(agent, f"{LONG} {text}")
        agent.assembly.on_tick()
    for _ in range(10):
        agent.assembly.on_tick()
    assert waiting(agent) == 1
    with monkeypatch.context() as later:
        later.setattr(agent.database.clock, "monotonic", lambda: time.monotonic() + 3_601.0)
        take_out_all(agent)
    assert documents(agent, "zygomorph") == 0


def test_many_are_removed_as_a_few_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context, its summary and every search are the same afterwards."""
    seen = []
    for name, most in (("many", upkeep.MOST_AT_ONCE), ("few", 10 * MANY)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(upkeep, "MOST_AT_ONCE", most)
        with assembled(tmp_path / name) as agent:
            fill(agent)
            clear(agent)
            take_out_all(agent)
            context = agent.ask("get_context", SDT, session_id="s", tag="kqzvtrwmxa")["context"]
            del context["last_updated"]
            ranked = agent.ask("search_memory", SDT, query="gateway 20 decided", limit=100)["results"]
            seen.append((context, [each["id"] for each in ranked], documents(agent, "gateway")))
    assert seen[0] == seen[1]


def test_a_start_continues_where_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amid the rows, and before the merge."""
    monkeypatch.setattr(upkeep, "_AT_ONCE", 100)
    with assembled(tmp_path) as agent:
        fill(agent)
        clear(agent)
        agent.assembly.on_tick()
    with assembled(tmp_path) as agent:
        assert found(agent, "zygomorphic") == {}
        while waiting(agent) > 1:
            agent.assembly.on_tick()
        path = agent.database.path
    with assembled(tmp_path) as agent:
        take_out_all(agent)
        assert documents(agent, "zygomorph") == 0
        say(agent, "Ana", "a zygomorphic orchid")
        assert found(agent, "zygomorphic") != {}
        clear(agent)
        assert documents(agent, "zygomorph") == 0
    assert find_damage(path) is None


def test_a_tick_that_fails_changes_nothing(agent: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one takes them out, and single rows are still removed from the file at once."""
    fill(agent)
    clear(agent)
    with monkeypatch.context() as failing:
        failing.setattr(upkeep, "TAKE_OUT", f"{index_tables.TAKE_OUT} AND no_such_column")
        with pytest.raises(Exception, match="no_such_column"):
            agent.assembly.on_tick()
    assert waiting(agent) == MANY + 1
    say(agent, "Ben", "an ephemeral orchid")
    agent.ask("clear_context", SDT, session_id="s", speaker="Ben")
    assert documents(agent, "ephemer") == 0
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0
    agent.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    path = tmp_path / "older"
    make_older_volume(path)
    with closing(Database(path, migrations_before(PASSAGES))) as database:
        occur(database, 7, MAY)
        database.execute("INSERT INTO recall_removed VALUES (0, '', '', '', '', 0, NULL, '')")
        for number in (2, 3):
            database.execute(
                "INSERT INTO recall_removed SELECT id, session_id, speaker, type, content, created, occurred_at, "
                "written_by FROM interactions WHERE id = ?",
                (number,),
            )
            database.execute("DELETE FROM interactions WHERE id = ?", (number,))
    return path


def fill_all(bench: SearchBench, keeper: IndexUpkeep | None = None) -> int:
    """Let ticks pass until nothing waits; return how many it took. The index is sound after each."""
    keeper, ticks = keeper or IndexUpkeep(bench.database), 0
    while keeper.not_indexed or bench.rows("recall_removed"):
        keeper.on_tick()
        require_sound(bench)
        ticks += 1
    return ticks


def require_sound(bench: SearchBench) -> None:
    bench.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")


def terms_of(bench: SearchBench) -> list[tuple[Any, ...]]:
    """Return each term of the index, in how many passages it is, and how often."""
    bench.database.execute("CREATE VIRTUAL TABLE IF NOT EXISTS temp.terms USING fts5vocab (main, recall_passages, row)")
    return bench.database.execute("SELECT term, doc, cnt FROM temp.terms WHERE doc > 0 ORDER BY term").fetchall()


def terms_of_new_index(bench: SearchBench) -> list[tuple[Any, ...]]:
    """Return what the terms would be if the index was made of the rows alone."""
    for statement in filter(str.strip, REBUILD_IN_PARTS):
        bench.database.execute(statement)
    fill_all(bench)
    return terms_of(bench)


def statements_of(script: str) -> list[str]:
    statements, part = [], ""
    for line in script.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            statements.append(part)
            part = ""
    return statements


REBUILD_IN_PARTS = statements_of(index_tables.REBUILD)


def numbers(bench: SearchBench) -> set[int]:
    """Return the interactions that are found."""
    return {int(each) for each in bench.ids("gateway", limit=100)}


def memories(bench: SearchBench) -> set[str]:
    return {str(each) for each in bench.ids("lamp", limit=100)}


EVERY_NUMBER = {1, *range(4, TEXTS + 1)}
EVERY_MEMORY = {f"m{number}" for number in range(1, TEXTS + 1) if number != 4}


def test_an_older_volume_is_filled_the_newest_first(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the requests of others, who are told; forgotten and removed texts stay out."""
    monkeypatch.setattr(upkeep, "_FILLED_AT_ONCE", 40)  # characters: about two texts
    with SearchBench(older) as bench:
        keeper = IndexUpkeep(bench.database)
        assert bench.rows("recall_removed") == 0
        assert (bench.ids("gateway"), bench.ids("lamp")) == ([], [])
        assert bench.ask(query="gateway")["not_indexed"] == keeper.not_indexed == 2 * TEXTS
        seen: list[tuple[set[int], set[str]]] = []
        while keeper.not_indexed:
            assert bench.ask(query="gateway")["not_indexed"] == keeper.not_indexed
            keeper.on_tick()
            seen.append((numbers(bench), memories(bench)))
            require_sound(bench)
        assert len(seen) > 4
        assert any(TEXTS in found and 1 not in found for found, _ in seen)
        assert any(f"m{TEXTS}" in found and "m1" not in found for _, found in seen)
        for (before, memories_before), (after, memories_after) in pairwise(seen):
            assert before <= after
            assert memories_before <= memories_after
        assert seen[-1] == (EVERY_NUMBER, EVERY_MEMORY)
        assert "not_indexed" not in bench.ask(query="gateway")
        assert bench.ids("what was on May 4?") == ["m7"]
        assert set(bench.ids("1970-01-11", limit=100)) == {10}
        terms = terms_of(bench)
        assert terms == terms_of_new_index(bench)
        bench.database.execute("UPDATE memories SET forgotten = 0")
        assert memories(bench) == EVERY_MEMORY | {"m4"}


def test_the_agent_fills_an_older_volume_and_says_so(tmp_path: Path) -> None:
    """In its health, and in the replies of searches and contexts; then the field is 0, or is left out."""
    (tmp_path / "state").mkdir()
    make_older_volume(tmp_path / "state" / f"{NAME}.sqlite3")
    with assembled(tmp_path) as agent:
        asked = {"session_id": "s", "query": "gateway", "scope": "all"}
        assert agent.ask("health", SDT)["not_indexed"] == 2 * TEXTS
        assert agent.ask("search_memory", SDT, query="gateway")["not_indexed"] == 2 * TEXTS
        assert agent.ask("get_context", SDT, **asked)["not_indexed"] == 2 * TEXTS
        assert "not_indexed" not in agent.ask("get_context", SDT, session_id="s")
        for _ in range(3):
            agent.assembly.on_tick()
        assert agent.ask("health", SDT)["not_indexed"] == 0
        assert "not_indexed" not in agent.ask("search_memory", SDT, query="gateway")
        assert "not_indexed" not in agent.ask("get_context", SDT, **asked)
        assert set(found(agent, "gateway")) == set(range(1, TEXTS + 1))


def test_long_texts_are_added_in_smaller_parts(tmp_path: Path) -> None:
    """Each whole, with all of its passages."""
    long = ["gateway " + "We talked of the weather. " * 2_500 + f"number{number}" for number in range(3)]
    make_older_volume(tmp_path / "db", contents=[*long, *["gateway"] * 3], memories=0)
    with SearchBench(tmp_path / "db") as bench:
        keeper = IndexUpkeep(bench.database)
        left = [keeper.not_indexed]
        while keeper.not_indexed:
            keeper.on_tick()
            left.append(keeper.not_indexed)
        assert left == [6, 2, 1, 0]
        require_sound(bench)
        assert [bench.ids(f"number{number}") for number in range(3)] == [[1], [2], [3]]


@pytest.mark.parametrize("seed", range(8))
def test_changes_of_texts_that_wait_leave_the_index_sound(
    older: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever is written, changed, forgotten, or removed while it is filled, and whenever the agent starts again."""
    monkeypatch.setattr(upkeep, "_FILLED_AT_ONCE", 30)
    monkeypatch.setattr(upkeep, "MOST_AT_ONCE", 2)
    choices = random.Random(seed)
    with SearchBench(older) as bench:
        keeper = IndexUpkeep(bench.database)

        def some() -> int:
            return choices.randint(1, TEXTS + 3)

        def remove() -> None:
            ids = [some() for _ in range(5)]
            marks = ", ".join("?" * len(ids))
            with bench.database.transaction():
                keep_for_index(bench.database, marks, ids)
                bench.database.execute(f"DELETE FROM interactions WHERE id IN ({marks})", ids)

        def change(sql: str, *values: Any) -> None:
            bench.database.execute(sql, values)

        def details() -> None:
            number = some()
            change("DELETE FROM memory_details WHERE number = ?", number)
            if bench.database.value("SELECT 1 FROM memories WHERE number = ?", (number,)):
                occur(bench.database, number, choices.choice([MAY, MAY + 86_400]))

        steps: list[Callable[[], object]] = [
            lambda: bench.interaction(f"gateway new{some()} " + "It is so. " * 60),
            lambda: bench.memory(f"n{choices.random()}", f"a gateway {some()}", keywords=("lamp",)),
            lambda: change("UPDATE interactions SET content = 'gateway, other' WHERE id = ?", some()),
            lambda: change("UPDATE interactions SET speaker = 'Ana', session_id = 'x' WHERE id = ?", some()),
            lambda: change("UPDATE memories SET content = 'other' || number WHERE number = ?", some()),
            lambda: change("UPDATE memories SET forgotten = 1 - forgotten WHERE number = ?", some()),
            lambda: change("DELETE FROM interactions WHERE id = ?", some()),
            lambda: change("DELETE FROM memories WHERE number = ?", some()),
            lambda: change("UPDATE memory_details SET details = json_object('occurred_at', ?)", MAY + some() * 86_400),
            details,
            remove,
        ]
        for _ in range(40):
            choices.choice(steps)()
            require_sound(bench)
            if choices.random() < 0.3:
                keeper.on_tick()
                require_sound(bench)
            if choices.random() < 0.1:
                bench.reopen()
                keeper = IndexUpkeep(bench.database)
        fill_all(bench, keeper)
        terms = terms_of(bench)
        assert terms == terms_of_new_index(bench)
        assert bench.ids("gateway", limit=100)


def test_a_text_in_the_place_of_one_that_waits_is_added_once(older: Path) -> None:
    with SearchBench(older) as bench:
        bench.database.execute("DELETE FROM interactions WHERE id = 5")
        bench.database.execute("DELETE FROM memories WHERE number = 5")
        bench.database.execute(INTERACTION, (5, "s", "gateway again", 1.0))
        bench.database.execute(MEMORY, (5, "m5", "memory again", 0))
        for table in ("interactions", "memories"):
            bench.database.execute(f"UPDATE {table} SET content = replace(content, 'again', 'anew')")
        fill_all(bench)
        terms = terms_of(bench)
        assert terms == terms_of_new_index(bench)
        assert (bench.ids("again"), set(bench.ids("anew"))) == ([], {5, "m5"})


def test_deleted_texts_leave_the_file_before_older_are_added(older: Path) -> None:
    with SearchBench(older) as bench:
        for number in range(upkeep.MOST_AT_ONCE + 1):
            bench.interaction(f"zygomorphic {number}", session_id="gone")
        condition = "SELECT id FROM interactions WHERE session_id = ?"
        with bench.database.transaction():
            keep_for_index(bench.database, condition, ("gone",))
            bench.database.execute("DELETE FROM interactions WHERE session_id = 'gone'")
        keeper = IndexUpkeep(bench.database)
        while bench.rows("recall_removed"):
            assert keeper.not_indexed == 2 * TEXTS
            keeper.on_tick()
        assert not [term for term, *_ in terms_of(bench) if "zygomorph" in term]
        blocks = bench.database.execute("SELECT block FROM recall_passages_data")
        assert not any(b"ygomorph" in (block or b"") for (block,) in blocks)
        fill_all(bench, keeper)
        assert numbers(bench) == EVERY_NUMBER


def test_other_forms_are_found_in_texts_that_are_added_later(tmp_path: Path) -> None:
    """As the terms of the index are kept in memory from the first search on."""
    make_older_volume(tmp_path / "db", contents=["nagpadala ako ng pera"])
    with SearchBench(tmp_path / "db") as bench:
        assert bench.ids("ipinadala") == []
        fill_all(bench)
        assert bench.ids("ipinadala") == [1]


def test_a_fill_that_fails_changes_nothing(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next tick adds those texts."""
    with SearchBench(older) as bench:
        keeper = IndexUpkeep(bench.database)
        with monkeypatch.context() as failing:
            failing.setattr(upkeep, "FILL", {name: f"{sql} AND no_such" for name, sql in index_tables.FILL.items()})
            with pytest.raises(StoreUnavailable):
                keeper.on_tick()
        assert keeper.not_indexed == bench.ask(query="gateway")["not_indexed"] == 2 * TEXTS
        fill_all(bench, keeper)
        assert numbers(bench) == EVERY_NUMBER
