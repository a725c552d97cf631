"""Search over interactions and memories: relevance first, then importance, recency, and strength.

    score = (bm25 x B + importance x I + recency x R + strength x S) / (bm25 + importance + recency + strength)

The lower-case names are the weights of `recall:` in the network configuration. The parts go from 0 to 1:

    B   the relevance of the text (see `ranking`), as a share of that of the best one
    I   the importance of an interaction; NEUTRAL_IMPORTANCE for a memory, which has none
    R   0.5 ** (age / recency_half_life_days); the age counts from when it occurred, or else was stored
    S   strength / MOST_STRENGTH, at most 1

The score of a memory that is not valid, no longer or not yet, is multiplied by NOT_VALID. One that is not valid yet is
below those that it will follow.

The formula orders the CANDIDATES most relevant. Of two with the same score, the newer comes first.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

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
from twinhost.unified_memory_reasoning.memories.messages import KEYWORD, TIME
from twinhost.unified_memory_reasoning.memories.model import BY_DAYS, MOST_STRENGTH, Fading
from twinhost.unified_memory_reasoning.memories.rows import strength_now
from twinhost.unified_memory_reasoning.memories.validity import NO_END, Validity
from twinhost.unified_memory_reasoning.search.index import EVERYTHING, MOST_SPREAD, Filters, SearchIndex
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS
from twinhost.unified_memory_reasoning.search.meaning import Channels, Meaning, Recalled, with_meaning
from twinhost.unified_memory_reasoning.search.quoted import Passages
from twinhost.unified_memory_reasoning.search.ranking import Fit, Ranker
from twinhost.unified_memory_reasoning.search.updates import Text
from twinhost.unified_memory_reasoning.search.words import asked_in

MAX_QUERY_BYTES = 4_096
MAX_LIMIT = 100
MAX_CONTENT_BYTES = 16_384  # of one result; a longer content is cut
_DIGITS = 6  # of a score


QUERY = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUERY_BYTES)]


class SearchMemory(Request, tag="search_memory"):
    """Search interactions and memories, best first; `query` is words, without any syntax, at most 4096 bytes.

    `since` and `until` (ISO-8601 or seconds since the epoch) bound when a result occurred, or else was stored. `as_of`
    searches as at that time: nothing newer, and "yesterday" counts from it. Results below `min_similarity` are left
    out. With `keyword`, the results are memories that have it. `speaker` and `keyword` are compared without case.
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


