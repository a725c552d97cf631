"""The full-text index over interactions and memories: which of them have the words and the dates of a query.

`index_tables` has the table. A filter is part of the match, applies before every limit, and reads no row.

The turns around a turn are looked up by the search (`neighbours`), and not indexed with it (decision 0049).

The number of texts that a search ranks is bounded. The words of a query are added from the rarest on, as long as at
most MOST_RANKED texts contain them; the other words are skipped. If every word is more common than that, the newest
texts with one of them are ranked, and the newest with all of them.

Of two turns in one session, a filter may exclude the one that has the words and not the other, which is a result by it.
So the texts that a filter excludes are looked up too, with a bound of their own.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views
from twinhost.unified_memory_reasoning.search.dates import AskedDate
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS, interaction_moment, memory_moment
from twinhost.unified_memory_reasoning.search.vocabulary import Speakers, Vocabulary
from twinhost.unified_memory_reasoning.search.words import (
    SHORTEST_NAME,
    Asked,
    AskedWord,
    may_be_misspelt,
    spellings_of,
)

MOST_RANKED = 3_000  # texts that one search ranks
NEWEST = 1_000  # texts of a word, or with all the words, if every word is common
MOST_COMMON_WORDS = 4  # that are searched if every word is common
SEEDS = 100  # the best by their own words
MOST_SPREAD = 50  # of these, the first ones; the turns around them are ranked too
AFTER, BEFORE = 5, 2  # turns around a seed
IN_OTHER_WORDS = 0.9  # as strong as the word itself: its counterpart in the other language, or the speaker's name
MISSPELT = 0.6
MOST_MISSPELT = 4  # words of a query, the first ones that occur nowhere, whose like is looked up
_ALWAYS = (0.0, 1e11)  # seconds since the epoch
_MOST_MONTHS = 36  # of a period that the index narrows; a longer one is compared row by row

_MOST_IN_MATCH = 16  # quarantined writers that a match excludes
_VISIBLE = (  # if there are more of them; this reads the row of every text
    f"CASE WHEN recall_words.rowid < {MEMORY_ROWS} "  # noqa: S608 - of this module's constants alone
    "THEN EXISTS (SELECT 1 FROM visible_interactions WHERE id = recall_words.rowid) "
    f"ELSE EXISTS (SELECT 1 FROM visible_memories WHERE number = recall_words.rowid - {MEMORY_ROWS}) END"
)
_WITHIN = (
    f"CASE WHEN recall_words.rowid < {MEMORY_ROWS} THEN EXISTS (SELECT 1 FROM interactions "  # noqa: S608
    f"WHERE id = recall_words.rowid AND {interaction_moment('interactions')} BETWEEN ?2 AND ?3) "
    f"ELSE EXISTS (SELECT 1 FROM memories WHERE number = recall_words.rowid - {MEMORY_ROWS} "
    f"AND {memory_moment('memories')} BETWEEN ?2 AND ?3) END"
)
_HAS_KEYWORD = (
    f"EXISTS (SELECT 1 FROM memory_keywords WHERE number = recall_words.rowid - {MEMORY_ROWS} "  # noqa: S608
    "AND keyword = CAST(x'{}' AS TEXT))"
)
OF_SPEAKERS = "(?2 IS NULL OR speaker IN (SELECT value FROM json_each(?2)))"  # of `speakers_json`
_IN_INDEX_ALONE = "EXISTS (SELECT 1 FROM recall_removed WHERE id = recall_words.rowid)"  # deleted: see `removals`
_FITTING = (
    f"SELECT rowid FROM recall_words WHERE recall_words MATCH ?1 AND ?2 <= ?3 AND NOT {_IN_INDEX_ALONE} "  # noqa: S608
    "AND {} {} LIMIT ?4"
)
_NEIGHBOURS = (
    "SELECT seed.id AS number, seed.content || ' ' LIKE '%? %' AS question, "  # noqa: S608
    "(SELECT group_concat(id) FROM (SELECT near.id FROM visible_interactions AS near "
    f"WHERE near.session_id = seed.session_id AND near.id > seed.id ORDER BY near.id LIMIT {AFTER})) AS after, "
    "(SELECT group_concat(id) FROM (SELECT near.id FROM visible_interactions AS near "
    f"WHERE near.session_id = seed.session_id AND near.id < seed.id ORDER BY near.id DESC LIMIT {BEFORE})) AS before "
    "FROM interactions AS seed WHERE seed.id IN (SELECT value FROM json_each(?))"
)
_AS_FILTERED = (
    "SELECT id FROM visible_interactions WHERE id IN (SELECT value FROM json_each(?1)) "  # noqa: S608
    f"AND {OF_SPEAKERS} AND (?3 IS NULL OR type = ?3) AND ?6 IS NULL "
    f"AND {interaction_moment('visible_interactions')} BETWEEN ?4 AND ?5 "
    f"UNION ALL SELECT number + {MEMORY_ROWS} FROM visible_memories WHERE number IN "
    f"(SELECT value - {MEMORY_ROWS} FROM json_each(?1)) AND ?2 IS NULL AND ?3 IS NULL "
    "AND (?6 IS NULL OR number IN (SELECT number FROM memory_keywords WHERE keyword = ?6)) "
    f"AND {memory_moment('visible_memories')} BETWEEN ?4 AND ?5"
)
_TEXTS = "SELECT coalesce((SELECT max(id) FROM interactions), 0) + coalesce((SELECT max(number) FROM memories), 0)"
_TEXTS_OF_SESSION = "SELECT coalesce(sum(count), 0) FROM context_sessions WHERE session_id = ?"


@dataclass(frozen=True, slots=True)
class Filters:
    """What a result must be; with a session, a speaker or a type, only interactions; with a keyword, only memories.

    Times are in seconds since the epoch; the keyword is in folded case. `speakers` are the spellings of one name.
    """

    session_id: str | None = None
    speakers: tuple[str, ...] | None = None
    kind: str | None = None
    since: float | None = None
    until: float | None = None
    keyword: str | None = None

    @property
    def within_session(self) -> bool:
        """Whether of two turns in one session one may fit and the other not."""
        return (self.speakers, self.kind, self.since, self.until) != (None, None, None, None)

    @property
    def speakers_json(self) -> str | None:
        """The speakers, as SQL takes them."""
        return None if self.speakers is None else json.dumps(self.speakers)


EVERYTHING = Filters()


@dataclass(frozen=True, slots=True)
class Part:
    """A word or a date of a query, and how strongly, 0 to 1, each row has it; too common a part is not `searched`."""

    is_date: bool
    rows: dict[int, float]
    searched: bool
    is_name: bool = False  # of a speaker
    texts: int = 0  # that have it, if more than there are rows


@dataclass(frozen=True, slots=True)
class Found:
    """The parts of a query, the rows that have them, and what became of the words."""

    parts: list[Part]
    fitting: set[int]  # rows that are as the filters say; the others can only have neighbours that are
    total: int  # texts that were searched
    expressions: list[str]  # what was searched, in FTS5's syntax
    words: list[str]
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The visible turns after and before a turn in its session, the nearest first, and whether it asks."""

    id: int
    question: bool
    after: list[int]
    before: list[int]


