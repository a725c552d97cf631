"""What UnifiedMemoryReasoningAgent does with each request: domain rules only, no socket, no SQL."""

from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.twins.store import Twins

DEFAULT_USER = "default"
MAX_TWIN_BYTES = 262_144  # of JSON


class UpdateTwin(Request, tag="update_twin"):
    """Store a user's twin in place of the one there is."""

    twin_data: dict[str, Any]
    user_id: NAME = DEFAULT_USER

    def __post_init__(self) -> None:
        size = len(msgspec.json.encode(self.twin_data))
        if size > MAX_TWIN_BYTES:
            raise ValueError(
                f"Expected at most {MAX_TWIN_BYTES} bytes of JSON, got {size}; leave some out - at `$.twin_data`"
            )


class GetTwin(Request, tag="get_twin"):
    """A user's twin, `{}` where there is none."""

    user_id: NAME = DEFAULT_USER


class DeleteTwin(Request, tag="delete_twin"):
    """Forget a user's twin."""

    user_id: NAME = DEFAULT_USER


class TwinUpdated(TypedDict):
    """The twin is stored; `revision` counts the updates since it was first stored."""

    status: Literal["ok"]
    user_id: str
    revision: int


class TwinFound(TypedDict):
    """A user's twin, or `{}`, revision 0, and neither writer nor moment (`updated`, ISO-8601) where none is told."""

    status: Literal["ok"]
    twin: dict[str, Any]
    revision: int
    written_by: NotRequired[str]
    updated: NotRequired[str]


class TwinDeleted(TypedDict):
    """The user's twin is forgotten."""

    status: Literal["ok"]
    user_id: str


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
