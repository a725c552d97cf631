"""Both agents, and pc2's has a memory: its operator's actions on real stores, beside the actions that fill them."""

from pathlib import Path
from typing import Any

from tests.unit.cli.loopback_agents import PAYLOAD_BYTES, UMRA, LoopbackAgent, TwoHosts
from tests.unit.unified_memory_reasoning.bench import MIGRATIONS
from twinhost.agent.assembly import StartAgain
from twinhost.agent.health import OperatorActions
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.bound_socket import ServerSocket
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.wire import Reply
from twinhost.store.backup import prepare
from twinhost.store.database import Database
from twinhost.store.reply_log import ReplyLog
from twinhost.unified_memory_reasoning.__main__ import MemoryHealthActions
from twinhost.unified_memory_reasoning.backup.actions import BackupActions
from twinhost.unified_memory_reasoning.conversations.actions import ContextActions
from twinhost.unified_memory_reasoning.conversations.interactions import Interactions
from twinhost.unified_memory_reasoning.conversations.tokens import Estimate
from twinhost.unified_memory_reasoning.errors.actions import AddErrorPattern
from twinhost.unified_memory_reasoning.errors.patterns import PATTERN_DETAILS, ErrorPatterns
from twinhost.unified_memory_reasoning.memories.actions import MemoryActions
from twinhost.unified_memory_reasoning.memories.memories import Memories
from twinhost.unified_memory_reasoning.provenance.actions import ProvenanceActions
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine, WrittenBy
from twinhost.unified_memory_reasoning.search.actions import SearchActions
from twinhost.unified_memory_reasoning.search.search import Search
from twinhost.unified_memory_reasoning.twins.actions import TwinActions
from twinhost.unified_memory_reasoning.twins.twins import Twins


class MemoryAgent(LoopbackAgent):
    """pc2's agent; `started_again` is set where it would end to be restarted."""

    def __init__(self, keys: Path | None, state: Path) -> None:
        self.path = state / "memory.sqlite3"
        prepare(self.path)
        self.memory = Database(self.path, MIGRATIONS)
        self.interactions, self.patterns = Interactions(self.memory), ErrorPatterns(self.memory)
        self.twins, self.memories = Twins(self.memory), Memories(self.memory)
        self.backups = BackupActions(self.memory, PAYLOAD_BYTES)
        self.started_again = False
        self._replies = ReplyLog(self.memory, keep_s=0, keep_per_caller=1_000)  # a retry is long forgotten
        super().__init__(UMRA, keys, state)

    def stop(self) -> None:
        super().stop()
        self.memory.close()

    def _dispatcher(self, socket: ServerSocket) -> Dispatcher:
        written_by: dict[str, WrittenBy] = {
            "twins": self.twins.written_by,
            "interactions": self.interactions.written_by,
            "memories": self.memories.written_by,
            "error_patterns": self.patterns.written_by,
        }
        search = Search(self.memory)
        actions: list[Action[Any]] = [
            *TwinActions(self.twins).actions(),
            *ProvenanceActions(Quarantine(self.memory), written_by, PAYLOAD_BYTES).actions(),
            *self.backups.actions(),
            *MemoryActions(self.memories, PAYLOAD_BYTES).actions(),
            *ContextActions(self.interactions, search, Estimate(), PAYLOAD_BYTES).actions(),
            *SearchActions(search, PAYLOAD_BYTES).actions(),
            Action(AddErrorPattern, self._add_error_pattern, mutates=True),
            *MemoryHealthActions(self._health_document).actions(),
            *OperatorActions(self.peers, socket.sessions, socket.handshakes, "ok").actions(),
        ]
        return Dispatcher(actions, self.grants, self.memory, self._replies, PAYLOAD_BYTES)

    def _on_tick(self) -> None:
        self._replies.forget_old()
        try:
            self.backups.on_tick()
        except StartAgain:
            self.started_again = True
            self._server.stop()

    def _add_error_pattern(self, request: AddErrorPattern, caller: Caller) -> Reply:
        details = PATTERN_DETAILS.stored(request, self.patterns.clock)
        added = self.patterns.add(request.error_type, request.pattern, caller.name, **details)
        return {"status": "ok", "pattern_id": added.pattern_id}


class MemoryHosts(TwoHosts):
    """Two hosts of which pc2 has a memory."""

    def __init__(self, root: Path, *, secure: bool = True) -> None:
        super().__init__(root, secure=secure)
        self.pc2.stop()
        self.start_memory()

    @property
    def memory(self) -> MemoryAgent:
        assert isinstance(self.pc2, MemoryAgent)
        return self.pc2

    def start_memory(self) -> None:
        """Start pc2's agent, as the engine does when it ended; on another port."""
        self.pc2 = MemoryAgent(self.folders["client"] if self.secure else None, self.root)
        self.write_config(self.mainpc.port, self.pc2.port)
