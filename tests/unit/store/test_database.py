"""The database: schema versions, damage, and what a failed transaction leaves behind."""

import os
import sqlite3
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.unit.store.broken import no_file_beyond
from twinhost.secure_zmq.errors import ConfigurationError, NotFound, StoreUnavailable, TransactionLost
from twinhost.store.database import LOG_POSITION, Database

FIRST = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"
SECOND = "ALTER TABLE notes ADD COLUMN author TEXT; UPDATE notes SET author = 'unknown'"
CHILDREN = "CREATE TABLE children (note INTEGER REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED) STRICT"


def texts(database: Database) -> list[str]:
    return [text for (text,) in database.execute("SELECT text FROM notes ORDER BY id")]


def add(database: Database, text: str) -> None:
    database.execute("INSERT INTO notes (text) VALUES (?)", (text,))


def open_with(path: Path, *migrations: str) -> "closing[Database]":
    return closing(Database(path, migrations))


def test_a_new_file_gets_the_whole_schema(tmp_path: Path) -> None:
    """Every migration runs once, in order."""
    with open_with(tmp_path / "db", FIRST, SECOND) as database:
        database.execute("INSERT INTO notes (text, author) VALUES ('a', 'b')")
        assert database.execute("PRAGMA user_version").fetchone() == (2,)


def test_an_older_file_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    """Rows of the older schema live on in the newer one, and reopening migrates nothing again."""
    with open_with(tmp_path / "db", FIRST) as database:
        add(database, "kept")
    for _ in range(2):
        with open_with(tmp_path / "db", FIRST, SECOND) as database:
            assert database.execute("SELECT text, author FROM notes").fetchall() == [("kept", "unknown")]


def test_a_file_that_is_written_without_its_log_leaves_it(tmp_path: Path) -> None:
    """Else it would follow the log again from where it left it, though it has other rows by then."""
    with closing(Database(tmp_path / "db", [FIRST], logged=True)) as database:
        database.execute(f"CREATE TABLE {LOG_POSITION} (log TEXT NOT NULL, applied INTEGER NOT NULL) STRICT")
    tables = "SELECT name FROM sqlite_master ORDER BY name"
    with closing(Database(tmp_path / "db", [FIRST], logged=True)) as database:
        assert database.execute(tables).fetchall() == [(LOG_POSITION,), ("notes",)]
    with open_with(tmp_path / "db", FIRST) as database:
        assert database.execute(tables).fetchall() == [("notes",)]


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A program that is rolled back does not guess at a schema that it does not know."""
    with open_with(tmp_path / "db", FIRST, SECOND) as database:
        database.execute("INSERT INTO notes (text) VALUES ('kept')")
    with pytest.raises(ConfigurationError, match="has schema version 2 and this program knows 1; run the newer"):
        Database(tmp_path / "db", [FIRST])
    with open_with(tmp_path / "db", FIRST, SECOND) as database:
        assert texts(database) == ["kept"]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    """Half of a migration does not stay; the repaired one starts from where the last good one ended."""
    with open_with(tmp_path / "db", FIRST) as database:
        add(database, "kept")
    broken = "ALTER TABLE notes ADD COLUMN author TEXT; UPDATE nothing SET nowhere = 1"
    with pytest.raises(ConfigurationError, match="can't be used as a database"):
        Database(tmp_path / "db", [FIRST, broken])
    with open_with(tmp_path / "db", FIRST, SECOND) as database:
        assert database.execute("SELECT text, author FROM notes").fetchall() == [("kept", "unknown")]


@pytest.mark.parametrize("content", [b"not a database, " * 50, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 200])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    """The message names the file and what to do, and the file is not made over."""
    path = tmp_path / "db"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="move the file away or restore a backup") as refusal:
        Database(path, [FIRST])
    assert str(refusal.value).startswith(f"{path} can't be used as a database (")
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == content


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """A volume that is not mounted stops the start."""
    with pytest.raises(ConfigurationError, match="unable to open database file"):
        Database(tmp_path / "absent" / "db", [FIRST])


def test_what_was_committed_is_durable(tmp_path: Path) -> None:
    """Write-ahead log, and a sync before every commit returns."""
    with open_with(tmp_path / "db", FIRST) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        with database.transaction():
            add(database, "kept")
        with closing(sqlite3.connect(tmp_path / "db")) as other:
            assert other.execute("SELECT text FROM notes").fetchall() == [("kept",)]


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    """File and memory go back together, the newest change first."""
    undone: list[str] = []
    with open_with(tmp_path / "db", FIRST) as database:

        def batch() -> None:
            with database.transaction():
                for text in ("older", "newer"):
                    add(database, text)
                    database.on_rollback(partial(undone.append, text))
                raise KeyError("a fault of the program")

        with pytest.raises(KeyError):
            batch()
        assert texts(database) == []
        assert undone == ["newer", "older"]


def test_a_savepoint_undoes_itself_alone(tmp_path: Path) -> None:
    """One failed request of a batch takes back its own changes, in the file and in memory, and no other's."""
    memory: list[str] = []

    def put(text: str) -> None:
        add(database, text)
        memory.append(text)
        database.on_rollback(lambda: memory.remove(text))

    def failing() -> None:
        with database.savepoint():
            put("undone")
            put("undone too")
            raise NotFound("no such agent")

    with open_with(tmp_path / "db", FIRST) as database:
        with database.transaction():
            with database.savepoint():
                put("first")
            with pytest.raises(NotFound):
                failing()
            with database.savepoint():
                put("last")
        assert texts(database) == memory == ["first", "last"]


