"""The memory model without a socket: its actions and its older dialect on a real database, with a settable clock."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.unit.unified_memory_reasoning.bench import EVERYTHING, Bench
from twinhost.agent.dialects import commands
from twinhost.moments import Clock
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.budgets import Budgets, BudgetTable
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.unified_memory_reasoning.__main__ import COMMANDS, MemoryHealthActions
from twinhost.unified_memory_reasoning.coordination import MOST as MOST_CLAIMS
from twinhost.unified_memory_reasoning.coordination import MOST_OF_A_HOLDER, ConflictActions, Conflicts
from twinhost.unified_memory_reasoning.memories.actions import MemoryActions
from twinhost.unified_memory_reasoning.memories.memories import Memories
from twinhost.unified_memory_reasoning.memories.model import Fading
from twinhost.unified_memory_reasoning.memories.rows import (
    MOST,
    MOST_OF_A_WRITER,
)
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine
from twinhost.unified_memory_reasoning.search.actions import SearchActions
from twinhost.unified_memory_reasoning.search.search import Search

ANA = Caller("Ana", "pc2", frozenset({"agent"}), "SHA256:of-ana")
BEN = Caller("Ben", "pc2", frozenset({"agent"}), "SHA256:of-ben")
CAT = Caller("Cat", "pc2", frozenset({"agent"}), "SHA256:of-cat")
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")


class SetableClock(Clock):
    """Real time, plus what a test has let pass."""

    def __init__(self) -> None:
        self._passed_s = 0.0
        self._set_by_s = 0.0

    def let_pass(self, seconds: float) -> None:
        self._passed_s += seconds

    def set_wall_clock(self, by_seconds: float) -> None:
        """Set the wall clock, as NTP or a person does; no time passes."""
        self._set_by_s += by_seconds

    def monotonic(self) -> float:
        return super().monotonic() + self._passed_s

    def time(self) -> float:
        return super().time() + self._passed_s + self._set_by_s


class MemoryBench(Bench):
    """Memories and claims, and their older dialect."""

    CALLER = ANA

    def __init__(
        self,
        path: Path,
        clock: SetableClock,
        *,
        half_life_days: float | None = None,  # None: the rule by passes
        most: int = MOST,
        most_of_a_writer: int = MOST_OF_A_WRITER,
        most_claims: int = MOST_CLAIMS,
        most_of_a_holder: int = MOST_OF_A_HOLDER,
    ) -> None:
        self.clock = clock
        self.gone: set[str] = set()  # identities without a live key
        self.budgets = BudgetTable()
        self.fading = Fading(half_life_days)
        self._most, self._most_of_a_writer = most, most_of_a_writer
        self._most_claims, self._most_of_a_holder = most_claims, most_of_a_holder
        super().__init__(path, clock=clock)

    def make(self) -> Iterable[Action[Any]]:
        self.memories = Memories(self.database, self.fading, most=self._most, most_of_a_writer=self._most_of_a_writer)
        self.conflicts = Conflicts(
            self.database,
            lambda name: name not in self.gone,
            most=self._most_claims,
            most_of_a_holder=self._most_of_a_holder,
        )
        self.quarantine = Quarantine(self.database)
        return [
            *MemoryActions(self.memories, self._max_bytes).actions(),
            *ConflictActions(self.conflicts, Budgets(lambda: self.budgets)).actions(),
            *MemoryHealthActions(lambda: {"status": "degraded", "agent": "UMRA"}).actions(),
        ]

    def serve(self, actions: Iterable[Action[Any]], grants: Grants = EVERYTHING, **options: Any) -> None:
        translate = commands(COMMANDS, max_bytes=self._max_bytes, anywhere=True, not_found="ERROR")
        super().serve(actions, grants, translate=translate, **options)

    def send(self, message: Mapping[str, Any], caller: Caller = ANA) -> dict[str, Any]:
        """Return the JSON that one message is answered with."""
        return self.send_bytes(json.dumps(message).encode(), caller)

    def send_bytes(self, message: bytes, caller: Caller = ANA) -> dict[str, Any]:
        """Return the JSON that the bytes of a message are answered with."""
        (reply,) = self._dispatcher.answer([Inbound(message, caller)])
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def store(self, memory_id: str = "m", content: str = "text", caller: Caller = ANA, **fields: Any) -> dict[str, Any]:
        """Store a memory, which must succeed."""
        reply = self.ask("store_memory", caller, id=memory_id, content=content, **fields)
        assert reply["status"] == "ok", reply
        return reply

    def get(self, memory_id: str = "m") -> dict[str, Any]:
        memory: dict[str, Any] = self.ask("get_memory", memory_id=memory_id)["memory"]
        return memory

    def ids(self, **fields: Any) -> list[str]:
        """Return the ids of what a query answers, in its order."""
        return [memory["id"] for memory in self.ask("query_memory", **fields)["memories"]]

    def all(self, since: int = 0) -> list[dict[str, Any]]:
        """Return everything that changed, tombstones too, page by page, as another store asks for it."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.ask("query_memory", changed_since=since)
            found += page["memories"]
            since = page["last_change"]
            if not page["more"]:
                return found

    def known(self) -> dict[str, dict[str, Any]]:
        """Return what the store knows, by id, without its writer: what two stores may differ in."""
        return {each.pop("id"): {**each, "written_by": None} for each in self.all()}

    def sync_to(self, other: "MemoryBench", caller: Caller = OPERATOR) -> dict[str, Any]:
        return other.ask("sync_memories", caller, memories=self.all())

    def decay(self, passes: int = 1) -> None:
        """Let so many decay passes come, 300 s apart."""
        for _ in range(passes):
            self.clock.let_pass(300.1)
            self.memories.upkeep.on_tick()


class SearchedBench(MemoryBench):
    """Memories that `search_memory` finds, without interactions."""

    def make(self) -> Iterable[Action[Any]]:
        memories = list(super().make())
        search = Search(self.database, fading=self.fading)
        return [
            *memories,
            *SearchActions(search, self._max_bytes, self.memories.upkeep.note).actions(),
        ]

    def search(self, query: str, **fields: Any) -> list[dict[str, Any]]:
        """Return what a search finds, best first."""
        reply = self.ask("search_memory", query=query, **fields)
        assert reply["status"] == "ok", reply
        results: list[dict[str, Any]] = reply["results"]
        return results
