"""The bytes of each writer: right after whatever changes rows, and after a migration, a rollback and a REPLACE."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.new_database import open_database
from twinhost.store.database import Database
from twinhost.store.stored_bytes import ROW_BYTES, Counted, Stored, StoredBytes, counting

NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, key TEXT UNIQUE, text TEXT, written_by TEXT NOT NULL) STRICT"
COUNTED = counting(Counted("notes", ("key", "text"), names="1"))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(tmp_path / "db", [NOTES, COUNTED])) as database:
        yield database


def _put(database: Database, writer: str, key: str, text: str | None) -> None:
    database.execute("INSERT INTO notes (key, text, written_by) VALUES (?, ?, ?)", (key, text, writer))


def test_a_writers_rows_are_counted_in_bytes(database: Database) -> None:
    """Of UTF-8, and with what is after a NUL, which SQLite's `length` leaves out."""
    _put(database, "alice", "k", "nür\0zwei")
    _put(database, "alice", "l", None)
    _put(database, "bob", "m", "12")
    counted = StoredBytes(database)
    alice, bob = Stored(2 * ROW_BYTES + 2 + 9, 2), Stored(ROW_BYTES + 3, 1)
    assert counted.all() == {"alice": alice, "bob": bob}
    assert (counted.of("alice"), counted.of("carol")) == (alice, Stored())


def test_changing_moving_replacing_and_deleting_count(database: Database) -> None:
    """REPLACE too, which deletes without the triggers unless SQLite is told otherwise."""
    counted = StoredBytes(database)
    _put(database, "alice", "k", "1" * 1_000)
    database.execute("UPDATE notes SET text = '12'")
    assert counted.of("alice") == Stored(ROW_BYTES + 3, 1)
    database.execute("UPDATE notes SET written_by = 'bob'")
    assert (counted.of("alice"), counted.of("bob")) == (Stored(), Stored(ROW_BYTES + 3, 1))
    database.execute("INSERT OR REPLACE INTO notes (key, text, written_by) VALUES ('k', '1', 'carol')")
    assert (counted.of("bob"), counted.of("carol")) == (Stored(), Stored(ROW_BYTES + 2, 1))
    database.execute("DELETE FROM notes")
    assert set(counted.all().values()) == {Stored()}


def test_what_is_rolled_back_was_never_counted(database: Database) -> None:
    counted = StoredBytes(database)
    with database.transaction():
        _put(database, "alice", "k", "12")
        with suppress(ZeroDivisionError), database.savepoint():
            _put(database, "alice", "l", "12")
            raise ZeroDivisionError
    with suppress(ZeroDivisionError), database.transaction():
        _put(database, "alice", "m", "12")
        raise ZeroDivisionError
    assert counted.of("alice") == Stored(ROW_BYTES + 3, 1)


def test_the_rows_of_an_older_volume_are_counted(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "db", [NOTES])) as older:
        _put(older, "alice", "k", "12")
        assert StoredBytes(older).all() == {}
    with closing(Database(tmp_path / "db", [NOTES, COUNTED])) as database:
        assert StoredBytes(database).all() == {"alice": Stored(ROW_BYTES + 3, 1)}


def test_an_owners_database_counts_for_the_owner(database: Database) -> None:
    """Whoever writes in it; what others have elsewhere does not matter there."""
    _put(database, "alice", "k", "12")
    _put(database, "bob", "l", "12")
    counted = StoredBytes(database, owner="carol")
    assert counted.all() == {"carol": Stored(2 * (ROW_BYTES + 3), 2)}
    assert counted.of("alice") == Stored()
    assert counted.by_table("carol") == [("notes", Stored(2 * (ROW_BYTES + 3), 2))]
    assert counted.by_table("alice") == []


def test_another_program_that_writes_the_file_is_counted(database: Database) -> None:
    """The triggers are in the file."""
    with closing(sqlite3.connect(database.path)) as other, other:
        other.execute("INSERT INTO notes (key, text, written_by) VALUES ('k', '12', 'alice')")
    assert StoredBytes(database).of("alice") == Stored(ROW_BYTES + 3, 1)
