"""What an operator asks for a backup, a restore, and after damage: every field with its type and its bounds."""

from base64 import b64encode
from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec
import structlog

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import Request
from twinhost.store import damage
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.backup.backup import Backup, Backups
from twinhost.unified_memory_reasoning.backup.restore import Exchange, Restores

MAX_FILE_BYTES = 2**40
MAX_CHUNK_BYTES = 1024 * 1024  # in one message, before base64
BACKUP_ID = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
OFFSET = Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
SIZE = Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
CHUNK = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_CHUNK_BYTES)]  # base64 on the wire
SHA256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}$")]


class BeginBackup(Request, tag="begin_backup"):
    """Make a copy of the database as it is at this moment."""


class BackupStatus(Request, tag="backup_status"):
    """How far a copy is."""

    backup_id: BACKUP_ID


class ReadBackup(Request, tag="read_backup"):
    """A part of a finished copy, in base64."""

    backup_id: BACKUP_ID
    offset: OFFSET


class BeginRestore(Request, tag="begin_restore"):
    """Begin to send a copy that is to take the database's place; one that was begun before is dropped.

    `size` and `sha256` may be told here or by `finish_restore`.
    """

    size: SIZE | None = None
    sha256: SHA256 | None = None


class WriteRestore(Request, tag="write_restore"):
    """The next part of it; one that has come already is taken again."""

    restore_id: BACKUP_ID
    offset: OFFSET
    data: CHUNK


class FinishRestore(Request, tag="finish_restore"):
    """Check what has come, stage it, and start the agent anew with it; ask again while it says `checking`."""

    restore_id: BACKUP_ID
    size: SIZE | None = None
    sha256: SHA256 | None = None


class AcknowledgeDamage(Request, tag="acknowledge_damage"):
    """Note that a damaged database was set aside and that its loss is accepted."""


class BackupDocument(TypedDict):
    """How far a backup is that was begun at `begun` (ISO-8601).

    `failure` is there where it failed; where it is ready, its size in bytes, its SHA-256, and the rows of each table.
    """

    status: Literal["ok"]
    backup_id: str
    state: Literal["copying", "ready", "failed"]
    begun: str
    failure: NotRequired[str]
    size: NotRequired[int]
    sha256: NotRequired[str]
    rows: NotRequired[dict[str, int]]


class BackupPart(TypedDict):
    """The bytes from `offset` on, in base64 and none at the end, and the size and SHA-256 of the whole."""

    status: Literal["ok"]
    backup_id: str
    size: int
    sha256: str
    offset: int
    data: str


class RestoreBegun(TypedDict):
    """Where to send the parts of a backup, and how many bytes one may have before base64."""

    status: Literal["ok"]
    restore_id: str
    chunk_bytes: int


class RestoreReceived(TypedDict):
    """How many bytes have come."""

    status: Literal["ok"]
    restore_id: str
    received: int


class TableRows(TypedDict):
    """How many rows a table has here, in the backup, and in a damaged database that nobody has acknowledged.

    `damaged` is absent where there is none, and null where its rows can't be counted, as is `lost` then: by how many
    rows the backup has fewer than that one, or than the present one where none is damaged.
    """

    present: int
    backup: int
    damaged: NotRequired[int | None]
    lost: int | None


class RestoreFinished(TypedDict):
    """Whether the backup is still checked, or takes the database's place; `rows`, by table, is there in that case."""

    status: Literal["ok"]
    restore_id: str
    state: Literal["checking", "staged"]
    rows: NotRequired[dict[str, TableRows]]


class KeptDocument(TypedDict):
    """A damaged database that is kept, by its file's name."""

    name: str
    size_bytes: int


class DamageAcknowledged(TypedDict):
    """What was acknowledged by this, and every damaged database that is kept."""

    status: Literal["ok"]
    acknowledged: list[str]
    kept: list[KeptDocument]


_log = structlog.get_logger(__name__)

