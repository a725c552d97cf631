"""The search over interactions and memories: what is looked at, in which order it comes, and what a result is.

The index gives the passages that fit best by words, the vectors those that are nearest in meaning. The turns beside the
best of them are looked at too. All of these are scored (see `ranking`).

The score of a memory that is not valid, no longer or not yet, is multiplied by NOT_VALID. One that is not valid yet is
below those that it will follow. Of two with the same score, the newer comes first.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec

from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import InParts
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.language import asked_in
from twinhost.unified_memory_reasoning.memories.details import DETAILS, NONE, decode_details
from twinhost.unified_memory_reasoning.memories.model import BY_DAYS, Fading
from twinhost.unified_memory_reasoning.memories.rows import DETAILS_OF_ROW, strength_now
from twinhost.unified_memory_reasoning.memories.validity import NO_END, Marks, Validity, marks_of
from twinhost.unified_memory_reasoning.provenance.quarantine import with_one_view
from twinhost.unified_memory_reasoning.search.filters import EVERYTHING, Filters
from twinhost.unified_memory_reasoning.search.index import SearchIndex
from twinhost.unified_memory_reasoning.search.index_tables import (
    MEMORY_ROWS,
    TERMS,
    interaction_moment,
    memory_moment,
    relative_terms,
)
from twinhost.unified_memory_reasoning.search.meaning import Meaning
from twinhost.unified_memory_reasoning.search.passages import MOST, Passage, each_passage, passages_of
from twinhost.unified_memory_reasoning.search.ranking import (
    TURNS_AFTER,
    TURNS_BEFORE,
    Fit,
    Ranker,
    SeenPassage,
    SeenText,
    Words,
    around,
    relevance_of,
)
from twinhost.unified_memory_reasoning.search.vectors import NOTHING_NEAR, Nearness

T = TypeVar("T")

NEUTRAL_IMPORTANCE = 0.5  # that of an interaction to which no rule applies
NOT_VALID = 0.5  # so that the present value of two that fit alike comes first
_BELOW = 0.999  # of the present value's score: the most that one which is not valid yet has
_DIGITS = 6  # of a score
MOST_SPREAD = 30  # texts, the best by themselves, whose neighbours are looked at
_REACH = max(TURNS_BEFORE, TURNS_AFTER)  # turns before and after one that lend it something, or get something of it
_FEW = 3  # passages of a text that are all looked at
_MOST_CHARACTERS = 2_000_000  # of the texts that are found in one way; a reply has room for a tenth of them
_TOGETHER = 16  # texts that are read together
_BESIDE_RESULTS = 40  # passages that are looked at, beside two for each result

_MOMENT, _MEMORY_MOMENT = interaction_moment("visible_interactions"), memory_moment("visible_memories")
_TEXTS = (  # that are visible now, which what is near in meaning may not be any more
    f"SELECT id AS row, speaker, {_MOMENT} AS moment, content, '' AS keywords, {{}} AS dates "  # noqa: S608 - constants
    "FROM visible_interactions WHERE id IN (SELECT value FROM json_each(?1)) UNION ALL "
    f"SELECT number + {MEMORY_ROWS}, '', {_MEMORY_MOMENT}, content, CAST(keywords AS TEXT), "
    f"{TERMS.format(moment=_MEMORY_MOMENT)} "
    f"FROM visible_memories WHERE number IN (SELECT value - {MEMORY_ROWS} FROM json_each(?1))"
)
_WITH_DATES = _TEXTS.format(f"{TERMS.format(moment=_MOMENT)} || {relative_terms('content', _MOMENT)}")
_WITHOUT_DATES = _TEXTS.format("''")
_RESULT = "AS created, written_by, CAST(content AS BLOB) AS content"  # as bytes: a NUL doesn't end the content
_INTERACTION = (
    f"SELECT 'interaction' AS kind, id, session_id, speaker, importance, strength, {_MOMENT} {_RESULT}, "  # noqa: S608
    "NULL AS details "
    "FROM visible_interactions WHERE id = ?"
)
_MEMORY = (
    f"SELECT 'memory' AS kind, id, NULL AS session_id, '' AS speaker, {NEUTRAL_IMPORTANCE} AS importance, "  # noqa: S608
    f"{{strength}} AS strength, {memory_moment('memories')} {_RESULT}, {DETAILS_OF_ROW} "
    "FROM visible_memories AS memories WHERE number = ?"
)


@DETAILS.shown_by_search
class _Result(TypedDict):
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
    passage: NotRequired[str]


class SearchResult(_Result, Marks):
    """One result; `score` is 0 to 1, `timestamp` (ISO-8601) is when it occurred, or else was stored.

    `score` orders the results of one search. `similarity`, 0 to 1, is the same before what is not valid was put back.
    Neither tells whether a result answers the query.
    An interaction's `id` is a number. A memory's `session_id` and `speaker` are null; `speaker` is null if none was
    given. `content_bytes` is the size of the whole, also if `content` is `cut`. `passage` is the part of a long content
    that fits best. `valid_until` is when a memory ceases to be valid, and `superseded_by` the memory that follows it;
    both are absent if there is none. `valid_from` marks a memory that is not valid yet at the time of the search.
    `superseding_writer` has written the memory that follows, if another has; then this one is not put back, as it is
    still its writer's. `disputed_by` are other writers that have another value of its key.
    """


class Ranked(NamedTuple):
    """A row that fits a query, its score among the others, its similarity to the query, and its best passage.

    `passage` is its place among the passages of the text. `valid_from` is when a memory begins to be valid that is not
    valid yet.
    """

    row: int
    score: float
    similarity: float
    passage: int = 0
    valid_from: float | None = None


class Ranking(msgspec.Struct, frozen=True):
    """The rows that fit a query, best first, and the words that were searched and skipped.

    `shares` compares parts of texts: it returns how much each has of the query's words.
    """

    rows: list[Ranked]
    words: list[str]
    left_out: list[str]
    shares: Callable[[Sequence[str]], list[float]]


class _Text(msgspec.Struct, frozen=True):
    """A text that is looked at; `dates` are terms of the index."""

    row: int
    speaker: str
    moment: float
    content: str
    keywords: str
    dates: str


class Search:
    """Finds interactions and memories, without forgotten memories and what quarantined callers wrote."""

    def __init__(
        self,
        database: Database,
        *,
        word_pairs: bool = True,
        fading: Fading = BY_DAYS,
        meaning: Meaning | None = None,
    ) -> None:
        self.meaning = meaning  # None: by words alone
        self._database = database
        self._word_pairs = word_pairs
        self._validity = Validity(database)
        self._memory = _MEMORY.format(strength=strength_now(fading, "memories", "unixepoch()"))
        self._index = SearchIndex(database)

    def with_one_view(self, answer: Callable[[], InParts[T]]) -> InParts[T]:
        """Answer in parts as if all of it were read at one moment, as to whose texts are visible."""
        return with_one_view(self._database, answer)

    def rank(
        self,
        query: str,
        filters: Filters = EVERYTHING,
        nearness: Nearness = NOTHING_NEAR,
        most: int = 10,
    ) -> InParts[Ranking]:
        """Rank what fits a query, which has no syntax; there may be more rows than wanted.

        Between the parts, texts may leave and writers be quarantined: `read` returns none of these.
        """
        now = filters.time(self._database.clock)
        filters = replace(filters, as_of=now)
        asked = asked_in(query, datetime.fromtimestamp(now, UTC).date(), self._word_pairs)
        lookup = yield from self._index.find(asked, filters, _BESIDE_RESULTS + 2 * most)
        by_meaning = [number for number, _ in nearness.nearest]
        ways = (lookup.passages, lookup.others, by_meaning)
        places = _places_of(chain.from_iterable(ways))
        texts: dict[int, _Text] = {}
        for numbers in ways:
            further = [row for row in _places_of(numbers) if row not in texts]
            texts |= yield from self._texts(further, with_dates=bool(lookup.dates))
        words = Words(lookup.terms, self._index.vocabulary.stems)
        ranker = Ranker(words, lookup.dates, lookup.speakers, lookup.size)
        seen = yield from _seen_in(texts.values(), places, nearness)
        own = yield from ranker.own(seen)
        seeds = sorted(own, key=lambda row: own[row].relevance, reverse=True)[:MOST_SPREAD]
        runs = self._index.beside(seeds, _REACH, _REACH)
        unseen = {row for run in runs for row in run} - texts.keys()
        neighbours = yield from self._texts(unseen, with_dates=bool(lookup.dates))
        texts |= neighbours
        seen += (around_them := (yield from _seen_in(neighbours.values(), {}, nearness)))
        own |= yield from ranker.own(around_them)
        before, after = around(
            [row for row in run if row in own and (filters.until is None or texts[row].moment <= filters.until)]
            for run in runs
        )
        relevance = {
            text.row: relevance_of(text, own, before.get(text.row, {}), after.get(text.row, {})) for text in seen
        }
        by_words = {number // MOST for number in lookup.passages}
        others = {row for row in relevance.keys() - by_words if relevance[row] > 0}
        fitting = by_words | self._index.fitting(others, filters)
        rows = [texts[row] for row in relevance.keys() & fitting]
        yield
        return Ranking(self._scored(rows, relevance, own, now), lookup.words, lookup.left_out, words.shares)

    def _texts(self, rows: Iterable[int], *, with_dates: bool) -> InParts[dict[int, _Text]]:
        """Return texts by row; not the last ones, if they are very long."""
        sql = _WITH_DATES if with_dates else _WITHOUT_DATES
        wanted, texts, characters = list(rows), dict[int, _Text](), 0
        for start in range(0, len(wanted), _TOGETHER):
            if characters > _MOST_CHARACTERS:
                break
            some = json.dumps(wanted[start : start + _TOGETHER])
            for text in self._database.select(_Text, sql, (some,)):
                texts[text.row] = text
                characters += len(text.content)
            yield
        return texts

    def _scored(
        self, texts: list[_Text], relevance: Mapping[int, float], own: Mapping[int, Fit], now: float
    ) -> list[Ranked]:
        memories = [text.row - MEMORY_ROWS for text in texts if text.row >= MEMORY_ROWS]
        moment = round(now, 3)
        coming = self._validity.not_yet(memories, moment)
        invalid = self._validity.over(memories, moment) | coming.keys()
        similarity = {text.row: max(0.0, relevance[text.row]) for text in texts}  # may exceed 1, which orders them
        scores = {
            row: similar * (NOT_VALID if row - MEMORY_ROWS in invalid else 1.0) for row, similar in similarity.items()
        }
        for number, (_, follows) in coming.items():
            present = [scores[other + MEMORY_ROWS] for other in follows if other + MEMORY_ROWS in scores]
            row = number + MEMORY_ROWS
            scores[row] = min([scores[row], *(_BELOW * score for score in present)])
        starts = {number + MEMORY_ROWS: of.starts for number, of in coming.items()}
        ordered = sorted(texts, key=lambda text: (scores[text.row], text.moment, text.row), reverse=True)
        return [
            Ranked(
                text.row,
                min(1.0, scores[text.row]),
                min(1.0, similarity[text.row]),
                own[text.row].passage % MOST,
                starts.get(text.row),
            )
            for text in ordered
        ]

    def not_indexed(self) -> int:
        """Return how many texts, at most, no search finds yet: those of an older volume, until all were added."""
        return self._index.not_indexed()

    def speakers(self, name: str | None) -> tuple[str, ...] | None:
        """Return the spellings of a speaker's name, in any case, for `Filters`; None if there is no name."""
        return None if name is None else self._index.speakers.spelt(name)

    def read(self, ranked: Ranked, max_content_bytes: int) -> SearchResult | None:
        """Return a row of a ranking as a result; None if it is not there any more."""

        def result_of(
            kind: Literal["interaction", "memory"],
            speaker: str,
            created: float,
            content: bytes,
            details: str | None,
            **columns: Any,
        ) -> SearchResult:
            result: SearchResult = {
                "id": columns["id"],
                "kind": kind,
                "session_id": columns["session_id"],
                "speaker": speaker or None,
                "content": content[:max_content_bytes].decode(errors="ignore"),  # the last character may be cut
                "content_bytes": len(content),
                "cut": len(content) > max_content_bytes,
                "importance": columns["importance"],
                "strength": round(columns["strength"], 3),
                "timestamp": iso_time(created),
                "score": round(ranked.score, _DIGITS),
                "similarity": round(ranked.similarity, _DIGITS),
                "written_by": columns["written_by"],
            }
            if len(passages := passages_of(text := content.decode())) > 1:
                begins, ends = passages[min(ranked.passage, len(passages) - 1)]
                result["passage"] = text[begins:ends].strip()
            known = NONE if details is None else decode_details(details)
            now_valid = msgspec.structs.replace(known, valid_from=ranked.valid_from, valid_until=end.valid_until)
            shown: Any = result | DETAILS.shown(now_valid, in_search=True)
            read: SearchResult = shown | marks_of(end)
            return read

        row = ranked.row
        query, number = (self._memory, row - MEMORY_ROWS) if row >= MEMORY_ROWS else (_INTERACTION, row)
        end = self._validity.ends([number]).get(number, NO_END) if row >= MEMORY_ROWS else NO_END
        return self._database.select_one(result_of, query, (number,))


