"""The full-text index over interactions and memories: which of them have the words and the dates of a query.

One FTS5 table indexes both; triggers update it, and it stores no content. `words` has the text. `about` has the words
of the speaker's name and the dates of the turn (see `dates`): when it was said, and what "yesterday" or "noong Lunes"
in it mean. `scope` has one term for the session, the speaker, the writer and the type: a filter is part of the match,
applies before every limit, and reads no row. Forgotten memories are not in the index. Deleted text leaves the file at
once, and not with a later merge of segments.

The turns around a turn are looked up by the search (`neighbours`), and not indexed with it (decision 0049).

The number of texts that a search ranks is bounded. The words of a query are added from the rarest on, as long as at
most MOST_RANKED texts contain them; the other words are skipped. If every word is more common than that, the newest
texts with one of them are ranked, and the newest with all of them.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views
from twinhost.unified_memory_reasoning.search.dates import TERMS, AskedDate, relative_terms
from twinhost.unified_memory_reasoning.search.words import Asked, AskedWord, is_spelt_like, may_be_misspelt

MEMORY_ROWS = 1 << 40  # a memory's row in the index is its number and this; an interaction's is its id


def _moment(row: str) -> str:
    """Return the time that an interaction's date words count from, as seconds since the epoch."""
    return f"coalesce({row}.occurred_at, {row}.created)"


def _changed(columns: str) -> str:
    return " OR ".join(f"old.{name} IS NOT new.{name}" for name in columns.split(", "))


def _interaction(row: str, dated: bool) -> str:
    scope = f"'s' || hex({row}.session_id) || ' p' || hex({row}.speaker) || ' w' || hex({row}.written_by)"
    if not dated:
        return f"{row}.id, {row}.content, {scope}"
    moment = _moment(row)
    about = f"{row}.speaker || {TERMS.format(moment=moment)} || {relative_terms(f'{row}.content', moment)}"
    return f"{row}.id, {row}.content, {about}, {scope} || ' t' || hex({row}.type)"


def _memory(row: str, dated: bool) -> str:
    words = f"{row}.content || ' ' || CAST({row}.keywords AS TEXT)"
    about = f"{TERMS.format(moment=f'{row}.created')}, " if dated else ""
    return f"{row}.number + {MEMORY_ROWS}, {words}, {about}'w' || hex({row}.written_by)"


def _schema(dated: bool) -> str:
    """Return the script that creates the index and its triggers, and fills it; without dates: as it was before."""
    columns = "words, about, scope" if dated else "words, scope"
    of_interaction = "id, session_id, speaker, content, written_by" + ", type, created, occurred_at" * dated
    of_memory = "number, content, keywords, forgotten, written_by" + ", created" * dated
    rows = f"rowid, {columns}"
    return f"""
CREATE VIRTUAL TABLE recall_words USING fts5 (
    {columns}, content = '', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER recall_interaction_added AFTER INSERT ON interactions BEGIN
    INSERT INTO recall_words ({rows}) VALUES ({_interaction("new", dated)});
END;
CREATE TRIGGER recall_interaction_removed AFTER DELETE ON interactions BEGIN
    INSERT INTO recall_words (recall_words, {rows}) VALUES ('delete', {_interaction("old", dated)});
END;
CREATE TRIGGER recall_interaction_changed AFTER UPDATE OF {of_interaction} ON interactions
WHEN {_changed(of_interaction)} BEGIN
    INSERT INTO recall_words (recall_words, {rows}) VALUES ('delete', {_interaction("old", dated)});
    INSERT INTO recall_words ({rows}) VALUES ({_interaction("new", dated)});
END;
CREATE TRIGGER recall_memory_added AFTER INSERT ON memories WHEN new.forgotten = 0 BEGIN
    INSERT INTO recall_words ({rows}) VALUES ({_memory("new", dated)});
END;
CREATE TRIGGER recall_memory_removed AFTER DELETE ON memories WHEN old.forgotten = 0 BEGIN
    INSERT INTO recall_words (recall_words, {rows}) VALUES ('delete', {_memory("old", dated)});
END;
CREATE TRIGGER recall_memory_changed AFTER UPDATE OF {of_memory} ON memories WHEN {_changed(of_memory)} BEGIN
    INSERT INTO recall_words (recall_words, {rows}) SELECT 'delete', {_memory("old", dated)} WHERE old.forgotten = 0;
    INSERT INTO recall_words ({rows}) SELECT {_memory("new", dated)} WHERE new.forgotten = 0;
END;
INSERT INTO recall_words ({rows}) SELECT {_interaction("interactions", dated)} FROM interactions;
INSERT INTO recall_words ({rows}) SELECT {_memory("memories", dated)} FROM memories WHERE forgotten = 0;
INSERT INTO recall_words (recall_words, rank) VALUES ('secure-delete', 1);
"""  # noqa: S608 - of this module's constants alone


