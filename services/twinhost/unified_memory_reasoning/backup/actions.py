"""Backups, restores, and the acknowledgement of damage: an operator's actions."""

from base64 import b64encode
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NotRequired, Protocol, TypedDict

import msgspec
import structlog

from twinhost.agent.backups import BackupRecord
from twinhost.commands import RESTORE_WITH_STANDBYS
from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import LimitReached
from twinhost.store import damage
from twinhost.store.backup import Rows
from twinhost.store.database import Database
from twinhost.store.row_comparison import Compared
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.backup.backup import NO_SPACES, Backup, Backups, Exchange, Restores
from twinhost.unified_memory_reasoning.search.vectors import DERIVED
from twinhost.unified_memory_reasoning.spaces.access import InSpace

MAX_FILE_BYTES = 2**40
MAX_CHUNK_BYTES = 1024 * 1024  # in one message, before base64
BACKUP_ID = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
OFFSET = Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
SIZE = Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
CHUNK = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_CHUNK_BYTES)]  # base64 on the wire
SHA256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}$")]


class BeginBackup(InSpace, tag="begin_backup"):
    """Begin a backup: a copy of the database as it is now.

    An operator's has every other space in it too, unless it names one by `space`, such as `shared`.
    """


class BackupStatus(InSpace, tag="backup_status"):
    """Return the state of a backup."""

    backup_id: BACKUP_ID


class ReadBackup(InSpace, tag="read_backup"):
    """Read a part of a finished backup, in base64, from a byte `offset`."""

    backup_id: BACKUP_ID
    offset: OFFSET


class BeginRestore(InSpace, tag="begin_restore"):
    """Begin a restore: the backup that you send replaces the database; an unfinished restore is dropped.

    Spaces in the backup replace those of their names; others stay as they are.

    `size` (bytes) and `sha256` of the backup may be given here or with `finish_restore`.
    """

    changes_space: ClassVar[bool] = True

    size: SIZE | None = None
    sha256: SHA256 | None = None


class WriteRestore(InSpace, tag="write_restore"):
    """Send the next part of a restore, at most 1 MiB before base64; sending a part again changes nothing."""

    changes_space: ClassVar[bool] = True

    restore_id: BACKUP_ID
    offset: OFFSET
    data: CHUNK


class FinishRestore(InSpace, tag="finish_restore"):
    """Check the backup and restart the agent with it; repeat while the reply says `checking`."""

    changes_space: ClassVar[bool] = True

    restore_id: BACKUP_ID
    size: SIZE | None = None
    sha256: SHA256 | None = None


class AcknowledgeDamage(InSpace, tag="acknowledge_damage"):
    """Accept the loss of a damaged database that was quarantined."""

    changes_space: ClassVar[bool] = True


class BackupDocument(TypedDict):
    """A backup that was begun at `begun` (ISO-8601).

    A failed one has `failure`; a ready one has its size in bytes, its SHA-256, and the number of rows of each table.
    `spaces` names the other spaces that are in it.
    """

    status: Literal["ok"]
    backup_id: str
    state: Literal["copying", "ready", "failed"]
    begun: str
    failure: NotRequired[str]
    size: NotRequired[int]
    sha256: NotRequired[str]
    rows: NotRequired[dict[str, int]]
    spaces: NotRequired[list[str]]


class BackupPart(TypedDict):
    """The bytes from `offset` on in base64, empty at the end, and the size (bytes) and SHA-256 of the whole."""

    status: Literal["ok"]
    backup_id: str
    size: int
    sha256: str
    offset: int
    data: str


class RestoreBegun(TypedDict):
    """The id of the restore, and the most bytes of one part, before base64."""

    status: Literal["ok"]
    restore_id: str
    chunk_bytes: int


class RestoreReceived(TypedDict):
    """How many bytes were received."""

    status: Literal["ok"]
    restore_id: str
    received: int


