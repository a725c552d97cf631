"""The actions on backups, restores, and damage: an operator's, since no grant of another role names them."""

from base64 import b64encode

import structlog

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.store import set_aside
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.keeping.backup import Backup, Backups
from twinhost.unified_memory_reasoning.keeping.backup_messages import (
    MAX_CHUNK_BYTES,
    AcknowledgeDamage,
    BackupStatus,
    BeginBackup,
    BeginRestore,
    FinishRestore,
    ReadBackup,
    WriteRestore,
)
from twinhost.unified_memory_reasoning.keeping.backup_replies import (
    BackupDocument,
    BackupPart,
    DamageAcknowledged,
    RestoreBegun,
    RestoreFinished,
    RestoreReceived,
    TableRows,
)
from twinhost.unified_memory_reasoning.keeping.restore import Exchange, Restores
from twinhost.unified_memory_reasoning.messages import SUCCESS

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
        news = set_aside.acknowledge(self._database.path)
        for each in news:
            _log.warning("damage_acknowledged", kept_as=each.name, by=caller.name)
        kept = set_aside.kept(self._database.path, set_aside.DAMAGED)
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