def _places_of(numbers: Iterable[int]) -> dict[int, set[int]]:
    """Return the places of passages in their texts, by row."""
    places = defaultdict[int, set[int]](set)
    for number in numbers:
        places[number // MOST].add(number % MOST)
    return places


def _seen_in(texts: Iterable[_Text], places: Mapping[int, set[int]], nearness: Nearness) -> InParts[list[SeenText]]:
    """Return texts with those of their passages that are looked at: all of a few, else those that were found."""
    texts = list(texts)
    nearest = nearness.of_texts([text.row for text in texts])
    chosen = list[tuple[_Text, dict[int, Passage]]]()
    for text in texts:
        wanted = set(places.get(text.row, ()))
        if text.row in nearest:
            wanted.add(nearest[text.row][0] % MOST)
        passages = list(islice(each_passage(text.content), max([_FEW, *wanted]) + 1))
        if len(passages) <= _FEW or not wanted:
            wanted |= set(range(min(_FEW, len(passages))))
        yield
        chosen.append((text, {text.row * MOST + place: passages[place] for place in wanted if place < len(passages)}))
    spread = nearness.spread or 1.0
    near = nearness.of([number for _, parts in chosen for number in parts])
    return [
        SeenText(
            text.row,
            text.speaker,
            len(text.content),
            frozenset(text.dates.split()),
            [
                SeenPassage(
                    number, f"{text.content[begins:ends]} {text.keywords}".rstrip(), near.get(number, 0.0) / spread
                )
                for number, (begins, ends) in parts.items()
            ],
        )
        for text, parts in chosen
    ]