class TableRows(TypedDict):
    """How many rows a table has now, in the backup, and in a damaged database that nobody has acknowledged.

    `damaged` is absent if there is none, and null if its rows can't be counted. The backup is compared with the damaged
    database, or with the present one if none is damaged, by the identity of the rows: it adds some, leaves some
    unchanged (`kept`), replaces some by others with the same key, and some are missing in it. A number is null if the
    rows can't be read. `lost` is `missing`, or the difference of the counts if only those can be read.
    """

    present: int
    backup: int
    damaged: NotRequired[int | None]
    added: int | None
    kept: int | None
    replaced: int | None
    missing: int | None
    lost: int | None


class RestoreFinished(TypedDict):
    """Whether the backup is still being checked, or is staged to replace the database; then `rows` compares tables.

    `spaces` names the other spaces that it replaces, if there are any in the backup.
    """

    status: Literal["ok"]
    restore_id: str
    state: Literal["checking", "staged"]
    rows: NotRequired[dict[str, TableRows]]
    spaces: NotRequired[list[str]]


class KeptDocument(TypedDict):
    """A damaged database file that is kept."""

    name: str
    size_bytes: int


class DamageAcknowledged(TypedDict):
    """The newly acknowledged files, and all damaged database files that are kept."""

    status: Literal["ok"]
    acknowledged: list[str]
    kept: list[KeptDocument]


_log = structlog.get_logger(__name__)

_ENVELOPE_BYTES = 1_024  # of a message, without its data


class OtherSpaces(Protocol):
    """The spaces beside the one that is backed up."""

    def names(self) -> list[str]: ...
    def path(self, name: str) -> Path: ...
    def size_bytes(self, name: str) -> int: ...
    def place_for(self, name: str) -> Path: ...


