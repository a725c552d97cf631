"""A pytest plugin: every database of the suite has a replica that repeats what was noted, and is equal in the end.

    make test-replay

A replica begins as the file that was opened, empty if that is new, and so repeats the migrations too. All tables are
compared, those of the full-text indexes included, with the types of their values. A database that another connection
has changed meanwhile can't be repeated from the notes of one; those are counted. The processes of the fork server take
part, too: a database is compared when the process closes it, which one that is killed doesn't.
"""

import functools
import os
import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.store.database import IN_MEMORY, Database
from twinhost.store.replication.statements import Entry, NotingConnection, Repeater, decoded, encoded

VARIABLE = "TWINHOST_REPLAY"  # the folder that the processes of a run write what they find to
_DAMAGES = "test_an_index_that_an_older_version_broke_is_replaced"  # its index is other rows' than SQLite would write
_ATTEMPTS = 100
_COMPARED = "databases"
_CHANGED_BY_ANOTHER = "changed by another connection"
_WRITTEN_MEANWHILE = "written while they were compared"
_open: "weakref.WeakSet[Replayed]" = weakref.WeakSet()


class Replayed(NotingConnection):
    """A connection to a database that has a replica."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.replica = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if path != IN_MEMORY and path.exists() and path.stat().st_size:
            with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(path)) as existing:
                existing.backup(self.replica)
        self.replica.execute("PRAGMA foreign_keys=ON")
        self.replica.execute("PRAGMA recursive_triggers=ON")
        self.repeater = Repeater(self.replica)
        super().__init__(path, commit=self._repeat, **options)
        self.path, self.pid = path, os.getpid()
        self.version: int | None = None  # from the first commit on: before it, the journal's mode changes it too
        self.fault: Exception | None = None
        self.commits = 0
        self.committing = threading.Lock()  # a test may end while a thread that it has started still writes
        _open.add(self)

    def create_function(self, name: str, *arguments: Any, **options: Any) -> None:
        super().create_function(name, *arguments, **options)
        self.replica.create_function(name, *arguments, **options)

    def close(self) -> None:
        if self in _open:
            with suppress(sqlite3.Error):
                if self.in_transaction:
                    self.execute("ROLLBACK")
                self.finish()
            _open.discard(self)
        super().close()

    def finish(self) -> None:
        """Compare, and write down what differs."""
        if self.pid != os.getpid() or self.in_transaction or self.version is None:
            return
        if self._data_version() != self.version:
            _count(_CHANGED_BY_ANOTHER)
            return
        found = self._both_contents()
        if found is None:
            _count(_WRITTEN_MEANWHILE)
            return
        _count(_COMPARED)
        _count("commits", self.commits)
        own, repeated = found
        differences = [f"table {name}" for name in sorted({*own, *repeated}) if own.get(name) != repeated.get(name)]
        if self.fault:
            differences.insert(0, repr(self.fault))
        if differences and _DAMAGES not in os.environ.get("PYTEST_CURRENT_TEST", ""):
            with (_folder() / f"differences.{os.getpid()}").open("a") as report:
                report.write(
                    f"{os.environ.get('PYTEST_CURRENT_TEST', '')} {self.path.name}: {', '.join(differences)}\n"
                )

    def _both_contents(self) -> tuple[dict[str, str], dict[str, str]] | None:
        for _ in range(_ATTEMPTS):
            with self.committing:
                changes = self.total_changes
                own = contents(self)
                if not self.in_transaction and self.total_changes == changes:
                    return own, contents(self.replica)
            time.sleep(0.01)
        return None

    def _repeat(self, _: NotingConnection, noted: Entry) -> None:
        with self.committing:
            self._repeat_next(noted)

    def _repeat_next(self, noted: Entry) -> None:
        entry = encoded(noted)
        self.commit_noted()
        self.commits += 1
        if self.version is None:
            self.version = self._data_version()
        if self.fault is None:
            try:
                self.replica.execute("BEGIN")
                self.repeater.repeat(decoded(entry))
                self.replica.execute("COMMIT")
            except sqlite3.Error as error:
                self.fault = error
                self.replica.rollback()

    def _data_version(self) -> int:
        return int(self.execute_unnoted("PRAGMA data_version").fetchone()[0])


def contents(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the definition and the rows of every stored table, in the order of their keys."""
    schema = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND rootpage ORDER BY name"
    found = {}
    for name, sql in sqlite3.Connection.execute(connection, schema).fetchall():
        rowid = "" if (sql or "").rstrip().upper().endswith("WITHOUT ROWID") or "_rowid_" in (sql or "") else "rowid, "
        try:
            rows = sqlite3.Connection.execute(connection, f'SELECT {rowid}* FROM main."{name}"')
        except sqlite3.OperationalError:  # STRICT, WITHOUT ROWID
            rows = sqlite3.Connection.execute(connection, f'SELECT * FROM main."{name}"')
        found[name] = f"{sql}\n{rows.fetchall()!r}"
    found["user_version"] = repr(sqlite3.Connection.execute(connection, "PRAGMA user_version").fetchone())
    return found


@functools.cache
def _folder() -> Path:
    return Path(os.environ[VARIABLE])  # a process that is forked later may have another environment


def _count(what: str, number: int = 1) -> None:
    with (_folder() / f"counts.{os.getpid()}").open("a") as counts:
        counts.write(f"{number} {what}\n")


def repeat_databases() -> None:
    """Have every database that this process and its forks open from now on be repeated."""
    _folder().mkdir(parents=True, exist_ok=True)
    original: Callable[..., None] = Database.__init__

    def opened(
        self: Database,
        path: Path,
        migrations: Sequence[str],
        clock: Clock = SYSTEM_CLOCK,
        connect: Callable[..., sqlite3.Connection] | None = None,
        **options: bool,
    ) -> None:
        original(self, path, migrations, clock, connect or Replayed, **options)

    Database.__init__ = opened  # type: ignore[method-assign]


def pytest_configure(config: pytest.Config) -> None:
    """Begin, here and in the processes of the fork server."""
    repeat_databases()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Compare what a test has left open."""
    result = yield
    for connection in list(_open):
        with suppress(sqlite3.Error):
            connection.finish()
        _open.discard(connection)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where something differs, or more than one database in a hundred was not compared."""
    if not hasattr(session.config, "workerinput") and (any(_folder().glob("differences.*")) or not _most_compared()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much was repeated, and what differs."""
    told = ", ".join(f"{number} {what}" for what, number in sorted(_counts().items()))
    terminalreporter.write_line(f"replayed: {told}{'' if _most_compared() else '; too few were compared'}")
    for path in sorted(_folder().glob("differences.*")):
        terminalreporter.write_line(path.read_text())


def _most_compared() -> bool:
    counts = _counts()
    return counts[_COMPARED] > 99 * (counts[_CHANGED_BY_ANOTHER] + counts[_WRITTEN_MEANWHILE])


def _counts() -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in _folder().glob("counts.*"):
        for line in path.read_text().splitlines():
            number, space, what = line.partition(" ")
            if space:  # else its process was killed meanwhile
                counts[what] += int(number)
    return counts
