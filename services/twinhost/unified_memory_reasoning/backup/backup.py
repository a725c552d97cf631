"""The newest backup: a copy of the database beside it, made in a thread of its own while requests are answered."""

import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from twinhost.secure_zmq.errors import LimitReached, MalformedRequest, NotFound, StoreUnavailable
from twinhost.store.backup import Copy, copy_database, require_space
from twinhost.store.database import Database
from twinhost.store.files import part

_log = structlog.get_logger(__name__)

KEEP_S = 600.0  # after it was read last
_SUFFIX = ".backup-"

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
        self._remove()

    def begin(self) -> Backup:
        """Begin a copy, once the transaction under way is durable; the backup before it is removed.

        Raises:
            LimitReached: one is being made.
            StoreUnavailable: there is no space for it.
        """
        before = self._current
        if before is not None and before.state == "copying":
            raise LimitReached(f"backup {before.backup_id} is being made; wait for it, or read that one")
        self._remove()
        self._current = None
        require_space(self._database.path.parent, self._database.size_bytes)
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

    def read(self, backup_id: str, offset: int, most_bytes: int) -> bytes:
        """Return the bytes of a finished backup from `offset` on, `most_bytes` at most, none at its end.

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
            with self._path(backup).open("rb") as stream:
                stream.seek(offset)
                return stream.read(most_bytes)
        except OSError as error:
            raise StoreUnavailable(f"the backup can't be read ({error.strerror}); begin another") from None

    def on_tick(self) -> None:
        """Remove a backup that nobody has read for a while."""
        current = self._current
        if current is not None and current.state != "copying" and time.monotonic() - self._read_at > KEEP_S:
            self._remove()
            self._current = None

    def _start(self, backup: Backup) -> None:
        try:
            threading.Thread(target=self._make, args=(backup,), name="backup", daemon=True).start()
        except RuntimeError as error:  # no thread is to be had
            _log.error("backup_failed", backup_id=backup.backup_id, reason=str(error))
            failure = f"the backup can't be made ({error}); free memory on the agent's host and begin another"
            self._current = Backup(backup.backup_id, backup.begun, failure=failure)
            self._read_at = time.monotonic()

    def _make(self, backup: Backup) -> None:
        began = time.monotonic()
        try:
            copy = copy_database(self._database.path, self._path(backup))
        except StoreUnavailable as error:
            _log.error("backup_failed", backup_id=backup.backup_id, reason=str(error))
            done = Backup(backup.backup_id, backup.begun, failure=str(error))
        except Exception as error:  # noqa: BLE001 - boundary: a copy that ends without a word would be waited for for ever
            _log.exception("backup_failed", backup_id=backup.backup_id)
            failure = f"the backup can't be made ({error}); see the agent's log"
            done = Backup(backup.backup_id, backup.begun, failure=failure)
        else:
            ms = round(1_000 * (time.monotonic() - began))
            _log.info("backup_ready", backup_id=backup.backup_id, size_bytes=copy.size_bytes, ms=ms)
            done = Backup(backup.backup_id, backup.begun, copy)
        self._read_at = time.monotonic()
        self._current = done

    def _path(self, backup: Backup) -> Path:
        return part(self._database.path, f"{_SUFFIX}{backup.backup_id}")

    def _remove(self) -> None:
        """Remove every copy there is, those of an earlier process too."""
        for path in self._database.path.parent.glob(f"{self._database.path.name}{_SUFFIX}*"):
            path.unlink(missing_ok=True)
