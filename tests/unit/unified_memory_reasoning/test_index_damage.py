"""The index of words is made of rows: what breaks it, and it alone, costs no row."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twinhost.unified_memory_reasoning.search.removals import MOST_AT_ONCE

from tests.unit.agent.assembled import Assembled
from tests.unit.store.broken import flip, no_file_beyond
from tests.unit.unified_memory_reasoning.memory import SDT, assembled
from twinhost.store.backup import STAGED, check_copy, copy_database, digest_of, prepare
from twinhost.store.damage import DAMAGED, find_damage, quarantined
from twinhost.store.database import Database
from twinhost.store.files import part
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS, NAME, REBUILDS
from twinhost.unified_memory_reasoning.search import index_tables

OF_INDEX = [each for each in MIGRATIONS if "recall_words" in each and each != index_tables.MIGRATION]
BEFORE = [each for each in MIGRATIONS if each not in OF_INDEX]  # as a version with the defect made them
AFTER = [*BEFORE, *OF_INDEX]
NOTES = 12  # each a session of its own
REMOVED = range(6, 12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / f"{NAME}.sqlite3"


def started(path: Path) -> Assembled:
    """Return the agent after a start on what is there."""
    prepare(path, REBUILDS)
    return assembled(path.parent.parent, migrations=AFTER)


def fill(agent: Assembled) -> None:
    for number in range(NOTES):
        said = {"session_id": f"s{number}", "interaction_type": "code", "content": f"gateway number{number}"}
        assert agent.ask("add_interaction", SDT, **said)["status"] == "ok"
        stored = {"memory_id": f"m{number}", "content": f"memory{number}", "keywords": ["lamp"]}
        assert agent.ask("store_memory", SDT, **stored)["status"] == "ok"


def ids(agent: Assembled, query: str) -> set[Any]:
    reply = agent.ask("search_memory", SDT, query=query, limit=100)
    assert reply["status"] == "ok", reply
    return {result["id"] for result in reply["results"]}


def require_everything(agent: Assembled, *but: int) -> None:
    """Fail unless every row is there, but for interactions of these sessions, and the search returns what there is."""
    numbers = {number for number in range(NOTES) if number not in but}
    assert ids(agent, "gateway") == {number + 1 for number in numbers}
    assert ids(agent, "lamp") == {f"m{number}" for number in range(NOTES)}
    for number in range(NOTES):
        assert ids(agent, f"number{number}") == ({number + 1} if number in numbers else set())
    assert agent.database.execute("SELECT count(*) FROM interactions").fetchone() == (len(numbers),)
    agent.database.execute("INSERT INTO recall_words (recall_words) VALUES ('integrity-check')")


def remove(agent: Assembled, path: Path, numbers: Iterable[int] = REMOVED) -> None:
    """Remove interactions; the volume is full at the very first of them, which is then requested again."""

    def clear(number: int) -> dict[str, Any]:
        return agent.ask("clear_context", SDT, session_id=f"s{number}", request_id=f"r{number}")

    first, *others = numbers
    with no_file_beyond(part(path, "-wal").stat().st_size):
        assert clear(first)["code"] == "store_unavailable"
    for number in (first, *others):
        assert clear(number)["status"] == "ok"


def of_before(path: Path) -> None:
    """Make the agent's database in the state in which the defect left it, after some removals."""
    with assembled(path.parent.parent, migrations=BEFORE) as agent:
        fill(agent)
        remove(agent, path)


