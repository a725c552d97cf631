"""Events and errors without a socket: their actions on a real database, and what would go to the feed."""

from pathlib import Path
from typing import Any

from tests.configuration import SHIPPED_GRANTS
from tests.new_database import open_database
from tests.older_database import REPLY_LOG_MIGRATIONS
from tests.unit.asked import Asked
from tests.unit.system_digital_twin.twin import UMRA, Clock
from twinhost.agent.subscriptions import SubscriptionActions
from twinhost.secure_zmq.budgets import Budget, Budgets, BudgetTable
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.system_digital_twin import SUCCESS
from twinhost.system_digital_twin.deduplication import MIGRATION as MIGRATION_IDS
from twinhost.system_digital_twin.events.actions import EventActions
from twinhost.system_digital_twin.events.events import (
    MIGRATION,
    MIGRATION_BY_WRITER,
    MIGRATION_FILTERS,
    MIGRATION_SEVERE,
    MOST,
    MOST_BYTES,
    Events,
)

MAX_REPLY_BYTES = 262_144
OLDER_MIGRATIONS = (MIGRATION, MIGRATION_IDS, MIGRATION_SEVERE)  # of the version before errors had shapes


class EventBench(Asked):
    """The four actions; `sent` is what went to the feed, topic and fields."""

    CALLER = UMRA

    def __init__(
        self,
        path: Path,
        clock: Clock,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        budget: Budget | None = None,
    ) -> None:
        self.clock = clock
        self.sent: list[tuple[bytes, dict[str, Any]]] = []
        self.audited: list[tuple[str, dict[str, Any]]] = []
        self._budgets = BudgetTable(budget or Budget())
        self._path, self._most, self._most_bytes = path, most, most_bytes
        self.open()

    def open(self) -> None:
        """Open the database, as a start of the agent does."""
        self.database = open_database(
            self._path, [*REPLY_LOG_MIGRATIONS, *OLDER_MIGRATIONS, MIGRATION_FILTERS, MIGRATION_BY_WRITER], self.clock
        )
        self.events = Events(self.database, self._publish, most=self._most, most_bytes=self._most_bytes)
        actions = EventActions(self.events, MAX_REPLY_BYTES, self._audit, Budgets(lambda: self._budgets)).actions()
        self.grants = Grants({role: frozenset(names) for role, names in SHIPPED_GRANTS.items()})
        self.answer_to([*actions, *SubscriptionActions(self.grants, SUCCESS).actions()], self.grants, MAX_REPLY_BYTES)

    def publish(self, event_id: str = "e", caller: Caller = UMRA, **fields: Any) -> dict[str, Any]:
        return self.ask("publish_event", caller, event=event(event_id, **{"source_agent": caller.name, **fields}))

    def report(self, error_id: str = "x", caller: Caller = UMRA, **fields: Any) -> dict[str, Any]:
        return self.ask("report_error", caller, error=error(error_id, **{"agent_id": caller.name, **fields}))

    def ids(self, **fields: Any) -> list[str]:
        """Return the ids of the events that are answered, newest first."""
        return [each["event_id"] for each in self.ask("get_events", **fields)["events"]]

    def error_ids(self, **fields: Any) -> list[str]:
        """Return the ids of the errors in the reply, newest first."""
        return [each["error_id"] for each in self.ask("get_errors", **fields)["errors"]]

    def rows(self) -> int:
        """Return how many events and errors are on disk."""
        return int(self.database.execute("SELECT count(*) FROM happenings").fetchone()[0])

    def _audit(self, event: str, **fields: Any) -> None:
        self.audited.append((event, fields))

    def _publish(self, topic: bytes, _publisher: str, **fields: Any) -> None:
        self.sent.append((topic, fields))


def event(event_id: str = "e", **fields: Any) -> dict[str, Any]:
    return {"event_id": event_id, "event_type": "model_loaded", "source_agent": UMRA.name, **fields}


def error(error_id: str = "x", **fields: Any) -> dict[str, Any]:
    return {
        "error_id": error_id,
        "agent_id": UMRA.name,
        "severity": "error",
        "error_type": "Timeout",
        "message": "no answer",
        **fields,
    }
