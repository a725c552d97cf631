"""An agent's files at one position of its log, from which another machine begins: made, kept small, and joined.

A snapshot is a copy of the database, which says itself at which position it was made, and what belongs to it beside, as
one tar in parts. Whoever stands by makes it, so that the active process has no work; the active one does if nobody has.
"""

import hashlib
import os
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import msgspec
import structlog

from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable, TwinhostError
from twinhost.secure_zmq.key_writer import fsync_folder
from twinhost.store.backup import copy_database, require_space
from twinhost.store.damage import REPLACED, connect_to_read, quarantine
from twinhost.store.database import LOG_POSITION
from twinhost.store.files import PARTS, part
from twinhost.store.replication.others import others_of
from twinhost.store.replication.postgres import Connect, Extent, Log, OutcomeUnknown
from twinhost.store.replication.statements import OtherSqlite, decoded
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

Beside = Callable[[Path, Path], AbstractContextManager[None]]
"""Around the copy of a database: copies what belongs to it from its folder (the first) into the copy's."""

_PART_BYTES = 1 << 20
_MAKING, _JOINING = ".making", ".joining"  # folders beside the database
_LOOK_S = 60.0
_MUCH = Extent(transactions=100_000, size_bytes=256 << 20)


class _Complete(msgspec.Struct, frozen=True):
    """Part 0 of a snapshot."""

    parts: int
    sha256: str


def remove_leftovers(path: Path) -> None:
    """Remove what a process left beside a database that ended while it made a snapshot, or joined one."""
    for suffix in (_MAKING, _JOINING):
        shutil.rmtree(part(path, suffix), ignore_errors=True)


def nothing_beside(_: Path, __: Path) -> AbstractContextManager[None]:
    """Copy nothing."""
    return nullcontext()


def position_of(path: Path) -> tuple[str, int]:
    """Return the log that a database has repeated, and how far; an empty name if it has repeated none.

    Raises:
        sqlite3.Error: it can't be read.
    """
    with closing(connect_to_read(path)) as connection:
        try:
            row = connection.execute(f"SELECT log, applied FROM {LOG_POSITION}").fetchone()  # noqa: S608 - a constant
        except sqlite3.OperationalError:
            row = None
    return (str(row[0]), int(row[1])) if row else ("", 0)


