"""Is a database whole? Looked at before it is opened for use, and without changing a byte of it or of its log.

A full-text index (FTS5) is made of rows that are kept elsewhere: where it alone is broken, nothing that was stored is.
"""

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import structlog

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.set_aside import DAMAGED, REPLACED, acknowledge, part, set_aside, sync_folder
from twinhost.store.wal_damage import find_wal_damage, read_wal_index

_log = structlog.get_logger(__name__)

STAGED = ".restore"  # of a checked backup that waits for the next start
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_FORMATS = (1, 2)  # of the header's bytes 18 and 19: with a rollback journal, with a write-ahead log
_MOST_FINDINGS = 3  # that are told
_BROKEN_INDEX = re.compile(r"malformed inverted index for FTS5 table main\.(.+)")
_OF_THE_VOLUME = (  # and not of the database: the same start succeeds once there is space, or a right
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
)  # fmt: skip


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a database, or None where it is whole, or not there at all.

    A file that this process can't read, or that another program has locked, is not damaged: opening it for use says
    what is the matter. Neither is one with the schema of a newer program.
    """
    return "; ".join(_findings(path)) or None


def find_damage_of_rows(path: Path) -> str | None:
    """Return what is wrong with a database beyond its full-text indexes, which `make_way` makes anew of the rows."""
    findings = _findings(path)
    return None if all(map(_broken_index, findings)) else "; ".join(findings)


def _findings(path: Path) -> list[str]:
    wal, shm = part(path, "-wal"), part(path, "-shm")
    index = read_wal_index(shm)
    try:
        header, size = _header(path)
        if size == 0:
            return ["the database is gone and its write-ahead log is there"] if _holds_something(wal) else []
        if not header.startswith(_MAGIC) or size < _HEADER_BYTES or not {*header[18:20]} <= {*_FORMATS}:
            return ["its header can't be read: file is not a database"]
        with closing(connect_to_read(path)) as connection:
            rows = connection.execute(f"PRAGMA quick_check({_MOST_FINDINGS})").fetchall()
            findings = [" ".join(str(each).split()) for (each,) in rows if each != "ok"]
            if not all(map(_broken_index, findings)):
                return findings
            found = read_wal_index(shm)
            of_log = find_wal_damage(wal, index, found.frames if found else 0)
            return [*findings, of_log] if of_log is not None else findings
    except sqlite3.Error as error:
        return [str(error)] if is_damage(error) else []
    except OSError:
        return []


def _broken_index(finding: str) -> str | None:
    """Return the full-text index that a finding is about, and about nothing else."""
    found = _BROKEN_INDEX.fullmatch(finding)
    return found[1] if found else None


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether SQLite says that a file is no database, or a broken one."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _DAMAGE or "unsupported file format" in str(error)


def connect_to_read(path: Path, *, as_it_lies: bool = False) -> sqlite3.Connection:
    """Open a database that this connection can't change; closing it folds no log in.

    Args:
        path: the database.
        as_it_lies: leave its log out of account, and touch nothing beside it.

    Raises:
        sqlite3.Error: it can't be opened.
    """
    how = "mode=ro&immutable=1" if as_it_lies else "mode=ro"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)


def require_whole(path: Path) -> None:
    """Before a start of an agent whose database must not be replaced by an empty one.

    Raises:
        ConfigurationError: it is damaged; neither it nor its log is touched.
    """
    if (why := find_damage(path)) is not None:
        raise ConfigurationError(f"{path} is damaged ({why}) and left as it is; restore a backup, or move it away")


def make_way(path: Path, rebuilds: Mapping[str, str] = MappingProxyType({}), newest: int | None = None) -> None:
    """Before a start: put a staged backup in place, and set a damaged database aside, so that a whole one is opened.

    Nothing is deleted. Whoever restores a backup knows of the damage before it, which is acknowledged by that.

    Args:
        path: the database.
        rebuilds: by full-text index, the SQL script that makes it anew of the rows. A database in which these alone
            are broken stays where it is.
        newest: the newest schema version that these scripts know. A database of a newer program is not touched for
            its indexes: opening it says what is the matter.

    Raises:
        ConfigurationError: a file can't be moved, or there is no space to rebuild an index.
        StoreUnavailable: nor can a note be written.
    """
    staged = part(path, STAGED)
    if staged.exists():
        if (why := find_damage_of_rows(staged)) is not None:
            _log.error("staged_backup_damaged", kept_as=set_aside(staged, DAMAGED).name, reason=why)
        else:
            _put_in_place(staged, path)
    findings = _findings(path)
    scripts = [rebuilds.get(_broken_index(each) or "") for each in findings]
    if findings and None not in scripts:
        if newest is not None and _schema_version(path) > newest:
            return
        findings = _rebuilt(path, findings, [script for script in scripts if script is not None])
    if findings:
        _log.error("database_damaged", kept_as=set_aside(path, DAMAGED).name, reason="; ".join(findings))


def _schema_version(path: Path) -> int:
    with closing(connect_to_read(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _rebuilt(path: Path, findings: list[str], scripts: list[str]) -> list[str]:
    """Make the indexes of these findings anew; return what is wrong with the database then."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # as `Database` does: what is cut short here is undone there
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(f"BEGIN IMMEDIATE; {'; '.join(scripts)}; COMMIT;")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_VOLUME:
            raise ConfigurationError(
                f"{path} has a broken index ({'; '.join(findings)}) that can't be rebuilt ({error}); "
                "free space on its volume, and see its mode"
            ) from None
        return [*findings, f"it can't be rebuilt: {error}"]
    if not (left := _findings(path)):
        _log.warning("index_rebuilt", database=path.name, reason="; ".join(findings))
    return left


def _put_in_place(staged: Path, path: Path) -> None:
    # A time that a start which was cut short finds again, so that one database's files get one name.
    before = set_aside(path, REPLACED, staged.stat().st_mtime)
    try:
        staged.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(
            f"{staged} can't be put in place ({error.strerror}); see the mode of its volume"
        ) from None
    acknowledge(path)
    _log.warning("backup_restored", database=path.name, kept_as=before.name)


def _header(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEADER_BYTES), path.stat().st_size
    except FileNotFoundError:
        return b"", 0


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
