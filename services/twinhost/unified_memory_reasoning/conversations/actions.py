"""Interactions and contexts: requests, replies and handlers."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.fence import Passage, fenced, new_tag
from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import Feature, InParts, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import NAME
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.conversations.context_text import ContextText, day_of
from twinhost.unified_memory_reasoning.conversations.interactions import CIRCUMSTANCES, Interactions, Kind
from twinhost.unified_memory_reasoning.conversations.recollection import Recollection, filters_of
from twinhost.unified_memory_reasoning.conversations.summary import SPEAKER_CHARACTERS, SummaryDocument, SummaryPart
from twinhost.unified_memory_reasoning.conversations.tokens import Tokens
from twinhost.unified_memory_reasoning.fields import TAG
from twinhost.unified_memory_reasoning.language import contradictions
from twinhost.unified_memory_reasoning.search.actions import MAX_QUERY_BYTES, QUERY
from twinhost.unified_memory_reasoning.search.meaning import Channels, Recalled, with_meaning
from twinhost.unified_memory_reasoning.search.search import Search
from twinhost.unified_memory_reasoning.search.vectors import NOTHING_NEAR
from twinhost.unified_memory_reasoning.spaces.access import InSpace

MAX_CONTENT_BYTES = 65_536  # in UTF-8
MAX_METADATA_BYTES = 16_384  # of JSON
MAX_METADATA_DEPTH = 16
MAX_TOKENS = 100_000

CONTENT = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CONTENT_BYTES)]
SPEAKER = Annotated[str, msgspec.Meta(max_length=256)]  # empty: none
TOKENS = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]


@CIRCUMSTANCES.stored_by
class _SentInteraction(InSpace):
    session_id: NAME
    interaction_type: Kind
    content: CONTENT
    speaker: SPEAKER | None = None
    metadata: dict[str, Any] | None = None


class AddInteraction(_SentInteraction, tag="add_interaction"):
    """Store something that was said in a session; `content` has at most 64 KiB, `metadata` 16 KiB of JSON.

    `occurred_at` is when it was said, if that is not now.
    """

    def __post_init__(self) -> None:
        size = len(self.content.encode())
        if size > MAX_CONTENT_BYTES:
            raise ValueError(
                f"Expected at most {MAX_CONTENT_BYTES} bytes of UTF-8, got {size}; send it in parts - at `$.content`"
            )
        _require_small(self.metadata)


class GetContext(InSpace, tag="get_context"):
    """Return the context of a session, or of one speaker in it, in at most `max_tokens` tokens of text.

    With a `query`, at most 4096 bytes, the turns that fit it are quoted too, from the session or, with `scope` `all`,
    from all sessions and the memories. `speaker` is compared without case. `tag` is that of the lines around the text,
    for prompts that must not change; by default it is random, so that no writer knows it. With `fenced`, the summary is
    in `fenced_summary` too, as a text like that.
    """

    session_id: NAME
    max_tokens: TOKENS = 2_000
    speaker: SPEAKER | None = None
    query: QUERY | None = None
    scope: Literal["session", "all"] = "session"
    tag: TAG | None = None
    fenced: bool = False

    def __post_init__(self) -> None:
        if (size := len((self.query or "").encode())) > MAX_QUERY_BYTES:
            raise ValueError(f"Expected at most {MAX_QUERY_BYTES} bytes of UTF-8, got {size} - at `$.query`")
        if self.query is None and self.scope == "all":
            raise ValueError("Expected a `query` with `scope` all: it says where to search - at `$.query`")


class ClearContext(InSpace, tag="clear_context"):
    """Delete a session, or what one speaker said in it, whose name is matched exactly.

    The grant `{clear_context: own}` limits that to what the caller wrote.
    """

    session_id: NAME
    speaker: SPEAKER | None = None


def _require_small(metadata: dict[str, Any] | None) -> None:
    """Raise ValueError, which refuses the request, if the metadata is too large or too deep."""
    level: list[Any] = [metadata] if metadata else []
    for _ in range(MAX_METADATA_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
    if level:
        raise ValueError(f"Expected objects nested at most {MAX_METADATA_DEPTH} deep - at `$.metadata`")
    size = len(msgspec.json.encode(metadata))
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"Expected at most {MAX_METADATA_BYTES} bytes of JSON, got {size} - at `$.metadata`")


class InteractionAdded(TypedDict):
    """The interaction's id, its importance from 0 to 1, and how many places the session's window has."""

    status: Literal["ok"]
    interaction_id: int
    importance: float
    window_size: int


class WindowDocument(TypedDict):
    """How many places a window has, and how many visible items are in it."""

    size: int
    items: int


class ContextDocument(SummaryDocument):
    """The context of a session; `last_updated` (ISO-8601), when the newest was said, is null if nothing was.

    `stored` counts the session's interactions, `dropped` those that are not in `text`; `dropped_ids` names the newest
    of these, `cut_ids` those in `text` that are shortened. `memory_ids` names the memories in it. `tag` is in the first
    and in the last line of `text`.
    """

    last_updated: str | None
    text: str
    tokens: int
    max_tokens: int
    window: WindowDocument
    stored: int
    dropped: int
    dropped_ids: list[int]
    cut_ids: list[int]
    memory_ids: list[str]
    tag: str


class ContextFound(TypedDict):
    """The context of a session, or of one speaker in it.

    With a `query`: `channels` says what the search went by; `without_meaning`, why not by meaning, if the configuration
    has it; `contradictions`, the ids of two turns or memories each that state different values of one thing, as far as
    their wording tells; `not_indexed`, how many texts, at most, can't be found by words yet, if there are any. With
    `fenced`: `fenced_summary` has the summary as a text like `text`, with the same tag.
    """

    status: Literal["ok"]
    session_id: str
    context: ContextDocument
    channels: NotRequired[Channels]
    contradictions: NotRequired[list[list[int | str]]]
    without_meaning: NotRequired[str]
    not_indexed: NotRequired[int]
    fenced_summary: NotRequired[str]


class ContextCleared(TypedDict):
    """How many interactions of the session were deleted."""

    status: Literal["ok"]
    session_id: str
    cleared: int


MOST_DROPPED_IDS = 100
_AROUND_TEXT_BYTES = 8_192  # of a reply, without the summary and the text


class ContextActions(Feature):
    """Stores interactions and returns contexts."""

    def __init__(
        self,
        interactions: Interactions,
        search: Search,
        tokens: Tokens,
        max_reply_bytes: int,
        accessed: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        self._interactions = interactions
        self._search = search
        self._recollection = Recollection(interactions, search)
        self._tokens = tokens
        self._max_bytes = max_reply_bytes
        self._accessed = accessed  # is called with the ids of memories that were quoted

    @action(mutates=True, unowned="it adds a row, of the caller's")
    def add(self, request: AddInteraction, caller: Caller) -> InteractionAdded:
        added = self._interactions.add(
            request.session_id,
            request.interaction_type,
            request.content,
            caller.name,
            speaker=request.speaker or "",
            metadata=request.metadata,
            **CIRCUMSTANCES.stored(request, self._interactions.clock),
        )
        return {
            "status": SUCCESS,
            "interaction_id": added.id,
            "importance": added.importance,
            "window_size": added.window_size,
        }

    @action()
    def get(self, request: GetContext, _: Caller) -> InParts[ContextFound] | Future[InParts[ContextFound]]:
        if request.query is None:
            return self._search.with_one_view(lambda: self._context(request, None))
        speakers = self._search.speakers(request.speaker or None)
        filters = filters_of(request.session_id, speakers, everywhere=request.scope == "all")
        return with_meaning(
            self._search.meaning,
            request.query,
            filters,
            lambda recalled: self._search.with_one_view(lambda: self._context(request, recalled)),
        )

    def _context(self, request: GetContext, recalled: Recalled | None) -> InParts[ContextFound]:
        speaker = self._interactions.speaker(request.session_id, request.speaker)
        everywhere = request.scope == "all"
        remembered = self._interactions.context(request.session_id, speaker)
        summary = remembered.summary.document()
        tag = request.tag or new_tag()
        fenced_summary = fenced(self._passages(remembered.summary), tag) if request.fenced else ""
        yield
        bytes_left = self._max_bytes - len(msgspec.json.encode([summary, fenced_summary])) - _AROUND_TEXT_BYTES
        text = ContextText(self._tokens, request.max_tokens, bytes_left, names_sessions=everywhere, tag=tag)
        tokens = yield from self._recollection.fill(
            text,
            remembered.summary,
            request.session_id,
            speaker=speaker,
            query=request.query,
            everywhere=everywhere,
            nearness=recalled.nearness if recalled else NOTHING_NEAR,
        )
        yield
        own = {turn.id for turn in text.turns if turn.session_id == request.session_id}
        memory_ids = [turn.memory_id for turn in text.turns if turn.memory_id]
        self._accessed(memory_ids)
        known = {*remembered.newest, *(item.id for item in remembered.window.items)}
        context: ContextDocument = {
            "last_updated": None if remembered.last_updated is None else iso_time(remembered.last_updated),
            **summary,
            "text": text.text,
            "tokens": tokens,
            "max_tokens": request.max_tokens,
            "window": {"size": remembered.window.size, "items": len(remembered.window.items)},
            "stored": remembered.stored,
            "dropped": remembered.in_view - len(own),
            "dropped_ids": sorted(known - own, reverse=True)[:MOST_DROPPED_IDS],
            "cut_ids": text.cut,
            "memory_ids": memory_ids,
            "tag": tag,
        }
        reply: ContextFound = {"status": SUCCESS, "session_id": request.session_id, "context": context}
        if request.fenced:
            reply["fenced_summary"] = fenced_summary
        if recalled is not None:
            reply["channels"] = recalled.channels
            yield
            quoted = text.by_importance
            if pairs := contradictions([(turn.memory_id or turn.id, turn.content) for turn in quoted]):
                reply["contradictions"] = pairs
            if recalled.missing is not None:
                reply["without_meaning"] = recalled.missing
            if not_indexed := self._search.not_indexed():
                reply["not_indexed"] = not_indexed
        return reply

    def _passages(self, summary: SummaryPart) -> Iterator[Passage]:
        """Yield what a summary has, each entry with its own writer."""
        entries = list(summary.entries())
        turns = {turn.id: turn for turn in self._interactions.turns((entry.id for entry, _ in entries), 0)}
        for entry, what in entries:
            if (turn := turns.get(entry.id)) is not None:
                name = ", ".join(filter(None, (entry.speaker[:SPEAKER_CHARACTERS] or entry.kind, what)))
                yield Passage(turn.written_by, day_of(turn.at), "", name, entry.kind, entry.text)

    @action(mutates=True, from_reserve=True)
    def clear(self, request: ClearContext, caller: Caller) -> InParts[ContextCleared]:
        writer = caller.name if caller.own_only else None
        cleared = yield from self._interactions.clear(request.session_id, request.speaker or None, writer)
        return {"status": SUCCESS, "session_id": request.session_id, "cleared": cleared}
