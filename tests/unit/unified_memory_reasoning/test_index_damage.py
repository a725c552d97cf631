"""The index of words is made of rows: what breaks it, and it alone, costs no row."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled
from tests.unit.store.broken import flip, no_file_beyond
from tests.unit.unified_memory_reasoning.bench import MIGRATIONS, migrations_before
from tests.unit.unified_memory_reasoning.memory import SDT, assembled
from tests.unit.unified_memory_reasoning.older_volume import PASSAGES, TEXTS, break_index, fill_older, make_older_volume
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.backup import STAGED, check_copy, copy_database, digest_of, prepare
from twinhost.store.damage import DAMAGED, find_damage, quarantined
from twinhost.store.database import Database
from twinhost.store.files import part
from twinhost.unified_memory_reasoning.__main__ import NAME, REBUILDS
from twinhost.unified_memory_reasoning.search import index_before
from twinhost.unified_memory_reasoning.search.upkeep import MOST_AT_ONCE

OLDER = {  # by what the index had, the migration that a volume lacks
    "no format": index_before.FORMAT_MIGRATION,
    "no dates": index_before.ABOUT_MIGRATION,
    "no days of memories": index_before.OCCURRED_MIGRATION,
    "no removals in parts": index_before.REMOVED_MIGRATION,
    "no passages": PASSAGES,
}
NOTES = 12  # each a session of its own
REMOVED = range(6, 12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / f"{NAME}.sqlite3"


def started(path: Path) -> Assembled:
    """Return the agent after a start on what is there, once its index is filled."""
    prepare(path, REBUILDS, len(MIGRATIONS))
    agent = assembled(path.parent.parent)
    while agent.ask("health", SDT)["not_indexed"]:
        agent.assembly.on_tick()
    return agent


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
    agent.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")


def remove(agent: Assembled, path: Path, numbers: Iterable[int] = REMOVED) -> None:
    """Remove interactions; the volume is full at the very first of them, which is then requested again."""

    def clear(number: int) -> dict[str, Any]:
        return agent.ask("clear_context", SDT, session_id=f"s{number}", request_id=f"r{number}")

    first, *others = numbers
    with no_file_beyond(part(path, "-wal").stat().st_size):
        assert clear(first)["code"] == "store_unavailable"
    for number in (first, *others):
        assert clear(number)["status"] == "ok"


def format_of(database: Database) -> int:
    return int(database.value("SELECT v FROM recall_passages_config WHERE k = 'version'"))


def require_older(agent: Assembled, gone: Iterable[int] = ()) -> None:
    """Fail unless the search returns what an older version stored, without these interactions."""
    assert ids(agent, "gateway") == set(range(1, TEXTS + 1)) - set(gone)
    assert ids(agent, "lamp") == {f"m{number}" for number in range(1, TEXTS + 1) if number != 4}
    agent.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")


def make_by_defect(path: Path) -> None:
    """Make a volume as a version did that noted no format: it was full at the very first removal."""
    with closing(Database(path, migrations_before(index_before.FORMAT_MIGRATION))) as database:
        fill_older(database)
        full = no_file_beyond(part(path, "-wal").stat().st_size)
        with full, pytest.raises(StoreUnavailable), database.transaction():
            database.execute("DELETE FROM interactions WHERE id = 7")
        for number in range(7, TEXTS + 1):
            database.execute("DELETE FROM interactions WHERE id = ?", (number,))


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
    break_index(path, "recall_passages")
    prepare(path, REBUILDS)
    with assembled(path.parent.parent) as agent:
        assert agent.database.value("SELECT count(*) FROM recall_removed") == 0
        while agent.ask("health", SDT)["not_indexed"]:
            agent.assembly.on_tick()
        found = agent.database.value("SELECT count(*) FROM recall_passages WHERE recall_passages MATCH 'gateway'")
        assert found == NOTES


@pytest.mark.parametrize("before", OLDER.values(), ids=OLDER)
@pytest.mark.parametrize("broken", [False, True])
def test_an_older_index_is_replaced(path: Path, before: str, broken: bool) -> None:
    """Whether it is damaged or not: it is made of the rows, which stay; later removals find it sound."""
    make_older_volume(path, before)
    if broken:
        break_index(path, "recall_words")
        assert find_damage(path) == "malformed inverted index for FTS5 table main.recall_words"
    with started(path) as agent:
        require_older(agent)
        assert format_of(agent.database) == 5
        agent.database.execute("DELETE FROM memories WHERE number < 4")
        agent.database.execute("DELETE FROM interactions WHERE id < 4")
        assert ids(agent, "gateway") == set(range(4, TEXTS + 1))
        assert len(ids(agent, "lamp")) == TEXTS - 4
    assert find_damage(path) is None
    assert quarantined(path, DAMAGED) == []


def test_an_index_that_an_older_version_broke_is_replaced(path: Path) -> None:
    """FTS5 had not noted its format, and the rows of both formats were in it."""
    make_by_defect(path)
    assert find_damage(path) == "malformed inverted index for FTS5 table main.recall_words"
    with started(path) as agent:
        require_older(agent, range(7, TEXTS + 1))
    assert find_damage(path) is None
    assert quarantined(path, DAMAGED) == []


@pytest.mark.parametrize("filled", [False, True])
def test_an_index_that_is_broken_alone_is_rebuilt_at_the_start(path: Path, filled: bool) -> None:
    """With all rows where they are; also while it is filled. Later removals find it sound, on a full volume too."""
    with started(path) as agent:
        fill(agent)
        if not filled:
            agent.database.execute("UPDATE recall_filled SET upto = 5")
    break_index(path, "recall_passages")
    assert find_damage(path) == "malformed inverted index for FTS5 table main.recall_passages"
    with started(path) as agent:
        require_everything(agent)
        assert format_of(agent.database) == 5
        remove(agent, path, range(6))
        require_everything(agent, *range(6))
    assert find_damage(path) is None
    assert quarantined(path, DAMAGED) == []


def test_a_forgotten_memory_is_in_no_rebuilt_index(path: Path) -> None:
    """The rebuilt one holds what the triggers would have left in it."""
    with started(path) as agent:
        fill(agent)
        agent.database.execute("UPDATE memories SET forgotten = 1, strength = 0.05 WHERE id = 'm4'")
    break_index(path, "recall_passages")
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
        break_index(path, "recall_passages")
    flip(path, (page - 1) * size + 7)  # how much of it lies idle in bits
    assert ("malformed inverted index" in (find_damage(path) or "")) == index_too
    before = path.read_bytes()
    with started(path) as agent:
        assert ids(agent, "gateway") == set()
    (damaged,) = quarantined(path, DAMAGED)
    assert path.with_name(damaged.name).read_bytes() == before


def restore(path: Path) -> None:
    """Put a copy of the database in its place, as a restore does at the next start."""
    copy = copy_database(path, part(path, STAGED))
    path.unlink()
    found = check_copy(part(path, STAGED), MIGRATIONS, digest_of(part(path, STAGED)))
    assert found["interactions"] == copy.rows["interactions"] == TEXTS


def test_a_backup_is_not_refused_for_its_index_alone(path: Path) -> None:
    """It is made, checked, and rebuilt where it takes its place."""
    with started(path) as agent:
        fill(agent)
    break_index(path, "recall_passages")
    restore(path)
    with started(path) as agent:
        require_everything(agent)
    assert quarantined(path, DAMAGED) == quarantined(part(path, STAGED), DAMAGED) == []


@pytest.mark.parametrize("before", OLDER.values(), ids=OLDER)
def test_a_backup_of_an_older_version_is_restored(path: Path, before: str) -> None:
    """With the index of that version, which the start replaces."""
    make_older_volume(path, before)
    restore(path)
    with started(path) as agent:
        require_older(agent)
    assert quarantined(path, DAMAGED) == quarantined(part(path, STAGED), DAMAGED) == []


def test_a_backup_of_a_volume_that_is_being_filled_is_restored(path: Path) -> None:
    """And filled from where it was."""
    make_older_volume(path)
    with assembled(path.parent.parent) as agent:
        agent.assembly.on_tick()
        assert agent.ask("health", SDT)["not_indexed"] == TEXTS
    restore(path)
    prepare(path, REBUILDS)
    with assembled(path.parent.parent) as agent:
        assert agent.ask("health", SDT)["not_indexed"] == TEXTS
    with started(path) as agent:
        require_older(agent)
