"""The actions on interactions, without a socket."""

import time
from collections.abc import Iterable
from typing import Any

from tests.unit.unified_memory_reasoning.bench import Bench
from tests.unit.unified_memory_reasoning.memory import SDT
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller
from twinhost.unified_memory_reasoning.conversations.actions import ContextActions
from twinhost.unified_memory_reasoning.conversations.interactions import Interactions
from twinhost.unified_memory_reasoning.conversations.tokens import Estimate, Tokens
from twinhost.unified_memory_reasoning.conversations.transcript import TranscriptActions
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine
from twinhost.unified_memory_reasoning.search.search import Search

MALLORY = Caller("Mallory", "pc2", frozenset({"agent"}), "SHA256:of-mallory")  # whose key is revoked later
TAG = "kqzvtrwmxa"  # of every context, so that equal ones have equal texts
ANN = Caller("Ann", "pc2", frozenset({"agent"}), "SHA256:of-ann")


class ContextBench(Bench):
    """The actions on interactions, their store, and the quarantine."""

    tokens: Tokens = Estimate()

    def make(self) -> Iterable[Action[Any]]:
        self.interactions = Interactions(self.database)
        self.quarantine = Quarantine(self.database)
        self.accessed: list[str] = []  # ids of memories
        search = Search(self.database)
        contexts = ContextActions(self.interactions, search, self.tokens, self._max_bytes, self.accessed.extend)
        return [
            *contexts.actions(),
            *TranscriptActions(self.database, self.interactions, self._max_bytes).actions(),
        ]

    def remember(self, name: str, content: str, caller: Caller = SDT, created: float | None = None) -> str:
        """Put a memory in; return its id."""
        moment = time.time() if created is None else created
        self.database.execute(
            "INSERT INTO memories (id, content, keywords, source, strength, created, last_accessed, forgotten, "
            "written_by) VALUES (?, ?, x'5b5d', '', 1.0, ?, ?, 0, ?)",
            (name, content, moment, moment, caller.name),
        )
        return name

    def say(self, content: str, caller: Caller = SDT, kind: str = "user_query", **fields: Any) -> dict[str, Any]:
        """Add an interaction, to session `s` where no other is named."""
        return self.ask(
            "add_interaction", caller, **{"session_id": "s", "interaction_type": kind, "content": content, **fields}
        )

    def context(self, **fields: Any) -> dict[str, Any]:
        """Return a context, that of session `s` where no other is named."""
        context = self.ask("get_context", **{"session_id": "s", "tag": TAG, **fields})["context"]
        assert isinstance(context, dict)
        return context

    def shown(self, **fields: Any) -> list[str]:
        """Return the turns of a context's text."""
        return turns_of(self.context(**fields)["text"])

    def hide(self, caller: Caller) -> None:
        """Put a caller in quarantine."""
        with self.database.transaction():
            self.quarantine.add(caller.name, "operator")

    def release(self, caller: Caller) -> None:
        """Let a caller out of quarantine."""
        with self.database.transaction():
            self.quarantine.lift(caller.name)


def turns_of(text: str) -> list[str]:
    """Return the turns in a context's text, without their continuations."""
    return [line for line in text.splitlines() if line.startswith("[")]
