"""The databases of an agent besides its own, as those of its spaces: they are in its one log, each entry under a name.

A name is a path below the agent's folder. Each file says itself how far it has the log, since two files are not
committed together: what it has already is passed by. So it is synced at each commit, and the agent's own file may say
that it is further.
"""

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import fsync_folder
from twinhost.store.damage import REPLACED
from twinhost.store.database import LOG_POSITION
from twinhost.store.files import make_private
from twinhost.store.replication.statements import Entry, Repeater

POSITION = f"CREATE TABLE IF NOT EXISTS {LOG_POSITION} (log TEXT NOT NULL, applied INTEGER NOT NULL) STRICT"
_KEPT_OPEN = 16


class OtherDatabases:
    """Repeats transactions in the other databases of a process that is not active; used by one thread."""

    def __init__(self, own: Path, functions: Mapping[str, Callable[[str], str]], newest: int) -> None:
        """Have them beside the agent's own database; the rest as `Replica` takes it."""
        self._own, self._functions, self._newest = own, functions, newest
        self._open: dict[str, sqlite3.Connection] = {}  # the one that was used last is the last one
        self._repeaters: dict[str, Repeater] = {}

    def repeat(self, log: str, seq: int, entry: Entry) -> None:
        """Repeat a transaction in the database that it names, unless that has it; the first one makes it.

        Raises:
            sqlite3.Error: a statement fails here.
            OSError: a file can't be written.
            ConfigurationError: the database is not of this log, or this program can't repeat the transaction.
        """
        path = path_of(self._own, entry.database)
        if not entry.statements and not path.exists():
            return
        connection = self._connection(entry.database, path, log)
        (applied,) = connection.execute(f"SELECT applied FROM {LOG_POSITION}").fetchone()  # noqa: S608 - a constant
        if applied >= seq:
            return
        if not entry.statements:
            self._close(entry.database)
            shutil.rmtree(path.parent)
            fsync_folder(path.parent.parent)
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._repeaters[entry.database].repeat(entry)
            if (version := connection.execute("PRAGMA user_version").fetchone()[0]) > self._newest:
                raise ConfigurationError(
                    f"the log has schema version {version} and this program knows {self._newest}; "
                    "run the same image on both machines"
                )
            connection.execute(f"UPDATE {LOG_POSITION} SET applied = ?", (seq,))  # noqa: S608 - a constant
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def begin_with(self, log: str, applied: int) -> None:
        """Have those that exist be of a log that begins with what they have.

        Raises:
            ConfigurationError: one can't be used.
        """
        for path in others_of(self._own):
            try:
                begin(path, log, applied)
            except (OSError, sqlite3.Error) as error:
                raise ConfigurationError(f"{path} can't be used as a database ({error})") from None

    def close(self) -> None:
        """Close all; one that is used again is opened again."""
        for name in list(self._open):
            self._close(name)

    def _connection(self, name: str, path: Path, log: str) -> sqlite3.Connection:
        connection = self._open.pop(name, None)
        if connection is None:
            if len(self._open) >= _KEPT_OPEN:
                self._close(next(iter(self._open)))
            begin(path, log)
            connection = _opened(path)
            for function, of in self._functions.items():
                connection.create_function(function, 1, of, deterministic=True)
            self._repeaters[name] = Repeater(connection)
        self._open[name] = connection
        return connection

    def _close(self, name: str) -> None:
        del self._repeaters[name]
        self._open.pop(name).close()


def others_of(own: Path) -> list[Path]:
    """Return the databases besides an agent's own, but not those that were removed, or moved aside."""
    found = own.parent.glob("*/*/*.sqlite3")
    return sorted(path for path in found if path.parent.name[0] != "." and f".{REPLACED}-" not in path.parts[-3])


def begin(path: Path, log: str, applied: int | None = None) -> None:
    """Have a database be of a log; a new one is made, with its folder.

    Args:
        path: the file.
        log: the log's name.
        applied: what the database has of it, whatever it was made from; else one that has data must be of this log.

    Raises:
        ConfigurationError: it is not of this log.
        OSError, sqlite3.Error: it can't be written.
    """
    if not path.exists():
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        path.touch(0o600)
        fsync_folder(path.parent)
        fsync_folder(path.parent.parent)
    make_private(path)
    with closing(_opened(path)) as connection:
        connection.execute(POSITION)
        row = connection.execute(f"SELECT log FROM {LOG_POSITION}").fetchone()  # noqa: S608 - a constant
        if applied is None:
            if row == (log,):
                return
            if connection.execute("PRAGMA user_version").fetchone()[0]:
                raise ConfigurationError(f"{path} was not made from this log; move its folder away")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"DELETE FROM {LOG_POSITION}")  # noqa: S608 - a constant
        connection.execute(f"INSERT INTO {LOG_POSITION} VALUES (?, ?)", (log, applied or 0))  # noqa: S608 - a constant
        connection.execute("COMMIT")


def path_of(own: Path, name: str) -> Path:
    """Return where a database is that an entry names, beside the agent's own.

    Raises:
        ConfigurationError: no database has this name.
    """
    parts = PurePosixPath(name).parts
    if len(parts) != 3 or parts[0] == "/" or ".." in parts:
        raise ConfigurationError(f"the log has a database {name[:128]!r}; run the same image on both machines")
    return own.parent.joinpath(*parts)


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection
