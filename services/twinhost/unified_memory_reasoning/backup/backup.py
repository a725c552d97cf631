"""Backups and restores of the database in use, one of each at a time, in worker threads.

A backup is a copy of the database, in the same folder; other spaces may be in it, as rows of one more table. A restore
receives a backup part by part, checks the whole, and stages it for the next start; the database in use is not touched.
At that start, before anything is opened, the database is moved away, and the staged copy takes its place
(`twinhost.store.backup.prepare`).
"""

import dataclasses
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

import structlog

from twinhost.agent.assembly import StartAgain
from twinhost.secure_zmq.errors import (
    LimitReached,
    MalformedRequest,
    NotFound,
    NotGranted,
    RequestError,
    StoreUnavailable,
)
from twinhost.store.backup import (
    Copy,
    Rows,
    Transfers,
    Work,
    check_copy,
    copy_database,
    count_readable_rows,
    count_rows,
    digest_of,
    require_digest,
    require_space,
    stage,
)
from twinhost.store.damage import unacknowledged
from twinhost.store.database import Database
from twinhost.store.enclosed import enclose, encloses, take_out
from twinhost.store.files import part
from twinhost.store.row_comparison import Compared, compare_rows

_log = structlog.get_logger(__name__)

KEEP_S = 600.0  # after the last read of a backup, or the last part of a restore
REPORTED_S = 1.0  # after the result was sent: a client that has not read it loses it when its connection ends
UNREPORTED_S = 10.0  # after staging: then the agent restarts even if nobody polled for the result

KEYS = {  # of tables without a unique key: after a restore, a row's number may be another row's
    "interactions": ("id", "session_id", "content", "created", "written_by"),
    "outbox": ("seq", "request_id"),
}

NO_SPACES: Mapping[str, Path] = MappingProxyType({})

State = Literal["copying", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup; `begun` in seconds since the epoch, `copy` if it is ready, `failure` if it failed.

    It has `spaces` in it too: once it is ready, those of which there was a database.
    """

    backup_id: str
    begun: float
    spaces: tuple[str, ...] = ()
    copy: Copy | None = None
    failure: str | None = None

    @property
    def state(self) -> State:
        if self.failure is not None:
            return "failed"
        return "ready" if self.copy is not None else "copying"


class Backups:
    """One backup at a time; it is removed 10 minutes after its last read, or when the next one begins."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = database.clock
        self._current: Backup | None = None
        self._read_at = 0.0  # monotonic
        self._files = Transfers(database.path, ".backup-")

    def begin(self, spaces: Mapping[str, Path] = NO_SPACES, spaces_bytes: int = 0) -> Backup:
        """Begin a copy after the current transaction is committed; the previous backup is removed.

        Args:
            spaces: the databases of other spaces that are copied into it.
            spaces_bytes: how much they take.

        Raises:
            LimitReached: one is being copied.
            StoreUnavailable: there is no space for it.
        """
        before = self._current
        if before is not None and before.state == "copying":
            raise LimitReached(
                f"backup {before.backup_id} is being copied; poll `backup_status` until it is ready, then read it"
            )
        self._files.remove_all()
        self._current = None
        require_space(self._files.folder, self._database.size_bytes + 2 * spaces_bytes)
        backup = self._current = Backup(uuid.uuid4().hex, self._clock.time(), tuple(spaces))

        def forget() -> None:
            self._current = None

        self._database.on_rollback(forget)
        self._database.after_commit(lambda: self._start(backup, spaces))
        return backup

    def find(self, backup_id: str, *, with_spaces: bool) -> Backup:
        """Return a backup; one with the spaces in it only `with_spaces`.

        Raises:
            NotFound: it was removed, or never existed.
        """
        current = self._current
        if current is None or current.backup_id != backup_id or (current.spaces and not with_spaces):
            raise NotFound(
                f"there is no backup {backup_id!r}: it was unread for {KEEP_S:g} s, or a newer one was begun; "
                "begin one (`begin_backup`)"
            )
        return current

    def read(self, backup_id: str, offset: int, most_bytes: int, *, with_spaces: bool) -> tuple[Copy, bytes]:
        """Return a finished backup, and its bytes from `offset` on: `most_bytes` at most, none at its end.

        Raises:
            NotFound: there is no such backup.
            LimitReached: it is not finished yet.
            MalformedRequest: the offset lies beyond its end.
            StoreUnavailable: it could not be made, or can't be read.
        """
        backup = self.find(backup_id, with_spaces=with_spaces)
        if backup.failure is not None:
            raise StoreUnavailable(backup.failure)
        if backup.copy is None:
            raise LimitReached(f"backup {backup_id} is being copied; poll `backup_status` until it is ready")
        if offset > backup.copy.size_bytes:
            raise MalformedRequest(f"Expected at most {backup.copy.size_bytes}, its size, got {offset} - at `$.offset`")
        self._read_at = self._clock.monotonic()
        try:
            with self._files.path(backup_id).open("rb") as stream:
                stream.seek(offset)
                return backup.copy, stream.read(most_bytes)
        except OSError as error:
            raise StoreUnavailable(
                f"the backup can't be read ({error.strerror}); begin another (`begin_backup`)"
            ) from None

    def on_tick(self) -> None:
        """Remove a backup that nobody has read for 10 minutes."""
        current = self._current
        if current is not None and current.state != "copying" and self._clock.monotonic() - self._read_at > KEEP_S:
            self._files.remove_all()
            self._current = None

    def _start(self, backup: Backup, spaces: Mapping[str, Path]) -> None:
        work = Work(
            "backup", "backup_failed", "backup_failed", "the backup can't be made", {"backup_id": backup.backup_id}
        )
        work.start(
            lambda: self._make(backup, spaces),
            lambda error: self._end(dataclasses.replace(backup, failure=str(error))),
        )

    def _make(self, backup: Backup, spaces: Mapping[str, Path]) -> None:
        began, path = self._clock.monotonic(), self._files.path(backup.backup_id)
        copy = copy_database(self._database.path, path)
        if spaces:
            backup = dataclasses.replace(backup, spaces=tuple(enclose(path, spaces)))
            copy = Copy(path.stat().st_size, digest_of(path), copy.rows)
        ms = round(1_000 * (self._clock.monotonic() - began))
        _log.info("backup_ready", backup_id=backup.backup_id, size_bytes=copy.size_bytes, ms=ms)
        self._end(dataclasses.replace(backup, copy=copy))

    def _end(self, backup: Backup) -> None:
        self._read_at = self._clock.monotonic()
        self._current = backup


@dataclass(frozen=True, slots=True)
class Exchange:
    """The number of rows by table in the backup and in the database that it replaces.

    `damaged` has those of the newest damaged database that nobody has acknowledged, as far as they can be counted; None
    if there is none. `compared` compares the backup's rows with the damaged database's, or else with the present ones.
    """

    backup: Rows
    present: Rows
    damaged: dict[str, int | None] | None
    compared: dict[str, Compared]
    spaces: tuple[str, ...] = ()  # that the backup has too


@dataclass(slots=True)
class _Incoming:
    restore_id: str
    path: Path
    stream: BinaryIO
    size: int | None
    sha256: str | None
    touched: float  # monotonic, as are the others
    received: int = 0
    checking: bool = False
    failure: RequestError | None = None
    exchange: Exchange | None = None
    path_for: Callable[[str], Path] | None = None  # of a space in the backup
    staged_at: float = 0.0
    reported_at: float | None = None


class Restores:
    """One restore at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = database.clock
        self._incoming: _Incoming | None = None
        self._files = Transfers(database.path, ".incoming-")

    def begin(self, size: int | None, sha256: str | None) -> str:
        """Begin to receive a backup and drop an unfinished restore; return the id of the new one.

        Args:
            size: in bytes, if known.
            sha256: of its bytes in hex, if known.

        Raises:
            LimitReached: another is being checked, or is staged.
            StoreUnavailable: there is no space for it.
        """
        if self._incoming is not None and (self._incoming.checking or self._incoming.exchange is not None):
            raise LimitReached(f"restore {self._incoming.restore_id} is complete; poll `finish_restore` for its result")
        self._drop()
        require_space(self._files.folder, size or 0)
        restore_id = uuid.uuid4().hex
        path = self._files.path(restore_id)
        try:
            path.touch(0o600, exist_ok=False)  # private before it has any content
            stream = path.open("wb")
        except OSError as error:
            raise StoreUnavailable(f"{path} can't be created ({error.strerror}); check the agent's volume") from None
        self._incoming = _Incoming(restore_id, path, stream, size, sha256, self._clock.monotonic())
        return restore_id

    def write(self, restore_id: str, offset: int, data: bytes) -> int:
        """Receive a part; return how many bytes were received. A part that was received before changes nothing.

        Raises:
            NotFound: there is no such restore.
            MalformedRequest: it does not follow the part before it, or exceeds the announced size.
            LimitReached: it is being checked.
            StoreUnavailable: there is no space for it.
        """
        incoming = self._find(restore_id)
        if incoming.checking or incoming.exchange is not None:
            raise LimitReached(f"restore {restore_id} is complete and is being checked; poll `finish_restore`")
        if offset + len(data) <= incoming.received:
            return incoming.received
        if offset != incoming.received:
            raise MalformedRequest(
                f"Expected {incoming.received}, the number of bytes received, got {offset} - at `$.offset`"
            )
        if incoming.size is not None and offset + len(data) > incoming.size:
            raise MalformedRequest(
                f"the parts exceed the {incoming.size} bytes given to `begin_restore`; begin the restore again "
                "- at `$.data`"
            )
        require_space(self._files.folder, len(data))
        try:
            incoming.stream.write(data)
            incoming.stream.flush()  # a full volume fails here, and not when the stream is closed
        except OSError as error:
            self._drop()
            raise StoreUnavailable(f"the backup can't be written ({error.strerror}); begin the restore again") from None
        incoming.received += len(data)
        incoming.touched = self._clock.monotonic()
        return incoming.received

    def finish(
        self, restore_id: str, size: int | None, sha256: str | None, path_for: Callable[[str], Path] | None = None
    ) -> Exchange | None:
        """Check and stage the backup in a worker thread; return None until that is done, then the numbers of rows.

        A second after they were returned, the agent restarts.

        Args:
            restore_id: which one.
            size: of the backup in bytes, unless it is known from the beginning.
            sha256: likewise.
            path_for: returns the database of a space that the backup has too, in a folder that exists; it may refuse
                the name. None: a backup with spaces is refused.

        Raises:
            NotFound: there is no such restore.
            MalformedRequest: it is incomplete, or not a backup of this agent; in the second case it is dropped.
            StoreUnavailable: it can't be read or staged.
        """
        incoming = self._find(restore_id)
        if incoming.failure is not None:
            self._drop()
            raise incoming.failure
        if incoming.exchange is not None:
            incoming.reported_at = incoming.reported_at or self._clock.monotonic()
            return incoming.exchange
        if not incoming.checking:
            incoming.path_for = path_for
            self._check(incoming, size or incoming.size, sha256 or incoming.sha256)
        return None

    def on_tick(self) -> None:
        """Drop an abandoned restore.

        Raises:
            StartAgain: a backup is staged, and its sender was notified or doesn't poll.
        """
        incoming = self._incoming
        if incoming is None:
            return
        now = self._clock.monotonic()
        if incoming.exchange is not None:
            reported = incoming.reported_at is not None and now - incoming.reported_at > REPORTED_S
            if reported or now - incoming.staged_at > UNREPORTED_S:
                raise StartAgain(f"restore {incoming.restore_id} is staged and replaces the database")
        elif not incoming.checking and now - incoming.touched > KEEP_S:
            self._drop()

    def _check(self, incoming: _Incoming, size: int | None, sha256: str | None) -> None:
        if size is None or sha256 is None:
            missing = "size" if size is None else "sha256"
            raise MalformedRequest(
                f"Object missing required field `{missing}`, here or in `begin_restore` - at `$.{missing}`"
            )
        if incoming.received != size:
            raise MalformedRequest(
                f"{incoming.received} of {size} bytes were received; send the rest (`write_restore`) - at `$.size`"
            )
        try:
            incoming.stream.close()
        except OSError as error:
            self._drop()
            raise StoreUnavailable(f"the backup can't be written ({error.strerror}); begin the restore again") from None
        incoming.checking = True
        fields = {"restore_id": incoming.restore_id}
        work = Work("restore", "restore_failed", "restore_refused", "the backup can't be checked", fields)
        work.start(lambda: self._stage(incoming, sha256), lambda error: self._end(incoming, error))

    def _stage(self, incoming: _Incoming, sha256: str) -> None:
        spaces: dict[str, Path] = {}  # where the database of each is, and the received one beside it
        try:
            if encloses(incoming.path):
                sha256 = self._take_out(incoming, sha256, spaces)
            self._check_and_stage(incoming, sha256, spaces)
        finally:
            for path in spaces.values():
                _received(path, incoming).unlink(missing_ok=True)

    def _take_out(self, incoming: _Incoming, sha256: str, spaces: dict[str, Path]) -> str:
        """Put the databases in a backup beside those of the spaces; return the digest of what is left."""
        require_digest(incoming.path, sha256)
        path_for = incoming.path_for
        if path_for is None:
            raise NotGranted("the file has spaces in it, which only an operator restores; ask one of them")

        def received(name: str) -> Path:
            spaces[name] = path_for(name)
            return _received(spaces[name], incoming)

        try:
            for name, file in take_out(incoming.path, received).items():
                _log.info("space_received", restore_id=incoming.restore_id, space=name)
                check_copy(file, self._database.migrations, digest_of(file))
            return digest_of(incoming.path)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(
                f"the spaces in the backup can't be written ({error}); check the agent's volume"
            ) from None

    def _check_and_stage(self, incoming: _Incoming, sha256: str, spaces: Mapping[str, Path]) -> None:
        rows = check_copy(incoming.path, self._database.migrations, sha256)
        try:
            quarantined = unacknowledged(self._database.path)
            damaged = self._files.folder / quarantined[-1].name if quarantined else None
            exchange = Exchange(
                backup=rows,
                present=count_rows(self._database.path),
                damaged=count_readable_rows(damaged) if damaged else None,
                compared=compare_rows(
                    incoming.path, damaged or self._database.path, KEYS, immutable=damaged is not None
                ),
                spaces=tuple(sorted(spaces)),
            )
            for path in spaces.values():
                stage(_received(path, incoming), path)
            stage(incoming.path, self._database.path)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"the backup can't be staged ({error}); check the agent's volume") from None
        _log.warning("restore_staged", restore_id=incoming.restore_id)
        incoming.staged_at = self._clock.monotonic()
        incoming.exchange = exchange  # after `staged_at`, which `on_tick` reads if there is an exchange
        self._end(incoming)

    def _end(self, incoming: _Incoming, failure: RequestError | None = None) -> None:
        incoming.failure = failure
        incoming.touched = self._clock.monotonic()
        incoming.checking = False

    def _find(self, restore_id: str) -> _Incoming:
        if self._incoming is None or self._incoming.restore_id != restore_id:
            raise NotFound(
                f"there is no restore {restore_id!r}: it failed, was idle for {KEEP_S:g} s, or a newer one was begun; "
                "begin one (`begin_restore`)"
            )
        return self._incoming

    def _drop(self) -> None:
        if self._incoming is not None:
            incoming, self._incoming = self._incoming, None
            with suppress(OSError):  # closing flushes the stream
                incoming.stream.close()
            with suppress(OSError):  # the next start removes them
                self._files.remove_all()  # with the empty log that SQLite may have created beside it


def _received(path: Path, incoming: _Incoming) -> Path:
    return part(path, f".incoming-{incoming.restore_id}")
