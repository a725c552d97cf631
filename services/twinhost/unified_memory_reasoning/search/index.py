"""The full-text index over passages of interactions and memories: which of them have the words and dates of a query.

`index_tables` has the table. A filter is part of the match, applies before every limit, and reads no row.

A word weighs by its inverse document frequency. For a common one that is estimated from the newest passages that have
it, so that a word costs the same in a store of any size. The rarest words are looked up, as long as at most MOST_READ
passages have them; the others only count in what was found by these.

Of two turns in one session, a filter may exclude the one that has the words and not the other, which is a result by it.
So the texts that a filter excludes are looked up too.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from math import log
from operator import itemgetter
from typing import Any, NamedTuple

from twinhost.secure_zmq.actions import InParts
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.language import AskedWord, Question, names_of
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views
from twinhost.unified_memory_reasoning.search.filters import HIDDEN, Filters
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS, NOT_INDEXED, define_passages
from twinhost.unified_memory_reasoning.search.passages import MOST
from twinhost.unified_memory_reasoning.search.vocabulary import Speakers, Vocabulary

MOST_OF_A_TEXT = 3  # passages that are found, so that a long text leaves room for others
MOST_READ = 10_000  # passages with one of the words that a search reads
SAMPLE = 1_000  # passages with a word, the newest, that its frequency is estimated from
COMMON = 0.5  # of its weight: what a stop word counts
_RANKED_AT_ONCE = 4_000  # passages, in one part: about 4 ms; of which a tenth is to count all that match, each time
_MOST_PARTS = 8  # of all that match, so that a large index is not counted very often
_LAST_ROW = 2**63 - 1
_MOST_MONTHS = 36  # of a period that the index narrows; a longer one is compared row by row

_ROW = f"recall_passages.rowid / {MOST}"
_IS_ROW = f"= {_ROW} - {{offset}}"
_IS_INTERACTION = f"recall_passages.rowid < {MEMORY_ROWS * MOST}"
_IN_INDEX_ALONE = f"EXISTS (SELECT 1 FROM recall_removed WHERE id = {_ROW})"  # noqa: S608 - deleted: see `upkeep`
_NEWEST_FIRST = (_IS_INTERACTION, f"NOT {_IS_INTERACTION}")
_MATCHING = "FROM recall_passages WHERE recall_passages MATCH :match AND"
_RANKED = (
    f"SELECT rowid, bm25(recall_passages, 1.0, 0.0, 0.0) {_MATCHING} rowid > :after AND rowid <= :upto AND {{}} "
    "ORDER BY 2 LIMIT :most"
)
_NEWEST = f"SELECT rowid {_MATCHING} {{}} AND {{}} ORDER BY rowid DESC LIMIT :most"
_PART_ENDS = f"SELECT rowid {_MATCHING} rowid > :after ORDER BY rowid LIMIT 1 OFFSET :at_once - 1"
_SAMPLED = (
    "SELECT count(*), min(rowid) FROM "
    "(SELECT rowid FROM recall_passages WHERE recall_passages MATCH ?1 ORDER BY rowid DESC LIMIT ?2)"
)
_BESIDE = (
    "(SELECT group_concat(id) FROM (SELECT near.id FROM visible_interactions AS near "
    "WHERE near.session_id = seed.session_id AND near.id {} seed.id ORDER BY near.id {} LIMIT ?{}))"
)
_NEIGHBOURS = (
    f"SELECT {_BESIDE.format('<', 'DESC', 2)}, seed.id, {_BESIDE.format('>', '', 3)} "  # noqa: S608 - constants
    "FROM interactions AS seed WHERE seed.id IN (SELECT value FROM json_each(?1))"
)
_TOTALS = "SELECT block FROM recall_passages_data WHERE id = 1"  # of FTS5; the number of its rows is the first
_LAST = "SELECT coalesce((SELECT max(id) FROM interactions), 0), coalesce((SELECT max(number) FROM memories), 0)"


@dataclass(frozen=True, slots=True)
class Term:
    """A word of a query: the stems that a text may have of it, and its weight."""

    text: str
    stems: frozenset[str]
    weight: float


@dataclass(frozen=True, slots=True)
class Date:
    """A date of a query: the terms of the index that are of it, and its weight."""

    terms: tuple[str, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a query asks for, the passages that fit its filters, and those that may have neighbours that do.

    `speakers` has the weight of each word, without accents, that is in the name of a speaker. `size` is how many
    passages the index has.
    """

    terms: list[Term]
    dates: list[Date]
    speakers: dict[str, float]
    passages: list[int]
    others: list[int]
    words: list[str]  # that were searched
    left_out: list[str]
    size: int