MIGRATION = _schema(dated=False)
# At the first secure delete, FTS5 records the format that these write, and believes that it has done so even if that
# transaction is rolled back: later deletes then damage an index whose recorded format is still the older one.
FORMAT_MIGRATION = "UPDATE recall_words_config SET v = 5 WHERE k = 'version'"
_TRIGGERS = (f"recall_{of}_{what}" for of in ("interaction", "memory") for what in ("added", "removed", "changed"))
_EMPTY = "".join(f"DROP TRIGGER IF EXISTS {name}; " for name in _TRIGGERS) + "DROP TABLE recall_words; "
ABOUT_MIGRATION = f"{_EMPTY}{_schema(dated=True)}{FORMAT_MIGRATION}"
# For each table that can be rebuilt, the scripts of the schema versions, the newest first. An older database gets the
# index of its version, and then the later migrations.
REBUILDS = {"recall_words": (ABOUT_MIGRATION, f"{_EMPTY}{MIGRATION}{FORMAT_MIGRATION}")}

MOST_RANKED = 3_000  # texts that one search ranks
NEWEST = 1_000  # texts of a word, or with all the words, if every word is common
MOST_COMMON_WORDS = 4  # that are searched if every word is common
SEEDS = 100  # the best by their own words
MOST_SPREAD = 50  # of these, the first ones; the turns around them are ranked too
AFTER, BEFORE = 5, 2  # turns around a seed
IN_OTHER_WORDS = 0.9  # as strong as the word itself: its counterpart in the other language, or the speaker's name
MISSPELT = 0.6
_ALWAYS_RIGHT = 2  # letters of a misspelt word, the first ones
_MOST_SPELT_LIKE = 20  # terms
_TERMS = "SELECT term FROM recall_vocabulary WHERE term >= ? AND term < ?"
_MOST_COUNTED = 20_000  # texts of a session; more don't change the weight of a word much
_EVER = 1e11  # seconds since the epoch
_MOST_MONTHS = 36  # of a period that the index narrows; a longer one is compared row by row

_MOST_IN_MATCH = 16  # quarantined writers that a match excludes
_VISIBLE = (  # if there are more of them; this reads the row of every text
    f"CASE WHEN recall_words.rowid < {MEMORY_ROWS} "  # noqa: S608 - of this module's constants alone
    "THEN EXISTS (SELECT 1 FROM visible_interactions WHERE id = recall_words.rowid) "
    f"ELSE EXISTS (SELECT 1 FROM visible_memories WHERE number = recall_words.rowid - {MEMORY_ROWS}) END"
)
_WITHIN = (
    f"CASE WHEN recall_words.rowid < {MEMORY_ROWS} THEN EXISTS (SELECT 1 FROM interactions "  # noqa: S608
    f"WHERE id = recall_words.rowid AND {_moment('interactions')} BETWEEN ?2 AND ?3) ELSE EXISTS (SELECT 1 FROM "
    f"memories WHERE number = recall_words.rowid - {MEMORY_ROWS} AND memories.created BETWEEN ?2 AND ?3) END"
)
_FITTING = "SELECT rowid FROM recall_words WHERE recall_words MATCH ?1 AND ?2 <= ?3 AND {} {} LIMIT ?4"
_NEIGHBOURS = (
    "SELECT seed.id AS number, rtrim(seed.content) LIKE '%?' AS question, "  # noqa: S608
    "(SELECT group_concat(id) FROM (SELECT near.id FROM visible_interactions AS near "
    f"WHERE near.session_id = seed.session_id AND near.id > seed.id ORDER BY near.id LIMIT {AFTER})) AS after, "
    "(SELECT group_concat(id) FROM (SELECT near.id FROM visible_interactions AS near "
    f"WHERE near.session_id = seed.session_id AND near.id < seed.id ORDER BY near.id DESC LIMIT {BEFORE})) AS before "
    "FROM interactions AS seed WHERE seed.id IN (SELECT value FROM json_each(?))"
)
_AS_FILTERED = (
    "SELECT id FROM visible_interactions WHERE id IN (SELECT value FROM json_each(?1)) "  # noqa: S608
    "AND (?2 IS NULL OR speaker = ?2) AND (?3 IS NULL OR type = ?3) "
    f"AND {_moment('visible_interactions')} BETWEEN ?4 AND ?5 "
    f"UNION ALL SELECT number + {MEMORY_ROWS} FROM visible_memories WHERE number IN "
    f"(SELECT value - {MEMORY_ROWS} FROM json_each(?1)) AND ?2 IS NULL AND ?3 IS NULL "
    f"AND visible_memories.created BETWEEN ?4 AND ?5"
)
_TEXTS = "SELECT coalesce((SELECT max(id) FROM interactions), 0) + coalesce((SELECT max(number) FROM memories), 0)"
_TEXTS_OF_SESSION = "SELECT count(*) FROM (SELECT 1 FROM interactions WHERE session_id = ? LIMIT ?)"


