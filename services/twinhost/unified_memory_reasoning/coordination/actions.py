"""How urgent something is, as clients tell it: 1 to 10, or low, normal, or high."""

from concurrent.futures import Future
from typing import Annotated, Any, Literal, TypedDict, cast

import msgspec

from twinhost.agent.health import iso_time
from twinhost.agent.membership.coordination import ForwardedRequest
from twinhost.agent.membership.member import Membership
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.coordination.conflicts import Conflicts

_NUMBERS = {"low": 1, "normal": 5, "high": 10}
PRIORITY = Annotated[int, msgspec.Meta(ge=1, le=10)] | Literal["low", "normal", "high"]


def number_of(priority: int | str) -> int:
    """Return the priority as a number."""
    return priority if isinstance(priority, int) else _NUMBERS[priority]


class CoordinateMemory(Request, tag="coordinate_memory"):
    """Ask another agent for an operation of its own; the more urgent go first."""

    agent_name: NAME
    operation: NAME
    data: dict[str, Any]
    priority: PRIORITY = "normal"


class OtherAgentsAnswer(TypedDict):
    """The other agent's answer as that one gave it, with whatever fields it has beside its `status`."""

    status: str


class ConflictResolved(TypedDict):
    """Whether the claim won (`resolved`), and who holds the operation now, at which priority (1 to 10), since when."""

    status: Literal["ok"]
    op_id: str
    resolved: bool
    holder: str
    priority: int
    since: str


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


MAX_DATA_BYTES = 65_536  # it is kept until the other agent answers
_OURS = ("action", "request_id", "on_behalf_of", "deadline_s")  # what this agent says itself of what it passes on


class CoordinationActions(Feature):
    """The action on other agents."""

    def __init__(self, member: Membership, own_name: str) -> None:
        self._member = member
        self._own_name = own_name

    @action()
    def coordinate(self, request: CoordinateMemory, caller: Caller) -> "Future[OtherAgentsAnswer]":
        if request.agent_name == self._own_name:
            raise MalformedRequest(
                f"this is {self._own_name}; ask for {request.operation[:64]} directly - at `$.agent_name`"
            )
        size = len(msgspec.json.encode(request.data))
        if size > MAX_DATA_BYTES:
            raise MessageTooLarge(
                f"`data` has {size} bytes of JSON and {MAX_DATA_BYTES} are passed on; ask for less at once"
            )
        for name in _OURS:
            if name in request.data:
                raise MalformedRequest(f"`{name}` is set by {self._own_name}; leave it out - at `$.data.{name}`")
        answer = self._member.send(
            ForwardedRequest(
                agent_name=request.agent_name,
                operation=request.operation,
                fields=request.data,
                priority=number_of(request.priority),
                caller=caller.name,
                on_behalf=caller.authenticated,
                request_id=request.request_id,
            )
        )
        return cast("Future[OtherAgentsAnswer]", answer)
