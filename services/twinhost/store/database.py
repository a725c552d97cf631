"""SQLite that keeps what was acknowledged: WAL, synchronous=FULL, one transaction for a batch.

State that is also kept in memory registers how to undo itself, so that a rolled-back request
leaves neither the file nor the memory changed. The file is its owner's alone; SQLite gives its log the same mode.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable, TransactionLost
from twinhost.store.savepoints import WHAT_TO_DO, Changes, Savepoints
from twinhost.store.set_aside import make_private

Row = TypeVar("Row")


class Database:
    """One open database; used by one thread at a time, after it was opened by another."""

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        """Open, or make, the database and bring its schema up to date.

        Args:
            path: the file; its folder must exist.
            migrations: SQL scripts; the n-th leads from schema version n to n + 1.

        Raises:
            ConfigurationError: it can't be opened, is damaged, or is newer than this program.
        """
        self._path = path
        self._migrations = tuple(migrations)
        self._changes = Changes()
        self._pending: list[Callable[[], None]] = []
        self._fault: str | None = None
        self._under_way = False
        try:
            if not path.exists():
                with suppress(OSError):  # SQLite says why it can't be made
                    path.touch(0o600)
            make_private(path)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.execute("PRAGMA foreign_keys=ON")
                self._migrate(migrations)
            except BaseException:
                self._connection.close()  # and with it the transaction that a failed migration left open
                raise
            self._savepoints = Savepoints(self._connection, self._changes)
        except OSError as error:
            raise ConfigurationError(
                f"{path} can't be made a file of its owner alone ({error.strerror}); see who owns it"
            ) from None
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"{path} can't be used as a database ({error}); move the file away or restore a backup"
            ) from None

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def migrations(self) -> tuple[str, ...]:
        """The scripts that it was opened with."""
        return self._migrations

    @property
    def fault(self) -> str | None:
        """Why the last transaction failed; None once one succeeded again."""
        return self._fault

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement.

        Raises:
            StoreUnavailable: SQLite refused it.
            TransactionLost: SQLite has ended the transaction under way by itself.
        """
        try:
            self._prepare()
            return self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store failed ({error}); {WHAT_TO_DO}") from error

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for every row of parameters.

        Raises:
            StoreUnavailable: SQLite refused it.
        """
        try:
            self._prepare()
            self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store failed ({error}); {WHAT_TO_DO}") from error

    def select(self, row_type: Callable[..., Row], sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a query and return each row as `row_type(column=value, …)`.

        Columns are matched by name, so their order in the query doesn't matter; name a computed one with AS.

        Raises:
            StoreUnavailable: SQLite refused it.
        """
        cursor = self.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        try:
            return [row_type(**dict(zip(names, row, strict=True))) for row in cursor]
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store failed ({error}); {WHAT_TO_DO}") from error

    def select_one(self, row_type: Callable[..., Row], sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """Run a query as `select` does; return its first row, or None."""
        return next(iter(self.select(row_type, sql, parameters)), None)

    def on_rollback(self, undo: Callable[[], None]) -> None:
        """Register how to undo a change of memory if the transaction under way does not last."""
        self._changes.undo.append(undo)

    def before_every_commit(self, write: Callable[[], None]) -> None:
        """Have rows written that wait in memory: at the end of every transaction, where they are one statement.

        What waits is seen by nobody who asks the database; whoever keeps it answers from memory. `write` raises
        StoreUnavailable for a row that can't be made, which refuses the whole transaction.
        """
        self._pending.append(write)

    @property
    def size_bytes(self) -> int:
        """How much the database and its write-ahead log take on the disk."""
        files = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(path.stat().st_size for path in files if path.exists())

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way; also where SQLite has ended it by itself, and it will be lost."""
        return self._under_way

    def after_commit(self, do: Callable[[], None]) -> None:
        """Have something done once the transaction under way is durable, and not at all if it is undone."""
        self._changes.afterwards.append(do)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what happens inside durable as one, or undo all of it.

        Raises:
            TransactionLost: the commit failed, or SQLite ended the transaction by itself.
            RuntimeError: one is under way; what belongs to it takes a savepoint.
        """
        if self._under_way:
            raise RuntimeError("a transaction is under way; what belongs to it takes a savepoint")
        self._changes.clear()
        self._savepoints.clear()
        self._begin()
        self._under_way = True
        try:
            yield
            self._write_pending()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._abandon(str(error))
            raise TransactionLost(f"the store failed ({error}); {WHAT_TO_DO}") from error
        except BaseException as error:
            self._abandon(str(error))
            raise
        finally:
            self._under_way = False
        self._changes.undo.clear()
        self._fault = None
        self._changes.go_on()

    def savepoint(self) -> AbstractContextManager[None]:
        """Undo what happens inside, and that alone, if it raises.

        Raises:
            TransactionLost: SQLite ended the whole transaction.
        """
        return self._savepoints

    def close(self) -> None:
        """Fold the write-ahead log in and close the file."""
        self._connection.close()

    def _prepare(self) -> None:
        """Have SQLite know what a statement belongs to: it would commit one by itself that has lost its transaction."""
        if self._under_way and not self._connection.in_transaction:
            raise TransactionLost(f"the store ended the transaction; {WHAT_TO_DO}")
        if self._savepoints.unknown:
            self._savepoints.open_all()

    def _write_pending(self) -> None:
        """Have the rows written that wait in memory, into the transaction that they belong to or not at all."""
        if not self._connection.in_transaction:  # an I/O error in a mere look ended it, and its changes are gone
            raise TransactionLost(f"the store ended the transaction; {WHAT_TO_DO}")
        for write in self._pending:
            write()

    def _begin(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._fault = str(error)
            raise TransactionLost(f"the store can't be written ({error}); {WHAT_TO_DO}") from error

    def _abandon(self, why: str) -> None:
        self._fault = why
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        finally:
            self._changes.undo_to(0)

    def _migrate(self, migrations: Sequence[str]) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise ConfigurationError(
                f"{self._path} has schema version {version} and this program knows {len(migrations)}; "
                "run the newer version, or restore a backup"
            )
        for number in range(version, len(migrations)):
            script = f"BEGIN IMMEDIATE; {migrations[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
            self._connection.executescript(script)