@dataclass(frozen=True, slots=True)
class Filters:
    """What a result must be; with a session, a speaker or a type, only interactions.

    Times are in seconds since the epoch.
    """

    session_id: str | None = None
    speaker: str | None = None
    kind: str | None = None
    since: float | None = None
    until: float | None = None

    @property
    def within_session(self) -> bool:
        """Whether of two turns in one session one may fit and the other not."""
        return (self.speaker, self.kind, self.since, self.until) != (None, None, None, None)


EVERYTHING = Filters()


@dataclass(frozen=True, slots=True)
class Part:
    """A word or a date of a query, and how strongly, 0 to 1, each row has it; too common a part is not `searched`."""

    is_date: bool
    rows: dict[int, float]
    searched: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The parts of a query, the rows that have them, and what became of the words."""

    parts: list[Part]
    fitting: set[int]  # rows that are as the filters say; the others can only have neighbours that are
    total: int  # texts that were searched
    words: list[str]
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The visible turns after and before a turn in its session, the nearest first, and whether it is a question."""

    id: int
    question: bool
    after: list[int]
    before: list[int]


class SearchIndex:
    """The words and dates of interactions and memories, in SQLite's FTS5."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "interactions", "memories")
        database.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.recall_vocabulary USING fts5vocab (main, recall_words, row)"
        )
        self._database = database

    def find(self, asked: Asked, filters: Filters) -> Found:
        """Return the visible, not forgotten texts with the rarest words and dates of a query."""
        lookup = _Lookup(self._database, filters)
        found = [lookup.date(date) for date in asked.dates] + [lookup.word(word) for word in asked.words]
        numbers = _affordable([len(each.rows) for each in found])
        if not numbers:  # every one is common
            numbers = [number for number, each in enumerate(found) if each.rows][:MOST_COMMON_WORDS]
            lookup.only_newest([found[number] for number in numbers])
        fitting = {row for number in numbers for row in found[number].rows}
        lookup.add_others([found[number] for number in numbers])
        first = len(asked.dates)
        searched = [word.text for number, word in enumerate(asked.words, first) if number in numbers]
        return Found(
            [Part(number < first, each.rows, number in numbers) for number, each in enumerate(found)],
            fitting,
            lookup.total(),
            [*asked.date_words, *searched],
            [*(word.text for word in asked.words if word.text not in searched), *asked.left_out],
        )

    def fitting(self, rows: Collection[int], filters: Filters) -> set[int]:
        """Return those of some interactions and memories that are as the filters say."""
        values = (json.dumps(list(rows)), filters.speaker, filters.kind, *_period(filters))
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


class _Lookup:
    """One search of the index, within its filters."""

    def __init__(self, database: Database, filters: Filters) -> None:
        self._database = database
        self._filters = filters
        hidden = database.execute("SELECT name FROM quarantined LIMIT ?", (_MOST_IN_MATCH + 1,)).fetchall()
        many = len(hidden) > _MOST_IN_MATCH
        conditions = [_VISIBLE] if many else []
        if filters.since is not None or filters.until is not None:
            conditions.append(_WITHIN)
        self._condition = " AND ".join(conditions) or "TRUE"
        self._period = _period(filters)
        self._without = (
            f" NOT scope : ({_either(_term('w', name) for (name,) in hidden)})" if hidden and not many else ""
        )
        of_session = _scope("s", filters.session_id) + _months(self._period)
        self._narrowed = of_session + _scope("p", filters.speaker) + _scope("t", filters.kind)
        self._others = of_session if self._narrowed != of_session else None

    def date(self, date: AskedDate) -> _Rows:
        """Return the texts of a date, and those that name it."""
        expression = f"about : ({_either(map(_quoted, date.terms))})"
        if date.written:
            expression = f"({expression}) OR words : ({_either(map(_quoted, date.written))})"
        return self._fetched([(expression, 1.0)])

    def word(self, word: AskedWord) -> _Rows:
        """Return the texts with a word; if there are none, those with words that are spelt like it."""
        elsewhere = f"about : {_quoted(word.text)}"
        if word.counterparts:
            elsewhere = f"({elsewhere} OR words : ({_either(map(_quoted, word.counterparts))}))"
        itself = f"words : ({_either(map(_quoted, (word.text, *word.forms)))})"
        found = self._fetched([(itself, 1.0), (elsewhere, IN_OTHER_WORDS)])
        if found.rows or not may_be_misspelt(word.text):
            return found
        beginning = word.text[:_ALWAYS_RIGHT]
        terms = self._database.execute(_TERMS, (beginning, f"{beginning}\U0010ffff")).fetchall()
        similar = [term for (term,) in terms if is_spelt_like(word.text, term)][:_MOST_SPELT_LIKE]
        if not similar:
            return found
        return self._fetched([(f"{{words about}} : ({_either(map(_quoted, similar))})", MISSPELT)])

    def only_newest(self, common: list[_Rows]) -> None:
        """Keep, of texts with common words, the newest with each word and the newest with all of them."""
        for each in common:
            each.rows = {
                row: strength
                for expression, strength in reversed(each.expressions)
                for row in self._select(expression, self._narrowed, NEWEST, "ORDER BY rowid DESC")
            }
        every = " AND ".join(f"({_either(f'({text})' for text, _ in each.expressions)})" for each in common)
        for row in self._select(every, self._narrowed, NEWEST, "ORDER BY rowid DESC") if common else ():
            for each in common:
                each.rows.setdefault(row, IN_OTHER_WORDS)

    def add_others(self, parts: list[_Rows]) -> None:
        """Add the texts of other speakers and types, whose neighbours may be results."""
        if self._others is not None:
            for each in parts:
                others = self._fetched(each.expressions, self._others).rows
                if len(others) <= MOST_RANKED:
                    each.rows = others | each.rows

    def total(self) -> int:
        """Return how many texts there are in the session, or in all."""
        session_id = self._filters.session_id
        if session_id is None:
            return int(self._database.value(_TEXTS))
        return int(self._database.value(_TEXTS_OF_SESSION, (session_id, _MOST_COUNTED)))

    def _fetched(self, expressions: list[tuple[str, float]], narrowed: str | None = None) -> _Rows:
        rows: dict[int, float] = {}
        for expression, strength in expressions:
            found = self._select(expression, self._narrowed if narrowed is None else narrowed, MOST_RANKED + 1)
            rows = dict.fromkeys(found, strength) | rows
            if len(rows) > MOST_RANKED:
                break
        return _Rows(expressions, rows)

    def _select(self, expression: str, narrowed: str, most: int, order: str = "") -> list[int]:
        match = f"(({expression}){narrowed}){self._without}"
        found = self._database.execute(_FITTING.format(self._condition, order), (match, *self._period, most))
        return [row for (row,) in found]


def _quoted(word: str) -> str:
    return f'"{word}"'


def _term(kind: str, name: str) -> str:
    return f'"{kind}{name.encode().hex()}"'


def _scope(kind: str, name: str | None) -> str:
    return "" if name is None else f" AND scope : {_term(kind, name)}"


def _period(filters: Filters) -> tuple[float, float]:
    return (0.0 if filters.since is None else filters.since, _EVER if filters.until is None else filters.until)


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


def _affordable(texts: list[int]) -> list[int]:
    """Return the numbers of the rarest parts that occur in at most MOST_RANKED texts together."""
    kept: list[int] = []
    left = MOST_RANKED
    for number in sorted((number for number, count in enumerate(texts) if count), key=texts.__getitem__):
        left -= texts[number]
        if left < 0:
            break
        kept.append(number)
    return kept
