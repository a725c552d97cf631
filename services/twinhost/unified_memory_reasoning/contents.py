"""What one database of the memory holds, and the actions on it: the agent's own, or that of another space."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twinhost.agent.assembly import MAX_PAGE_BYTES
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.budgets import PerMinute
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import coordination
from twinhost.unified_memory_reasoning.backup.actions import BackupActions
from twinhost.unified_memory_reasoning.conversations import interactions
from twinhost.unified_memory_reasoning.conversations.actions import ContextActions
from twinhost.unified_memory_reasoning.conversations.tokens import Tokens, tokens_by
from twinhost.unified_memory_reasoning.conversations.transcript import TranscriptActions
from twinhost.unified_memory_reasoning.errors import patterns, proposals
from twinhost.unified_memory_reasoning.errors.actions import ErrorPatternActions
from twinhost.unified_memory_reasoning.memories.actions import MemoryActions
from twinhost.unified_memory_reasoning.memories.memories import Memories
from twinhost.unified_memory_reasoning.memories.model import Fading
from twinhost.unified_memory_reasoning.provenance import quarantine
from twinhost.unified_memory_reasoning.provenance.actions import ProvenanceActions
from twinhost.unified_memory_reasoning.search.actions import SearchActions
from twinhost.unified_memory_reasoning.search.meaning import Meaning
from twinhost.unified_memory_reasoning.search.search import Search
from twinhost.unified_memory_reasoning.search.upkeep import IndexUpkeep
from twinhost.unified_memory_reasoning.twins import twins
from twinhost.unified_memory_reasoning.twins.actions import TwinActions

_OPERATOR_PAGE_BYTES = 2_097_152  # room for the largest row, so that an import can compare it


@dataclass(frozen=True, slots=True)
class Options:
    """What the contents of every space have in common."""

    fading: Fading
    word_pairs: bool
    tokens: Tokens
    max_bytes: int  # of a message
    page_bytes: int  # of a reply with a list
    is_live: Callable[[str], bool]  # whether a key of an identity is authorised now
    has_space: Callable[[], bool] = lambda: True  # whether more than the reserve of the disk is free
    at_once: PerMinute | None = None  # what identities have stored by requests for several memories

    @classmethod
    def of(
        cls,
        config: NetworkConfig,
        is_live: Callable[[str], bool],
        has_space: Callable[[], bool],
        at_once: PerMinute | None = None,
    ) -> "Options":
        """Return those of a configuration, as it is at the start."""
        memory, recall, max_bytes = config.memory, config.recall, config.limits.max_payload_bytes
        fading = Fading(memory.memory_half_life_days if memory.forgetting == "days" else None)
        tokens, page_bytes = tokens_by(recall.tokenizer), min(max_bytes, MAX_PAGE_BYTES)
        return cls(fading, recall.word_pairs, tokens, max_bytes, page_bytes, is_live, has_space, at_once)


class Contents:
    """The stores of one database, and what they do between requests."""

    def __init__(
        self,
        database: Database,
        options: Options,
        meaning: Meaning | None = None,
        publish: proposals.Publish = lambda *_: None,
    ) -> None:
        """Take a database with this agent's tables; `publish` announces proposals to everybody who listens."""
        self.database = database
        self.meaning = meaning
        self.quarantine = quarantine.Quarantine(database)
        self.twins = twins.Twins(database)
        self.interactions = interactions.Interactions(database)
        self.memories = Memories(database, options.fading)
        self.patterns = patterns.ErrorPatterns(database)
        self.proposals = proposals.PatternProposals(database, publish)
        self.conflicts = coordination.Conflicts(database, options.is_live)
        self.index = IndexUpkeep(database)
        self._options = options
        self._search = Search(database, word_pairs=options.word_pairs, fading=options.fading, meaning=meaning)
        self.backups = BackupActions(database, options.max_bytes)

    @property
    def written_by(self) -> Mapping[str, quarantine.WrittenBy]:
        """What lists the rows of a caller, by kind."""
        return {
            "interactions": self.interactions.written_by,
            "memories": self.memories.written_by,
            "error_patterns": self.patterns.written_by,
            "solution_outcomes": self.patterns.outcomes.written_by,
            "unknown_errors": self.proposals.written_by,
            "twins": self.twins.written_by,
            "twin_changes": self.twins.changes_by,
            "operations": self.conflicts.written_by,
        }

    def counts(self) -> tuple[int, int, int, int]:
        """Return how many interactions, memories, error patterns, and twins there are, the hidden ones too."""
        return self.interactions.count, self.memories.count, self.patterns.count, self.twins.count

    def actions(self) -> list[Action[Any]]:
        """Return the actions on what this database holds."""
        options, accessed = self._options, self.memories.upkeep.note
        operators_bytes = min(options.max_bytes, _OPERATOR_PAGE_BYTES)
        return [
            *TwinActions(self.twins, options.page_bytes).actions(),
            *ContextActions(self.interactions, self._search, options.tokens, options.max_bytes, accessed).actions(),
            *TranscriptActions(self.database, self.interactions, options.page_bytes).actions(),
            *SearchActions(self._search, options.page_bytes, accessed).actions(),
            *MemoryActions(self.memories, options.page_bytes, options.at_once).actions(),
            *ErrorPatternActions(self.patterns, self.proposals, options.page_bytes).actions(),
            *ProvenanceActions(self.quarantine, self.written_by, operators_bytes).actions(),
            *self.backups.actions(),
        ]

    def on_tick(self) -> None:
        """Do what is due, on the thread that owns the database.

        Raises:
            StoreUnavailable: a part of it is not done; a later call tries again.
            StartAgain: the agent must restart with a staged backup.
        """
        self.memories.upkeep.on_tick()
        self.index.on_tick()
        if self.meaning is not None and self._options.has_space():
            self.meaning.on_tick()
        self.backups.on_tick()  # last: it may restart the agent with a restored backup

    def on_stop(self) -> None:
        """Write what waits in memory, before the database is closed.

        Raises:
            StoreUnavailable: it is lost.
        """
        self.memories.upkeep.on_stop()
