"""Backups of a database: copy it while it is in use, verify a copy, and put it in place at the next start.

`stage` puts a verified copy next to the database in use, which it doesn't touch. At the next start `prepare` moves the
database away and the staged copy into its place, before anything is opened.
"""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import structlog

from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest, RequestError, StoreUnavailable
from twinhost.secure_zmq.key_writer import fsync_folder
from twinhost.store.damage import (
    DAMAGED,
    REPLACED,
    acknowledge,
    connect_to_read,
    damaged_index,
    find_damage_of_rows,
    findings_of,
    quarantine,
)
from twinhost.store.database import LOG_POSITION
from twinhost.store.files import part
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

STAGED = ".restore"  # the suffix of a verified copy that waits for the next start
SPARE_BYTES = 16 * 1024 * 1024  # that stay free on the volume, for the database itself
_OWN_TABLES = ("replies", "stored_bytes", LOG_POSITION)  # of this package, which are not a caller's data
_VOLUME_ERRORS = (  # not the database's: a start succeeds once there is space, or the permission
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
)  # fmt: skip

Rows = dict[str, int]  # the number of rows by table
_SchemaObject = tuple[str, str, str, str | None]  # kind, name, table, SQL statement


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy: its size, its SHA-256 in hex, and its number of rows by table."""

    size_bytes: int
    sha256: str
    rows: Rows


class Transfers:
    """The files of one kind in a database's folder, such as backups that are being read."""

    def __init__(self, database: Path, suffix: str) -> None:
        """Remove those of an earlier process; a file's name is the database's, the suffix, and its id."""
        self._database, self._suffix, self.folder = database, suffix, database.parent
        self.remove_all()

    def path(self, transfer_id: str) -> Path:
        """Return the file with this id."""
        return part(self._database, f"{self._suffix}{transfer_id}")

    def remove_all(self) -> None:
        """Remove all of them, and SQLite's files next to them."""
        for path in self.folder.glob(f"{self._database.name}{self._suffix}*"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Work:
    """Work on a transfer, for a separate thread.

    `name` is the thread's, and `failed` the log event, with `fields`, of a failure; `refused` is that of a
    RequestError. `sentence` begins the error message that a client gets.
    """

    name: str
    failed: Literal["backup_failed", "restore_failed"]
    refused: Literal["backup_failed", "restore_refused"]
    sentence: str
    fields: Mapping[str, str]

    def start(self, run: Callable[[], object], fail: Callable[[RequestError], object]) -> None:
        """Run it; however it fails, `fail` is called, since the client polls for the result.

        `fail` is called in that thread, or in this one if no thread can be started.
        """

        def run_or_fail() -> None:
            try:
                run()
            except RequestError as error:
                _log.error(self.refused, **self.fields, reason=str(error))
                fail(error)
            except Exception as error:  # noqa: BLE001 - boundary: a client would wait for the result for ever
                _log.exception(self.failed, **self.fields)
                fail(StoreUnavailable(f"{self.sentence} ({error}); see the agent's log"))

        try:
            Worker(self.name, run_or_fail).start()
        except RuntimeError as error:  # no thread can be started
            _log.error(self.failed, **self.fields, reason=str(error))
            fail(StoreUnavailable(f"{self.sentence} ({error}); free memory on the agent's host and start again"))


def require_space(folder: Path, size_bytes: int) -> None:
    """Check that a volume has space for a file.

    Raises:
        StoreUnavailable: with how much is needed and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes + SPARE_BYTES:
        raise StoreUnavailable(
            f"{size_bytes + SPARE_BYTES} bytes are needed on the volume of {folder} and {free} are free; "
            "free space there"
        )


def copy_database(source: Path, target: Path) -> Copy:
    """Copy a database as of one moment, while others read and write it. This takes a while: use a worker thread.

    Args:
        source: the database, open elsewhere.
        target: a new file, which is complete and on disk afterwards, and has no write-ahead log.

    Raises:
        StoreUnavailable: it can't be copied; the target was removed.
    """
    try:
        target.touch(0o600)  # private before it has any content
        with closing(connect_to_read(source)) as reading, closing(sqlite3.connect(target)) as writing:
            reading.backup(writing)  # in one step, under one snapshot: no writer makes it start again
        _make_self_contained(target)
        if (why := find_damage_of_rows(target)) is not None:
            raise StoreUnavailable(
                f"the database itself is damaged ({why}); restart the agent, which quarantines it, and restore a backup"
            )
        rows = count_rows(target)
        return Copy(target.stat().st_size, digest_of(target), rows)
    except BaseException as error:
        with suppress(OSError):  # why the copy is useless is what matters
            target.unlink(missing_ok=True)
        if isinstance(error, OSError | sqlite3.Error):
            raise StoreUnavailable(
                f"the database can't be copied ({error}); free space on the agent's volume"
            ) from None
        raise


def check_copy(path: Path, migrations: Sequence[str], sha256: str) -> Rows:
    """Verify that a file is an intact database of this program, or of an older version of it; return its rows.

    Raises:
        MalformedRequest: it is not; the sentence says why.
        StoreUnavailable: it can't be read.
    """
    try:
        require_digest(path, sha256)
        if (why := find_damage_of_rows(path)) is not None:
            raise MalformedRequest(f"the file is not an intact database ({why}); use another backup")
        _check_schema(path, migrations)
        _make_self_contained(path)
        return count_rows(path)
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be read ({error.strerror}); check its volume") from None
    except sqlite3.Error as error:
        raise MalformedRequest(f"the file is not a database of this agent ({error}); use another backup") from None


def stage(copy: Path, database: Path) -> None:
    """Have a verified copy replace a database at the next start; both are on one volume.

    Raises:
        OSError: it can't be moved.
    """
    copy.touch()  # `prepare` names the replaced database by this time
    copy.replace(part(database, STAGED))
    fsync_folder(database.parent)


def prepare(
    path: Path, rebuilds: Mapping[str, Sequence[str]] = MappingProxyType({}), newest: int | None = None
) -> None:
    """Before a start, put a staged copy in place, rebuild damaged indexes, and quarantine a damaged database.

    Nothing is deleted. Restoring a backup also acknowledges the damage before it.

    Args:
        path: the database.
        rebuilds: by full-text index, the SQL scripts that rebuild it from the rows: the first one that fits the
            database's columns. A database in which only these are damaged stays in place.
        newest: the newest schema version that these scripts know. The indexes of a newer program's database are not
            touched: opening it reports the problem.

    Raises:
        ConfigurationError: a file can't be moved, or there is no space to rebuild an index.
        StoreUnavailable: the acknowledgement can't be written.
    """
    staged = part(path, STAGED)
    if staged.exists():
        if (why := find_damage_of_rows(staged)) is not None:
            _log.error("staged_backup_damaged", kept_as=quarantine(staged, DAMAGED).name, reason=why)
        else:
            _put_in_place(staged, path)
    findings = findings_of(path)
    scripts = [rebuilds.get(damaged_index(finding) or "", ()) for finding in findings]
    if findings and all(scripts):
        if newest is not None and _schema_version(path) > newest:
            return
        findings = _rebuild(path, findings, scripts)
    if findings:
        _log.error("database_damaged", kept_as=quarantine(path, DAMAGED).name, reason="; ".join(findings))


def count_rows(path: Path) -> Rows:
    """Return the number of rows by table.

    Raises:
        sqlite3.Error: it can't be read.
    """
    with closing(connect_to_read(path)) as connection:
        return {table: _count(connection, table) for table in tables_of(connection)}


def count_readable_rows(path: Path) -> dict[str, int | None]:
    """Return the number of rows by table of a damaged database: None for a damaged table, {} if nothing is readable.

    Its log is ignored, and no byte of it is changed.
    """
    counts: dict[str, int | None] = {}
    with suppress(sqlite3.Error), closing(connect_to_read(path, immutable=True)) as connection:
        for table in tables_of(connection):
            counts[table] = None
            with suppress(sqlite3.Error):
                counts[table] = _count(connection, table)
    return counts


def tables_of(connection: sqlite3.Connection, schema: str = "main") -> list[str]:
    """Return the tables with stored data, of the database itself or of an attached one."""
    rows = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = ? AND type = 'table' ORDER BY name", (schema,)
    )
    return [name for (name,) in rows if not name.startswith("sqlite_") and name not in _OWN_TABLES]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_digest(path: Path, sha256: str) -> None:
    """Raise MalformedRequest unless a file has this SHA-256 in hex; OSError if it can't be read."""
    digest = digest_of(path)
    if digest != sha256.lower():
        raise MalformedRequest(f"the file arrived with SHA-256 {digest}, expected {sha256}; send it again")


def _check_schema(path: Path, migrations: Sequence[str]) -> None:
    version = _schema_version(path)
    with closing(connect_to_read(path)) as connection:
        present = _objects(connection)
    if not 0 < version <= len(migrations):
        known = f"this program knows 1 to {len(migrations)}"
        raise MalformedRequest(f"the file has schema version {version} and {known}; restore it with its own version")
    with closing(sqlite3.connect(":memory:")) as blank:
        for script in migrations[:version]:
            blank.executescript(script)
        expected = _objects(blank)
    names, own = _names(present) - {("table", LOG_POSITION)}, _names(expected)
    if missing := own - names:
        raise MalformedRequest(f"the file lacks {_listed(missing)}; use a backup of this agent")
    if unknown := names - own:  # an added trigger would run on every later write
        raise MalformedRequest(f"the file has {_listed(unknown)}, which this agent never creates; use another backup")
    if changed := _names(present - expected) & own:  # so would a changed one with a known name
        raise MalformedRequest(f"the file has {_listed(changed)} with another definition; use another backup")


def _schema_version(path: Path) -> int:
    with closing(connect_to_read(path)) as connection:
        return number_of(connection, "PRAGMA user_version")


def _objects(connection: sqlite3.Connection) -> set[_SchemaObject]:
    """Return everything in a schema, including what SQLite creates by itself."""
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def _names(objects: set[_SchemaObject]) -> set[tuple[str, str]]:
    return {(kind, name) for kind, name, _, _ in objects}


def _listed(names: set[tuple[str, str]]) -> str:
    return ", ".join(f"{kind} {name[:64]}" for kind, name in sorted((str(kind), str(name)) for kind, name in names)[:3])


def _count(connection: sqlite3.Connection, table: str) -> int:
    return number_of(connection, f"SELECT count(*) FROM {quoted(table)}")  # noqa: S608 - a name from the schema


def number_of(connection: sqlite3.Connection, sql: str) -> int:
    """Return the one number that a query has."""
    (number,) = connection.execute(sql).fetchone()
    return int(number)


def quoted(name: str) -> str:
    """Return a name from a schema as SQL has it."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _rebuild(path: Path, findings: list[str], scripts: list[Sequence[str]]) -> list[str]:
    """Rebuild the indexes of these findings; return what is wrong with the database afterwards."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # as `Database` does, which rolls back an interrupted rebuild
            connection.execute("PRAGMA synchronous=FULL")
            _run_first_fitting(connection, scripts)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _VOLUME_ERRORS:
            raise ConfigurationError(
                f"{path} has a damaged index ({'; '.join(findings)}) that can't be rebuilt ({error}); "
                "free space on its volume, and check the volume's permissions"
            ) from None
        return [*findings, f"it can't be rebuilt: {error}"]
    if not (left := findings_of(path)):
        _log.warning("index_rebuilt", database=path.name, reason="; ".join(findings))
    return left


def _run_first_fitting(connection: sqlite3.Connection, scripts: list[Sequence[str]]) -> None:
    """Run the scripts of every index; where a column or a table is missing, the next ones, for an older schema."""
    for attempt in range(most := max(map(len, scripts))):
        chosen = [of_index[min(attempt, len(of_index) - 1)] for of_index in scripts]
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {'; '.join(chosen)}; COMMIT;")
        except sqlite3.OperationalError as error:
            if attempt + 1 == most or not str(error).startswith(("no such column", "no such table")):
                raise
            connection.execute("ROLLBACK")
        else:
            return


def _put_in_place(staged: Path, path: Path) -> None:
    # An interrupted start finds this time again, so that one database's files get one name.
    before = quarantine(path, REPLACED, staged.stat().st_mtime)
    try:
        staged.rename(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(
            f"{staged} can't be moved to {path.name} ({error.strerror}); check the permissions of its volume"
        ) from None
    acknowledge(path)
    _log.warning("backup_restored", database=path.name, kept_as=before.name)


def _make_self_contained(path: Path) -> None:
    """Change a database so that it needs no write-ahead log, and sync it; opening it for use reverts that."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
