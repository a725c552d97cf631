"""Some of the agent's actions on a real database, without a socket, as a client of them would see it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.new_database import open_database
from tests.unit.unified_memory_reasoning.memory import SDT
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import EVERY_ACTION, Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.store.reply_log import SCHEMA, ReplyLog
from twinhost.unified_memory_reasoning import __main__ as agent

MAX_REPLY_BYTES = 262_144
MIGRATIONS = (SCHEMA, *agent.MIGRATIONS)  # of the database, as a start of the agent runs them
EVERYTHING = Grants({role: frozenset({EVERY_ACTION}) for role in ("agent", "operator")})


def migrations_before(migration: str) -> tuple[str, ...]:
    """Return the migrations of the version before this one was added."""
    return MIGRATIONS[: MIGRATIONS.index(migration)]


class Bench:
    """Actions on a database that can be opened again; `CALLER` asks if no other is named."""

    CALLER = SDT

    def __init__(self, path: Path, max_bytes: int = MAX_REPLY_BYTES, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path, self._max_bytes, self._clock = path, max_bytes, clock
        self.open()

    def open(self, migrations: Sequence[str] = MIGRATIONS) -> None:
        """Open the database, as a start of the agent does."""
        self.database = open_database(self.path, migrations, self._clock)
        self.serve(self.make())

    def make(self) -> Iterable[Action[Any]]:
        """Make the stores; return the actions on them."""
        raise NotImplementedError

    def serve(self, actions: Iterable[Action[Any]], grants: Grants = EVERYTHING, **options: Any) -> None:
        """Answer these actions from now on."""
        replies = ReplyLog(self.database, keep_s=600, keep_per_caller=1_000)
        self._dispatcher = Dispatcher(actions, grants, self.database, replies, self._max_bytes, **options)

    def reopen(self) -> None:
        """Close the database and open it again, as a restart does."""
        self.database.close()
        self.open()

    def ask(self, action: str, caller: Caller | None = None, **fields: Any) -> dict[str, Any]:
        """Return the reply to one request."""
        (reply,) = self.ask_together((action, caller or self.CALLER, fields))
        return reply

    def ask_together(self, *requests: tuple[str, Caller, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the replies to requests of one batch."""
        batch = [Inbound(json.dumps({"action": action, **fields}).encode(), by) for action, by, fields in requests]
        return [json.loads(reply) for reply in self._dispatcher.answer(batch)]

    def rows(self, table: str) -> int:
        """Return how many rows a table has."""
        return int(self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()
