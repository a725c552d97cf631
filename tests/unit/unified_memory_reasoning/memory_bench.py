"""The actions on interactions, without a socket."""

from collections.abc import Iterable
from typing import Any

from tests.unit.unified_memory_reasoning.bench import Bench
from tests.unit.unified_memory_reasoning.memory import SDT
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller
from twinhost.unified_memory_reasoning.conversations.actions import ContextActions
from twinhost.unified_memory_reasoning.conversations.interactions import MIGRATION as INTERACTIONS
from twinhost.unified_memory_reasoning.conversations.interactions import OCCURRED_MIGRATION, Interactions
from twinhost.unified_memory_reasoning.provenance.quarantine import MIGRATION as QUARANTINE
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine

MALLORY = Caller("Mallory", "pc2", frozenset({"agent"}), "SHA256:of-mallory")  # whose key is revoked later
ANN = Caller("Ann", "pc2", frozenset({"agent"}), "SHA256:of-ann")


class ContextBench(Bench):
    """The actions on interactions, their store, and the quarantine."""

    MIGRATIONS = (QUARANTINE, INTERACTIONS, OCCURRED_MIGRATION)

    def make(self) -> Iterable[Action[Any]]:
        self.interactions = Interactions(self.database)
        self.quarantine = Quarantine(self.database)
        return ContextActions(self.interactions, self._max_bytes).actions()

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
