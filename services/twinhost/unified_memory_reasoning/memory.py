"""The whole memory: its stores on one database, in the order of their schema, and the actions on them."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from twinhost.agent.assembly import MAX_PAGE_BYTES
from twinhost.network_config import Recall
from twinhost.secure_zmq.actions import Action
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import twins
from twinhost.unified_memory_reasoning.conversations import interactions
from twinhost.unified_memory_reasoning.conversations.context_actions import ContextActions
from twinhost.unified_memory_reasoning.conversations.interactions import Interactions
from twinhost.unified_memory_reasoning.handlers import Handlers
from twinhost.unified_memory_reasoning.keeping import quarantine
from twinhost.unified_memory_reasoning.keeping.backup_actions import BackupActions
from twinhost.unified_memory_reasoning.keeping.provenance_actions import ProvenanceActions, Shelf
from twinhost.unified_memory_reasoning.keeping.quarantine import Quarantine
from twinhost.unified_memory_reasoning.known_errors import error_patterns, pattern_proposals
from twinhost.unified_memory_reasoning.known_errors.error_pattern_actions import ErrorPatternActions
from twinhost.unified_memory_reasoning.known_errors.error_patterns import ErrorPatterns
from twinhost.unified_memory_reasoning.known_errors.pattern_proposals import PatternProposals
from twinhost.unified_memory_reasoning.memory_health import Totals
from twinhost.unified_memory_reasoning.memory_model import memories
from twinhost.unified_memory_reasoning.memory_model.memories import Memories
from twinhost.unified_memory_reasoning.memory_model.memory_actions import MemoryActions
from twinhost.unified_memory_reasoning.other_agents import conflicts
from twinhost.unified_memory_reasoning.other_agents.conflict_actions import ConflictActions
from twinhost.unified_memory_reasoning.other_agents.conflicts import Conflicts
from twinhost.unified_memory_reasoning.recall import search_index
from twinhost.unified_memory_reasoning.recall.search import Search
from twinhost.unified_memory_reasoning.recall.search_actions import SearchActions
from twinhost.unified_memory_reasoning.twins import Twins

MIGRATIONS = (
    twins.MIGRATION,
    quarantine.MIGRATION,
    twins.BY_WRITER_MIGRATION,
    interactions.MIGRATION,
    memories.MIGRATION,
    search_index.MIGRATION,
    error_patterns.MIGRATION,
    pattern_proposals.MIGRATION,
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
