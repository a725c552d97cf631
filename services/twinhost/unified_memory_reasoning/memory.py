"""The whole memory: its stores on one database, in the order of their schema, and the actions on them."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypedDict

from twinhost.agent.assembly import MAX_PAGE_BYTES
from twinhost.agent.common_actions import GetHealth, HealthActions, HealthCheck, Ping
from twinhost.agent.health import HealthDocument
from twinhost.network_config import Recall
from twinhost.secure_zmq.actions import Action, action
from twinhost.secure_zmq.callers import Caller
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.backup.actions import BackupActions
from twinhost.unified_memory_reasoning.conversations import interactions
from twinhost.unified_memory_reasoning.conversations.actions import ContextActions
from twinhost.unified_memory_reasoning.conversations.interactions import Interactions
from twinhost.unified_memory_reasoning.coordination import conflicts
from twinhost.unified_memory_reasoning.coordination.actions import ConflictActions
from twinhost.unified_memory_reasoning.coordination.conflicts import Conflicts
from twinhost.unified_memory_reasoning.errors import patterns, proposals
from twinhost.unified_memory_reasoning.errors.actions import ErrorPatternActions
from twinhost.unified_memory_reasoning.errors.patterns import ErrorPatterns
from twinhost.unified_memory_reasoning.errors.proposals import PatternProposals
from twinhost.unified_memory_reasoning.memories import rows as memories
from twinhost.unified_memory_reasoning.memories.actions import MemoryActions
from twinhost.unified_memory_reasoning.memories.memories import Memories
from twinhost.unified_memory_reasoning.provenance import quarantine
from twinhost.unified_memory_reasoning.provenance.actions import ProvenanceActions, Shelf
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine
from twinhost.unified_memory_reasoning.search import index as search_index
from twinhost.unified_memory_reasoning.search.actions import SearchActions
from twinhost.unified_memory_reasoning.search.search import Search
from twinhost.unified_memory_reasoning.twins import store as twins
from twinhost.unified_memory_reasoning.twins.actions import Handlers
from twinhost.unified_memory_reasoning.twins.store import Twins


class Totals(TypedDict):
    """How many rows there are of each kind, those of hidden writers and forgotten memories among them."""

    total_twins: int
    total_sessions: int
    total_interactions: int
    total_memories: int
    total_error_patterns: int


class OutboxDocument(TypedDict):
    """What mainpc is owed; `oldest` (ISO-8601) is null where nothing waits, `let_go` counts by kind what gave way."""

    waiting: int
    oldest: str | None
    set_aside: int
    let_go: dict[str, int]


class MemoryHealth(HealthDocument, Totals):
    """The agent's health, its counts since the start, and its totals; `last_request_time` is null before the first."""

    request_count: int
    error_count: int
    last_request_time: str | None
    outbox: OutboxDocument


class MemoryHealthActions(HealthActions):
    """The agent's health document, with which it answers a ping too, as its clients expect."""

    @action()
    def ping(self, _: Ping, __: Caller) -> MemoryHealth:
        document: MemoryHealth = self.document()
        return document

    @action(forwardable=True)
    def health(self, _: GetHealth, __: Caller) -> MemoryHealth:
        document: MemoryHealth = self.document()
        return document

    @action(forwardable=True)
    def health_check(self, _: HealthCheck, __: Caller) -> MemoryHealth:
        document: MemoryHealth = self.document()
        return document


MIGRATIONS = (
    twins.MIGRATION,
    quarantine.MIGRATION,
    twins.BY_WRITER_MIGRATION,
    interactions.MIGRATION,
    memories.MIGRATION,
    search_index.MIGRATION,
    patterns.MIGRATION,
    proposals.MIGRATION,
    conflicts.MIGRATION,
)
LATER_MIGRATIONS = (search_index.FORMAT_MIGRATION,)  # which come after those of the agent's membership
FEATURES = (
    Handlers,
    ContextActions,
    SearchActions,
    MemoryActions,
    ErrorPatternActions,
    ConflictActions,
    ProvenanceActions,
    BackupActions,
)
REBUILDS = search_index.REBUILDS  # how a broken full-text index is made anew
_OPERATOR_PAGE_BYTES = 2_097_152  # so that the largest row is told whole, by which an import knows it again


class Memory:
    """Every store of the agent."""

    def __init__(
        self, database: Database, recall: Recall, max_reply_bytes: int, tell: Callable[[str, dict[str, Any]], None]
    ) -> None:
        """Open the stores.

        Args:
            database: with `MIGRATIONS`.
            recall: the weights of a search.
            max_reply_bytes: what a reply may have; one with a page of a list has less.
            tell: takes the type of an event and its data, for mainpc.
        """
        self._max = max_reply_bytes
        self._page, self._operator_page = (
            min(max_reply_bytes, most) for most in (MAX_PAGE_BYTES, _OPERATOR_PAGE_BYTES)
        )
        self._twins = Twins(database)
        self._interactions = Interactions(database)
        self._memories = Memories(database)
        self._search = Search(database, recall)
        self._patterns = ErrorPatterns(database)
        self._proposals = PatternProposals(database, tell)
        self._conflicts = Conflicts(database)
        self._quarantine = Quarantine(database)
        self._backups = BackupActions(database, max_reply_bytes)

    def actions(self) -> list[Action[Any]]:
        """Return the table of actions."""
        return [
            *Handlers(self._twins).actions(),
            *ContextActions(self._interactions, self._max).actions(),
            *SearchActions(self._search, self._page).actions(),
            *MemoryActions(self._memories, self._page).actions(),
            *ErrorPatternActions(self._patterns, self._proposals, self._page).actions(),
            *ConflictActions(self._conflicts).actions(),
            *ProvenanceActions(self._quarantine, self._shelves(), self._operator_page).actions(),
            *self._backups.actions(),
        ]

    def totals(self) -> Totals:
        """Return how much there is of what; kept in memory, for any thread to read."""
        return {
            "total_twins": self._twins.count,
            "total_sessions": self._interactions.session_count,
            "total_interactions": self._interactions.count,
            "total_memories": self._memories.count,
            "total_error_patterns": self._patterns.count,
        }

    def on_tick(self) -> None:
        """Let memories fade, and write who was asked for when.

        Raises:
            StartAgain: a backup is to be put in place.
        """
        self._memories.upkeep.on_tick()
        self._backups.on_tick()

    def on_stop(self) -> None:
        """Write what waits to be written; the database is still open."""
        self._memories.upkeep.on_stop()

    def _shelves(self) -> dict[str, Shelf]:
        return {
            "interactions": Shelf(self._interactions.written_by, attrgetter("id")),
            "memories": Shelf(self._memories.recall.written_by, attrgetter("number")),
            "error_patterns": Shelf(self._patterns.written_by, attrgetter("pattern_id")),
            "solution_outcomes": Shelf(self._patterns.outcomes.written_by, attrgetter("number")),
            "unknown_errors": Shelf(self._proposals.written_by, attrgetter("number")),
            "twins": Shelf(self._twins.written_by, attrgetter("number")),
            "operations": Shelf(self._conflicts.written_by, attrgetter("number")),
        }
