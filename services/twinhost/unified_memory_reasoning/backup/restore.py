"""A backup on its way into the database's place: taken in part by part, checked whole, staged for the next start.

The database in use is not touched. At the next start, before anything is opened, it is set aside, and the staged
one takes its place (`twinhost.store.backup.prepare`).
"""

import sqlite3
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import structlog

from twinhost.agent.assembly import StartAgain
from twinhost.secure_zmq.errors import LimitReached, MalformedRequest, NotFound, RequestError, StoreUnavailable
from twinhost.store.backup import Rows, check_copy, count_readable_rows, count_rows, require_space, stage
from twinhost.store.damage import unacknowledged
from twinhost.store.database import Database
from twinhost.store.files import PARTS, part

_log = structlog.get_logger(__name__)

KEEP_S = 600.0  # after its last part came
UNTOLD_S = 10.0  # after it was staged: the agent starts anew also where nobody asks what came of it
_SUFFIX = ".incoming-"


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
        for path in self._folder.glob(f"{database.path.name}{_SUFFIX}*"):  # of an earlier process
            path.unlink(missing_ok=True)

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
        require_space(self._folder, size or 0)
        restore_id = uuid.uuid4().hex
        path = part(self._database.path, f"{_SUFFIX}{restore_id}")
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
        require_space(self._folder, len(data))
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
        threading.Thread(target=self._work, args=(incoming, sha256), name="restore", daemon=True).start()

    def _work(self, incoming: _Incoming, sha256: str) -> None:
        try:
            incoming.exchange = self._stage(incoming, sha256)
            incoming.staged_at = time.monotonic()
        except RequestError as error:
            _log.error("restore_refused", restore_id=incoming.restore_id, reason=str(error))
            incoming.failure = error
        except Exception as error:  # noqa: BLE001 - boundary: a check that ends without a word would be waited for for ever
            _log.exception("restore_failed", restore_id=incoming.restore_id)
            incoming.failure = StoreUnavailable(f"the backup can't be checked ({error}); see the agent's log")
        incoming.touched = time.monotonic()
        incoming.checking = False

    def _stage(self, incoming: _Incoming, sha256: str) -> Exchange:
        rows = check_copy(incoming.path, self._database.migrations, sha256)
        try:
            damaged = unacknowledged(self._database.path)
            exchange = Exchange(
                backup=rows,
                present=count_rows(self._database.path),
                damaged=count_readable_rows(self._folder / damaged[-1].name) if damaged else None,
            )
            stage(incoming.path, self._database.path)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"the backup can't be staged ({error}); see the agent's volume") from None
        _log.warning("restore_staged", restore_id=incoming.restore_id)
        return exchange

    def _find(self, restore_id: str) -> _Incoming:
        if self._incoming is None or self._incoming.restore_id != restore_id:
            raise NotFound(f"there is no restore {restore_id!r}: a newer one was begun, or it was dropped; begin anew")
        return self._incoming

    def _drop(self) -> None:
        if self._incoming is not None:
            incoming, self._incoming = self._incoming, None
            with suppress(OSError):  # closing writes what waits to be written
                incoming.stream.close()
            for suffix in PARTS:  # a file that claims to have a log gets an empty one where it is looked at
                with suppress(OSError):  # the next start removes it
                    part(incoming.path, suffix).unlink(missing_ok=True)

    @property
    def _folder(self) -> Path:
        return self._database.path.parent
