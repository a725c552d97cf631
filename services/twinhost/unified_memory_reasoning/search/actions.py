"""Search over interactions and memories: relevance first, then importance, recency, and strength.

    score = (bm25 x B + importance x I + recency x R + strength x S) / (bm25 + importance + recency + strength)

The lower-case names are the weights of `recall:` in the network configuration. The parts go from 0 to 1:

    B   the relevance of the text (see `ranking`), as a share of that of the best one
    I   the importance of an interaction; NEUTRAL_IMPORTANCE for a memory, which has none
    R   0.5 ** (age / recency_half_life_days); the age of an interaction counts from when it was stored,
        that of a memory from when it was last accessed
    S   strength / MOST_STRENGTH, at most 1

The formula orders the CANDIDATES most relevant. Of two with the same score, the newer comes first.
"""

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.network_config.model import Recall
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import SUCCESS, page_of
from twinhost.unified_memory_reasoning.conversations.interactions import Kind
from twinhost.unified_memory_reasoning.memories.messages import TIME
from twinhost.unified_memory_reasoning.memories.model import MOST_STRENGTH
from twinhost.unified_memory_reasoning.search.index import EVERYTHING, MEMORY_ROWS, MOST_SPREAD, Filters, SearchIndex
from twinhost.unified_memory_reasoning.search.ranking import Fit, Ranker, Text
from twinhost.unified_memory_reasoning.search.words import asked_in

MAX_QUERY_BYTES = 4_096
MAX_LIMIT = 100
MAX_CONTENT_BYTES = 16_384  # of one result; a longer content is cut
_DIGITS = 6  # of a score