def write_snapshot(path: Path, beside: Beside, log: Log) -> int:
    """Copy a database that is in use, and what is beside it, into its log; return the copy's position.

    Raises:
        StoreUnavailable: it can't be copied.
        OutcomeUnknown: the snapshot is there as a whole, or not at all.
    """
    folder = part(path, _MAKING)
    try:
        folder.mkdir(mode=0o700)
        require_space(path.parent, sum(file.stat().st_size for file in _parts_of(path)))
        with beside(path.parent, folder):
            copy_database(path, folder / path.name)
            for other in others_of(path):  # later, so that each has what its agent's own database says it has
                _copy_other(other, folder / other.relative_to(path.parent))
        name, applied = position_of(folder / path.name)
        if log.newest_snapshot() < applied:
            with log.new_snapshot(applied, name) as new:
                content = _Parts(new.add)
                with tarfile.open(fileobj=content, mode="w|", bufsize=_PART_BYTES) as tar:  # type: ignore[call-overload]
                    for file in sorted(folder.iterdir()):
                        tar.add(file, file.name)
                new.complete(msgspec.json.encode(_Complete(new.parts, content.sha256.hexdigest())))
            _log.info("snapshot_made", transactions=applied)
        return applied
    except (OSError, sqlite3.Error, tarfile.TarError) as error:
        raise StoreUnavailable(f"{folder} can't be written or read ({error}); free space on its volume") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def join_snapshot(path: Path, log: Log, seq: int, newest: int, before: Callable[[Path], None], *, keeps: bool) -> None:
    """Replace a database, which is closed, and what is beside it by a snapshot, whole or not at all.

    The database comes last. So if this ends in between, there is none, and the next start begins again.

    Args:
        path: the database; it may be missing.
        log: the log, of which the snapshot is.
        seq: its position.
        newest: the schema version that this program knows.
        before: is called with the snapshot's database before anything is replaced.
        keeps: what was there is moved aside, since it is not this log's.

    Raises:
        ConfigurationError: the snapshot can't be used, or there is no space for it.
        OutcomeUnknown: it can't be read now.
    """
    folder = part(path, _JOINING)
    try:
        folder.mkdir(mode=0o700)
        with log.snapshot(seq) as read:
            _extract(read, folder)
        _require_usable(folder / path.name, seq, newest)
        before(folder / path.name)
        _replace(folder, path, keeps=keeps)
    except (OSError, sqlite3.Error, tarfile.TarError, msgspec.DecodeError, EOFError) as error:
        raise ConfigurationError(
            f"the snapshot of transaction {seq} can't be put in place at {path} ({error})"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _log.warning("snapshot_joined", transactions=seq)


def _copy_other(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        copy_database(source, target)
    except StoreUnavailable:
        if source.exists():  # else it was removed meanwhile, which the log says
            raise


class Keeper(Worker):
    """Makes a snapshot once the log has grown by much since the last one, and trims the log."""

    def __init__(self, path: Path, beside: Beside, connect: Connect, lock: threading.Lock) -> None:
        """Prepare it.

        Args:
            path: the database, which this only reads.
            beside: copies what belongs to it.
            connect: connects to the log.
            lock: is held while the files are read.
        """
        super().__init__("snapshots", self._run, join_timeout_s=1.0)
        self._path, self._beside, self._connect, self._lock = path, beside, connect, lock
        self.active = False  # else a standby, which is to do it first

    def look(self, log: Log) -> None:
        """Make a snapshot if one is due.

        Raises:
            StoreUnavailable, OutcomeUnknown: it can't be made now.
        """
        if self._is_due(log):
            with self._lock:
                write_snapshot(self._path, self._beside, log)
            log.trim()

    def _is_due(self, log: Log) -> bool:
        if not (newest := log.newest_snapshot()) and log.first() != 1:
            return position_of(self._path)[1] > 0  # the log begins with what was there before
        if self.active and _goes_on_with_another_sqlite(log, newest):
            return True
        patience = 2 if self.active else 1
        extent = log.size_after(newest)
        size_bytes = max(_MUCH.size_bytes, sum(file.stat().st_size for file in _parts_of(self._path)))
        return extent.transactions >= patience * _MUCH.transactions or extent.size_bytes >= patience * size_bytes

    def _run(self) -> None:
        while True:
            try:
                with closing(self._connect()) as log:
                    self.look(log)
            except (TwinhostError, OutcomeUnknown, OSError, sqlite3.Error) as error:
                _log.warning("snapshot_not_made", reason=str(error))
            if self.wait(_LOOK_S):
                return


def _goes_on_with_another_sqlite(log: Log, snapshot: int) -> bool:
    """Return whether a standby with this process's SQLite could not repeat what comes after a snapshot."""
    try:
        for entry in log.after(snapshot, snapshot + 1):
            decoded(entry.statements)
    except OtherSqlite:
        return True
    return False


class _Parts:
    """A file that is written as parts, and their hash."""

    def __init__(self, add: Callable[[bytes], None]) -> None:
        self._add = add
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> None:
        self.sha256.update(content)
        self._add(content)


class _Joined:
    """A file that is read from parts, and their hash."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest = parts, b""
        self.sha256 = hashlib.sha256()

    def read(self, length: int) -> bytes:
        while not self._rest:
            self._rest = next(self._parts, b"")
            if not self._rest:
                return b""
            self.sha256.update(self._rest)
        content, self._rest = self._rest[:length], self._rest[length:]
        return content


def _extract(read: Callable[[int], bytes], folder: Path) -> None:
    complete = msgspec.json.decode(read(0), type=_Complete)
    content = _Joined(read(number) for number in range(1, complete.parts + 1))
    with tarfile.open(fileobj=content, mode="r|", bufsize=_PART_BYTES) as tar:  # type: ignore[call-overload]
        tar.extractall(folder, filter="data")
    while content.read(_PART_BYTES):
        pass
    if content.sha256.hexdigest() != complete.sha256:
        raise EOFError("its parts have another hash")


def _require_usable(database: Path, seq: int, newest: int) -> None:
    with closing(connect_to_read(database)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > newest:
        raise ConfigurationError(
            f"the log has schema version {version} and this program knows {newest}; run the same image on both machines"
        )
    if position_of(database)[1] != seq:
        raise EOFError("it is of another position")
    for file in database.parent.rglob("*"):
        file.chmod(0o700 if file.is_dir() else 0o600)
        _sync(file)


def _replace(folder: Path, path: Path, *, keeps: bool) -> None:
    """Put what is in a folder in place, the database last."""
    suffix = f".{REPLACED}"
    if keeps and path.exists() and path.stat().st_size:
        suffix = quarantine(path, REPLACED).name.removeprefix(path.name)
    for file in _parts_of(path):
        file.unlink()
    with_others = {other.relative_to(path.parent).parts[0] for other in others_of(path)}
    for name in {*with_others, *(new.name for new in folder.iterdir())} - {path.name}:
        present, new = path.parent / name, folder / name
        if keeps and present.exists():
            present.rename(_free(part(present, suffix)))
        elif present.is_dir():
            shutil.rmtree(present)
        if new.exists():
            new.replace(present)
    fsync_folder(path.parent)
    (folder / path.name).replace(path)
    fsync_folder(path.parent)


def _free(path: Path) -> Path:
    """Return a path, with a number if it is taken."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = part(path, f"-{number}")
    return free


def _parts_of(path: Path) -> list[Path]:
    return [file for suffix in PARTS if (file := part(path, suffix)).exists()]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
