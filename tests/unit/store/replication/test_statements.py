"""What a connection notes of a transaction, and that a replica which repeats it has the same tables."""

import sqlite3
from contextlib import closing, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.replayed import contents
from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable
from twinhost.store.database import IN_MEMORY, Database
from twinhost.store.replication.statements import (
    Entry,
    NotingConnection,
    Repeater,
    decoded,
    encoded,
    statements_of,
)

NOTES = """
CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text ANY NOT NULL UNIQUE) STRICT; -- one; comment
CREATE VIRTUAL TABLE found USING fts5 (text, content = 'notes', content_rowid = 'id');
CREATE TRIGGER noted AFTER INSERT ON notes BEGIN
    INSERT INTO found (rowid, text) VALUES (new.id, new.text);
END;
"""
INSERT = "INSERT INTO notes (text) VALUES (?)"


class Noted:
    """A database, and what was noted of each of its transactions."""

    def __init__(self, path: Path = IN_MEMORY, *migrations: str) -> None:
        self.entries: list[bytes] = []
        self.database = Database(path, migrations or [NOTES], connect=partial(NotingConnection, commit=self._commit))

    def _commit(self, connection: NotingConnection, entry: Entry) -> None:
        self.entries.append(encoded(entry))
        connection.commit_noted()

    def last(self) -> list[tuple[str, list[object]]]:
        return [(statement.sql, statement.runs) for statement in decoded(self.entries[-1]).statements]

    def assert_repeated(self) -> None:
        """Assert that an empty database which repeats the notes has the same tables."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as replica:
            repeater = Repeater(replica)
            for entry in self.entries:
                replica.execute("BEGIN")
                repeater.repeat(decoded(entry))
                replica.execute("COMMIT")
            assert contents(replica) == contents(self.database._connection)


@pytest.fixture
def noted() -> Noted:
    return Noted()


def test_a_transaction_is_repeated_with_its_index(noted: Noted) -> None:
    for start in range(3):
        with noted.database.transaction():
            noted.database.execute(INSERT, (f"a pump {start}",))
            noted.database.execute_many(INSERT, ((f"hose {start} {number}",) for number in range(20)))
            noted.database.execute("DELETE FROM notes WHERE id = ?", (start,))
    assert len(noted.entries) == 4  # the migration too
    noted.assert_repeated()


def test_reads_are_not_noted(noted: Noted) -> None:
    before = len(noted.entries)
    with noted.database.transaction():
        noted.database.execute("SELECT * FROM notes")
        noted.database.execute("WITH t AS (SELECT 1) SELECT * FROM t")
        noted.database.execute("CREATE TEMP VIEW seen AS SELECT * FROM notes")
    assert len(noted.entries) == before
    with noted.database.transaction():
        noted.database.execute("WITH t (x) AS (VALUES ('a')) INSERT INTO notes (text) SELECT x FROM t")
    assert len(noted.last()) == 1


def test_a_rolled_back_savepoint_is_not_noted(noted: Noted) -> None:
    database = noted.database
    with database.transaction():
        database.execute(INSERT, ("first",))
        with suppress(ZeroDivisionError), database.savepoint():
            database.execute(INSERT, ("lost",))
            with database.savepoint():
                database.execute(INSERT, ("lost too",))
            raise ZeroDivisionError
        with database.savepoint():
            database.execute(INSERT, ("kept",))
            with suppress(ZeroDivisionError), database.savepoint():
                database.execute(INSERT, ("lost as well",))
                raise ZeroDivisionError
    assert [runs for sql, runs in noted.last() if sql == INSERT] == [[["first"]], [["kept"]]]
    noted.assert_repeated()


def test_a_rolled_back_transaction_is_not_noted(noted: Noted) -> None:
    before = len(noted.entries)
    with suppress(ZeroDivisionError), noted.database.transaction():
        noted.database.execute(INSERT, ("lost",))
        raise ZeroDivisionError
    assert len(noted.entries) == before
    with noted.database.transaction():
        noted.database.execute(INSERT, ("kept",))
    assert noted.last()[0] == (INSERT, [["kept"]])
    noted.assert_repeated()


def test_a_failed_statement_is_not_noted(noted: Noted) -> None:
    with noted.database.transaction():
        noted.database.execute(INSERT, ("once",))
        with pytest.raises(StoreUnavailable):
            noted.database.execute(INSERT, ("once",))
        with pytest.raises(StoreUnavailable):
            noted.database.execute("INSERT INTO absent VALUES (1)")
    assert noted.last() == [(INSERT, [["once"]])]


def test_rows_before_a_failed_one_are_noted(noted: Noted) -> None:
    """SQLite keeps them in the transaction, which may still be committed."""
    with noted.database.transaction():
        with pytest.raises(StoreUnavailable):
            noted.database.execute_many(INSERT, [("a",), ("b",), ("a",), ("c",)])
        noted.database.execute(INSERT, ("d",))
    assert noted.last() == [(INSERT, [["a"], ["b"]]), (INSERT, [["d"]])]
    noted.assert_repeated()


def test_a_statement_alone_is_a_transaction(noted: Noted) -> None:
    noted.database.execute(INSERT, ("alone",))
    noted.database.execute_many(INSERT, [("x",), ("y",)])
    with pytest.raises(StoreUnavailable):
        noted.database.execute(INSERT, ("alone",))
    assert noted.last() == [(INSERT, [["x"], ["y"]])]
    rows = noted.database.execute("DELETE FROM notes WHERE id > 1 RETURNING id, text AS t")
    assert ([column[0] for column in rows.description], rows.fetchall()) == (["id", "t"], [(2, "x"), (3, "y")])
    assert noted.database.value("DELETE FROM notes WHERE id > 1 RETURNING id") is None
    assert not noted.database._connection.in_transaction
    noted.assert_repeated()


def test_temporary_views_are_noted_where_they_are_read(noted: Noted) -> None:
    """A replica has none; a view may have another definition in the next version."""
    for text, letter in (("b", "a"), ("d", "c")):
        noted.database.execute("DROP VIEW IF EXISTS temp.visible")
        noted.database._connection._views.clear()  # type: ignore[attr-defined]
        noted.database.execute(f"CREATE TEMP VIEW IF NOT EXISTS letters AS SELECT '{letter}' AS letter")
        noted.database.execute("CREATE TEMP VIEW visible AS SELECT letter || 'x' AS text FROM letters")
        noted.database.execute("DELETE FROM notes WHERE text IN (SELECT text FROM visible)")
        noted.database.execute("INSERT INTO notes (text) SELECT text FROM visible")
        noted.database.execute("DROP VIEW letters")
        noted.database.execute(INSERT, (text,))
    assert decoded(noted.entries[-1]).views == {}
    assert set(decoded(noted.entries[-2]).views) == {"letters", "visible"}
    noted.assert_repeated()


def test_a_definition_may_write_another_time(noted: Noted) -> None:
    noted.database.execute("DROP TABLE IF EXISTS more")
    noted.database.execute("CREATE TABLE more (x)")
    noted.database.execute("DROP TABLE IF EXISTS more")
    noted.database.execute("CREATE TABLE more (x, y)")
    noted.assert_repeated()


class Word(StrEnum):
    ONE = "one"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 2**63 - 1, -(2**63), 1.0, 0.1, 1e300, float("inf"), float("-inf"), float("nan")),
        *("", "ä\0b", "\U0001f4a7", b"", b"\0\xff", bytearray(b"x"), memoryview(b"y"), True, None, Word.ONE, Text("z")),
    ],
    ids=lambda value: f"{type(value).__name__} {bytes(value)!r}" if isinstance(value, memoryview) else repr(value),
)
def test_every_value_is_repeated_exactly(value: object) -> None:
    noted = Noted(IN_MEMORY, "CREATE TABLE t (x)")
    noted.database.execute("INSERT INTO t VALUES (?)", (value,))
    noted.database.execute("INSERT INTO t VALUES (:x)", {"x": value})
    kinds = noted.database.execute("SELECT typeof(x), quote(x) FROM t").fetchall()
    with closing(sqlite3.connect(":memory:")) as replica:
        for entry in noted.entries:
            Repeater(replica).repeat(decoded(entry))
        assert replica.execute("SELECT typeof(x), quote(x) FROM t").fetchall() == kinds


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO notes (text) VALUES (random())",
        "INSERT INTO notes (text) VALUES (hex(randomblob(8)))",
        "INSERT INTO notes (text) VALUES (datetime('now'))",
        "INSERT INTO notes (text) VALUES (unixepoch())",
        "UPDATE notes SET text = current_timestamp",
        "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes WHERE text < unixepoch ( ); END",
    ],
)
def test_what_varies_between_replicas_is_refused(noted: Noted, sql: str) -> None:
    with pytest.raises(RuntimeError, match="a replica would write something else"):
        noted.database.execute(sql)
    noted.database.execute("INSERT INTO notes (text) VALUES (datetime(7, 'unixepoch')) -- not random()")


def test_now_in_a_migration_is_one_moment() -> None:
    noted = Noted(IN_MEMORY, "CREATE TABLE t (x); INSERT INTO t VALUES (strftime('%s', 'now') + 86400.0)")
    assert noted.database.value("SELECT x FROM t") > 1_700_000_000
    assert "'now'" not in str(noted.last())
    noted.assert_repeated()


def test_a_migration_that_fails_is_not_noted(tmp_path: Path) -> None:
    Noted(tmp_path / "db").database.close()
    with pytest.raises(ConfigurationError):
        Noted(tmp_path / "db", NOTES, "CREATE TABLE more (x); CREATE TABLE notes (y)")
    with closing(Noted(tmp_path / "db").database) as database:
        assert database.value("SELECT count(*) FROM sqlite_master WHERE name = 'more'") == 0


def test_a_script_is_divided_at_the_ends_of_statements() -> None:
    sqls = list(statements_of(f"{NOTES}; SELECT ';' ; -- end;"))
    assert [sql.rsplit("\n", 1)[-1][:14] for sql in sqls] == [
        "CREATE TABLE n",
        "CREATE VIRTUAL",
        "END;",
        "SELECT ';' ;",
    ]


def test_another_sqlite_is_refused() -> None:
    entry = msgspec.msgpack.encode(Entry("3.0.0", {}, []))
    with pytest.raises(ConfigurationError, match=r"SQLite 3\.0\.0 .* run the same image on both machines"):
        decoded(entry)


def test_a_commit_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    """Whoever commits may raise instead: the transaction is rolled back."""
    noted = Noted(tmp_path / "db")

    def refuse(_: NotingConnection, __: Entry) -> None:
        raise StoreUnavailable("no")

    noted.database._connection._commit = refuse  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable, match="no"), noted.database.transaction():
        noted.database.execute(INSERT, ("lost",))
    assert noted.database.value("SELECT count(*) FROM notes") == 0
