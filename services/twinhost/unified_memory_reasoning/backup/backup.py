"""Backups and restores of the database in use, one of each at a time, by threads of their own.

A backup is a copy of the database beside it. A restore is taken in part by part, checked whole, and staged for the next
start. The database in use is not touched. At that start, before anything is opened, it is quarantined, and the staged
one takes its place (`twinhost.store.backup.prepare`).
"""

import dataclasses
import sqlite3
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import structlog

from twinhost.agent.assembly import StartAgain
from twinhost.secure_zmq.errors import LimitReached, MalformedRequest, NotFound, RequestError, StoreUnavailable
from twinhost.store.backup import (
    Copy,
    Rows,
    Transfers,
    Work,
    check_copy,
    copy_database,
    count_readable_rows,
    count_rows,
    require_space,
    stage,
)
from twinhost.store.damage import unacknowledged
from twinhost.store.database import Database

_log = structlog.get_logger(__name__)

KEEP_S = 600.0  # after a backup was read last, or after the last part of a restore came
UNTOLD_S = 10.0  # after a restore was staged: the agent starts anew also where nobody asks what came of it

State = Literal["copying", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup; `begun` in seconds since the epoch, `copy` once it is ready, `failure` where it never will be."""

    backup_id: str
    begun: float
    copy: Copy | None = None
    failure: str | None = None

    @property
    def state(self) -> State:
        if self.failure is not None:
            return "failed"
        return "ready" if self.copy is not None else "copying"


class Backups:
    """One backup at a time, for whoever asked to read it; it is removed 10 minutes after that, and by the next."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._current: Backup | None = None
        self._read_at = 0.0  # monotonic
        self._files = Transfers(database.path, ".backup-")

    def begin(self) -> Backup:
        """Begin a copy, once the transaction under way is durable; the backup before it is removed.

        Raises:
            LimitReached: one is being made.
            StoreUnavailable: there is no space for it.
        """
        before = self._current
        if before is not None and before.state == "copying":
            raise LimitReached(f"backup {before.backup_id} is being made; wait for it, or read that one")
        self._files.remove_all()
        self._current = None
        require_space(self._files.folder, self._database.size_bytes)
        backup = self._current = Backup(uuid.uuid4().hex, time.time())

        def forget() -> None:
            self._current = None

        self._database.on_rollback(forget)
        self._database.after_commit(lambda: self._start(backup))
        return backup

    def find(self, backup_id: str) -> Backup:
        """Return a backup.

        Raises:
            NotFound: it was removed, or never was.
        """
        if self._current is None or self._current.backup_id != backup_id:
            raise NotFound(
                f"there is no backup {backup_id!r}: a newer one was begun, or {KEEP_S:g} s went by; begin one"
            )
        return self._current

    def read(self, backup_id: str, offset: int, most_bytes: int) -> tuple[Copy, bytes]:
        """Return a finished backup, and its bytes from `offset` on: `most_bytes` at most, none at its end.

        Raises:
            NotFound: there is no such backup.
            LimitReached: it is not finished yet.
            MalformedRequest: the offset lies beyond its end.
            StoreUnavailable: it could not be made, or can't be read.
        """
        backup = self.find(backup_id)
        if backup.failure is not None:
            raise StoreUnavailable(backup.failure)
        if backup.copy is None:
            raise LimitReached(f"backup {backup_id} is being made; ask backup_status until it is ready")
        if offset > backup.copy.size_bytes:
            raise MalformedRequest(f"the backup has {backup.copy.size_bytes} bytes, got {offset} - at `$.offset`")
        self._read_at = time.monotonic()
        try:
            with self._files.path(backup_id).open("rb") as stream:
                stream.seek(offset)
                return backup.copy, stream.read(most_bytes)
        except OSError as error:
            raise StoreUnavailable(f"the backup can't be read ({error.strerror}); begin another") from None

    def on_tick(self) -> None:
        """Remove a backup that nobody has read for a while."""
        current = self._current
        if current is not None and current.state != "copying" and time.monotonic() - self._read_at > KEEP_S:
            self._files.remove_all()
            self._current = None

    def _start(self, backup: Backup) -> None:
        work = Work("backup", "backup_failed", "the backup can't be made", {"backup_id": backup.backup_id})
        work.start(lambda: self._make(backup), lambda error: self._end(dataclasses.replace(backup, failure=str(error))))

    def _make(self, backup: Backup) -> None:
        began = time.monotonic()
        copy = copy_database(self._database.path, self._files.path(backup.backup_id))
        ms = round(1_000 * (time.monotonic() - began))
        _log.info("backup_ready", backup_id=backup.backup_id, size_bytes=copy.size_bytes, ms=ms)
        self._end(dataclasses.replace(backup, copy=copy))

    def _end(self, backup: Backup) -> None:
        self._read_at = time.monotonic()
        self._current = backup


@dataclass(frozen=True, slots=True)
class Exchange:
    """How many rows of each table the backup has, and the database that gives way to it.

    `damaged` are those of the newest damaged database that nobody has acknowledged, as far as they can be counted;
    None where there is none.
    """

    backup: Rows
    present: Rows
    damaged: dict[str, int | None] | None


@dataclass(slots=True)
class _Incoming:
    restore_id: str
    path: Path
    stream: BinaryIO
    size: int | None
    sha256: str | None
    received: int = 0
    touched: float = field(default_factory=time.monotonic)
    checking: bool = False
    failure: RequestError | None = None
    exchange: Exchange | None = None
    staged_at: float = 0.0
    told: bool = False


class Restores:
    """One restore at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._incoming: _Incoming | None = None
        self._files = Transfers(database.path, ".incoming-")

    def begin(self, size: int | None, sha256: str | None) -> str:
        """Begin to take in a backup, in place of one that was begun before; return its id.

        Args:
            size: in bytes, where it is known.
            sha256: of its bytes in hex, where it is known.

        Raises:
            LimitReached: another is checked or staged.
            StoreUnavailable: there is no space for it.
        """
        if self._incoming is not None and (self._incoming.checking or self._incoming.exchange is not None):
            raise LimitReached(f"restore {self._incoming.restore_id} is being put in place; wait for the agent's start")
        self._drop()
        require_space(self._files.folder, size or 0)
        restore_id = uuid.uuid4().hex
        path = self._files.path(restore_id)
        try:
            path.touch(0o600, exist_ok=False)  # nobody else can open it, not even for a moment
            stream = path.open("wb")
        except OSError as error:
            raise StoreUnavailable(f"{path} can't be made ({error.strerror}); see the agent's volume") from None
        self._incoming = _Incoming(restore_id, path, stream, size, sha256)
        return restore_id

    def write(self, restore_id: str, offset: int, data: bytes) -> int:
        """Take in a part; return how many bytes have come. One that has come already changes nothing.

        Raises:
            NotFound: there is no such restore.
            MalformedRequest: it does not follow what has come, or there is more than was told.
            LimitReached: it is being checked.
            StoreUnavailable: there is no space for it.
        """
        incoming = self._find(restore_id)
        if incoming.checking or incoming.exchange is not None:
            raise LimitReached(f"restore {restore_id} is complete and is being checked; ask finish_restore")
        if offset + len(data) <= incoming.received:
            return incoming.received
        if offset != incoming.received:
            raise MalformedRequest(
                f"{incoming.received} bytes have come; go on from there, got {offset} - at `$.offset`"
            )
        if incoming.size is not None and offset + len(data) > incoming.size:
            raise MalformedRequest(f"{incoming.size} bytes were told and more have come; begin anew - at `$.data`")
        require_space(self._files.folder, len(data))
        try:
            incoming.stream.write(data)
            incoming.stream.flush()  # here a full volume says so, and not where the stream is closed
        except OSError as error:
            self._drop()
            raise StoreUnavailable(f"the backup can't be written ({error.strerror}); begin anew") from None
        incoming.received += len(data)
        incoming.touched = time.monotonic()
        return incoming.received

    def finish(self, restore_id: str, size: int | None, sha256: str | None) -> Exchange | None:
        """Check the backup and stage it, in a thread of its own; return what it exchanges, None while that goes on.

        Once it was returned, the next tick starts the agent anew.

        Raises:
            NotFound: there is no such restore.
            MalformedRequest: it is incomplete, or no backup of this agent; in the second case it is dropped.
            StoreUnavailable: it can't be read or staged.
        """
        incoming = self._find(restore_id)
        if incoming.failure is not None:
            self._drop()
            raise incoming.failure
        if incoming.exchange is not None:
            incoming.told = True
            return incoming.exchange
        if not incoming.checking:
            self._check(incoming, size or incoming.size, sha256 or incoming.sha256)
        return None

    def on_tick(self) -> None:
        """Drop what nobody goes on with.

        Raises:
            StartAgain: a backup is staged, and whoever sent it was told.
        """
        incoming = self._incoming
        if incoming is None:
            return
        now = time.monotonic()
        if incoming.exchange is not None:
            if incoming.told or now - incoming.staged_at > UNTOLD_S:
                raise StartAgain(f"restore {incoming.restore_id} is staged and takes the database's place")
        elif not incoming.checking and now - incoming.touched > KEEP_S:
            self._drop()

    def _check(self, incoming: _Incoming, size: int | None, sha256: str | None) -> None:
        if size is None or sha256 is None:
            missing = "size" if size is None else "sha256"
            raise MalformedRequest(f"neither begin_restore nor this says it; tell the whole file's - at `$.{missing}`")
        if incoming.received != size:
            raise MalformedRequest(
                f"{incoming.received} of {size} bytes have come; write the rest from there on - at `$.size`"
            )
        try:
            incoming.stream.close()
        except OSError as error:
            self._drop()
            raise StoreUnavailable(f"the backup can't be written ({error.strerror}); begin anew") from None
        incoming.checking = True
        work = Work("restore", "restore_refused", "the backup can't be checked", {"restore_id": incoming.restore_id})
        work.start(lambda: self._stage(incoming, sha256), lambda error: self._end(incoming, error))

    def _stage(self, incoming: _Incoming, sha256: str) -> None:
        rows = check_copy(incoming.path, self._database.migrations, sha256)
        try:
            damaged = unacknowledged(self._database.path)
            exchange = Exchange(
                backup=rows,
                present=count_rows(self._database.path),
                damaged=count_readable_rows(self._files.folder / damaged[-1].name) if damaged else None,
            )
            stage(incoming.path, self._database.path)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"the backup can't be staged ({error}); see the agent's volume") from None
        _log.warning("restore_staged", restore_id=incoming.restore_id)
        incoming.staged_at = time.monotonic()
        incoming.exchange = exchange  # after `staged_at`, which `on_tick` reads if there is an exchange
        self._end(incoming)

    def _end(self, incoming: _Incoming, failure: RequestError | None = None) -> None:
        incoming.failure = failure
        incoming.touched = time.monotonic()
        incoming.checking = False

    def _find(self, restore_id: str) -> _Incoming:
        if self._incoming is None or self._incoming.restore_id != restore_id:
            raise NotFound(f"there is no restore {restore_id!r}: a newer one was begun, or it was dropped; begin anew")
        return self._incoming

    def _drop(self) -> None:
        if self._incoming is not None:
            incoming, self._incoming = self._incoming, None
            with suppress(OSError):  # closing writes what waits to be written
                incoming.stream.close()
            with suppress(OSError):  # the next start removes them
                self._files.remove_all()  # a file that claims to have a log gets an empty one where it is looked at