def test_a_savepoint_without_a_statement_is_never_opened(tmp_path: Path) -> None:
    """SQLite opens a savepoint with the first statement in it; a failure before that is undone in memory."""
    memory: list[str] = []

    def failing() -> None:
        with database.savepoint():
            memory.append("undone")
            database.on_rollback(memory.clear)
            database.after_commit(lambda: memory.append("notified"))
            raise NotFound("no such agent")

    with open_with(tmp_path / "db", FIRST) as database:
        statements: list[str] = []
        database._connection.set_trace_callback(statements.append)
        with database.transaction():
            with pytest.raises(NotFound):
                failing()
            with database.savepoint():
                memory.append("kept")
            with database.savepoint():
                add(database, "a")
        assert [statement.split()[0] for statement in statements] == [
            "BEGIN",
            "SAVEPOINT",
            "INSERT",
            "RELEASE",
            "COMMIT",
        ]
        assert (texts(database), memory) == (["a"], ["kept"])


@pytest.mark.parametrize("outer_writes", [False, True])
@pytest.mark.parametrize("inner_writes", [False, True])
def test_a_savepoint_within_another_undoes_itself_alone(tmp_path: Path, outer_writes: bool, inner_writes: bool) -> None:
    """Whichever of them SQLite knows."""

    def failing() -> None:
        with database.savepoint():
            if inner_writes:
                add(database, "undone")
            raise NotFound("no such agent")

    with open_with(tmp_path / "db", FIRST) as database:
        with database.transaction():
            with database.savepoint():
                if outer_writes:
                    add(database, "before")
                with pytest.raises(NotFound):
                    failing()
                add(database, "after")
            with pytest.raises(NotFound):
                failing()
        assert texts(database) == ["before"] * outer_writes + ["after"]


def test_rows_that_wait_are_written_with_every_commit(tmp_path: Path) -> None:
    """At its end, once, and what is undone with a savepoint or the whole transaction is not among them."""
    waiting: list[str] = []

    def put(text: str) -> None:
        waiting.append(text)
        database.on_rollback(lambda: waiting.remove(text) if text in waiting else None)

    def write() -> None:
        database.execute_many("INSERT INTO notes (text) VALUES (?)", [(text,) for text in waiting])
        waiting.clear()

    def fail(context: AbstractContextManager[None]) -> None:
        with suppress(NotFound), context:
            put("undone")
            raise NotFound("no such agent")

    with open_with(tmp_path / "db", FIRST) as database:
        database.before_every_commit(write)
        fail(database.transaction())
        with database.transaction():
            put("a")
            fail(database.savepoint())
            assert texts(database) == []
            put("b")
        with database.transaction():
            pass
        assert (texts(database), waiting) == (["a", "b"], [])


