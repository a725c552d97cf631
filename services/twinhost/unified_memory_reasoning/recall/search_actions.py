"""The action that searches the memory."""

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.unified_memory_reasoning.messages import SUCCESS
from twinhost.unified_memory_reasoning.recall.search import Found, Search
from twinhost.unified_memory_reasoning.recall.search_messages import MAX_QUERY_BYTES, SearchMemory
from twinhost.unified_memory_reasoning.recall.search_replies import FoundDocument, SearchResults

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
