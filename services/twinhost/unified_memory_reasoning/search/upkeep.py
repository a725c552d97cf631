"""What the full-text index has to catch up with, in parts between the requests of others.

FTS5 takes 3 ms to remove the words of one passage so that nothing of them stays in the file, and 0.02 ms to note that
it is gone, so that the next merge of all segments drops its words. So each of a few short texts is removed at once.
Other interactions are kept in `recall_removed` in the transaction that deletes them; every tick notes some of them, and
then merges some pages. No search finds them from that transaction on. A long memory that is changed or deleted is noted
in that transaction. A row with the id 0 stays until a merge is complete that began after the last of them was noted, so
that a start continues it.

Rows that are not in the index yet, of an older volume or after damage, are added the newest first, once nothing waits
to leave it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.index_tables import FILL, NOT_INDEXED, TAKE_OUT

MOST_AT_ONCE = 8  # interactions that leave the index in the transaction that deletes them: about 8 ms
MOST_BYTES_AT_ONCE = 1_000  # of all of them, or of one memory: about 8 ms
_AT_ONCE = 500  # in one tick of the server, and so many bytes: about 12 ms
_BYTES_AT_ONCE = 100_000
_PAGES_AT_ONCE = 100  # of a merge, in one tick: about 10 ms
_MERGED_EVERY_S = 300.0  # from the beginning of a merge, which writes the whole index again, to that of the next
_FILLED_AT_ONCE = 25_000  # bytes of what is added in one tick: about 12 ms

_COLUMNS = "id, session_id, speaker, type, content, created, occurred_at, written_by"
_SECURELY = "INSERT INTO recall_passages (recall_passages, rank) VALUES ('secure-delete', ?)"
_TO_MERGE = "INSERT OR REPLACE INTO recall_removed VALUES (0, '', '', '', '', 0, NULL, '')"  # `created` is 0
_BEGUN = "UPDATE recall_removed SET created = 1 WHERE id = 0"
_COMPLETE = "DELETE FROM recall_removed WHERE id = 0 AND created = 1"
_CHANGES = "SELECT total_changes()"
_IN_INDEX = "id > (SELECT upto FROM recall_filled WHERE of = 'interactions')"
_BYTES = "length(CAST(content AS BLOB))"  # a NUL ends what `length` counts of a text
_OLDER = {
    "interactions": f"SELECT id, {_BYTES} FROM interactions WHERE id <= ? ORDER BY id DESC LIMIT ?",  # noqa: S608
    "memories": f"SELECT number, {_BYTES} FROM memories WHERE number <= ? ORDER BY number DESC LIMIT ?",  # noqa: S608
}


def keep_for_index(database: Database, condition: str, values: Sequence[Any]) -> None:
    """Keep interactions that will be deleted, if they are many or long; inside the transaction that deletes them.

    Their ids are what the query `condition` selects.
    """
    chosen = f"FROM interactions WHERE id IN ({condition}) AND {_IN_INDEX}"
    some = f"SELECT count(*), total({_BYTES}) FROM (SELECT content {chosen} LIMIT {MOST_AT_ONCE + 1})"  # noqa: S608
    count, size = database.execute(some, values).fetchone()
    if count > MOST_AT_ONCE or size > MOST_BYTES_AT_ONCE:
        database.execute(_TO_MERGE)
        database.execute(f"INSERT INTO recall_removed SELECT {_COLUMNS} {chosen}", values)


@contextmanager
def noted_as_gone(database: Database, characters: int) -> Iterator[None]:
    """Have the words of a text of this length that the block takes out of the index be noted as gone, if it is long."""
    if characters <= MOST_BYTES_AT_ONCE:
        yield
        return
    database.execute(_TO_MERGE)
    with _noted(database):
        yield


@contextmanager
def _noted(database: Database) -> Iterator[None]:
    database.execute(_SECURELY, (0,))
    try:
        yield
    finally:
        database.execute(_SECURELY, (1,))


class IndexUpkeep:
    """Adds what is not in the index yet, and takes out of it what was deleted.

    `not_indexed` is how many texts, at most, are not in the index yet; any thread may read it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.not_indexed = int(database.value(NOT_INDEXED))
        self._merging = False  # whether a merge of all segments has begun
        self._merge_at = database.clock.monotonic()  # not before
        self._failed = False  # the last call

    def on_tick(self) -> None:
        """Do a part of it, on the thread that owns the database.

        Raises:
            StoreUnavailable: it is not done; the next call but one tries again, so that what follows in a tick, such
                as a restore, has its turn.
        """
        if self._failed:
            self._failed = False
            return
        upto = dict(self._database.execute("SELECT of, upto FROM recall_filled WHERE upto > 0").fetchall())
        last = self._database.value("SELECT max(id) FROM recall_removed")
        if last == 0 and not self._merging and self._database.clock.monotonic() < self._merge_at:
            last = None
        if not upto and last is None:
            return
        self._failed = True
        with self._database.transaction():
            if last:
                self._take_out()
            elif last is not None:
                self._merge()
            else:
                self._fill(*upto.popitem())
        self._failed = False
        self.not_indexed = int(self._database.value(NOT_INDEXED))

    def _fill(self, of: str, upto: int) -> None:
        """Add some rows of a table."""
        first, left = upto + 1, _FILLED_AT_ONCE
        for number, size in self._database.execute(_OLDER[of], (upto, _AT_ONCE)).fetchall():
            if left <= 0:
                break
            first, left = number, left - size - _FILLED_AT_ONCE // _AT_ONCE
        self._database.execute(FILL[of], (first, upto))
        left_over = 0 if first > upto else first - 1
        self._database.execute("UPDATE recall_filled SET upto = ? WHERE of = ?", (left_over, of))

    def _take_out(self) -> None:
        """Note that some rows are gone."""
        upto, left = 0, _BYTES_AT_ONCE
        rows = self._database.execute(
            f"SELECT id, {_BYTES} FROM recall_removed WHERE id > 0 ORDER BY id LIMIT ?",  # noqa: S608 - a constant
            (_AT_ONCE,),
        )
        for number, size in rows.fetchall():
            if left <= 0:
                break
            upto, left = number, left - size
        with _noted(self._database):
            self._database.execute(TAKE_OUT, (upto,))
        self._database.execute("DELETE FROM recall_removed WHERE id BETWEEN 1 AND ?", (upto,))

    def _merge(self) -> None:
        """Merge some pages of all segments into one, which drops the words of what was gone when that began."""
        pages = _PAGES_AT_ONCE
        if not self._merging:
            self._merging, self._merge_at = True, self._database.clock.monotonic() + _MERGED_EVERY_S
            pages = -_PAGES_AT_ONCE  # a negative number begins a merge of all
            self._database.execute(_BEGUN)
        before = self._database.value(_CHANGES)
        self._database.execute("INSERT INTO recall_passages (recall_passages, rank) VALUES ('merge', ?)", (pages,))
        if self._database.value(_CHANGES) - before < 2:  # as FTS5 says that there was nothing left to merge
            self._database.execute(_COMPLETE)
            self._merging = False