def break_index(path: Path) -> None:
    """Take from the index what it says it has."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM recall_words_data WHERE id > 10")
    assert find_damage(path) == "malformed inverted index for FTS5 table main.recall_words"


def format_of(database: Database) -> int:
    return int(database.execute("SELECT v FROM recall_words_config WHERE k = 'version'").fetchone()[0])


def test_a_first_removal_that_a_full_volume_undid_breaks_nothing(path: Path) -> None:
    """FTS5 remembers that it noted its format with that removal, although the note was undone with it."""
    with started(path) as agent:
        fill(agent)
        remove(agent, path)
        require_everything(agent, *REMOVED)
    assert find_damage(path) is None
    with started(path) as agent:
        require_everything(agent, *REMOVED)
    assert quarantined(path, DAMAGED) == []


def test_a_rebuilt_index_has_nothing_of_what_waits_to_leave_it(path: Path) -> None:
    """And nothing waits any more."""
    with assembled(path.parent.parent) as agent:
        for _ in range(MOST_AT_ONCE + 1):
            agent.ask("add_interaction", SDT, session_id="s", interaction_type="code", content="gateway")
        agent.ask("clear_context", SDT, session_id="s")
        fill(agent)
        assert agent.database.value("SELECT count(*) FROM recall_removed") == MOST_AT_ONCE + 2
    break_index(path)
    prepare(path, REBUILDS)
    with assembled(path.parent.parent) as agent:
        assert agent.database.value("SELECT count(*) FROM recall_removed") == 0
        found = agent.database.value("SELECT count(*) FROM recall_words WHERE recall_words MATCH 'gateway'")
        assert found == NOTES


def test_an_older_index_is_recorded_in_the_newer_format(path: Path) -> None:
    """It may hold rows of both, by the defect: with that they are what it says it has, and none is rewritten."""
    of_before(path)
    assert find_damage(path) == "malformed inverted index for FTS5 table main.recall_words"
    with assembled(path.parent.parent, migrations=AFTER) as agent:
        assert format_of(agent.database) == 5
        require_everything(agent, *REMOVED)
    assert find_damage(path) is None


def test_an_older_index_without_deletes_is_migrated_too(path: Path) -> None:
    with closing(Database(path, [REPLY_LOG_SCHEMA, *BEFORE])) as database:
        assert format_of(database) == 4
    with started(path) as agent:
        assert format_of(agent.database) == 5
        fill(agent)
        remove(agent, path)
    assert find_damage(path) is None


@pytest.mark.parametrize("broken", ["by the defect", "by something else"])
def test_an_index_that_is_broken_alone_is_rebuilt_at_the_start(path: Path, broken: str) -> None:
    """With all rows where they are; later removals find it sound, on a full volume too."""
    if broken == "by the defect":
        of_before(path)
        gone = [*REMOVED]
    else:
        with started(path) as agent:
            fill(agent)
        break_index(path)
        gone = []
    with started(path) as agent:
        require_everything(agent, *gone)
        assert format_of(agent.database) == 5
        remove(agent, path, range(6))
        require_everything(agent, *gone, *range(6))
    assert find_damage(path) is None
    assert quarantined(path, DAMAGED) == []


def test_a_forgotten_memory_is_in_no_rebuilt_index(path: Path) -> None:
    """The rebuilt one holds what the triggers would have left in it."""
    with started(path) as agent:
        fill(agent)
        agent.database.execute("UPDATE memories SET forgotten = 1, strength = 0.05 WHERE id = 'm4'")
    break_index(path)
    with started(path) as agent:
        assert ids(agent, "lamp") == {f"m{number}" for number in range(NOTES) if number != 4}
        agent.database.execute("UPDATE memories SET forgotten = 0, strength = 1 WHERE id = 'm4'")
        require_everything(agent)


@pytest.mark.parametrize("index_too", [False, True])
def test_damage_of_rows_is_quarantined_as_before(path: Path, index_too: bool) -> None:
    with started(path) as agent:
        fill(agent)
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'interactions'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    if index_too:
        break_index(path)
    flip(path, (page - 1) * size + 7)  # how much of it lies idle in bits
    assert ("malformed inverted index" in (find_damage(path) or "")) == index_too
    before = path.read_bytes()
    with started(path) as agent:
        assert ids(agent, "gateway") == set()
    (damaged,) = quarantined(path, DAMAGED)
    assert path.with_name(damaged.name).read_bytes() == before


def test_a_backup_is_not_refused_for_its_index_alone(path: Path) -> None:
    """It is made, checked, and rebuilt where it takes its place."""
    with started(path) as agent:
        fill(agent)
    break_index(path)
    copy = copy_database(path, part(path, STAGED))
    assert copy.rows["interactions"] == NOTES
    path.unlink()
    assert (
        check_copy(part(path, STAGED), [REPLY_LOG_SCHEMA, *AFTER], digest_of(part(path, STAGED)))["interactions"]
        == NOTES
    )
    with started(path) as agent:
        require_everything(agent)
    assert quarantined(path, DAMAGED) == quarantined(part(path, STAGED), DAMAGED) == []
