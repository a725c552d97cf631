"""The actions on twins."""

from typing import Annotated, Any, Literal, TypedDict

import msgspec

from twinhost.agent.assembly import MAX_PAGE_BYTES
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotGranted
from twinhost.secure_zmq.wire import NAME
from twinhost.unified_memory_reasoning import SUCCESS, page_of
from twinhost.unified_memory_reasoning.provenance.quarantine import MAX_NUMBER
from twinhost.unified_memory_reasoning.spaces.access import InSpace
from twinhost.unified_memory_reasoning.twins.twins import (
    MAX_CHANGES,
    Change,
    TwinChange,
    TwinFound,
    Twins,
    require_size,
)

DEFAULT_USER = "default"
REVISION = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHANGES)]


class UpdateTwin(InSpace, tag="update_twin"):
    """Store a user's twin, replacing the previous one; at most 256 KiB of JSON.

    With `if_revision`, the twin is stored only if it has that revision (0: there is no twin); otherwise the reply is
    the error `conflict` with the current one.
    """

    twin_data: dict[str, Any]
    user_id: NAME = DEFAULT_USER
    if_revision: REVISION | None = None

    def __post_init__(self) -> None:
        require_size(self.twin_data, "twin_data")


class PatchTwin(InSpace, tag="patch_twin"):
    """Change fields of a user's twin by a JSON Merge Patch (RFC 7396): null removes a field, an object is merged.

    A user without a twin gets one. Patch and twin have at most 256 KiB of JSON each. `if_revision` as for
    `update_twin`.
    """

    patch: dict[str, Any]
    user_id: NAME = DEFAULT_USER
    if_revision: REVISION | None = None

    def __post_init__(self) -> None:
        require_size(self.patch, "patch")


class GetTwin(InSpace, tag="get_twin"):
    """Return a user's twin, or `{}` if there is none."""

    user_id: NAME = DEFAULT_USER


class GetTwinHistory(InSpace, tag="get_twin_history"):
    """List the stored changes of a user's twin, newest first, without those of quarantined writers.

    `before` is the `next_before` of the previous page.
    """

    user_id: NAME = DEFAULT_USER
    before: REVISION | None = None
    limit: LIMIT = 20


class DeleteTwin(InSpace, tag="delete_twin"):
    """Delete a user's twin; its history is kept. `if_revision` as for `update_twin`.

    With `erase`, an operator removes the history too, even if the twin is already deleted.
    """

    user_id: NAME = DEFAULT_USER
    if_revision: REVISION | None = None
    erase: bool = False


class TwinUpdated(TypedDict):
    """The twin is stored; `revision` grows with every change of this user's twin, even after a deletion."""

    status: Literal["ok"]
    user_id: str
    revision: int


class TwinDeleted(TypedDict):
    """The user's twin is deleted; `revision` is that of the deletion."""

    status: Literal["ok"]
    user_id: str
    revision: int


class TwinHistory(TypedDict):
    """Changes, newest first; `next_before` is null on the last page."""

    status: Literal["ok"]
    user_id: str
    changes: list[TwinChange]
    more: bool
    next_before: int | None


class TwinActions(Feature):
    """Stores, changes, returns and deletes twins."""

    def __init__(self, twins: Twins, page_bytes: int = MAX_PAGE_BYTES) -> None:
        """Serve a store; a page of a history has at most `page_bytes` of JSON, or a single larger change."""
        self._twins = twins
        self._page_bytes = page_bytes

    @action(mutates=True)
    def update_twin(self, request: UpdateTwin, caller: Caller) -> TwinUpdated:
        revision = self._twins.put(_change(request, caller), request.twin_data)
        return {"status": SUCCESS, "user_id": request.user_id, "revision": revision}

    @action(mutates=True)
    def patch_twin(self, request: PatchTwin, caller: Caller) -> TwinUpdated:
        revision = self._twins.patch(_change(request, caller), request.patch)
        return {"status": SUCCESS, "user_id": request.user_id, "revision": revision}

    @action(forwardable=True)
    def get_twin(self, request: GetTwin, _: Caller) -> TwinFound:
        return self._twins.find(request.user_id) or {"status": SUCCESS, "twin": {}, "revision": 0}

    @action(forwardable=True)
    def get_twin_history(self, request: GetTwinHistory, _: Caller) -> TwinHistory:
        before = MAX_NUMBER if request.before is None else request.before
        history = self._twins.history(request.user_id, before, request.limit + 1)
        changes, more = page_of(history, request.limit, self._page_bytes)
        return {
            "status": SUCCESS,
            "user_id": request.user_id,
            "changes": changes,
            "more": more,
            "next_before": changes[-1]["revision"] if more else None,
        }

    @action(mutates=True, from_reserve=True)
    def delete_twin(self, request: DeleteTwin, caller: Caller) -> TwinDeleted:
        if request.erase and not caller.operator:
            raise NotGranted(
                f"{caller.name} is not an operator and can't erase a history; omit `erase`, or let an operator run: "
                "./twinhost call UnifiedMemoryReasoningAgent delete_twin user_id=USER erase=true"
            )
        revision = self._twins.remove(_change(request, caller), erase=request.erase)
        return {"status": SUCCESS, "user_id": request.user_id, "revision": revision}


def _change(request: UpdateTwin | PatchTwin | DeleteTwin, caller: Caller) -> Change:
    return Change(request.user_id, caller, request.if_revision)
