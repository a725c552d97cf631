"""Search over interactions and memories: requests, replies and handlers; `search` has how they are found."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.request_times import TIME, seconds_of
from twinhost.secure_zmq.actions import Feature, InParts, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME
from twinhost.unified_memory_reasoning import SUCCESS, page_of
from twinhost.unified_memory_reasoning.conversations.interactions import Kind
from twinhost.unified_memory_reasoning.language import contradictions
from twinhost.unified_memory_reasoning.memories.messages import KEYWORD
from twinhost.unified_memory_reasoning.search.filters import Filters
from twinhost.unified_memory_reasoning.search.meaning import Channels, Recalled, with_meaning
from twinhost.unified_memory_reasoning.search.search import Search, SearchResult
from twinhost.unified_memory_reasoning.spaces.access import InSpace

_A_TIME = "a time in ISO-8601 or seconds since the epoch"
MAX_QUERY_BYTES = 4_096
MAX_LIMIT = 100
MAX_CONTENT_BYTES = 16_384  # of one result; a longer content is cut


QUERY = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUERY_BYTES)]


class SearchMemory(InSpace, tag="search_memory"):
    """Search interactions and memories, best first; `query` is words, without any syntax, at most 4096 bytes.

    `since` and `until` (ISO-8601 or seconds since the epoch) bound when a result occurred, or else was stored. `as_of`
    searches as of that time: nothing newer, and "yesterday" is relative to it. Results below `min_similarity` are left
    out; no value of it shows whether one answers the query. With `keyword`, the results are memories that have it.
    `speaker` and `keyword` are compared without case.
    """

    query: QUERY
    session_id: NAME | None = None
    speaker: NAME | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 10
    type: Kind | None = None
    since: TIME | None = None
    until: TIME | None = None
    as_of: TIME | None = None
    min_similarity: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    keyword: KEYWORD | None = None


class SearchResults(TypedDict):
    """The results, best first, whether there are more, and the words of the query that were searched and skipped.

    `channels` says what the search went by; `without_meaning`, why not by meaning, if the configuration has it.
    `contradictions` has the ids of two results each that state different values of one thing, as far as their wording
    tells; which of them holds is for the reader, who has their times and writers.
    `not_indexed` is how many texts, at most, can't be found by words yet; it is absent if there are none.
    """

    status: Literal["ok"]
    results: list[SearchResult]
    more: bool
    words: list[str]
    words_left_out: list[str]
    channels: Channels
    contradictions: NotRequired[list[list[int | str]]]
    without_meaning: NotRequired[str]
    not_indexed: NotRequired[int]


class SearchActions(Feature):
    """Answers searches."""

    def __init__(
        self, search: Search, max_reply_bytes: int, accessed: Callable[[Iterable[str]], None] = lambda _: None
    ) -> None:
        self._search = search
        self._accessed = accessed  # is called with the ids of memories that were found
        self._max_bytes = max_reply_bytes // 2  # of the results; the words of the query have the other half
        self._max_content_bytes = min(MAX_CONTENT_BYTES, max_reply_bytes // 16)  # JSON may take 6 bytes for one

    @action(forwardable=True)
    def search(self, request: SearchMemory, _: Caller) -> InParts[SearchResults] | Future[InParts[SearchResults]]:
        if (size := len(request.query.encode())) > MAX_QUERY_BYTES:
            raise MalformedRequest(
                f"Expected `str` of at most {MAX_QUERY_BYTES} bytes, got {size} - at `$.query`; send fewer words"
            )
        filters = _filters(request, self._search.speakers(request.speaker))
        return with_meaning(
            self._search.meaning,
            request.query,
            filters,
            lambda recalled: self._search.with_one_view(lambda: self._results(request, filters, recalled)),
        )

    def _results(self, request: SearchMemory, filters: Filters, recalled: Recalled) -> InParts[SearchResults]:
        ranking = yield from self._search.rank(request.query, filters, recalled.nearness, request.limit)
        read, size = list[SearchResult](), 0
        for ranked in ranking.rows:
            if len(read) > request.limit or size > self._max_bytes:
                break
            if ranked.similarity < request.min_similarity:
                continue
            if (result := self._search.read(ranked, self._max_content_bytes)) is not None:
                read.append(result)
                size += result["content_bytes"] if not result["cut"] else self._max_content_bytes
            yield
        results, more = page_of(read, request.limit, self._max_bytes)
        self._accessed(str(result["id"]) for result in results if result["kind"] == "memory")
        reply: SearchResults = {
            "status": SUCCESS,
            "results": results,
            "more": more,
            "words": ranking.words,
            "words_left_out": ranking.left_out,
            "channels": recalled.channels,
        }
        said = [(result["id"], result.get("passage", result["content"])) for result in results]
        if pairs := contradictions(said):
            reply["contradictions"] = pairs
        if recalled.missing is not None:
            reply["without_meaning"] = recalled.missing
        if not_indexed := self._search.not_indexed():
            reply["not_indexed"] = not_indexed
        return reply


def _filters(request: SearchMemory, speakers: tuple[str, ...] | None) -> Filters:
    """Return what results must be."""
    since, until, as_of = (_seconds(getattr(request, name), name) for name in ("since", "until", "as_of"))
    if as_of is not None:
        until = as_of if until is None else min(until, as_of)
    if since is not None and until is not None and since > until:
        raise MalformedRequest("`since` is later than `until` or `as_of`, so nothing can be found - at `$.since`")
    keyword = None if request.keyword is None else request.keyword.casefold()
    return Filters(request.session_id, speakers, request.type, since, until, keyword, as_of)


def _seconds(value: str | float | None, name: str) -> float | None:
    """Return a time in seconds since the epoch, before which nothing occurred."""
    return None if value is None else max(0.0, seconds_of(value, f"$.{name}", _A_TIME))
