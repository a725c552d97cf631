"""A durable SQLite database: WAL, synchronous=FULL, one transaction per batch.

State that is also kept in memory registers how to undo itself, so that a request that is rolled back changes neither
the file nor memory. Only the file's owner can read it; SQLite gives its log the same mode.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar, TypeVarTuple

import structlog

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable, TransactionLost
from twinhost.store.files import make_private, part

_log = structlog.get_logger(__name__)

IN_MEMORY = Path(":memory:")  # of a database without a file, which ends with its connection
LOG_POSITION = "log_position"  # the table of a file that repeats a log, which says how far it has
_WHAT_TO_DO = "nothing of this request was stored; free space on the agent's volume, and read its log"
Row = TypeVar("Row")
V = TypeVar("V")
Arguments = TypeVarTuple("Arguments")


class Others(Protocol):
    """Opens and removes further databases of an agent, so that its log has what is written to them."""

    def open_other(self, path: Path, migrations: Sequence[str], clock: Clock) -> "Database": ...
    def remove_other(self, path: Path) -> None: ...


class Database:
    """One open database; used by one thread at a time, also by another than the one that opened it."""

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        clock: Clock = SYSTEM_CLOCK,
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect,
        *,
        logged: bool = False,
    ) -> None:
        """Open or create the database and migrate its schema.

        Args:
            path: the file, whose folder must exist, or IN_MEMORY.
            migrations: SQL scripts; the n-th migrates from schema version n to n + 1.
            clock: the one that dates its rows.
            connect: opens the only connection that writes; another one may note what is written.
            logged: whether a standby follows what is written; only what `connect` opens writes then.

        Raises:
            ConfigurationError: it can't be opened, is damaged, or is newer than this program.
        """
        self.clock = clock
        self.path = path
        self.migrations = tuple(migrations)
        self._changes = _Changes()
        self._pending: list[Callable[[], None]] = []
        self.logged = logged
        self.others: Others | None = None  # with a log
        self.fault: str | None = None  # why the last transaction failed; None once one has succeeded again
        self.in_transaction = False  # also where SQLite has ended it by itself, and it will be lost
        try:
            if path != IN_MEMORY and not path.exists():
                with suppress(OSError):  # SQLite says why it can't be created
                    path.touch(0o600)
            make_private(path)
            self._connection = connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.execute("PRAGMA foreign_keys=ON")
                self._connection.execute("PRAGMA recursive_triggers=ON")  # else REPLACE deletes without the triggers
                self._connection.execute("PRAGMA temp_store=MEMORY")  # a full disk must not fail a temporary table
                self._migrate(migrations)
                if not logged:  # no log has what is written from now on
                    self._connection.execute(f"DROP TABLE IF EXISTS {LOG_POSITION}")
            except BaseException:
                self._connection.close()  # which rolls back the transaction of a failed migration
                raise
            self._savepoints = _Savepoints(self._connection, self._changes)
        except OSError as error:
            raise ConfigurationError(
                f"{path} can't be made private to its owner ({error.strerror}); check its owner: ls -l {path}"
            ) from None
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"{path} can't be used as a database ({error}); move the file away or restore a backup"
            ) from None

    @property
    def size_bytes(self) -> int:
        """How many bytes the database and its write-ahead log take on disk."""
        files = (self.path, part(self.path, "-wal"))
        return sum(path.stat().st_size for path in files if path.exists())

    @property
    def total_changes(self) -> int:
        """How many rows were added, changed and removed since it was opened."""
        return self._connection.total_changes

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        """Run one statement.

        Raises:
            StoreUnavailable: SQLite refused it.
            TransactionLost: SQLite has ended the transaction under way by itself.
        """
        try:
            self._prepare()
            return self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store failed ({error}); {_WHAT_TO_DO}") from error

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for every row of parameters.

        Raises:
            StoreUnavailable: SQLite refused it.
        """
        try:
            self._prepare()
            self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store failed ({error}); {_WHAT_TO_DO}") from error

    def rows(self, row_type: Callable[..., Row], sql: str, parameters: Sequence[Any] = ()) -> Iterator[Row]:
        """Run a query and yield each row as `row_type(column=value, …)`, read as it is asked for.

        Columns are matched by name, so their order in the query doesn't matter; name a computed one with AS.

        Raises:
            StoreUnavailable: SQLite refused it.
        """
        cursor = self.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        try:
            for row in cursor:
                yield row_type(**dict(zip(names, row, strict=True)))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store failed ({error}); {_WHAT_TO_DO}") from error
        finally:
            cursor.close()

    def select(self, row_type: Callable[..., Row], sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a query as `rows` does, and return all of them."""
        return list(self.rows(row_type, sql, parameters))

    def select_one(self, row_type: Callable[..., Row], sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """Run a query as `select` does; return its first row, or None."""
        return next(iter(self.select(row_type, sql, parameters)), None)

    def value(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """Run a statement and return the first column of its first row, or None if it has no row.

        Raises:
            StoreUnavailable: SQLite refused it.
        """
        row = self.execute(sql, parameters).fetchone()
        return None if row is None else row[0]

    def define(self, name: str, function: Callable[[str], str]) -> None:
        """Define an SQL function of one text that triggers call; it returns the same for the same text."""
        self._connection.create_function(name, 1, function, deterministic=True)

    def on_rollback(self, undo: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        """Register how to undo a change in memory if the transaction under way is rolled back; ignored outside one."""
        if self.in_transaction:
            self._changes.undo.append((undo, arguments))

    def restore_on_rollback(self, items: dict[str, V], key: str) -> None:
        """Register, before a change of one item in memory, that a rollback restores its value or removes it."""
        if self.in_transaction:
            self._changes.undo.append((_put_back, (items, key, items.get(key))))

    def after_commit(self, do: Callable[[*Arguments], None], *arguments: *Arguments) -> None:
        """Call something once the transaction under way is durable, and never if it is rolled back."""
        self._changes.afterwards.append((do, arguments))

    def before_every_commit(self, write: Callable[[], None]) -> None:
        """Call something at the end of every transaction, to write rows that wait in memory with one statement.

        Queries don't see these rows yet; their owner answers from memory. `write` raises StoreUnavailable for a row
        that can't be written, which rolls back the whole transaction.
        """
        self._pending.append(write)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the body's changes durably and atomically, or roll back all of them.

        Raises:
            TransactionLost: the commit failed, or SQLite ended the transaction by itself.
            RuntimeError: a transaction is under way already; use a savepoint inside it.
        """
        if self.in_transaction:
            raise RuntimeError("a transaction is under way; use a savepoint inside it")
        self._changes.clear()
        self._savepoints.clear()
        self._begin()
        self.in_transaction = True
        try:
            yield
            self._write_pending()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._abandon(str(error))
            raise TransactionLost(f"the store failed ({error}); {_WHAT_TO_DO}") from error
        except BaseException as error:
            self._abandon(str(error))
            raise
        finally:
            self.in_transaction = False
        self._changes.undo.clear()
        self.fault = None
        self._changes.run_afterwards()

    def savepoint(self) -> AbstractContextManager[None]:
        """Roll back the body's changes, and only those, if it raises.

        Raises:
            TransactionLost: SQLite ended the whole transaction.
        """
        return self._savepoints

    def close(self) -> None:
        """Checkpoint the write-ahead log and close the file."""
        self._connection.close()

    def _prepare(self) -> None:
        """Open the savepoints that a statement belongs to; outside a transaction it would commit at once."""
        if self.in_transaction:
            _require_transaction(self._connection)
        if self._savepoints.unopened:
            self._savepoints.open_all()

    def _write_pending(self) -> None:
        _require_transaction(self._connection)  # an I/O error in a query may have ended it, and undone its changes
        for write in self._pending:
            write()
        if self.fault is not None:  # an empty transaction would write nothing, and end the fault of a full disk
            self._connection.execute(f"PRAGMA user_version = {len(self.migrations)}")

    def _begin(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self.fault = str(error)
            raise TransactionLost(f"the store can't be written ({error}); {_WHAT_TO_DO}") from error

    def _abandon(self, why: str) -> None:
        self.fault = why
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        finally:
            self._changes.undo_to(0)

    def _migrate(self, migrations: Sequence[str]) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise ConfigurationError(
                f"{self.path} has schema version {version} and this program knows {len(migrations)}; "
                "run the newer version, or restore a backup"
            )
        steps = [f"{script}; PRAGMA user_version = {number}" for number, script in enumerate(migrations, 1)][version:]
        for step in steps if version else ["; ".join(steps)]:  # a new database waits for the disk once
            self._connection.executescript(f"BEGIN IMMEDIATE; {step}; COMMIT;")


def _put_back(items: dict[str, V], key: str, before: V | None) -> None:
    if before is None:
        items.pop(key, None)
    else:
        items[key] = before


def _require_transaction(connection: sqlite3.Connection) -> None:
    if not connection.in_transaction:
        raise TransactionLost(f"the store ended the transaction; {_WHAT_TO_DO}")


_Call = tuple[Callable[..., object], tuple[Any, ...]]  # a function, and its arguments


class _Changes:
    """How to undo what a transaction has changed in memory, and what to do once it is durable."""

    def __init__(self) -> None:
        self.undo: list[_Call] = []
        self.afterwards: list[_Call] = []

    def clear(self) -> None:
        self.undo.clear()
        self.afterwards.clear()

    def run_afterwards(self) -> None:
        """Run what was registered for after the commit; a fault in one neither rolls back nor stops the others."""
        while self.afterwards:
            due, self.afterwards = self.afterwards, []  # one of them may register more, or begin a transaction
            for do, arguments in due:
                try:
                    do(*arguments)
                except Exception:  # noqa: BLE001 - boundary: the commit must still be answered
                    _log.exception("after_commit_fault")

    def undo_to(self, mark: int) -> None:
        """Undo all but the first `mark` changes, newest first."""
        while len(self.undo) > mark:
            undo, arguments = self.undo.pop()
            undo(*arguments)


class _Savepoints:
    """The open savepoints, nested; entering this opens one more, which is rolled back alone if its body raises.

    SQLite opens one only when a statement runs inside it. Most requests leave their rows for the commit, and opening
    and releasing a savepoint for each of them takes as long as writing one row.
    """

    def __init__(self, connection: sqlite3.Connection, changes: _Changes) -> None:
        self._connection = connection
        self._changes = changes
        self._marks: list[tuple[int, int]] = []
        self._opened = 0  # how many SQLite knows: the outer ones
        self.unopened = False  # whether `open_all` has anything to do

    def clear(self) -> None:
        """Forget the savepoints of a transaction that has ended."""
        self._marks.clear()
        self._opened, self.unopened = 0, False

    def open_all(self) -> None:
        """Open all of them in SQLite, before a statement.

        Raises:
            sqlite3.Error: it refuses.
            TransactionLost: SQLite has ended the transaction; a savepoint would now be a transaction of its own.
        """
        _require_transaction(self._connection)
        for _ in self._marks[self._opened :]:
            self._connection.execute("SAVEPOINT request")
            self._opened += 1
        self.unopened = False

    def __enter__(self) -> None:
        self._marks.append((len(self._changes.undo), len(self._changes.afterwards)))
        self.unopened = True

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        undo, afterwards = self._marks.pop()
        opened = self._opened > len(self._marks)
        if opened:
            self._opened -= 1
        self.unopened = self._opened < len(self._marks)
        if error is None:
            if opened:
                self._run_or_abort("RELEASE request")
            return
        _require_transaction(self._connection)
        if opened:
            self._run_or_abort("ROLLBACK TO request")
            self._run_or_abort("RELEASE request")
        self._changes.undo_to(undo)
        del self._changes.afterwards[afterwards:]

    def _run_or_abort(self, sql: str) -> None:
        """Run a step without which one request can't be separated from the others of its transaction."""
        try:
            self._connection.execute(sql)
        except sqlite3.Error as error:
            raise TransactionLost(f"the store failed ({error}); {_WHAT_TO_DO}") from error