class SearchIndex:
    """The words and dates of interactions and memories, in SQLite's FTS5."""

    def __init__(self, database: Database) -> None:
        define_passages(database)
        create_visible_views(database, "interactions", "memories")
        self._database = database
        self.vocabulary = Vocabulary(database)
        self.speakers = Speakers(database)

    def find(self, asked: Question, filters: Filters, most: int) -> InParts[Lookup]:
        """Return the passages with the rarest words, dates and speakers of a query, at most so many by each."""
        frequencies = _Frequencies(self._database)
        words = list[_Word]()
        for word in asked.words:
            words.append(self._word(word, frequencies))
            yield
        dates = {_about(date.terms): date.terms for date in asked.dates}
        names = {_about([word.text]): word.text for word in asked.words if not word.is_common}
        weights = dict[str, float]()
        for name in names:
            texts, weight = frequencies.of(name)
            if texts:
                weights[name] = weight
            yield
        searched = _rarest([word for word in words if not word.is_common] or words)
        at_once = max(_RANKED_AT_ONCE, frequencies.passages // _MOST_PARTS)
        searches = list(_searches([word.expression for word in searched], [dates, weights]))

        def passages(scope: Filters) -> InParts[list[int]]:
            numbers = dict[int, None]()
            for match, of in searches:
                numbers |= dict.fromkeys((yield from self._select(match, of, scope, most, at_once)))
                yield
            return list(numbers)

        # what is later lends nothing
        others = Filters(session_id=filters.session_id, until=filters.until, as_of=filters.as_of)
        known = {*(names[name] for name in weights), *(word.term.text for word in searched)}
        return Lookup(
            [word.term for word in words],
            [Date(terms, frequencies.of(expression)[1]) for expression, terms in dates.items()],
            {plain: weight for name, weight in weights.items() for plain in names_of(names[name])},
            (yield from passages(filters)),
            (yield from passages(others)) if filters.within_session and filters.keyword is None else [],
            [word for word in asked.order if word in known],
            [word for word in asked.order if word not in known],
            frequencies.passages,
        )

    def _select(self, match: str, of: str | None, filters: Filters, most: int, at_once: int) -> InParts[list[int]]:
        """Return passages that match, a few of each text: those that fit best, or the newest for which `of` holds.

        Of many that match, so many are ranked in one part.
        """
        narrowed = _scope("s", filters.session_id) + _scope("p", *(filters.speakers or ())) + _scope("t", filters.kind)
        by_row = (filters.since, filters.until, filters.keyword) != (None, None, None) or self._hides(filters)
        condition = f"EXISTS ({filters.selecting(_IS_ROW)})" if by_row else f"NOT {_IN_INDEX_ALONE}"
        values = {
            **filters.values,
            "match": f"({match}){narrowed}{_months(filters)}",
            "most": most + 2 * MOST,
            "at_once": at_once,
        }
        found: Iterable[tuple[Any, ...]]
        if of is None:
            found = yield from self._best(_RANKED.format(condition), values)
        else:
            found = self._database.execute(_NEWEST.format(condition, of), values)
        of_text = Counter[int]()
        numbers = list[int]()
        for number, *_ in found:
            of_text[number // MOST] += 1
            if of_text[number // MOST] <= MOST_OF_A_TEXT:
                numbers.append(number)
            if len(numbers) == most:
                break
        return numbers

    def _best(self, sql: str, values: Mapping[str, Any]) -> InParts[list[tuple[int, float]]]:
        """Return the passages that a statement selects, and how they rank, best first."""
        found, after = list[tuple[int, float]](), -1
        while (upto := self._database.value(_PART_ENDS, {**values, "after": after})) is not None:
            found += self._database.execute(sql, {**values, "after": after, "upto": upto})
            after = upto
            yield
        found += self._database.execute(sql, {**values, "after": after, "upto": _LAST_ROW})
        return found if after < 0 else sorted(found, key=itemgetter(1))

    def _hides(self, filters: Filters) -> bool:
        return self._database.execute(f"{HIDDEN} LIMIT 1", filters.values).fetchone() is not None

    def not_indexed(self) -> int:
        """Return how many texts, at most, are not in the index yet; see `upkeep`."""
        return int(self._database.value(NOT_INDEXED))

    def fitting(self, rows: Collection[int], filters: Filters) -> set[int]:
        """Return those of some interactions and memories that are as the filters say."""
        values = {**filters.values, "rows": json.dumps(list(rows))}
        sql = filters.selecting("IN (SELECT value - {offset} FROM json_each(:rows))")
        return {row for (row,) in self._database.execute(sql, values)}

    def beside(self, rows: Iterable[int], before: int, after: int) -> list[list[int]]:
        """Return each interaction among some rows with so many visible turns around it in its session, in order."""
        wanted = json.dumps([row for row in rows if row < MEMORY_ROWS])
        return [
            [*reversed(_numbers(earlier)), row, *_numbers(later)]
            for earlier, row, later in self._database.execute(_NEIGHBOURS, (wanted, before, after))
        ]

    def _word(self, word: AskedWord, frequencies: "_Frequencies") -> "_Word":
        others = (self.vocabulary.existing(words) for words in (word.counterparts, word.forms))
        forms = list(dict.fromkeys((*chain.from_iterable(others), word.text)))
        stems = frozenset(self.vocabulary.stems(forms))
        expression = f"words : ({_either(map(_quoted, forms))})"
        texts, weight = frequencies.of(expression)
        return _Word(
            Term(word.text, stems, weight * (COMMON if word.is_common else 1.0)), texts, expression, word.is_common
        )


class _Word(NamedTuple):
    term: Term
    texts: float  # that have it
    expression: str  # in FTS5's syntax
    is_common: bool


def _numbers(listed: str | None) -> list[int]:
    return list(map(int, listed.split(","))) if listed else []


def _rarest(words: list[_Word]) -> list[_Word]:
    """Return the rarest words that at most MOST_READ passages have together, and at least one."""
    kept, left = list[_Word](), float(MOST_READ)
    for word in sorted((word for word in words if word.texts), key=lambda word: word.texts):
        left -= word.texts
        if kept and left < 0:
            break
        kept.append(word)
    return kept


class _Frequencies:
    """How many passages have something, and how much that weighs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._interactions, self._memories = database.execute(_LAST).fetchone()
        self.passages = _first_number(database.value(_TOTALS))

    def of(self, expression: str) -> tuple[float, float]:
        """Return how many passages have an expression in FTS5's syntax, and its inverse document frequency."""
        count, oldest = self._database.execute(_SAMPLED, (expression, SAMPLE)).fetchone()
        total = float(self.passages)
        if count == SAMPLE:
            row, texts = oldest // MOST, self._interactions + self._memories
            newer = self._memories - (row - MEMORY_ROWS) if row >= MEMORY_ROWS else texts - row
            count = max(count, min(total, count * texts / max(newer, 1.0)))
        total = max(total, count)
        return count, log(1 + (total - count + 0.5) / (count + 0.5))


def _searches(words: Sequence[str], about: Iterable[Collection[str]]) -> Iterator[tuple[str, str | None]]:
    """Yield what is matched, in FTS5's syntax: words, the dates and names, and both together.

    Of dates and names, also of which passages the newest are wanted, and not those that fit best.
    """
    has_word = _either(words)
    if words:
        yield has_word, None
    for has in map(_either, filter(None, about)):
        yield from ((has, of) for of in _NEWEST_FIRST)
        if words:
            yield f"({has_word}) AND ({has})", None


def _quoted(word: str) -> str:
    return f'"{word}"'


def _about(terms: Iterable[str]) -> str:
    return f"about : ({_either(map(_quoted, terms))})"


def _first_number(record: bytes | None) -> int:
    """Return the first number of a record of FTS5: 7 bits of it in each byte, and a last byte without the 8th bit."""
    number = 0
    for byte in record or b"":
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return number


def _term(kind: str, name: str) -> str:
    return f'"{kind}{name.encode().hex()}"'


def _scope(kind: str, *names: str | None) -> str:
    terms = [_term(kind, name) for name in names if name is not None]
    return f" AND scope : ({_either(terms)})" if terms else ""


def _months(filters: Filters) -> str:
    """Return what narrows a match to the months of a period; nothing for a long one."""
    if filters.since is None or filters.until is None or filters.until - filters.since > _MOST_MONTHS * 28 * 86_400:
        return ""
    days = range(int(filters.since // 86_400), int(filters.until // 86_400) + 1)
    months = dict.fromkeys(f"{datetime.fromtimestamp(day * 86_400, UTC):m%Y%m}" for day in days)
    return f" AND {_about(months)}"


def _either(expressions: Iterable[str]) -> str:
    return " OR ".join(expressions)
