"""Twins, interactions and error patterns, their writers' quarantine, and backups: without a socket, on a real store."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.configuration import SHIPPED_GRANTS
from tests.unit.unified_memory_reasoning.bench import MAX_REPLY_BYTES, MIGRATIONS, Bench
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller, Grants
from twinhost.store.backup import prepare
from twinhost.unified_memory_reasoning.backup.actions import BackupActions
from twinhost.unified_memory_reasoning.conversations.context_text import Turn
from twinhost.unified_memory_reasoning.conversations.interactions import Interactions
from twinhost.unified_memory_reasoning.errors.patterns import ErrorPatterns
from twinhost.unified_memory_reasoning.provenance.actions import ProvenanceActions
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine, WrittenBy
from twinhost.unified_memory_reasoning.twins.actions import TwinActions
from twinhost.unified_memory_reasoning.twins.twins import Twins

SHIPPED = Grants({role: frozenset(names) for role, names in SHIPPED_GRANTS.items()})
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
ADA = Caller("ada", "pc3", frozenset({"agent"}), "SHA256:of-ada")
BOB = Caller("bob", "pc4", frozenset({"agent"}), "SHA256:of-bob")
NOBODY = UNAUTHENTICATED
REVOKED = Caller("revoked", "pc5", frozenset({"agent"}), "SHA256:of-the-revoked-one")


class SafetyBench(Bench):
    """The operator's actions and those on twins; stores are filled by hand where their actions are others'."""

    CALLER = OPERATOR

    def __init__(self, path: Path) -> None:
        super().__init__(path, 4 * MAX_REPLY_BYTES)

    def open(self, migrations: Sequence[str] = MIGRATIONS) -> None:
        prepare(self.path)
        super().open(migrations)

    def make(self) -> Iterable[Action[Any]]:
        self.quarantine = Quarantine(self.database)
        self.twins, self.interactions = Twins(self.database), Interactions(self.database)
        self.patterns = ErrorPatterns(self.database)
        self.backups = BackupActions(self.database, MAX_REPLY_BYTES)
        written_by: dict[str, WrittenBy] = {
            "twins": self.twins.written_by,
            "interactions": self.interactions.written_by,
            "error_patterns": self.patterns.written_by,
        }
        return [
            *TwinActions(self.twins).actions(),
            *ProvenanceActions(self.quarantine, written_by, MAX_REPLY_BYTES).actions(),
            *self.backups.actions(),
        ]

    def serve(self, actions: Iterable[Action[Any]], grants: Grants = SHIPPED, **options: Any) -> None:
        super().serve(actions, grants, **options)

    def turns(self, session_id: str) -> list[Turn]:
        """Return a session's visible turns, newest first."""
        return list(self.interactions.newest(session_id, None, 99))

    def say(self, session: str, content: str, caller: Caller) -> int:
        """Store an interaction; return its number."""
        with self.database.transaction():
            return self.interactions.add(session, "user_query", content, caller.name).id

    def update_twin(self, user: str, data: dict[str, Any], caller: Caller, **fields: Any) -> dict[str, Any]:
        return self.ask("update_twin", caller, user_id=user, twin_data=data, **fields)

    def twin(self, user: str) -> dict[str, Any]:
        return dict(self.ask("get_twin", ADA, user_id=user)["twin"])

    def backed_up(self) -> bytes:
        """Return a whole backup, as an operator reads it."""
        begun = self.ask("begin_backup")
        status = self.ready(begun["backup_id"])
        content = b""
        while len(content) < status["size"]:
            page = self.ask("read_backup", backup_id=begun["backup_id"], offset=len(content))
            content += b64decode(page["data"])
        assert hashlib.sha256(content).hexdigest() == status["sha256"]
        return content

    def ready(self, backup_id: str) -> dict[str, Any]:
        """Wait for a backup and return its status."""
        wait_until(lambda: self.ask("backup_status", backup_id=backup_id)["state"] != "copying", PATIENCE_S, "backup")
        return self.ask("backup_status", backup_id=backup_id)

    def send(self, content: bytes, part_bytes: int = 100_000) -> str:
        """Send a backup, and return the id of its restore."""
        restore_id = str(self.ask("begin_restore")["restore_id"])
        for offset in range(0, len(content), part_bytes):
            data = b64encode(content[offset : offset + part_bytes]).decode()
            reply = self.ask("write_restore", restore_id=restore_id, offset=offset, data=data)
            assert reply["status"] == "ok", reply
        return restore_id

    def finish(self, restore_id: str, content: bytes, **fields: Any) -> dict[str, Any]:
        """Return what finally becomes of a restore."""
        description = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **fields}
        reply: dict[str, Any] = {}

        def over() -> bool:
            nonlocal reply
            reply = self.ask("finish_restore", restore_id=restore_id, **description)
            return reply.get("state") != "checking"

        wait_until(over, PATIENCE_S, "the restore is checked")
        return reply

    def files(self) -> set[str]:
        """Return what lies beside the database."""
        return {path.name for path in self.path.parent.iterdir()} - {
            self.path.name + text for text in ("", "-wal", "-shm")
        }
