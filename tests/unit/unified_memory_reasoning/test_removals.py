"""Many interactions that are deleted together are gone at once, and leave the index between the requests of others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled
from tests.unit.unified_memory_reasoning.memory import SDT, assembled
from twinhost.store.damage import find_damage
from twinhost.unified_memory_reasoning.search import index_tables, removals

MANY = removals.MOST_AT_ONCE + 40


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Assembled]:
    with assembled(tmp_path) as agent:
        yield agent


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


def documents(agent: Assembled, word: str) -> int:
    """Return in how many texts the index has a word."""
    agent.database.execute("CREATE VIRTUAL TABLE IF NOT EXISTS temp.terms USING fts5vocab (main, recall_words, row)")
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
    monkeypatch.setattr(removals, "_AT_ONCE", 50)
    fill(agent)
    clear(agent)
    agent.assembly.on_tick()
    assert waiting(agent) == MANY + 1 - 50
    say(agent, "Ana", "the gateway is an axolotl")
    assert take_out_all(agent) > MANY // 50
    assert (documents(agent, "zygomorph"), documents(agent, "axolotl")) == (0, 1)
    assert sorted(set(found(agent, "gateway").values())) == ["Ana", "Ben"]
    agent.database.execute("INSERT INTO recall_words (recall_words) VALUES ('integrity-check')")


def test_long_texts_leave_the_index_in_smaller_parts(agent: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "_CHARACTERS_AT_ONCE", 100)
    fill(agent)
    clear(agent)
    agent.assembly.on_tick()
    assert MANY - 10 < waiting(agent) < MANY
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0


def test_a_few_leave_the_index_at_once(agent: Assembled) -> None:
    """By their ids, too: of these, as many as of a session wait."""
    fill(agent, removals.MOST_AT_ONCE)
    clear(agent)
    assert (waiting(agent), documents(agent, "zygomorph")) == (0, 0)
    fill(agent)
    ids = [number for (number,) in agent.database.execute("SELECT id FROM interactions WHERE speaker = 'Ana'")]
    assert agent.ask("delete_interactions", SDT, session_id="s", ids=ids)["deleted"] == ids
    assert waiting(agent) == MANY + 1
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0


def test_many_are_removed_as_a_few_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context, its summary and every search are the same afterwards."""
    seen = []
    for name, most in (("many", removals.MOST_AT_ONCE), ("few", 10 * MANY)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(removals, "MOST_AT_ONCE", most)
        with assembled(tmp_path / name) as agent:
            fill(agent)
            clear(agent)
            take_out_all(agent)
            context = agent.ask("get_context", SDT, session_id="s")["context"]
            del context["last_updated"]
            ranked = agent.ask("search_memory", SDT, query="gateway 20 decided", limit=100)["results"]
            seen.append((context, [each["id"] for each in ranked], documents(agent, "gateway")))
    assert seen[0] == seen[1]


def test_a_start_continues_where_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amid the rows, and before the merge."""
    monkeypatch.setattr(removals, "_AT_ONCE", 100)
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
        failing.setattr(removals, "TAKE_OUT", f"{index_tables.TAKE_OUT} AND no_such_column")
        with pytest.raises(Exception, match="no_such_column"):
            agent.assembly.on_tick()
    assert waiting(agent) == MANY + 1
    say(agent, "Ben", "an ephemeral orchid")
    agent.ask("clear_context", SDT, session_id="s", speaker="Ben")
    assert documents(agent, "ephemer") == 0
    take_out_all(agent)
    assert documents(agent, "zygomorph") == 0
    agent.database.execute("INSERT INTO recall_words (recall_words) VALUES ('integrity-check')")
