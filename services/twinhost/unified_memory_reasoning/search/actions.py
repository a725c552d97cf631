"""Search over interactions and memories: the words first, then importance, recency, and strength.

    score = (bm25 x B + importance x I + recency x R + strength x S) / (bm25 + importance + recency + strength)

The lower-case names are the weights of `recall:` in the network configuration. The parts go from 0 to 1:

    B   BM25 of the text, as a share of that of the best candidate (k1 = 1.2, b = 0.75, as in FTS5)
    I   the importance of an interaction; NEUTRAL_IMPORTANCE for a memory, which has none
    R   0.5 ** (age / recency_half_life_days); the age counts from when it occurred, or else was stored
    S   strength / MOST_STRENGTH, at most 1

The score of a memory whose validity has ended is multiplied by ENDED.

The formula orders the CANDIDATES best by BM25 (see `index`). Of two with the same score, the newer comes first.
"""

import json
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.network_config.model import Recall
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import SUCCESS, page_of
from twinhost.unified_memory_reasoning.memories.model import BY_DAYS, MOST_STRENGTH, Fading
from twinhost.unified_memory_reasoning.memories.rows import strength_now
from twinhost.unified_memory_reasoning.memories.validity import NO_END, Validity
from twinhost.unified_memory_reasoning.search.index import MEMORY_ROWS, SearchIndex
from twinhost.unified_memory_reasoning.search.words import Forms, forms_of

MAX_QUERY_BYTES = 4_096
MAX_LIMIT = 100
MAX_CONTENT_BYTES = 16_384  # of one result; a longer content is cut
_DIGITS = 6  # of a score


QUERY = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUERY_BYTES)]


class SearchMemory(Request, tag="search_memory"):
    """Search interactions and memories, best first; `query` is words, without any syntax, at most 4096 bytes."""

    query: QUERY
    session_id: NAME | None = None
    speaker: NAME | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 10