class BackupActions(Feature):
    """Makes backups, restores them, and acknowledges damage."""

    def __init__(self, database: Database, max_payload_bytes: int) -> None:
        """Serve a database; `max_payload_bytes` limits requests and replies."""
        self._database = database
        self.others: OtherSpaces | None = None  # of the shared space
        self.record: BackupRecord | None = None  # likewise
        self._whole: Backup | None = None  # the newest that has every space in it
        self._backups = Backups(database)
        self._restores = Restores(database)
        self._chunk_bytes = max(1, min(MAX_CHUNK_BYTES, (max_payload_bytes - _ENVELOPE_BYTES) // 4 * 3))

    def on_tick(self) -> None:
        """Remove abandoned backups and restores.

        Raises:
            StartAgain: the agent must restart with a staged backup.
        """
        self._backups.on_tick()
        self._restores.on_tick()

    @action(mutates=True, unowned="it is for operators")  # so that a retry gets the same one
    def begin_backup(self, request: BeginBackup, caller: Caller) -> BackupDocument:
        others, spaces, size = self.others, NO_SPACES, 0
        if others is not None and caller.operator and request.space is None:
            spaces = {name: others.path(name) for name in others.names()}
            size = sum(map(others.size_bytes, spaces))
        backup = self._backups.begin(spaces, size)
        if others is not None and (spaces or not others.names()):
            self._whole = backup
        _log.info("backup_begun", backup_id=backup.backup_id, by=caller.name)
        return _status(backup)

    @action()
    def backup_status(self, request: BackupStatus, caller: Caller) -> BackupDocument:
        return _status(self._backups.find(request.backup_id, with_spaces=caller.operator))

    @action()
    def read_backup(self, request: ReadBackup, caller: Caller) -> BackupPart:
        copy, data = self._backups.read(
            request.backup_id, request.offset, self._chunk_bytes, with_spaces=caller.operator
        )
        whole, is_read = self._whole, request.offset + len(data) == copy.size_bytes
        if self.record is not None and is_read and whole is not None and whole.backup_id == request.backup_id:
            self.record.backed_up(whole.begun)
        return {
            "status": SUCCESS,
            "backup_id": request.backup_id,
            "size": copy.size_bytes,
            "sha256": copy.sha256,
            "offset": request.offset,
            "data": b64encode(data).decode("ascii"),
        }

    @action()  # these change no row, and may be repeated
    def begin_restore(self, request: BeginRestore, caller: Caller) -> RestoreBegun:
        if self._database.logged:
            raise LimitReached(
                "a standby follows this agent's log (TWINHOST_DATABASE), which a backup would not be in; go back to "
                f"one process of each agent: {RESTORE_WITH_STANDBYS}"
            )
        restore_id = self._restores.begin(request.size, request.sha256)
        _log.warning("restore_begun", restore_id=restore_id, by=caller.name)
        return {"status": SUCCESS, "restore_id": restore_id, "chunk_bytes": self._chunk_bytes}

    @action()
    def write_restore(self, request: WriteRestore, _: Caller) -> RestoreReceived:
        received = self._restores.write(request.restore_id, request.offset, request.data)
        return {"status": SUCCESS, "restore_id": request.restore_id, "received": received}

    @action()
    def finish_restore(self, request: FinishRestore, caller: Caller) -> RestoreFinished:
        path_for = self.others.place_for if self.others is not None and caller.operator else None
        exchange = self._restores.finish(request.restore_id, request.size, request.sha256, path_for)
        if exchange is None:
            return {"status": SUCCESS, "restore_id": request.restore_id, "state": "checking"}
        if self.record is not None:
            self.record.restored()
        finished: RestoreFinished = {
            "status": SUCCESS,
            "restore_id": request.restore_id,
            "state": "staged",
            "rows": _rows(exchange),
        }
        if exchange.spaces:
            finished["spaces"] = list(exchange.spaces)
        return finished

    @action()
    def acknowledge_damage(self, _: AcknowledgeDamage, caller: Caller) -> DamageAcknowledged:
        acknowledged = damage.acknowledge(self._database.path)
        for file in acknowledged:
            _log.warning("damage_acknowledged", kept_as=file.name, by=caller.name)
        kept = damage.quarantined(self._database.path, damage.DAMAGED)
        return {
            "status": SUCCESS,
            "acknowledged": [file.name for file in acknowledged],
            "kept": [{"name": file.name, "size_bytes": file.size_bytes} for file in kept],
        }


def _status(backup: Backup) -> BackupDocument:
    reply: BackupDocument = {
        "status": SUCCESS,
        "backup_id": backup.backup_id,
        "state": backup.state,
        "begun": iso_time(backup.begun),
    }
    if backup.failure is not None:
        reply["failure"] = backup.failure
    if backup.copy is not None and backup.spaces:
        reply["spaces"] = list(backup.spaces)
    if backup.copy is not None:
        reply |= {"size": backup.copy.size_bytes, "sha256": backup.copy.sha256, "rows": _reported(backup.copy.rows)}
    return reply


def _reported(rows: Rows) -> Rows:
    """Return the tables whose rows matter to a user: vectors are in a backup too, and made again where they are not."""
    return {table: number for table, number in rows.items() if table not in DERIVED}


def _rows(exchange: Exchange) -> dict[str, TableRows]:
    rows: dict[str, TableRows] = {}
    for table in sorted(_reported(exchange.present).keys() | _reported(exchange.backup).keys()):
        present, backup = exchange.present.get(table, 0), exchange.backup.get(table, 0)
        compared = exchange.compared.get(table, Compared())
        before = present if exchange.damaged is None else exchange.damaged.get(table)
        fewer = None if before is None else max(0, before - backup)
        rows[table] = {
            "present": present,
            "backup": backup,
            "added": compared.added,
            "kept": compared.kept,
            "replaced": compared.replaced,
            "missing": compared.missing,
            "lost": fewer if compared.missing is None else compared.missing,
        }
        if exchange.damaged is not None:
            rows[table]["damaged"] = before
    return rows
