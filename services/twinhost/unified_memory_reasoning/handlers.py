"""What UnifiedMemoryReasoningAgent does with each request: domain rules only, no socket, no SQL."""

from collections.abc import Callable
from typing import Any

from twinhost.agent.common_actions import Ping
from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller
from twinhost.unified_memory_reasoning.memory_health import MemoryHealth
from twinhost.unified_memory_reasoning.messages import SUCCESS, DeleteTwin, GetTwin, UpdateTwin
from twinhost.unified_memory_reasoning.twin_replies import TwinDeleted, TwinFound, TwinUpdated
from twinhost.unified_memory_reasoning.twins import Twins


class Handlers:
    """The actions on the twins."""

    def __init__(self, twins: Twins, document: Callable[[], MemoryHealth]) -> None:
        self._twins = twins
        self._document = document

    def actions(self) -> list[Action[Any]]:
        """Return the table of actions."""
        return [
            Action(Ping, self.ping),
            Action(UpdateTwin, self.update_twin, mutates=True),
            Action(GetTwin, self.get_twin, forwardable=True),
            Action(DeleteTwin, self.delete_twin, mutates=True),
        ]

    def ping(self, _: Ping, __: Caller) -> MemoryHealth:
        """Answer with the health document, as this agent's clients expect of a ping."""
        return self._document()

    def update_twin(self, request: UpdateTwin, caller: Caller) -> TwinUpdated:
        revision = self._twins.put(request.user_id, request.twin_data, caller.name)
        return {"status": SUCCESS, "user_id": request.user_id, "revision": revision}

    def get_twin(self, request: GetTwin, _: Caller) -> TwinFound:
        twin = self._twins.find(request.user_id)
        if twin is None:
            return {"status": SUCCESS, "twin": {}, "revision": 0}
        return {
            "status": SUCCESS,
            "twin": twin.data,
            "revision": twin.revision,
            "written_by": twin.written_by,
            "updated": iso_time(twin.updated),
        }

    def delete_twin(self, request: DeleteTwin, caller: Caller) -> TwinDeleted:
        self._twins.remove(request.user_id, caller.name)
        return {"status": SUCCESS, "user_id": request.user_id}