class SearchResult(TypedDict):
    """One result; `score` is 0 to 1, `timestamp` (ISO-8601) is when it occurred, or else was stored.

    An interaction's `id` is a number. A memory's `session_id` and `speaker` are null; `speaker` is null if none was
    given. If `content` is `cut`, `content_bytes` is still the size of the whole. `valid_until` is when a memory ceases
    to be valid, and `superseded_by` the memory that follows it; both are absent if there is none.
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
    valid_until: NotRequired[str]
    superseded_by: NotRequired[str]


class SearchResults(TypedDict):
    """The results, best first, whether there are more, and the words of the query that were searched and skipped."""

    status: Literal["ok"]
    results: list[SearchResult]
    more: bool
    words: list[str]
    words_left_out: list[str]


NEUTRAL_IMPORTANCE = 0.5  # that of an interaction to which no rule applies
ENDED = 0.5  # so that the present value of two that fit alike comes first
_DAY_S = 86_400.0
_OCCURRED = "coalesce((SELECT occurred_at FROM memory_details d WHERE d.number = memories.number), memories.created)"

_SIGNALS = (
    "SELECT id, importance, strength, coalesce(occurred_at, created) FROM visible_interactions "  # noqa: S608 - of this module's constants alone
    "WHERE id IN (SELECT value FROM json_each(?1)) "
    f"AND (?2 IS NULL OR session_id = ?2) AND (?3 IS NULL OR speaker = ?3) UNION ALL "
    f"SELECT number + {MEMORY_ROWS}, {NEUTRAL_IMPORTANCE}, {{strength}}, {_OCCURRED} "
    "FROM visible_memories memories "
    f"WHERE number IN (SELECT value - {MEMORY_ROWS} FROM json_each(?1)) AND forgotten = 0 "
    f"AND ?2 IS NULL AND ?3 IS NULL"
)
_RESULT = (
    "AS created, written_by, length(CAST(content AS BLOB)) AS content_bytes, "
    "substr(CAST(content AS BLOB), 1, ?) AS content"  # as bytes: a NUL doesn't end the content
)
_INTERACTION = (
    f"SELECT 'interaction' AS kind, id, session_id, speaker, importance, strength, "  # noqa: S608
    f"coalesce(occurred_at, created) {_RESULT} FROM interactions WHERE id = ?"
)
_MEMORY = (
    f"SELECT 'memory' AS kind, id, NULL AS session_id, '' AS speaker, {NEUTRAL_IMPORTANCE} AS importance, "  # noqa: S608
    f"{{strength}} AS strength, {_OCCURRED} {_RESULT} FROM memories WHERE number = ?"
)


class Ranking(msgspec.Struct, frozen=True):
    """The rows that fit a query, best first, with their scores, and the words that were searched and skipped."""

    rows: list[tuple[int, float]]
    words: list[str]
    left_out: list[str]


class Search:
    """Finds interactions and memories, without forgotten memories and what quarantined callers wrote."""

    def __init__(self, database: Database, weights: Recall, forms: Forms = forms_of, fading: Fading = BY_DAYS) -> None:
        self._database = database
        self._weights = weights
        self._validity = Validity(database)
        self._signals = _SIGNALS.format(strength=strength_now(fading, "memories", "?4"))
        self._memory = _MEMORY.format(strength=strength_now(fading, "memories", "unixepoch()"))
        self._index = SearchIndex(database, forms)

    def rank(self, query: str, *, session_id: str | None = None, speaker: str | None = None) -> Ranking:
        """Rank what fits a query.

        Args:
            query: any text; it is split into words and has no syntax.
            session_id: only interactions of this session, and no memories.
            speaker: only interactions of this speaker, and no memories.
        """
        candidates = self._index.candidates(query, session_id, speaker)
        fits, now, weights = candidates.fits, time.time(), self._weights
        whole = weights.bm25 + weights.importance + weights.recency + weights.strength
        half_life_s = weights.recency_half_life_days * _DAY_S
        signals = self._database.execute(self._signals, (json.dumps(list(fits)), session_id, speaker, now))
        ends = self._validity.ends(row - MEMORY_ROWS for row in fits if row >= MEMORY_ROWS)
        ended = {number + MEMORY_ROWS for number, end in ends.items() if (end.valid_until or now) <= now}
        ranked = [
            (
                (
                    weights.bm25 * fits[row]
                    + weights.importance * importance
                    + weights.recency * 0.5 ** (max(0.0, now - since) / half_life_s)
                    + weights.strength * min(1.0, strength / MOST_STRENGTH)
                )
                / whole
                * (ENDED if row in ended else 1.0),
                since,
                row,
            )
            for row, importance, strength, since in signals
        ]
        rows = [(row, score) for score, _, row in sorted(ranked, reverse=True)]
        return Ranking(rows, candidates.words, candidates.left_out)

    def read(self, row: int, score: float, max_content_bytes: int) -> SearchResult:
        """Return a row of a ranking as a result."""

        def result(
            kind: Literal["interaction", "memory"], speaker: str, created: float, content: bytes, **columns: Any
        ) -> SearchResult:
            return {
                "id": columns["id"],
                "kind": kind,
                "session_id": columns["session_id"],
                "speaker": speaker or None,
                "content": content.decode(errors="ignore"),  # the last character may be cut
                "content_bytes": columns["content_bytes"],
                "cut": len(content) < columns["content_bytes"],
                "importance": columns["importance"],
                "strength": round(columns["strength"], 3),
                "timestamp": iso_time(created),
                "score": round(score, _DIGITS),
                "written_by": columns["written_by"],
            }

        query, number = (self._memory, row - MEMORY_ROWS) if row >= MEMORY_ROWS else (_INTERACTION, row)
        found = self._database.select(result, query, (max_content_bytes, number))[0]
        end = self._validity.ends([number]).get(number, NO_END) if row >= MEMORY_ROWS else NO_END
        if end.valid_until is not None:
            found["valid_until"] = iso_time(end.valid_until)
        if end.superseded_by is not None:
            found["superseded_by"] = end.superseded_by
        return found


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
    def search(self, request: SearchMemory, _: Caller) -> SearchResults:
        if (size := len(request.query.encode())) > MAX_QUERY_BYTES:
            raise MalformedRequest(
                f"Expected `str` of at most {MAX_QUERY_BYTES} bytes, got {size} - at `$.query`; send fewer words"
            )
        ranking = self._search.rank(request.query, session_id=request.session_id, speaker=request.speaker)
        results, more = page_of(
            (self._search.read(row, score, self._max_content_bytes) for row, score in ranking.rows),
            request.limit,
            self._max_bytes,
        )
        self._accessed(str(each["id"]) for each in results if each["kind"] == "memory")
        return {
            "status": SUCCESS,
            "results": results,
            "more": more,
            "words": ranking.words,
            "words_left_out": ranking.left_out,
        }
