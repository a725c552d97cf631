"""The action on conflicts: which of several claims on one operation wins."""

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning.messages import SUCCESS
from twinhost.unified_memory_reasoning.other_agents.conflicts import Conflicts
from twinhost.unified_memory_reasoning.other_agents.coordination_replies import ConflictResolved
from twinhost.unified_memory_reasoning.other_agents.priorities import PRIORITY, number_of


class ResolveConflict(Request, tag="resolve_conflict"):
    """Claim an operation; `priority` from 1 to 10, or low (1), normal (5), or high (10)."""

    op_id: NAME
    priority: PRIORITY


class ConflictActions(Feature):
    """Claims as the wire has them."""

    def __init__(self, conflicts: Conflicts) -> None:
        self._conflicts = conflicts

    @action(mutates=True)
    def resolve(self, request: ResolveConflict, caller: Caller) -> ConflictResolved:
        resolved, claim = self._conflicts.resolve(request.op_id, number_of(request.priority), caller.name)
        return {
            "status": SUCCESS,
            "op_id": claim.op_id,
            "resolved": resolved,
            "holder": claim.holder,
            "priority": claim.priority,
            "since": iso_time(claim.since),
        }