class SearchMemory(Request, tag="search_memory"):
    """Search interactions and memories, best first; `query` is words, without any syntax, at most 4096 bytes.

    `since` and `until` (ISO-8601 or seconds since the epoch) bound when a result was stored; `as_of` searches as at
    that time: nothing newer, and "yesterday" counts from it. Results below `min_similarity` are left out.
    """

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUERY_BYTES)]
    session_id: NAME | None = None
    speaker: NAME | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 10
    type: Kind | None = None
    since: TIME | None = None
    until: TIME | None = None
    as_of: TIME | None = None
    min_similarity: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class SearchResult(TypedDict):
    """One result; `score` is 0 to 1, `timestamp` (ISO-8601) is when it was stored.

    `score` compares the results of one search. `similarity`, 0 to 1, says how much of the query is in the text and the
    turns around it, whatever else was found. An interaction's `id` is a number. A memory's `session_id` and `speaker`
    are null; `speaker` is null if none was given. `content_bytes` is the size of the whole, also if `content` is `cut`.
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
    similarity: float
    written_by: str


class SearchResults(TypedDict):
    """The results, best first, whether there are more, and the words of the query that were searched and skipped."""

    status: Literal["ok"]
    results: list[SearchResult]
    more: bool
    words: list[str]
    words_left_out: list[str]


NEUTRAL_IMPORTANCE = 0.5  # that of an interaction to which no rule applies
_DAY_S = 86_400.0

CANDIDATES = 100  # the most relevant; the formula orders these
_MOST_CHARACTERS = 2_000  # of a text, the first ones, that its relevance looks at
_SIGNALS = (
    "SELECT id AS row, session_id, created AS moment, substr(content, 1, ?2) AS content, "  # noqa: S608
    "importance, strength, created AS since FROM interactions WHERE id IN (SELECT value FROM json_each(?1)) UNION ALL "
    f"SELECT number + {MEMORY_ROWS}, '', created, substr(content, 1, ?2), {NEUTRAL_IMPORTANCE}, strength, "
    f"last_accessed FROM memories WHERE number IN (SELECT value - {MEMORY_ROWS} FROM json_each(?1))"
)
_RESULT = (
    "importance, strength, created, written_by, length(CAST(content AS BLOB)) AS content_bytes, "
    "substr(CAST(content AS BLOB), 1, ?) AS content"  # as bytes: a NUL doesn't end the content
)
_INTERACTION = f"SELECT 'interaction' AS kind, id, session_id, speaker, {_RESULT} FROM interactions WHERE id = ?"  # noqa: S608
_MEMORY = (
    f"SELECT 'memory' AS kind, id, NULL AS session_id, '' AS speaker, {NEUTRAL_IMPORTANCE} AS {_RESULT} "  # noqa: S608
    "FROM memories WHERE number = ?"
)


class Ranked(NamedTuple):
    """A row that fits a query, its score among the others, and its similarity to the query."""

    row: int
    score: float
    similarity: float


class Ranking(msgspec.Struct, frozen=True):
    """The rows that fit a query, best first, and the words that were searched and skipped."""

    rows: list[Ranked]
    words: list[str]
    left_out: list[str]


class _Candidate(NamedTuple):
    text: Text
    importance: float
    strength: float
    since: float  # the age counts from


class Search:
    """Finds interactions and memories, without forgotten memories and what quarantined callers wrote."""

    def __init__(self, database: Database, weights: Recall) -> None:
        self._database = database
        self._weights = weights
        self._index = SearchIndex(database)

    def best(self, query: str, *, session_id: str | None = None, limit: int = 10) -> list[tuple[int, float]]:
        """Return the ids of the interactions that fit a query best, with their similarity, best first.

        Args:
            query: any text.
            session_id: only interactions of this session; of all sessions if None.
            limit: the most ids.
        """
        rows = self.rank(query, Filters(session_id=session_id)).rows
        return [(each.row, each.similarity) for each in rows if each.row < MEMORY_ROWS][:limit]

    def rank(self, query: str, filters: Filters = EVERYTHING, now: float | None = None) -> Ranking:
        """Rank what fits a query.

        Args:
            query: any text; it is split into words and has no syntax.
            filters: what the results must be.
            now: seconds since the epoch; the clock's if None.
        """
        now = time.time() if now is None else now
        asked = asked_in(query, datetime.fromtimestamp(now, UTC).date(), self._weights.word_pairs)
        found = self._index.find(asked, filters)
        ranker = Ranker(query, found.parts, found.total)
        seeds = ranker.seeds(found.fitting)
        near = ranker.near(self._index.neighbours(seeds[:MOST_SPREAD]))
        rows = found.fitting.intersection(seeds)
        if filters.within_session:
            rows |= self._index.fitting(near.keys() - rows, filters)
        else:
            rows |= near.keys()
        candidates = self._candidates(ranker.best(rows, near, CANDIDATES))
        fits = ranker.fits([each.text for each in candidates], near)
        return Ranking(self._scored(candidates, fits, now), found.words, found.left_out)

    def _candidates(self, rows: list[int]) -> list[_Candidate]:
        def candidate(importance: float, strength: float, since: float, **text: Any) -> _Candidate:
            return _Candidate(Text(**text), importance, strength, since)

        return self._database.select(candidate, _SIGNALS, (json.dumps(rows), _MOST_CHARACTERS))

    def _scored(self, candidates: list[_Candidate], fits: dict[int, Fit], now: float) -> list[Ranked]:
        weights = self._weights
        whole = weights.bm25 + weights.importance + weights.recency + weights.strength
        half_life_s = weights.recency_half_life_days * _DAY_S
        best = max((fit.relevance for fit in fits.values()), default=0.0) or 1.0
        scored = [
            (
                (
                    weights.bm25 * fits[text.row].relevance / best
                    + weights.importance * importance
                    + weights.recency * 0.5 ** (max(0.0, now - since) / half_life_s)
                    + weights.strength * min(1.0, strength / MOST_STRENGTH)
                )
                / whole,
                since,
                text.row,
            )
            for text, importance, strength, since in candidates
        ]
        return [Ranked(row, score, fits[row].similarity) for score, _, row in sorted(scored, reverse=True)]

    def read(self, ranked: Ranked, max_content_bytes: int) -> SearchResult:
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
                "strength": columns["strength"],
                "timestamp": iso_time(created),
                "score": round(ranked.score, _DIGITS),
                "similarity": round(ranked.similarity, _DIGITS),
                "written_by": columns["written_by"],
            }

        row = ranked.row
        query, number = (_MEMORY, row - MEMORY_ROWS) if row >= MEMORY_ROWS else (_INTERACTION, row)
        return self._database.select(result, query, (max_content_bytes, number))[0]


class SearchActions(Feature):
    """Answers searches."""

    def __init__(self, search: Search, max_reply_bytes: int) -> None:
        self._search = search
        self._max_bytes = max_reply_bytes // 2  # of the results; the words of the query have the other half
        self._max_content_bytes = min(MAX_CONTENT_BYTES, max_reply_bytes // 16)  # JSON may take 6 bytes for one

    @action(forwardable=True)
    def search(self, request: SearchMemory, _: Caller) -> SearchResults:
        if (size := len(request.query.encode())) > MAX_QUERY_BYTES:
            raise MalformedRequest(
                f"Expected `str` of at most {MAX_QUERY_BYTES} bytes, got {size} - at `$.query`; send fewer words"
            )
        filters, now = _filters(request)
        ranking = self._search.rank(request.query, filters, now)
        similar = (each for each in ranking.rows if each.similarity >= request.min_similarity)
        results, more = page_of(
            (self._search.read(each, self._max_content_bytes) for each in similar),
            request.limit,
            self._max_bytes,
        )
        return {
            "status": SUCCESS,
            "results": results,
            "more": more,
            "words": ranking.words,
            "words_left_out": ranking.left_out,
        }


def _filters(request: SearchMemory) -> tuple[Filters, float | None]:
    """Return what results must be, and the time of the search; None: now."""
    since, until, as_of = (_seconds(getattr(request, name), name) for name in ("since", "until", "as_of"))
    if as_of is not None:
        until = as_of if until is None else min(until, as_of)
    if since is not None and until is not None and since > until:
        raise MalformedRequest("`since` is later than `until` or `as_of`, so nothing can be found - at `$.since`")
    return Filters(request.session_id, request.speaker, request.type, since, until), as_of


def _seconds(value: str | float | None, name: str) -> float | None:
    """Return a time in seconds since the epoch; without a time zone it is in UTC."""
    if value is None or isinstance(value, float):
        return value
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise MalformedRequest(
            f"Expected a time in ISO-8601 or seconds since the epoch, got {value!r} - at `$.{name}`"
        ) from None
