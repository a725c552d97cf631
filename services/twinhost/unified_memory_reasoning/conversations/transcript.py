"""The interactions of a session one by one, as they were stored: a page of them, and the deletion of some."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypedDict

import msgspec

from twinhost.secure_zmq.actions import Feature, InParts, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import NAME
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import SUCCESS, page_of
from twinhost.unified_memory_reasoning.conversations.interactions import (
    STORED_INTERACTION,
    Interactions,
    StoredInteraction,
)
from twinhost.unified_memory_reasoning.provenance.quarantine import MAX_NUMBER, create_visible_views, document_of
from twinhost.unified_memory_reasoning.spaces.access import InSpace

MAX_AT_ONCE = 1_000
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_AT_ONCE)]
NUMBER = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
IDS = Annotated[list[NUMBER], msgspec.Meta(min_length=1, max_length=MAX_AT_ONCE)]


class GetInteractions(InSpace, tag="get_interactions"):
    """List the interactions of a session as they were stored, the last one first.

    `before` is the `next_before` of the previous page.
    """

    session_id: NAME
    limit: LIMIT = 100
    before: NUMBER | None = None


class DeleteInteractions(InSpace, tag="delete_interactions"):
    """Delete interactions of your own from a session; an operator may delete any."""

    session_id: NAME
    ids: IDS


class InteractionsFound(TypedDict):
    """A page of interactions; `next_before` is null on the last one."""

    status: Literal["ok"]
    session_id: str
    interactions: list[StoredInteraction]
    more: bool
    next_before: int | None


class InteractionsDeleted(TypedDict):
    """The ids of those that there were, and that are deleted now."""

    status: Literal["ok"]
    session_id: str
    deleted: list[int]


_IDS = "SELECT id FROM visible_interactions WHERE session_id = ? AND id < ? ORDER BY id DESC LIMIT ?"
_OWNERS = (
    "SELECT id, written_by FROM visible_interactions WHERE session_id = ? AND id IN (SELECT value FROM json_each(?))"
)


class TranscriptActions(Feature):
    """Lists and deletes the interactions of a session."""

    def __init__(self, database: Database, interactions: Interactions, max_reply_bytes: int) -> None:
        create_visible_views(database, "interactions")
        self._database = database
        self._interactions = interactions
        self._max_bytes = max_reply_bytes // 2  # of the interactions; the rest of a reply is smaller

    @action()
    def page(self, request: GetInteractions, _: Caller) -> InteractionsFound:
        interactions, more = page_of(self._last(request), request.limit, self._max_bytes)
        return {
            "status": SUCCESS,
            "session_id": request.session_id,
            "interactions": interactions,
            "more": more,
            "next_before": interactions[-1]["id"] if more else None,
        }

    @action(mutates=True, from_reserve=True)
    def delete(self, request: DeleteInteractions, caller: Caller) -> InParts[InteractionsDeleted]:
        deleted = yield from self._interactions.remove(request.session_id, lambda: self._owned(request, caller))
        return {"status": SUCCESS, "session_id": request.session_id, "deleted": sorted(deleted)}

    def _owned(self, request: DeleteInteractions, caller: Caller) -> list[int]:
        """Return those ids that there are; raise NotGranted if one is of another caller."""
        ids = msgspec.json.encode(request.ids).decode()
        owned = self._database.execute(_OWNERS, (request.session_id, ids)).fetchall()
        for number, written_by in owned:
            caller.require_own(f"interaction {number}", written_by)
        return [number for number, _ in owned]

    def _last(self, request: GetInteractions) -> Iterator[StoredInteraction]:
        """Yield the last interactions; each is read when it is needed, since all together may be large."""
        before, document = MAX_NUMBER if request.before is None else request.before, document_of(StoredInteraction)
        for (number,) in self._database.execute(_IDS, (request.session_id, before, request.limit + 1)).fetchall():
            yield self._database.select(document, STORED_INTERACTION, (number,))[0]
