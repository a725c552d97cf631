"""What UnifiedMemoryReasoningAgent is asked to search for: every field with its type and its bounds."""

from typing import Annotated, Literal, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.search.search import Found, Search

MAX_QUERY_BYTES = 4_096
MAX_LIMIT = 100


class SearchMemory(Request, tag="search_memory"):
    """What is remembered, best first; `query` is words, and nothing in it is syntax."""

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUERY_BYTES)]
    session_id: NAME | None = None
    speaker: NAME | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 10


class FoundDocument(TypedDict):
    """One result, whose `score` is from 0 to 1, and which was stored at `timestamp` (ISO-8601).

    An interaction's `id` is a number; of a memory `session_id` and `speaker` are null, as `speaker` is where none was
    told. Where `content` is `cut`, `content_bytes` is still the size of the whole.
    """

    id: int | str
    kind: Literal["interaction", "memory"]
    session_id: str | None
    speaker: str | None
    content: str
    content_bytes: int
    cut: bool
    importance: float
    strength: float
    timestamp: str
    score: float
    written_by: str


class SearchResults(TypedDict):
    """The best results, best first, whether there are more, and the query's words: searched for, and left out."""

    status: Literal["ok"]
    results: list[FoundDocument]
    more: bool
    words: list[str]
    words_left_out: list[str]


MAX_CONTENT_BYTES = 16_384  # of one result; of a longer content, only its beginning is answered
_DIGITS = 6  # of a score


class SearchActions(Feature):
    """Searches as the wire has them."""

    def __init__(self, search: Search, max_reply_bytes: int) -> None:
        self._search = search
        self._max_bytes = max_reply_bytes // 2  # of results; the words of the query are less than the other half
        self._max_content_bytes = min(MAX_CONTENT_BYTES, max_reply_bytes // 16)  # JSON makes 6 bytes of some
        self._encoder = msgspec.json.Encoder()

    @action(forwardable=True)
    def search(self, request: SearchMemory, _: Caller) -> SearchResults:
        if (size := len(request.query.encode())) > MAX_QUERY_BYTES:
            raise MalformedRequest(
                f"Expected `str` of at most {MAX_QUERY_BYTES} bytes, got {size} - at `$.query`; ask with fewer words"
            )
        findings = self._search.find(
            request.query,
            session_id=request.session_id,
            speaker=request.speaker,
            limit=request.limit,
            max_content_bytes=self._max_content_bytes,
        )
        results: list[FoundDocument] = []
        left = self._max_bytes
        for found in findings.results:
            document = _document(found)
            left -= len(self._encoder.encode(document)) + 1
            if results and left < 0:
                break
            results.append(document)
        return {
            "status": SUCCESS,
            "results": results,
            "more": len(results) < findings.candidates,
            "words": findings.words,
            "words_left_out": findings.left_out,
        }


def _document(found: Found) -> FoundDocument:
    return {
        "id": found.id,
        "kind": found.kind,
        "session_id": found.session_id,
        "speaker": found.speaker,
        "content": found.content,
        "content_bytes": found.size,
        "cut": len(found.content.encode()) < found.size,
        "importance": found.importance,
        "strength": found.strength,
        "timestamp": iso_time(found.created),
        "score": round(found.score, _DIGITS),
        "written_by": found.written_by,
    }
