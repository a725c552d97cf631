"""Many interactions that are deleted together leave the full-text index in parts, between the requests of others.

FTS5 takes 0.3 ms to remove the words of one row so that nothing of them stays in the file, and 0.02 ms to note that the
row is gone, so that the next merge of all segments drops its words. So each of a few rows is removed at once. Many are
kept in `recall_removed` in the transaction that deletes them; every tick notes some of them, and then merges some
pages. No search finds them from that transaction on. A row with the id 0 stays until the merge is complete, so that a
start continues it.
"""

from collections.abc import Sequence
from typing import Any

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.index_tables import TAKE_OUT

MOST_AT_ONCE = 200  # interactions that leave the index in the transaction that deletes them: about 60 ms
_AT_ONCE = 1_000  # in one tick of the server, and so many characters: about 25 ms
_CHARACTERS_AT_ONCE = 200_000
_PAGES_AT_ONCE = 200  # of a merge, in one tick: about 20 ms

_COLUMNS = "id, session_id, speaker, type, content, created, occurred_at, written_by"
_SECURELY = "INSERT INTO recall_words (recall_words, rank) VALUES ('secure-delete', ?)"
_CHANGES = "SELECT total_changes()"


def keep_for_index(database: Database, condition: str, values: Sequence[Any]) -> None:
    """Keep interactions that will be deleted, if they are many; inside the transaction that deletes them.

    Args:
        database: that has them.
        condition: a condition on the id that selects them.
        values: of the condition.
    """
    chosen = f"FROM interactions WHERE id IN ({condition})"
    count = database.value(f"SELECT count(*) FROM (SELECT 1 {chosen} LIMIT {MOST_AT_ONCE + 1})", values)  # noqa: S608
    if count > MOST_AT_ONCE:
        database.execute("INSERT OR IGNORE INTO recall_removed VALUES (0, '', '', '', '', 0, NULL, '')")
        database.execute(f"INSERT INTO recall_removed SELECT {_COLUMNS} {chosen}", values)


class Removals:
    """Takes what was deleted out of the index."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._merging = False  # whether a merge of all segments has begun

    def on_tick(self) -> None:
        """Do a part of it, on the thread that owns the database.

        Raises:
            StoreUnavailable: it is not done; the next call tries again.
        """
        last = self._database.value("SELECT max(id) FROM recall_removed")
        if last is None:
            return
        with self._database.transaction():
            if last:
                self._merging = False
                self._take_out()
            else:
                self._merge()

    def _take_out(self) -> None:
        """Note that some rows are gone."""
        upto, left = 0, _CHARACTERS_AT_ONCE
        rows = self._database.execute(
            "SELECT id, length(content) FROM recall_removed WHERE id > 0 ORDER BY id LIMIT ?", (_AT_ONCE,)
        )
        for number, characters in rows.fetchall():
            if left <= 0:
                break
            upto, left = number, left - characters
        self._database.execute(_SECURELY, (0,))
        try:
            self._database.execute(TAKE_OUT, (upto,))
        finally:
            self._database.execute(_SECURELY, (1,))
        self._database.execute("DELETE FROM recall_removed WHERE id BETWEEN 1 AND ?", (upto,))

    def _merge(self) -> None:
        """Merge some pages of all segments into one, which drops the words of what is gone."""
        before = self._database.value(_CHANGES)
        pages = _PAGES_AT_ONCE if self._merging else -_PAGES_AT_ONCE  # a negative number begins a merge of all
        self._database.execute("INSERT INTO recall_words (recall_words, rank) VALUES ('merge', ?)", (pages,))
        self._merging = True
        if self._database.value(_CHANGES) - before < 2:  # as FTS5 says that there was nothing left to merge
            self._database.execute("DELETE FROM recall_removed")
