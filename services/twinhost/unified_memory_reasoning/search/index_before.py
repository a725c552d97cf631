"""The full-text index of version 0.2, over whole texts: how a volume of that version was made, and is migrated.

A backup is compared with the schema that these scripts make, so they stay as they were. `index_tables` replaces it.
"""

from twinhost.unified_memory_reasoning.search.index_tables import (
    MEMORY_ROWS,
    ROWS,
    TERMS,
    TOKENIZER,
    changed,
    interaction_moment,
    memory_moment,
    relative_terms,
)


def _interaction(row: str, dated: bool) -> str:
    scope = f"'s' || hex({row}.session_id) || ' p' || hex({row}.speaker) || ' w' || hex({row}.written_by)"
    if not dated:
        return f"{row}.id, {row}.content, {scope}"
    moment = interaction_moment(row)
    about = f"{row}.speaker || {TERMS.format(moment=moment)} || {relative_terms(f'{row}.content', moment)}"
    return f"{row}.id, {row}.content, {about}, {scope} || ' t' || hex({row}.type)"


def _memory(row: str, dated: bool, moment: str = "{}.created") -> str:
    words = f"{row}.content || ' ' || CAST({row}.keywords AS TEXT)"
    about = f"{TERMS.format(moment=moment.format(row))}, " if dated else ""
    return f"{row}.number + {MEMORY_ROWS}, {words}, {about}'w' || hex({row}.written_by)"


def _schema(dated: bool) -> str:
    """Return the script that creates the index and its triggers, and fills it; without dates: as it was before."""
    columns = "words, about, scope" if dated else "words, scope"
    of_interaction = "id, session_id, speaker, content, written_by" + ", type, created, occurred_at" * dated
    of_memory = "number, content, keywords, forgotten, written_by" + ", created" * dated
    rows = f"rowid, {columns}"
    return f"""
CREATE VIRTUAL TABLE recall_words USING fts5 (
    {columns}, content = '', {TOKENIZER}
);
CREATE TRIGGER recall_interaction_added AFTER INSERT ON interactions BEGIN
    INSERT INTO recall_words ({rows}) VALUES ({_interaction("new", dated)});
END;
CREATE TRIGGER recall_interaction_removed AFTER DELETE ON interactions BEGIN
    INSERT INTO recall_words (recall_words, {rows}) VALUES ('delete', {_interaction("old", dated)});
END;
CREATE TRIGGER recall_interaction_changed AFTER UPDATE OF {of_interaction} ON interactions
WHEN {changed(of_interaction)} BEGIN
    INSERT INTO recall_words (recall_words, {rows}) VALUES ('delete', {_interaction("old", dated)});
    INSERT INTO recall_words ({rows}) VALUES ({_interaction("new", dated)});
END;
CREATE TRIGGER recall_memory_added AFTER INSERT ON memories WHEN new.forgotten = 0 BEGIN
    INSERT INTO recall_words ({rows}) VALUES ({_memory("new", dated)});
END;
CREATE TRIGGER recall_memory_removed AFTER DELETE ON memories WHEN old.forgotten = 0 BEGIN
    INSERT INTO recall_words (recall_words, {rows}) VALUES ('delete', {_memory("old", dated)});
END;
CREATE TRIGGER recall_memory_changed AFTER UPDATE OF {of_memory} ON memories WHEN {changed(of_memory)} BEGIN
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


def _moved(before: str, which: str) -> str:
    """Return the statements that index memories again after their times have changed.

    Args:
        before: an SQL expression of the time that each was indexed with; {} is the row of the memory.
        which: an SQL condition on the number.
    """
    of = f"FROM memories WHERE forgotten = 0 AND number {which}"
    return (
        f"INSERT INTO recall_words (recall_words, {ROWS}) SELECT 'delete', {_dated_memory('memories', before)} {of};\n"
        f"INSERT INTO recall_words ({ROWS}) SELECT {_dated_memory('memories')} {of};\n"
    )


def _dated_memory(row: str, moment: str | None = None) -> str:
    return _memory(row, dated=True, moment=moment or memory_moment(row))


def _occurred() -> str:
    """Return the script by which a memory is found by the day when it occurred.

    A memory's details are written after it, and leave with it: its row is in the index as the details are.
    """
    of_memory = "number, content, keywords, forgotten, written_by, created"
    new, old = _dated_memory("new"), _dated_memory("old")
    return f"""
CREATE TRIGGER recall_memory_added AFTER INSERT ON memories WHEN new.forgotten = 0 BEGIN
    INSERT INTO recall_words ({ROWS}) VALUES ({new});
END;
CREATE TRIGGER recall_memory_removed BEFORE DELETE ON memories WHEN old.forgotten = 0 BEGIN
    INSERT INTO recall_words (recall_words, {ROWS}) VALUES ('delete', {old});
END;
CREATE TRIGGER recall_memory_changed AFTER UPDATE OF {of_memory} ON memories WHEN {changed(of_memory)} BEGIN
    INSERT INTO recall_words (recall_words, {ROWS}) SELECT 'delete', {old} WHERE old.forgotten = 0;
    INSERT INTO recall_words ({ROWS}) SELECT {new} WHERE new.forgotten = 0;
END;
CREATE TRIGGER recall_details_added AFTER INSERT ON memory_details WHEN new.occurred_at IS NOT NULL BEGIN
{_moved("{}.created", "= new.number")}END;
CREATE TRIGGER recall_details_removed AFTER DELETE ON memory_details WHEN old.occurred_at IS NOT NULL BEGIN
{_moved("old.occurred_at", "= old.number")}END;
CREATE TRIGGER recall_details_changed AFTER UPDATE OF details ON memory_details
WHEN new.occurred_at IS NOT old.occurred_at BEGIN
{_moved("coalesce(old.occurred_at, {}.created)", "= new.number")}END;
{_moved("{}.created", "IN (SELECT number FROM memory_details WHERE occurred_at IS NOT NULL)")}"""  # noqa: S608 - as above


_MEMORY_TRIGGERS = (f"recall_{of}_{what}" for of in ("memory", "details") for what in ("added", "removed", "changed"))
OCCURRED_MIGRATION = "".join(f"DROP TRIGGER IF EXISTS {name}; " for name in _MEMORY_TRIGGERS) + _occurred()
_REMOVED_TRIGGER = f"""
DROP TRIGGER IF EXISTS recall_interaction_removed;
CREATE TRIGGER recall_interaction_removed AFTER DELETE ON interactions
WHEN NOT EXISTS (SELECT 1 FROM recall_removed WHERE id = old.id) BEGIN
    INSERT INTO recall_words (recall_words, {ROWS}) VALUES ('delete', {_interaction("old", dated=True)});
END;
"""  # noqa: S608 - of this module's constants alone
REMOVED_MIGRATION = f"""
CREATE TABLE recall_removed (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    speaker TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    created REAL NOT NULL,
    occurred_at REAL,
    written_by TEXT NOT NULL
) STRICT;
{_REMOVED_TRIGGER}"""  # interactions that were deleted and are still in the index: see `removals`
# For each table that can be rebuilt, the scripts of the schema versions, the newest first. An older database gets the
# index of its version, and then the later migrations.
REBUILDS = (
    f"{ABOUT_MIGRATION}; {OCCURRED_MIGRATION}; {_REMOVED_TRIGGER} DELETE FROM recall_removed",  # noqa: S608 - as above
    f"{ABOUT_MIGRATION}; {OCCURRED_MIGRATION}",
    ABOUT_MIGRATION,
    f"{_EMPTY}{MIGRATION}{FORMAT_MIGRATION}",
)