class SearchResult(TypedDict):
    """One result; `score` is 0 to 1, `timestamp` (ISO-8601) is when it occurred, or else was stored.

    `score` compares the results of one search. `similarity`, 0 to 1, says how much of the query is in the text and the
    turns around it, whatever else was found. An interaction's `id` is a number. A memory's `session_id` and `speaker`
    are null; `speaker` is null if none was given. `content_bytes` is the size of the whole, also if `content` is `cut`.
    `valid_until` is when a memory ceases to be valid, and `superseded_by` the memory that follows it; both are absent
    if there is none. `valid_from` marks a memory that is not valid yet at the time of the search.
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
    valid_from: NotRequired[str]
    valid_until: NotRequired[str]
    superseded_by: NotRequired[str]


class SearchResults(TypedDict):
    """The results, best first, whether there are more, and the words of the query that were searched and skipped.

    `channels` says what the search went by; `without_meaning`, why not by meaning, if the configuration has it.
    """

    status: Literal["ok"]
    results: list[SearchResult]
    more: bool
    words: list[str]
    words_left_out: list[str]
    channels: Channels
    without_meaning: NotRequired[str]


NEUTRAL_IMPORTANCE = 0.5  # that of an interaction to which no rule applies
NOT_VALID = 0.5  # so that the present value of two that fit alike comes first
_BELOW = 0.999  # of the present value's score: the most that one which is not valid yet has
_DAY_S = 86_400.0
_OCCURRED = "coalesce((SELECT occurred_at FROM memory_details d WHERE d.number = memories.number), memories.created)"

CANDIDATES = 100  # the most relevant; the formula orders these
_MOST_CHARACTERS = 2_000  # of a text, the first ones, that its relevance looks at
_SIGNALS = (
    "SELECT id AS row, speaker, coalesce(occurred_at, created) AS moment, substr(content, 1, ?2) AS content, "  # noqa: S608
    "importance, strength FROM interactions WHERE id IN (SELECT value FROM json_each(?1)) UNION ALL "
    f"SELECT number + {MEMORY_ROWS}, '', {_OCCURRED}, substr(content, 1, ?2), {NEUTRAL_IMPORTANCE}, {{strength}} "
    f"FROM memories WHERE number IN (SELECT value - {MEMORY_ROWS} FROM json_each(?1)) "
    "AND ?3 IS NOT NULL"  # by passes, the strength needs no time, and SQLite refuses a value without a place
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


class Ranked(NamedTuple):
    """A row that fits a query, its score among the others, and its similarity to the query.

    `valid_from` is when a memory begins to be valid that is not valid yet.
    """

    row: int
    score: float
    similarity: float
    valid_from: float | None = None


class Ranking(msgspec.Struct, frozen=True):
    """The rows that fit a query, best first, and the words that were searched and skipped."""

    rows: list[Ranked]
    words: list[str]
    left_out: list[str]
    expressions: list[str]  # in FTS5's syntax


class _Candidate(NamedTuple):
    text: Text
    importance: float
    strength: float


class Search:
    """Finds interactions and memories, without forgotten memories and what quarantined callers wrote."""

    def __init__(
        self, database: Database, weights: Recall, fading: Fading = BY_DAYS, meaning: Meaning | None = None
    ) -> None:
        self.meaning = meaning  # None: by words alone
        self._database = database
        self._weights = weights
        self._validity = Validity(database)
        self._signals = _SIGNALS.format(strength=strength_now(fading, "memories", "?3"))
        self._memory = _MEMORY.format(strength=strength_now(fading, "memories", "unixepoch()"))
        self._index = SearchIndex(database)
        self._passages = Passages(database)

    def best(self, query: str, *, session_id: str | None = None, limit: int = 10) -> list[tuple[int, float]]:
        """Return the ids of the interactions that fit a query best, with their similarity, best first.

        Args:
            query: any text.
            session_id: only interactions of this session; of all sessions if None.
            limit: the most ids.
        """
        rows = self.rank(query, Filters(session_id=session_id)).rows
        return [(each.row, each.similarity) for each in rows if each.row < MEMORY_ROWS][:limit]

    def rank(
        self,
        query: str,
        filters: Filters = EVERYTHING,
        now: float | None = None,
        nearness: Mapping[int, float] = MappingProxyType({}),
    ) -> Ranking:
        """Rank what fits a query.

        Args:
            query: any text; it is split into words and has no syntax.
            filters: what the results must be.
            now: seconds since the epoch; the clock's if None.
            nearness: the rows that are near to the query's meaning, and how near.
        """
        now = time.time() if now is None else now
        asked = asked_in(query, datetime.fromtimestamp(now, UTC).date(), self._weights.word_pairs)
        found = self._index.find(asked, filters)
        by_meaning = self._index.fitting(nearness.keys(), filters) if nearness else set()
        ranker = Ranker(query, found.parts, found.total, {row: nearness[row] for row in by_meaning})
        fitting = found.fitting | by_meaning
        seeds = ranker.seeds(fitting)
        near = ranker.near(self._index.neighbours(seeds[:MOST_SPREAD]))
        rows = fitting.intersection(seeds)
        if filters.within_session:
            rows |= self._index.fitting(near.keys() - rows, filters)
        else:
            rows |= near.keys()
        candidates = self._candidates(ranker.best(rows, near, CANDIDATES), now)
        fits = ranker.fits([each.text for each in candidates], near)
        fits = ranker.corrected([each.text for each in candidates], fits)
        return Ranking(self._scored(candidates, fits, now), found.words, found.left_out, found.expressions)

    def _candidates(self, rows: list[int], now: float) -> list[_Candidate]:
        def candidate(importance: float, strength: float, **text: Any) -> _Candidate:
            return _Candidate(Text(**text), importance, strength)

        return self._database.select(candidate, self._signals, (json.dumps(rows), _MOST_CHARACTERS, now))

    def _scored(self, candidates: list[_Candidate], fits: dict[int, Fit], now: float) -> list[Ranked]:
        weights = self._weights
        whole = weights.bm25 + weights.importance + weights.recency + weights.strength
        half_life_s = weights.recency_half_life_days * _DAY_S
        best = max((fit.relevance for fit in fits.values()), default=0.0) or 1.0
        memories = [row - MEMORY_ROWS for row in fits if row >= MEMORY_ROWS]
        ends, coming = self._validity.ends(memories), self._validity.not_yet(memories, round(now, 3))
        invalid = {number for number, end in ends.items() if (end.valid_until or now) <= now} | coming.keys()
        scores = {
            text.row: (
                weights.bm25 * fits[text.row].relevance / best
                + weights.importance * importance
                + weights.recency * 0.5 ** (max(0.0, now - text.moment) / half_life_s)
                + weights.strength * min(1.0, strength / MOST_STRENGTH)
            )
            / whole
            * (NOT_VALID if text.row - MEMORY_ROWS in invalid else 1.0)
            for text, importance, strength in candidates
        }
        for number, (_, follows) in coming.items():
            present = [scores[each + MEMORY_ROWS] for each in follows if each + MEMORY_ROWS in scores]
            row = number + MEMORY_ROWS
            scores[row] = min([scores[row], *(_BELOW * score for score in present)])
        starts = {number + MEMORY_ROWS: each.starts for number, each in coming.items()}
        ordered = sorted(((scores[text.row], text.moment, text.row) for text, _, _ in candidates), reverse=True)
        return [Ranked(row, score, fits[row].similarity, starts.get(row)) for score, _, row in ordered]

    def speakers(self, name: str | None) -> tuple[str, ...] | None:
        """Return the spellings of a speaker's name, in any case, for `Filters`; None if there is no name."""
        return None if name is None else self._index.speakers.spelt(name)

    def passage(self, content: str, ranking: Ranking) -> int:
        """Return where the passage of a content begins that a search has found; 0 if it has found none of its words."""
        return self._passages.best(content, ranking.expressions)

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
                "strength": round(columns["strength"], 3),
                "timestamp": iso_time(created),
                "score": round(ranked.score, _DIGITS),
                "similarity": round(ranked.similarity, _DIGITS),
                "written_by": columns["written_by"],
            }

        row = ranked.row
        query, number = (self._memory, row - MEMORY_ROWS) if row >= MEMORY_ROWS else (_INTERACTION, row)
        found = self._database.select(result, query, (max_content_bytes, number))[0]
        end = self._validity.ends([number]).get(number, NO_END) if row >= MEMORY_ROWS else NO_END
        if ranked.valid_from is not None:
            found["valid_from"] = iso_time(ranked.valid_from)
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
    def search(self, request: SearchMemory, _: Caller) -> SearchResults | Future[SearchResults]:
        if (size := len(request.query.encode())) > MAX_QUERY_BYTES:
            raise MalformedRequest(
                f"Expected `str` of at most {MAX_QUERY_BYTES} bytes, got {size} - at `$.query`; send fewer words"
            )
        filters, now = _filters(request, self._search.speakers(request.speaker))
        return with_meaning(
            self._search.meaning,
            request.query,
            filters,
            lambda recalled: self._found(
                request, self._search.rank(request.query, filters, now, recalled.nearness), recalled
            ),
        )

    def _found(self, request: SearchMemory, ranking: Ranking, recalled: Recalled) -> SearchResults:
        similar = (each for each in ranking.rows if each.similarity >= request.min_similarity)
        results, more = page_of(
            (self._search.read(each, self._max_content_bytes) for each in similar),
            request.limit,
            self._max_bytes,
        )
        self._accessed(str(each["id"]) for each in results if each["kind"] == "memory")
        found: SearchResults = {
            "status": SUCCESS,
            "results": results,
            "more": more,
            "words": ranking.words,
            "words_left_out": ranking.left_out,
            "channels": recalled.channels,
        }
        return found if recalled.missing is None else {**found, "without_meaning": recalled.missing}


def _filters(request: SearchMemory, speakers: tuple[str, ...] | None) -> tuple[Filters, float | None]:
    """Return what results must be, and the time of the search; None: now."""
    since, until, as_of = (_seconds(getattr(request, name), name) for name in ("since", "until", "as_of"))
    if as_of is not None:
        until = as_of if until is None else min(until, as_of)
    if since is not None and until is not None and since > until:
        raise MalformedRequest("`since` is later than `until` or `as_of`, so nothing can be found - at `$.since`")
    keyword = None if request.keyword is None else request.keyword.casefold()
    return Filters(request.session_id, speakers, request.type, since, until, keyword), as_of


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
