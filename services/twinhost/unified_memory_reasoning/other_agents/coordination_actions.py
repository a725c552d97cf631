"""coordinate_memory: another agent's answer, asked for in the caller's name."""

from concurrent.futures import Future
from typing import cast

import msgspec

from twinhost.agent.membership.errands import Errand
from twinhost.agent.membership.member import Membership
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge
from twinhost.unified_memory_reasoning.other_agents.coordination_messages import CoordinateMemory
from twinhost.unified_memory_reasoning.other_agents.coordination_replies import OtherAgentsAnswer
from twinhost.unified_memory_reasoning.other_agents.priorities import number_of

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
            Errand(
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
