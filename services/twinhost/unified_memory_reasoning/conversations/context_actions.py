"""The actions on what was said: stored, asked for within a budget of tokens, and forgotten."""

from collections.abc import Iterable, Iterator

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.unified_memory_reasoning.conversations.context_messages import AddInteraction, ClearContext, GetContext
from twinhost.unified_memory_reasoning.conversations.context_replies import (
    ContextCleared,
    ContextFound,
    InteractionAdded,
)
from twinhost.unified_memory_reasoning.conversations.context_text import Line, text_of
from twinhost.unified_memory_reasoning.conversations.interaction import Interaction
from twinhost.unified_memory_reasoning.conversations.interactions import Interactions
from twinhost.unified_memory_reasoning.messages import SUCCESS

MOST_DROPPED_IDS = 100
MOST_FURTHER_CHARACTERS = 262_144  # of the contents that are tried beside the window's: that bounds the time
_AROUND_TEXT_BYTES = 8_192  # of a reply: what stands in it beside the summary and the text


class ContextActions(Feature):
    """Interactions and contexts as the wire has them."""

    def __init__(self, interactions: Interactions, max_reply_bytes: int) -> None:
        self._interactions = interactions
        self._max_bytes = max_reply_bytes

    @action(mutates=True)
    def add(self, request: AddInteraction, caller: Caller) -> InteractionAdded:
        added = self._interactions.add(
            request.session_id,
            request.interaction_type,
            request.content,
            caller.name,
            speaker=request.speaker or "",
            metadata=request.metadata,
        )
        return {
            "status": SUCCESS,
            "interaction_id": added.id,
            "importance": added.importance,
            "window_size": added.window_size,
        }

    @action()
    def get(self, request: GetContext, _: Caller) -> ContextFound:
        found = self._interactions.context(request.session_id, request.speaker or None)
        summary = found.summary.document()
        bytes_left = self._max_bytes - len(msgspec.json.encode(summary)) - _AROUND_TEXT_BYTES
        further = list(_together(found.further, MOST_FURTHER_CHARACTERS))
        told = text_of(_lines(found.items), request.max_tokens, bytes_left, _lines(further))
        told_ids = {item.id for item in (*found.items, *further)}.difference(told.dropped)
        not_told = {*found.newest, *told.dropped} - told_ids
        return {
            "status": SUCCESS,
            "session_id": request.session_id,
            "context": {
                "last_updated": None if found.last_updated is None else iso_time(found.last_updated),
                **summary,
                "text": told.text,
                "tokens": told.tokens,
                "max_tokens": request.max_tokens,
                "window": {"size": found.window_size, "items": len(found.items)},
                "stored": found.stored,
                "dropped": found.in_view - len(told_ids),
                "dropped_ids": sorted(not_told, reverse=True)[:MOST_DROPPED_IDS],
                "cut_ids": told.cut,
            },
        }

    @action(mutates=True)
    def clear(self, request: ClearContext, _: Caller) -> ContextCleared:
        cleared = self._interactions.clear(request.session_id, request.speaker or None)
        return {"status": SUCCESS, "session_id": request.session_id, "cleared": cleared}


def _together(items: Iterable[Interaction], most: int) -> Iterator[Interaction]:
    """Yield items whose contents have no more characters together; one that is too long is passed over."""
    for item in items:
        if len(item.content) <= most:
            most -= len(item.content)
            yield item


def _lines(items: Iterable[Interaction]) -> list[Line]:
    return [Line(item.id, item.speaker, item.kind, item.content) for item in items]
