"""The full-text index over interactions and memories: which of them fit a query best by BM25.

One FTS5 table indexes the words of both, so that one BM25 compares them; triggers update it, and it stores no content.
Beside the words, `scope` has one term for the session, one for the speaker, and one for the writer: a filter is part of
the match, applies before every limit, and reads no row. Forgotten memories are not in the index. Deleted text leaves
the file at once, and not with a later merge of segments.

The number of texts that a search ranks is bounded. The words of a query are added from the rarest on, as long as at
most MOST_RANKED texts contain them; the other words are skipped. If every word is more common than that, the texts with
all of the words come first, then the newest with one of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views
from twinhost.unified_memory_reasoning.search.words import Forms, forms_of, words_of

MEMORY_ROWS = 1 << 40  # a memory's row in the index is its number and this; an interaction's is its id

_COLUMNS = "rowid, words, scope"


def _interaction(row: str) -> str:
    scope = f"'s' || hex({row}.session_id) || ' p' || hex({row}.speaker) || ' w' || hex({row}.written_by)"
    return f"{row}.id, {row}.content, {scope}"


def _memory(row: str) -> str:
    words = f"{row}.content || ' ' || CAST({row}.keywords AS TEXT)"
    return f"{row}.number + {MEMORY_ROWS}, {words}, 'w' || hex({row}.written_by)"


def _changed(columns: str) -> str:
    return " OR ".join(f"old.{name} IS NOT new.{name}" for name in columns.split(", "))


_OF_INTERACTION = "id, session_id, speaker, content, written_by"
_OF_MEMORY = "number, content, keywords, forgotten, written_by"
_FILL = f"""
INSERT INTO recall_words ({_COLUMNS}) SELECT {_interaction("interactions")} FROM interactions;
INSERT INTO recall_words ({_COLUMNS}) SELECT {_memory("memories")} FROM memories WHERE forgotten = 0;
""".strip()  # noqa: S608 - of this module's constants alone
MIGRATION = f"""
CREATE VIRTUAL TABLE recall_words USING fts5 (
    words, scope, content = '', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER recall_interaction_added AFTER INSERT ON interactions BEGIN
    INSERT INTO recall_words ({_COLUMNS}) VALUES ({_interaction("new")});
END;
CREATE TRIGGER recall_interaction_removed AFTER DELETE ON interactions BEGIN
    INSERT INTO recall_words (recall_words, {_COLUMNS}) VALUES ('delete', {_interaction("old")});
END;
CREATE TRIGGER recall_interaction_changed AFTER UPDATE OF {_OF_INTERACTION} ON interactions
WHEN {_changed(_OF_INTERACTION)} BEGIN
    INSERT INTO recall_words (recall_words, {_COLUMNS}) VALUES ('delete', {_interaction("old")});
    INSERT INTO recall_words ({_COLUMNS}) VALUES ({_interaction("new")});
END;
CREATE TRIGGER recall_memory_added AFTER INSERT ON memories WHEN new.forgotten = 0 BEGIN
    INSERT INTO recall_words ({_COLUMNS}) VALUES ({_memory("new")});
END;
CREATE TRIGGER recall_memory_removed AFTER DELETE ON memories WHEN old.forgotten = 0 BEGIN
    INSERT INTO recall_words (recall_words, {_COLUMNS}) VALUES ('delete', {_memory("old")});
END;
CREATE TRIGGER recall_memory_changed AFTER UPDATE OF {_OF_MEMORY} ON memories WHEN {_changed(_OF_MEMORY)} BEGIN
    INSERT INTO recall_words (recall_words, {_COLUMNS}) SELECT 'delete', {_memory("old")} WHERE old.forgotten = 0;
    INSERT INTO recall_words ({_COLUMNS}) SELECT {_memory("new")} WHERE new.forgotten = 0;
END;
{_FILL}
INSERT INTO recall_words (recall_words, rank) VALUES ('secure-delete', 1);
"""  # noqa: S608 - of this module's constants alone
# At the first secure delete, FTS5 records the format that these write, and believes that it has done so even if that
# transaction is rolled back: later deletes then damage an index whose recorded format is still the older one.
FORMAT_MIGRATION = "UPDATE recall_words_config SET v = 5 WHERE k = 'version'"
_REBUILD = f"INSERT INTO recall_words (recall_words) VALUES ('delete-all'); {_FILL} {FORMAT_MIGRATION}"  # noqa: S608
REBUILDS = {"recall_words": _REBUILD}  # a script for each table that can be rebuilt
MOST_RANKED = 6_000  # texts whose BM25 one search computes; about 1 us each
NEWEST = 2_000  # of the interactions, and of the memories, if every word is common
MOST_COMMON_WORDS = 4  # that are searched if every word is common; each costs a scan of all its texts
MOST_WITH_FORMS = 8  # words of a query, the first ones, whose other forms are searched; 1 ms each
CANDIDATES = 200  # the best by BM25; the formula orders these

_MOST_IN_MATCH = 16  # quarantined writers that a match excludes; BM25 checks each for every text
_VISIBLE = (  # if there are more of them; this reads the row of every text
    f"CASE WHEN recall_words.rowid < {MEMORY_ROWS} "  # noqa: S608 - of this module's constants alone
    "THEN EXISTS (SELECT 1 FROM visible_interactions WHERE id = recall_words.rowid) "
    f"ELSE EXISTS (SELECT 1 FROM visible_memories WHERE number = recall_words.rowid - {MEMORY_ROWS}) END"
)


class _Statements:
    """The statements on the index; `?1` is the match, `?2` how many rows at most."""

    def __init__(self, condition: str) -> None:
        fit = "rowid, -bm25(recall_words, 1.0, 0.0) AS fit"  # the scope has no weight; more is better
        found = f"FROM recall_words WHERE recall_words MATCH ?1 AND {condition}"
        newest = f"SELECT * FROM (SELECT {fit} {found} AND rowid {{}} ORDER BY rowid DESC LIMIT {NEWEST})"  # noqa: S608
        sides = (newest.format(f"{side} {MEMORY_ROWS}") for side in ("<", ">="))
        self.count = f"SELECT count(*) FROM (SELECT 1 {found} LIMIT ?2)"  # noqa: S608
        self.best = f"SELECT {fit} {found} ORDER BY fit DESC LIMIT ?2"
        self.best_of_newest = f"{' UNION ALL '.join(sides)} ORDER BY fit DESC LIMIT ?2"


_STATEMENTS, _STATEMENTS_ON_ROWS = _Statements("TRUE"), _Statements(_VISIBLE)


_Row = tuple[int, float]  # of the index, and how well it fits


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rows that fit best and how well (1 for the best), and the words that were searched and skipped."""

    fits: dict[int, float]
    words: list[str]
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    expression: str  # in FTS5's syntax
    texts: int  # that have it; MOST_RANKED + 1 stands for more


class SearchIndex:
    """The words of interactions and memories, in SQLite's FTS5."""

    def __init__(self, database: Database, forms: Forms = forms_of) -> None:
        create_visible_views(database, "interactions", "memories")
        self._database = database
        self._forms = forms

    def candidates(self, query: str, session_id: str | None, speaker: str | None) -> Candidates:
        """Return the visible, not forgotten texts that fit best by BM25; with a filter, only interactions."""
        asked, left_out = words_of(query)
        words, rows = _Lookup(self._database, self._forms, session_id, speaker).best(asked)
        best = max((fit for _, fit in rows), default=0.0)
        return Candidates(
            {row: fit / best if best else 0.0 for row, fit in rows},
            [text for text in asked if text in words],
            [*(text for text in asked if text not in words), *left_out],
        )


class _Lookup:
    """One search of the index, within its filters."""

    def __init__(self, database: Database, forms: Forms, session_id: str | None, speaker: str | None) -> None:
        self._database = database
        self._forms = forms
        named = [(kind, name) for kind, name in (("s", session_id), ("p", speaker)) if name is not None]
        self._narrowed = "".join(f" AND scope : {_term(kind, name)}" for kind, name in named)
        hidden = database.execute("SELECT name FROM quarantined LIMIT ?", (_MOST_IN_MATCH + 1,)).fetchall()
        many = len(hidden) > _MOST_IN_MATCH
        self._sql = _STATEMENTS_ON_ROWS if many else _STATEMENTS
        self._without = (
            f" NOT scope : ({_either(_term('w', name) for (name,) in hidden)})" if hidden and not many else ""
        )

    def best(self, asked: Iterable[str]) -> tuple[set[str], list[_Row]]:
        """Return the words that were searched, and the rows that fit them best."""
        known = sorted(self._known(asked), key=lambda word: word.texts)
        words = _affordable(known)
        if words:
            rows = self._rows(self._sql.best, _either(word.expression for word in words))
        else:
            words = known[:MOST_COMMON_WORDS]
            rows = self._among_common([word.expression for word in words]) if words else []
        return {word.text for word in words}, rows

    def _known(self, asked: Iterable[str]) -> Iterable[_Word]:
        """Look up each word with those of its other forms that occur; skip words that don't occur."""
        for place, text in enumerate(asked):
            terms = [f'"{text}"']
            forms = [f'"{form}"' for form in self._forms(text)] if place < MOST_WITH_FORMS else []
            if forms and self._count(_either(forms), 1):
                terms += [form for form in forms if self._count(form, 1)]
            count = self._count(_either(terms), MOST_RANKED + 1)
            if count:
                yield _Word(text, f"({_either(terms)})", count)

    def _among_common(self, expressions: list[str]) -> list[_Row]:
        every = " AND ".join(expressions)
        have_every = self._count(every, MOST_RANKED + 1)
        if have_every > MOST_RANKED:
            return self._rows(self._sql.best_of_newest, every)
        first = self._rows(self._sql.best, every) if have_every else []
        if len(first) == CANDIDATES:
            return first
        return list((dict(self._rows(self._sql.best_of_newest, _either(expressions))) | dict(first)).items())

    def _count(self, expression: str, most: int) -> int:
        return int(self._database.value(self._sql.count, (self._match(expression), most)))

    def _rows(self, sql: str, expression: str) -> list[_Row]:
        return self._database.execute(sql, (self._match(expression), CANDIDATES)).fetchall()

    def _match(self, expression: str) -> str:
        return f"(words : ({expression}){self._narrowed}){self._without}"


def _term(kind: str, name: str) -> str:
    return f'"{kind}{name.encode().hex()}"'


def _either(expressions: Iterable[str]) -> str:
    return " OR ".join(expressions)


def _affordable(words: list[_Word]) -> list[_Word]:
    """Return the rarest words that occur in at most MOST_RANKED texts together; none if the first has more."""
    kept, texts = 0, 0
    for word in words:
        texts += word.texts
        if texts > MOST_RANKED:
            break
        kept += 1
    return words[:kept]