@pytest.mark.parametrize("savepoint_after", [False, True])
def test_rows_that_wait_never_outlive_their_transaction(tmp_path: Path, savepoint_after: bool) -> None:
    """SQLite may end a transaction by itself, in a mere look too: nothing of it is written afterwards by itself."""
    memory: list[str] = []

    def batch() -> None:
        with database.transaction():
            add(database, "lost")
            memory.append("a")
            database.on_rollback(memory.clear)
            database._connection.execute("ROLLBACK")  # as it does on an I/O error
            if savepoint_after:
                with database.savepoint():
                    add(database, "of its own")

    with open_with(tmp_path / "db", FIRST) as database:
        database.before_every_commit(lambda: add(database, "waiting") if memory else None)
        with pytest.raises(TransactionLost, match="ended the transaction"):
            batch()
        assert (texts(database), memory) == ([], [])
        with database.transaction():
            add(database, "kept")
        assert texts(database) == ["kept"]


def test_one_that_sqlite_has_ended_is_under_way_until_it_is_lost(tmp_path: Path) -> None:
    """No statement of it is committed by itself, and none begins another one in its place."""

    def batch(database: Database) -> None:
        with database.transaction():
            add(database, "lost")
            database._connection.execute("ROLLBACK")  # as it does on an I/O error
            assert database.in_transaction
            for ask in (partial(add, database, "by itself"), partial(texts, database)):
                with pytest.raises(TransactionLost, match="ended the transaction"):
                    ask()
            with pytest.raises(RuntimeError, match="under way"), database.transaction():
                add(database, "in another one")

    with open_with(tmp_path / "db", FIRST) as database:
        with pytest.raises(TransactionLost, match="ended the transaction"):
            batch(database)
        assert (texts(database), database.in_transaction) == ([], False)


def test_a_nested_transaction_raises_and_loses_nothing(tmp_path: Path) -> None:
    """The outer one goes on with all that it has done."""
    memory: list[str] = []
    with open_with(tmp_path / "db", FIRST) as database:
        with database.transaction():
            add(database, "kept")
            database.after_commit(partial(memory.append, "notified"))
            with pytest.raises(RuntimeError, match="savepoint"), database.transaction():
                pass
        assert (texts(database), memory) == (["kept"], ["notified"])


def test_a_fault_after_a_commit_does_not_stop_the_others(tmp_path: Path) -> None:
    """What is durable was acknowledged: it is answered, and the rest is done."""
    memory: list[str] = []

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    with open_with(tmp_path / "db", FIRST) as database:
        with database.transaction():
            add(database, "kept")
            database.after_commit(fail)
            database.after_commit(partial(memory.append, "notified"))
        assert (texts(database), memory) == (["kept"], ["notified"])


def test_a_transaction_after_a_commit_stops_no_other_call(tmp_path: Path) -> None:
    """What was registered with the first one is done, and what is registered with the second one too."""
    memory: list[str] = []

    def write() -> None:
        with database.transaction():
            add(database, "second")
            database.after_commit(memory.append, "of the second")

    with open_with(tmp_path / "db", FIRST) as database:
        with database.transaction():
            add(database, "first")
            database.after_commit(write)
            database.after_commit(memory.append, "of the first")
        assert (texts(database), memory) == (["first", "second"], ["of the second", "of the first"])


def test_a_row_that_can_not_be_made_refuses_the_batch_alone(tmp_path: Path) -> None:
    """Whatever is wrong with it: the next transaction is none the worse."""
    waiting = ["a row that can't be made"]

    def write() -> None:
        while waiting:
            raise StoreUnavailable(waiting.pop())

    with open_with(tmp_path / "db", FIRST) as database:
        database.before_every_commit(write)
        with pytest.raises(StoreUnavailable, match="can't be made"), database.transaction():
            add(database, "undone")
        with database.transaction():
            add(database, "kept")
        assert (texts(database), database.fault) == (["kept"], None)


def test_a_commit_that_fails_undoes_everything(tmp_path: Path) -> None:
    """A constraint that is checked at the commit takes back what each savepoint had kept, in memory too."""
    memory: list[str] = []
    with open_with(tmp_path / "db", FIRST, CHILDREN) as database:

        def batch() -> None:
            with database.transaction():
                with database.savepoint():
                    add(database, "a")
                    memory.append("a")
                    database.on_rollback(memory.clear)
                database.execute("INSERT INTO children VALUES (999)")

        with pytest.raises(TransactionLost, match=r"FOREIGN KEY .*nothing of this request was stored"):
            batch()
        assert (texts(database), memory) == ([], [])
        assert "FOREIGN KEY" in (database.fault or "")


