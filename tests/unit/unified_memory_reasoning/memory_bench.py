"""The memory without a socket: some of its actions on a real database, as a client of them would see it."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.unit.unified_memory_reasoning.memory import SDT
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import EVERY_ACTION, Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher, Inbound
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.store.reply_log import ReplyLog
from twinhost.unified_memory_reasoning.conversations.actions import ContextActions
from twinhost.unified_memory_reasoning.conversations.interactions import MIGRATION as INTERACTIONS
from twinhost.unified_memory_reasoning.conversations.interactions import Interactions
from twinhost.unified_memory_reasoning.provenance.quarantine import MIGRATION as QUARANTINE
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine

MAX_REPLY_BYTES = 262_144
MALLORY = Caller("Mallory", "pc2", frozenset({"agent"}), "SHA256:of-mallory")  # whose key is revoked later
ANN = Caller("Ann", "pc2", frozenset({"agent"}), "SHA256:of-ann")


class MemoryBench:
    """Actions on a database that can be opened again; every caller may ask for each."""

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        actions_of: Callable[[Database], Iterable[Action[Any]]],
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        """Open the bench.

        Args:
            migrations: those of the stores that the actions need, in their order.
            actions_of: makes the stores and returns the actions; called at every opening.
            max_bytes: of a request and of a reply.
        """
        self._path, self._migrations, self._actions_of, self._max_bytes = path, migrations, actions_of, max_bytes
        self.open()

    def open(self) -> None:
        """Open the database, as a start of the agent does."""
        self.database = Database(self._path, [REPLY_LOG_SCHEMA, *self._migrations])
        self._dispatcher = Dispatcher(
            self._actions_of(self.database),
            Grants({"agent": {EVERY_ACTION}, "operator": {EVERY_ACTION}}),
            self.database,
            ReplyLog(self.database, keep_s=600, keep_per_caller=1_000),
            self._max_bytes,
        )

    def reopen(self) -> None:
        """Close the database and open it again, as a restart does."""
        self.database.close()
        self.open()

    def ask(self, action: str, caller: Caller = SDT, **fields: Any) -> dict[str, Any]:
        """Return the reply to one request."""
        (reply,) = self.ask_together((action, caller, fields))
        return reply

    def ask_together(self, *requests: tuple[str, Caller, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the replies to requests that were drained together."""
        batch = [Inbound(json.dumps({"action": action, **fields}).encode(), by) for action, by, fields in requests]
        return [json.loads(reply) for reply in self._dispatcher.answer(batch)]

    def rows(self, table: str) -> int:
        """Return how many rows a table has."""
        return int(self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def __enter__(self) -> "MemoryBench":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()


class ContextBench(MemoryBench):
    """The actions on interactions, their store, and the quarantine."""

    def __init__(self, path: Path, max_bytes: int = MAX_REPLY_BYTES) -> None:
        super().__init__(path, [QUARANTINE, INTERACTIONS], self._make, max_bytes)

    def __enter__(self) -> "ContextBench":
        return self

    def say(self, content: str, caller: Caller = SDT, kind: str = "user_query", **fields: Any) -> dict[str, Any]:
        """Add an interaction, to session `s` where no other is named."""
        return self.ask(
            "add_interaction", caller, **{"session_id": "s", "interaction_type": kind, "content": content, **fields}
        )

    def context(self, **fields: Any) -> dict[str, Any]:
        """Return a context, that of session `s` where no other is named."""
        context = self.ask("get_context", **{"session_id": "s", **fields})["context"]
        assert isinstance(context, dict)
        return context

    def hide(self, caller: Caller) -> None:
        """Put a caller in quarantine."""
        with self.database.transaction():
            self.quarantine.add(caller.name, "operator")

    def release(self, caller: Caller) -> None:
        """Let a caller out of quarantine."""
        with self.database.transaction():
            self.quarantine.lift(caller.name)

    def _make(self, database: Database) -> list[Action[Any]]:
        self.interactions = Interactions(database)
        self.quarantine = Quarantine(database)
        return ContextActions(self.interactions, self._max_bytes).actions()