class SearchIndex:
    """The words and dates of interactions and memories, in SQLite's FTS5."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "interactions", "memories")
        self._database = database
        self._vocabulary = Vocabulary(database)
        self.speakers = Speakers(database)

    def find(self, asked: Asked, filters: Filters) -> Found:
        """Return the visible, not forgotten texts with the rarest words and dates of a query."""
        lookup = _Lookup(self._database, self._vocabulary, filters)
        found = [lookup.date(date) for date in asked.dates] + [lookup.word(word) for word in asked.words]
        numbers = lookup.chosen(found)
        fitting = {row for number in numbers for row in found[number].rows}
        numbers |= lookup.with_others(found, numbers)
        first = len(asked.dates)
        searched = [word.text for number, word in enumerate(asked.words, first) if number in numbers]
        return Found(
            [
                Part(number < first, each.rows, number in numbers, each.is_name, each.texts)
                for number, each in enumerate(found)
            ],
            fitting,
            lookup.total(),
            [expression for number in sorted(numbers) for expression, _ in found[number].expressions],
            [*asked.date_words, *searched],
            [*(word.text for word in asked.words if word.text not in searched), *asked.left_out],
        )

    def fitting(self, rows: Collection[int], filters: Filters) -> set[int]:
        """Return those of some interactions and memories that are as the filters say."""
        values = (json.dumps(list(rows)), filters.speakers_json, filters.kind, *_period(filters), filters.keyword)
        return {row for (row,) in self._database.execute(_AS_FILTERED, values)}

    def neighbours(self, rows: Iterable[int]) -> list[Neighbours]:
        """Return the turns around interactions."""

        def neighbours(number: int, question: int, after: str | None, before: str | None) -> Neighbours:
            numbers = (list(map(int, each.split(","))) if each else [] for each in (after, before))
            return Neighbours(number, bool(question), *numbers)

        return self._database.select(neighbours, _NEIGHBOURS, (json.dumps([row for row in rows if row < MEMORY_ROWS]),))


@dataclass(slots=True)
class _Rows:
    """What a part of a query is searched by, the strongest expression first, and how strongly each row has it."""

    expressions: list[tuple[str, float]]  # in FTS5's syntax
    rows: dict[int, float]
    is_name: bool = False  # the second expression has rows
    others: dict[int, float] = field(default_factory=dict)  # with those that a filter within a session excludes

    @property
    def texts(self) -> int:
        return max(len(self.rows), len(self.others))


class _Scope(NamedTuple):
    """Which texts are searched: terms of a match, an SQL condition, and the times that it compares."""

    terms: str
    condition: str
    period: tuple[float, float]


class _Lookup:
    """One search of the index, within its filters."""

    def __init__(self, database: Database, vocabulary: Vocabulary, filters: Filters) -> None:
        self._database = database
        self._vocabulary = vocabulary
        self._filters = filters
        self._misspelt = 0
        hidden = database.execute("SELECT name FROM quarantined LIMIT ?", (_MOST_IN_MATCH + 1,)).fetchall()
        many = len(hidden) > _MOST_IN_MATCH
        visible = _VISIBLE if many else "TRUE"
        self._without = (
            f" NOT scope : ({_either(_term('w', name) for (name,) in hidden)})" if hidden and not many else ""
        )
        of_session, since, until = _scope("s", filters.session_id), *_period(filters)
        of_speaker, of_kind = _scope("p", *(filters.speakers or ())), _scope("t", filters.kind)
        narrowed = of_session + of_speaker + of_kind + _months((since, until))
        within = f"{visible} AND {_WITHIN}"
        timed, bounded = filters.since is not None, filters.until is not None
        self._anywhere = _Scope("", visible, _ALWAYS)
        condition = within if timed or bounded else visible
        if filters.keyword is not None:
            condition += f" AND {_HAS_KEYWORD.format(filters.keyword.encode().hex())}"
        self._filtered = _Scope(narrowed, condition, (since, until))
        others = _Scope(of_session, within if bounded else visible, (_ALWAYS[0], until))  # what is later lends nothing
        self._others = others if (filters.speakers, filters.kind, filters.since) != (None, None, None) else None

    def date(self, date: AskedDate) -> _Rows:
        """Return the texts of a date, and those that name it."""
        expression = f"about : ({_either(map(_quoted, date.terms))})"
        if date.written:
            expression = f"({expression}) OR words : ({_either(map(_quoted, date.written))})"
        return self._fetched([(expression, 1.0)])

    def word(self, word: AskedWord) -> _Rows:
        """Return the texts with a word; if there are none, those with words that are spelt like it, or with a name."""
        itself = f"words : ({_either(map(_quoted, (word.text, *self._vocabulary.existing(word.forms))))})"
        expressions = [(itself, 1.0), (f"about : {_quoted(word.text)}", IN_OTHER_WORDS)]
        if counterparts := self._vocabulary.existing(word.counterparts):
            expressions.append((f"words : ({_either(map(_quoted, counterparts))})", IN_OTHER_WORDS))
        found = self._fetched(expressions)
        if found.texts or not may_be_misspelt(word.text) or self._misspelt == MOST_MISSPELT or self._occurs(itself):
            return found
        self._misspelt += 1
        return next((each for each in map(self._fetched, self._spelt_otherwise(word.text)) if each.texts), found)

    def _spelt_otherwise(self, word: str) -> Iterator[list[tuple[str, float]]]:
        """Yield what a word that occurs nowhere is searched by instead, one after the other."""
        for similar in (self._vocabulary.existing(spellings_of(word)), self._vocabulary.spelt_like(word)):
            if similar:
                yield [(f"{{words about}} : ({_either(map(_quoted, similar))})", MISSPELT)]
        shorter = [_quoted(word[:letters]) for letters in range(SHORTEST_NAME, len(word))]
        yield [(f"about : ({_either([f'{_quoted(word)} *', *shorter])})", MISSPELT)]  # Ben for Benjamin, and vice versa

    def chosen(self, found: list[_Rows]) -> set[int]:
        """Return the numbers of the parts that are searched: the rarest, or of common ones the first."""
        numbers, are_common = _chosen([len(each.rows) for each in found])
        if are_common:
            newest = self._newest([found[number] for number in numbers], self._filtered)
            for number, rows in zip(numbers, newest, strict=True):
                found[number].rows = rows
        return set(numbers)

    def with_others(self, found: list[_Rows], numbers: set[int]) -> set[int]:
        """Add the texts that the filters exclude, whose neighbours may be results; return the parts that have them.

        Args:
            found: the parts.
            numbers: of the parts that are searched.
        """
        if self._others is None:
            return set()
        searched = [each.others if number in numbers or not each.rows else {} for number, each in enumerate(found)]
        with_others, are_common = _chosen([len(each) for each in searched])
        others = [found[number].others for number in with_others]
        if are_common:
            others = self._newest([found[number] for number in with_others], self._others)
        for number, rows in zip(with_others, others, strict=True):
            found[number].rows = rows | found[number].rows
        return set(with_others)

    def _newest(self, common: list[_Rows], scope: _Scope) -> list[dict[int, float]]:
        """Return, of texts with common words, the newest with each word and the newest with all of them."""
        newest = [
            {
                row: strength
                for expression, strength in reversed(each.expressions)
                for row in self._select(expression, scope, NEWEST, "ORDER BY rowid DESC")
            }
            for each in common
        ]
        every = " AND ".join(f"({_either(f'({text})' for text, _ in each.expressions)})" for each in common)
        for row in self._select(every, scope, NEWEST, "ORDER BY rowid DESC") if common else ():
            for rows in newest:
                rows.setdefault(row, IN_OTHER_WORDS)
        return newest

    def total(self) -> int:
        """Return how many texts there are in the session, or in all."""
        session_id = self._filters.session_id
        if session_id is None:
            return int(self._database.value(_TEXTS))
        return int(self._database.value(_TEXTS_OF_SESSION, (session_id,)))

    def _fetched(self, expressions: list[tuple[str, float]]) -> _Rows:
        rows, is_name = self._rows(expressions, self._filtered)
        if self._others is None:
            return _Rows(expressions, rows, is_name)
        others, is_name = self._rows(expressions, self._others)
        return _Rows(expressions, rows, is_name, others)

    def _rows(self, expressions: list[tuple[str, float]], scope: _Scope) -> tuple[dict[int, float], bool]:
        """Return how strongly each row has a part, and whether the second expression has rows."""
        rows: dict[int, float] = {}
        is_name = False
        for number, (expression, strength) in enumerate(expressions):
            found = self._select(expression, scope, MOST_RANKED + 1)
            is_name |= number == 1 and bool(found)
            rows = dict.fromkeys(found, strength) | rows
            if len(rows) > MOST_RANKED:
                break
        return rows, is_name

    def _occurs(self, expression: str) -> bool:
        """Return whether any session has a word, which is then no misspelt one."""
        return self._filters.session_id is not None and bool(self._select(expression, self._anywhere, 1))

    def _select(self, expression: str, scope: _Scope, most: int, order: str = "") -> list[int]:
        match = f"(({expression}){scope.terms}){self._without}"
        found = self._database.execute(_FITTING.format(scope.condition, order), (match, *scope.period, most))
        return [row for (row,) in found]


def _quoted(word: str) -> str:
    return f'"{word}"'


def _term(kind: str, name: str) -> str:
    return f'"{kind}{name.encode().hex()}"'


def _scope(kind: str, *names: str | None) -> str:
    terms = [_term(kind, name) for name in names if name is not None]
    return f" AND scope : ({_either(terms)})" if terms else ""


def _period(filters: Filters) -> tuple[float, float]:
    first, last = _ALWAYS
    return (first if filters.since is None else filters.since, last if filters.until is None else filters.until)


def _months(period: tuple[float, float]) -> str:
    """Return what narrows a match to the months of a period; nothing for a long one."""
    since, until = period
    if until - since > _MOST_MONTHS * 28 * 86_400:
        return ""
    days = range(int(since // 86_400), int(until // 86_400) + 1)
    months = dict.fromkeys(f"{datetime.fromtimestamp(day * 86_400, UTC):m%Y%m}" for day in days)
    return f" AND about : ({_either(map(_quoted, months))})"


def _either(expressions: Iterable[str]) -> str:
    return " OR ".join(expressions)


def _chosen(texts: list[int]) -> tuple[list[int], bool]:
    """Return the numbers of the rarest parts that occur in at most MOST_RANKED texts together.

    If every part is more common, the first ones of these, and true.
    """
    kept: list[int] = []
    left = MOST_RANKED
    for number in sorted((number for number, count in enumerate(texts) if count), key=texts.__getitem__):
        left -= texts[number]
        if left < 0:
            break
        kept.append(number)
    if kept:
        return kept, False
    return [number for number, count in enumerate(texts) if count][:MOST_COMMON_WORDS], True