def test_an_undo_is_not_run_for_what_lasted(tmp_path: Path) -> None:
    """A later failure does not take back an earlier transaction's change of memory."""
    memory: list[str] = ["kept"]

    def failing() -> None:
        with database.transaction():
            raise KeyError("a fault of the program")

    with open_with(tmp_path / "db", FIRST) as database:
        with database.transaction():
            database.on_rollback(memory.clear)
        with pytest.raises(KeyError):
            failing()
    assert memory == ["kept"]


def test_a_full_disk_is_an_unavailable_store_and_passes(tmp_path: Path) -> None:
    """A statement that finds no space fails with what to do; with space again, the fault has ended."""
    with open_with(tmp_path / "db", FIRST) as database:

        def fill() -> None:
            with database.transaction():
                for _ in range(100):
                    add(database, "x" * 10_000)

        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreUnavailable, match=r"full.*free space on the agent's volume"):
            fill()
        assert texts(database) == []
        assert database.fault is not None
        database.execute("PRAGMA max_page_count = 100000")
        fill()
        assert len(texts(database)) == 100
        assert database.fault is None


def test_an_empty_transaction_does_not_end_a_fault(tmp_path: Path) -> None:
    """It would write nothing; after a fault, it writes something, so that an idle agent notices that space is free."""
    with open_with(tmp_path / "db", FIRST) as database:
        with no_file_beyond(1):
            with pytest.raises(StoreUnavailable), database.transaction():
                add(database, "lost")
            with pytest.raises(StoreUnavailable), database.transaction():
                pass
            assert database.fault is not None
        with database.transaction():
            pass
        assert database.fault is None
    with open_with(tmp_path / "db", FIRST) as database:
        assert texts(database) == []


def test_a_lock_of_another_program_is_an_unavailable_store(tmp_path: Path) -> None:
    """Somebody's open transaction on the file is waited for, then named; nothing crashes."""
    with open_with(tmp_path / "db", FIRST) as database, closing(sqlite3.connect(tmp_path / "db")) as other:
        database.execute("PRAGMA busy_timeout = 50")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransactionLost, match=r"can't be written .*locked"), database.transaction():
            pass
        assert "locked" in (database.fault or "")
        other.rollback()
        with database.transaction():
            add(database, "kept")
        assert (texts(database), database.fault) == (["kept"], None)


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_a_database_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    """With its log and the log's index, whatever the process's umask is."""
    before = os.umask(umask)
    try:
        with open_with(tmp_path / "db", FIRST) as database:
            add(database, "secret")
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"db": 0o600, "db-wal": 0o600, "db-shm": 0o600}


def test_a_database_of_an_older_version_becomes_its_owners_alone(tmp_path: Path) -> None:
    """With what a killed process left beside it; who may do less than the owner gets no more."""
    path = tmp_path / "db"
    connection = sqlite3.connect(path)
    connection.executescript(f"PRAGMA journal_mode=WAL; {FIRST}; PRAGMA user_version = 1")
    for each in tmp_path.iterdir():
        each.chmod(0o644)
    with open_with(path, FIRST):
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    connection.close()
    path.chmod(0o440)
    with open_with(path, FIRST):
        assert path.stat().st_mode & 0o777 == 0o400


def test_a_value_is_the_first_column_of_the_first_row(tmp_path: Path) -> None:
    """Without a row it is None; a statement that SQLite refuses is an error of the store."""
    with closing(Database(tmp_path / "db.sqlite3", ["CREATE TABLE t (x INTEGER)"])) as database:
        assert database.value("INSERT INTO t VALUES (7), (8) RETURNING x") == 7
        assert database.value("SELECT x FROM t WHERE x > ? ORDER BY x", (7,)) == 8
        assert database.value("SELECT x FROM t WHERE x > ?", (8,)) is None
        with pytest.raises(StoreUnavailable):
            database.value("SELECT nothing")