_ENVELOPE_BYTES = 1_024  # what a message has beside its data


class BackupActions(Feature):
    """Backups, restores, and the acknowledgement of damage, as the wire has them."""

    def __init__(self, database: Database, max_payload_bytes: int) -> None:
        """Answer for a database; `max_payload_bytes` is of a message, either way."""
        self._database = database
        self._backups = Backups(database)
        self._restores = Restores(database)
        self._chunk_bytes = max(1, min(MAX_CHUNK_BYTES, (max_payload_bytes - _ENVELOPE_BYTES) // 4 * 3))

    def on_tick(self) -> None:
        """Remove what nobody goes on with.

        Raises:
            StartAgain: a backup is to take the database's place.
        """
        self._backups.on_tick()
        self._restores.on_tick()

    @action(mutates=True)  # so that a retry gets the same one
    def begin_backup(self, _: BeginBackup, caller: Caller) -> BackupDocument:
        backup = self._backups.begin()
        _log.info("backup_begun", backup_id=backup.backup_id, by=caller.name)
        return _status(backup)

    @action()
    def backup_status(self, request: BackupStatus, _: Caller) -> BackupDocument:
        return _status(self._backups.find(request.backup_id))

    @action()
    def read_backup(self, request: ReadBackup, _: Caller) -> BackupPart:
        data = self._backups.read(request.backup_id, request.offset, self._chunk_bytes)
        copy = self._backups.find(request.backup_id).copy
        assert copy is not None
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
        restore_id = self._restores.begin(request.size, request.sha256)
        _log.warning("restore_begun", restore_id=restore_id, by=caller.name)
        return {"status": SUCCESS, "restore_id": restore_id, "chunk_bytes": self._chunk_bytes}

    @action()
    def write_restore(self, request: WriteRestore, _: Caller) -> RestoreReceived:
        received = self._restores.write(request.restore_id, request.offset, request.data)
        return {"status": SUCCESS, "restore_id": request.restore_id, "received": received}

    @action()
    def finish_restore(self, request: FinishRestore, _: Caller) -> RestoreFinished:
        exchange = self._restores.finish(request.restore_id, request.size, request.sha256)
        if exchange is None:
            return {"status": SUCCESS, "restore_id": request.restore_id, "state": "checking"}
        return {"status": SUCCESS, "restore_id": request.restore_id, "state": "staged", "rows": _rows(exchange)}

    @action()
    def acknowledge_damage(self, _: AcknowledgeDamage, caller: Caller) -> DamageAcknowledged:
        news = damage.acknowledge(self._database.path)
        for each in news:
            _log.warning("damage_acknowledged", kept_as=each.name, by=caller.name)
        kept = damage.quarantined(self._database.path, damage.DAMAGED)
        return {
            "status": SUCCESS,
            "acknowledged": [each.name for each in news],
            "kept": [{"name": each.name, "size_bytes": each.size_bytes} for each in kept],
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
    if backup.copy is not None:
        reply |= {"size": backup.copy.size_bytes, "sha256": backup.copy.sha256, "rows": backup.copy.rows}
    return reply


def _rows(exchange: Exchange) -> dict[str, TableRows]:
    """Return what each table has: here, in the backup, and in the damaged database where there is one.

    `lost` is by how many rows the backup has fewer than the damaged one, or than the present one where none is damaged;
    None where the damaged one can't be counted.
    """
    told: dict[str, TableRows] = {}
    for table in sorted(exchange.present.keys() | exchange.backup.keys()):
        present, backup = exchange.present.get(table, 0), exchange.backup.get(table, 0)
        if exchange.damaged is None:
            told[table] = {"present": present, "backup": backup, "lost": max(0, present - backup)}
            continue
        damaged = exchange.damaged.get(table)
        lost = None if damaged is None else max(0, damaged - backup)
        told[table] = {"present": present, "backup": backup, "damaged": damaged, "lost": lost}
    return told
