"""The tables of the full-text index over the passages of interactions and memories, their triggers and their migration.

One FTS5 table has a row for every passage (see `passages`); triggers update it, and it stores no content. `words` has
the text; of a memory, its keywords too. `about` has the words of the speaker's name and the dates of the turn: when it
was said, and what "yesterday" or "noong Lunes" in the passage mean; of a memory, when it occurred, or else was stored.
A date has terms for its day (`d20260314`), its month (`m202603`), and both without the year (`y0314`, `o03`), in UTC.
`scope` has one term for the session, the speaker, the writer and the type. Forgotten memories are not
in the index. A short text that is deleted leaves the file at once, and not with a later merge of segments; a long one,
or many, within minutes (see `upkeep`).

`recall_filled` says up to which number of each table the rows are not in the index yet: those of an older volume, or of
an index that was damaged, are added later, the newest first (see `upkeep`).
"""

from collections.abc import Iterator

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.language import BEFORE_LAST_WEEKDAY, BEFORE_NEXT_WEEKDAY, DAYS_AWAY, WEEKDAYS
from twinhost.unified_memory_reasoning.search.passages import MOST, texts_of_passages

TOKENIZER = "tokenize = 'porter unicode61 remove_diacritics 2'"
MEMORY_ROWS = 1 << 40  # a memory's row in the index is its number and this; an interaction's is its id
ROWS = "rowid, words, about, scope"
_OF_INTERACTION = "id, session_id, speaker, content, written_by, type, created, occurred_at"
_OF_MEMORY = "number, content, keywords, forgotten, written_by, created"


def interaction_moment(row: str) -> str:
    """Return the time that an interaction's date words count from, as seconds since the epoch."""
    return f"coalesce({row}.occurred_at, {row}.created)"


def memory_moment(row: str) -> str:
    """Return the time that a memory's date terms name, as seconds since the epoch."""
    return (
        "coalesce((SELECT occurred_at FROM memory_details "  # noqa: S608 - of this module's constants alone
        f"WHERE number = {row}.number), {row}.created)"
    )


_DAY = "d%Y%m%d y%m%d"
TERMS = f"strftime(' {_DAY} m%Y%m o%m', {{moment}}, 'unixepoch')"  # an SQL expression; {moment} in seconds since 1970
_MOST_CHARACTERS = 2_000  # of a text, the first ones, in which days are looked for


def relative_terms(text: str, moment: str) -> str:
    """Return the terms of the days that a text names by their distance from its own; all are SQL expressions."""
    values = ", ".join(f"('%{words}%', '{steps}', '{weekday}')" for words, steps, weekday in _days_by_distance())
    return (
        f"(SELECT coalesce(group_concat(strftime(' {_DAY}', {moment}, 'unixepoch', column2, column3)), '') "  # noqa: S608
        f"FROM (VALUES {values}) WHERE substr({text}, 1, {_MOST_CHARACTERS}) LIKE column1)"
    )


def _days_by_distance() -> Iterator[tuple[str, str, str]]:
    """Yield words, and the modifiers of SQLite's date functions that lead to the day that they mean."""
    for words, days in DAYS_AWAY.items():
        yield words, f"{days:+} day{'s' * (abs(days) > 1)}", "+0 days"
    for name, number in WEEKDAYS.items():
        yield from ((f"{word} {name}", "-7 days", f"weekday {number}") for word in BEFORE_LAST_WEEKDAY)
        yield from ((f"{word} {name}", "+1 day", f"weekday {number}") for word in BEFORE_NEXT_WEEKDAY)


FUNCTIONS = {"texts_of_passages": texts_of_passages}  # of SQL, which the triggers call


def define_passages(database: Database) -> None:
    """Define the functions that the triggers call; before anything is written."""
    for name, function in FUNCTIONS.items():
        database.define(name, function)


def changed(columns: str) -> str:
    """Return the SQL condition that a trigger's row has other values in some columns than before."""
    return " OR ".join(f"old.{name} IS NOT new.{name}" for name in columns.split(", "))


def _interaction(row: str) -> str:
    """Return the columns of an interaction's passages, and where they come from."""
    moment = interaction_moment(row)
    about = f"{row}.speaker || {TERMS.format(moment=moment)} || {relative_terms('passage.value', moment)}"
    names = (("s", "session_id"), ("p", "speaker"), ("w", "written_by"), ("t", "type"))
    scope = " || ' ' || ".join(f"'{kind}' || hex({row}.{column})" for kind, column in names)
    source = f"FROM json_each(texts_of_passages({row}.content)) AS passage"
    return f"{row}.id * {MOST} + passage.key, passage.value, {about}, {scope} {source}"


def _memory(row: str, moment: str | None = None) -> str:
    """Return the columns of a memory's passages, indexed with a time, and where they come from."""
    words = f"passage.value || ' ' || CAST({row}.keywords AS TEXT)"
    number = f"({row}.number + {MEMORY_ROWS}) * {MOST} + passage.key"
    source = f"FROM json_each(texts_of_passages({row}.content)) AS passage"
    about = TERMS.format(moment=moment or memory_moment(row))
    return f"{number}, {words}, {about}, 'w' || hex({row}.written_by) {source}"


def _add(passages: str) -> str:
    return f"INSERT INTO recall_passages ({ROWS}) SELECT {passages}"


