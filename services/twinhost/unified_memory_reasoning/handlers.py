"""What UnifiedMemoryReasoningAgent does with each request: domain rules only, no socket, no SQL."""

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.unified_memory_reasoning.messages import SUCCESS, DeleteTwin, GetTwin, UpdateTwin
from twinhost.unified_memory_reasoning.twin_replies import TwinDeleted, TwinFound, TwinUpdated
from twinhost.unified_memory_reasoning.twins import Twins


class Handlers(Feature):
    """The actions on the twins."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    @action(mutates=True)
    def update_twin(self, request: UpdateTwin, caller: Caller) -> TwinUpdated:
        revision = self._twins.put(request.user_id, request.twin_data, caller.name)
        return {"status": SUCCESS, "user_id": request.user_id, "revision": revision}

    @action(forwardable=True)
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

    @action(mutates=True)
    def delete_twin(self, request: DeleteTwin, caller: Caller) -> TwinDeleted:
        self._twins.remove(request.user_id, caller.name)
        return {"status": SUCCESS, "user_id": request.user_id}
