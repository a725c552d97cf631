"""Whole copies of a database: made while it is in use, and checked before one takes its place."""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from twinhost.secure_zmq.errors import MalformedRequest, StoreUnavailable
from twinhost.store.damage import connect_to_read, find_damage_of_rows

SPARE_BYTES = 16 * 1024 * 1024  # that a copy leaves free on the volume, for the database itself
_OWN_TABLES = ("replies",)  # of this package: the answers of 10 minutes, and nothing that anybody stored
_READ_BYTES = 1024 * 1024

Rows = dict[str, int]  # how many rows each table has
_Object = tuple[str, str, str, str | None]  # of a schema: its kind, its name, its table, and its statement


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy: its size, the digest of its bytes in hex, and how many rows it has of each table."""

    size_bytes: int
    sha256: str
    rows: Rows


def require_space(folder: Path, size_bytes: int) -> None:
    """Refuse what would fill the volume.

    Raises:
        StoreUnavailable: with what is needed and what is there.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes + SPARE_BYTES:
        raise StoreUnavailable(
            f"{size_bytes + SPARE_BYTES} bytes are needed on the volume of {folder} and {free} are free; free some"
        )


def copy_database(source: Path, target: Path) -> Copy:
    """Copy a database as it is at one moment, while others read and write it. It takes a worker thread's time.

    Args:
        source: the database, open elsewhere.
        target: a new file, which is complete and on disk afterwards, and has no log beside it.

    Raises:
        StoreUnavailable: it can't be copied; nothing of the target is left.
    """
    try:
        target.touch(0o600)  # before a byte is in it
        with closing(connect_to_read(source)) as reading, closing(sqlite3.connect(target)) as writing:
            reading.backup(writing)  # in one step, under one snapshot: no writer makes it begin anew
        _make_self_contained(target)
        if (why := find_damage_of_rows(target)) is not None:
            raise StoreUnavailable(f"the database itself is damaged ({why}); start the agent anew, which sets it aside")
        rows = count_rows(target)
        return Copy(target.stat().st_size, digest_of(target), rows)
    except (OSError, sqlite3.Error) as error:
        _remove(target)
        raise StoreUnavailable(f"the database can't be copied ({error}); free space on the agent's volume") from None
    except BaseException:
        _remove(target)
        raise


def check_copy(path: Path, migrations: Sequence[str], sha256: str) -> Rows:
    """Check that a file is a whole database of this program, or of an older version of it; return its rows.

    Raises:
        MalformedRequest: it is not; the sentence says why.
        StoreUnavailable: it can't be read.
    """
    try:
        found = digest_of(path)
        if found != sha256.lower():
            raise MalformedRequest(f"the file arrived with SHA-256 {found} and {sha256} was told; send it again")
        if (why := find_damage_of_rows(path)) is not None:
            raise MalformedRequest(f"the file is no whole database ({why}); take another backup")
        _check_schema(path, migrations)
        _make_self_contained(path)
        return count_rows(path)
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be read ({error.strerror}); see its volume") from None
    except sqlite3.Error as error:
        raise MalformedRequest(f"the file is no database of this agent ({error}); take another backup") from None


def count_rows(path: Path) -> Rows:
    """Return how many rows each table has.

    Raises:
        sqlite3.Error: it can't be read.
    """
    with closing(connect_to_read(path)) as connection:
        return {table: _count(connection, table) for table in _tables(connection)}


def count_rows_as_far_as_possible(path: Path) -> dict[str, int | None]:
    """Return how many rows a damaged database has, None where that can't be told; {} where nothing can.

    Its log is left out of account, and no byte of it is changed.
    """
    counts: dict[str, int | None] = {}
    with suppress(sqlite3.Error), closing(connect_to_read(path, as_it_lies=True)) as connection:
        for table in _tables(connection):
            counts[table] = None
            with suppress(sqlite3.Error):
                counts[table] = _count(connection, table)
    return counts


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_schema(path: Path, migrations: Sequence[str]) -> None:
    with closing(connect_to_read(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        found = _objects(connection)
    if not 0 < version <= len(migrations):
        known = f"this program knows 1 to {len(migrations)}"
        raise MalformedRequest(f"the file has schema version {version} and {known}; restore it with its own version")
    with closing(sqlite3.connect(":memory:")) as blank:
        for script in migrations[:version]:
            blank.executescript(script)
        expected = _objects(blank)
    names, own = _names(found), _names(expected)
    if missing := own - names:
        raise MalformedRequest(f"the file lacks {_listed(missing)}; it is no backup of this agent")
    if unknown := names - own:  # a trigger of a stranger would act on every later write
        raise MalformedRequest(f"the file has {_listed(unknown)}, which this agent never made; take another backup")
    if other := _names(found - expected):  # so would one under a known name
        raise MalformedRequest(f"the file has {_listed(other)} otherwise than this agent makes it; take another backup")


def _objects(connection: sqlite3.Connection) -> set[_Object]:
    """Return all that a schema has, what SQLite makes by itself too."""
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def _names(objects: set[_Object]) -> set[tuple[str, str]]:
    return {(kind, name) for kind, name, _, _ in objects}


def _listed(names: set[tuple[str, str]]) -> str:
    return ", ".join(f"{kind} {name[:64]}" for kind, name in sorted((str(kind), str(name)) for kind, name in names)[:3])


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name"
    )
    return [name for (name,) in rows if not name.startswith("sqlite_") and name not in _OWN_TABLES]


def _count(connection: sqlite3.Connection, table: str) -> int:
    quoted = table.replace('"', '""')
    return int(connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()[0])  # noqa: S608 - a name from the schema


def _remove(path: Path) -> None:
    """Remove a file as far as that can be done: why it is of no use is what matters to whoever waits for it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _make_self_contained(path: Path) -> None:
    """Let a database need no log beside it, and put it on disk; what opens it for use changes that back."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