def _remove(passages: str) -> str:
    return f"INSERT INTO recall_passages (recall_passages, {ROWS}) SELECT 'delete', {passages}"


def _is_in_index(of: str, number: str) -> str:
    return f"{number} > (SELECT upto FROM recall_filled WHERE of = '{of}')"  # noqa: S608 - as above


def _moved(details: str, before: str) -> str:
    """Return the statements that index a memory again after its time has changed.

    Args:
        details: the row of its details, `new` or `old`.
        before: an SQL expression of the time that it was indexed with; the memory's row is `m`.
    """
    which = f"m.number = {details}.number AND m.forgotten = 0 AND {_is_in_index('memories', 'm.number')}"
    return (
        f"{_remove(_memory('m', before))}, memories AS m WHERE {which};\n"
        f"    {_add(_memory('m'))}, memories AS m WHERE {which};"
    )


# A memory's details are written after it, and leave with it: its passages are in the index as the details are.
_TRIGGERS = f"""
CREATE TRIGGER recall_interaction_added AFTER INSERT ON interactions
WHEN {_is_in_index("interactions", "new.id")} BEGIN
    {_add(_interaction("new"))};
END;
CREATE TRIGGER recall_interaction_removed AFTER DELETE ON interactions
WHEN {_is_in_index("interactions", "old.id")} AND NOT EXISTS (SELECT 1 FROM recall_removed WHERE id = old.id) BEGIN
    {_remove(_interaction("old"))};
END;
CREATE TRIGGER recall_interaction_changed AFTER UPDATE OF {_OF_INTERACTION} ON interactions
WHEN ({changed(_OF_INTERACTION)}) AND {_is_in_index("interactions", "old.id")} BEGIN
    {_remove(_interaction("old"))};
    {_add(_interaction("new"))};
END;
CREATE TRIGGER recall_memory_added AFTER INSERT ON memories
WHEN new.forgotten = 0 AND {_is_in_index("memories", "new.number")} BEGIN
    {_add(_memory("new"))};
END;
CREATE TRIGGER recall_memory_removed BEFORE DELETE ON memories
WHEN old.forgotten = 0 AND {_is_in_index("memories", "old.number")} BEGIN
    {_remove(_memory("old"))};
END;
CREATE TRIGGER recall_memory_changed AFTER UPDATE OF {_OF_MEMORY} ON memories
WHEN ({changed(_OF_MEMORY)}) AND {_is_in_index("memories", "old.number")} BEGIN
    {_remove(_memory("old"))} WHERE old.forgotten = 0;
    {_add(_memory("new"))} WHERE new.forgotten = 0;
END;
CREATE TRIGGER recall_details_added AFTER INSERT ON memory_details WHEN new.occurred_at IS NOT NULL BEGIN
    {_moved("new", "m.created")}
END;
CREATE TRIGGER recall_details_removed AFTER DELETE ON memory_details WHEN old.occurred_at IS NOT NULL BEGIN
    {_moved("old", "old.occurred_at")}
END;
CREATE TRIGGER recall_details_changed AFTER UPDATE OF details ON memory_details
WHEN new.occurred_at IS NOT old.occurred_at BEGIN
    {_moved("new", "coalesce(old.occurred_at, m.created)")}
END;
"""  # noqa: S608 - of this module's constants alone
_DROP = "".join(
    f"DROP TRIGGER IF EXISTS recall_{of}_{what};\n"
    for of in ("interaction", "memory", "details")
    for what in ("added", "removed", "changed")
)
# At the first secure delete, FTS5 records the format that these write, and believes that it has done so even if that
# transaction is rolled back: later deletes then damage an index whose recorded format is still the older one.
_EMPTY_INDEX = f"""
CREATE VIRTUAL TABLE recall_passages USING fts5 (words, about, scope, content = '', {TOKENIZER});
INSERT INTO recall_passages (recall_passages, rank) VALUES ('secure-delete', 1);
UPDATE recall_passages_config SET v = 5 WHERE k = 'version';
DELETE FROM recall_removed;
DELETE FROM recall_filled;
INSERT INTO recall_filled SELECT 'interactions', coalesce(max(id), 0) FROM interactions;
INSERT INTO recall_filled SELECT 'memories', coalesce(max(number), 0) FROM memories;
{_TRIGGERS}"""  # noqa: S608 - of this module's constants alone
PASSAGES_MIGRATION = f"""
{_DROP}DROP TABLE recall_words;
CREATE TABLE recall_filled (of TEXT PRIMARY KEY, upto INTEGER NOT NULL) STRICT;
{_EMPTY_INDEX}"""
REBUILD = f"{_DROP}DROP TABLE recall_passages;\n{_EMPTY_INDEX}"
TAKE_OUT = (
    f"{_remove(_interaction('gone'))}, recall_removed AS gone WHERE gone.id BETWEEN 1 AND ?"  # deleted: see `upkeep`
)
NOT_INDEXED = "SELECT sum(upto) FROM recall_filled"
FILL = {
    "interactions": f"{_add(_interaction('older'))}, interactions AS older WHERE older.id BETWEEN ? AND ?",
    "memories": (
        f"{_add(_memory('older'))}, memories AS older WHERE older.number BETWEEN ? AND ? AND older.forgotten = 0"
    ),
}
