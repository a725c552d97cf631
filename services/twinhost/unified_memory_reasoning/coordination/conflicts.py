"""Who does an operation on which several agree: the one with the highest priority, and of equals the first.

A claim is kept until 10,000 newer ones are, or 1,000 newer ones of its holder; the oldest gives way, and its
operation is then anybody's. A claim of a holder in quarantine counts for nobody, and is anybody's to take; it wins
over no claim that counts.
"""

import time

import msgspec

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine, create_visible_views

MIGRATION = """
CREATE TABLE operations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    op_id TEXT NOT NULL UNIQUE,
    priority INTEGER NOT NULL,
    since REAL NOT NULL,
    written_by TEXT NOT NULL
) STRICT;
CREATE INDEX operations_by_holder ON operations (written_by, number);
"""
MOST = 10_000
MOST_OF_A_HOLDER = 1_000  # so that nobody displaces the claims of others by many of its own
_NEWEST = 2**63 - 1


class Claim(msgspec.Struct, frozen=True):
    """Who holds an operation; `priority` 1 to 10, `since` in seconds since the epoch."""

    number: int
    op_id: str
    priority: int
    since: float
    holder: str


class Conflicts:
    """The claims on operations, by the operation's id."""

    def __init__(self, database: Database, *, most: int = MOST, most_of_a_holder: int = MOST_OF_A_HOLDER) -> None:
        create_visible_views(database, "operations")
        self._database = database
        self._quarantine = Quarantine(database)
        self._most = most
        self._most_of_a_holder = most_of_a_holder

    def resolve(self, op_id: str, priority: int, holder: str) -> tuple[bool, Claim]:
        """Claim an operation; return whether the claim won, and who holds it now.

        Only a strictly higher priority than that of the claim there is wins, and the first claim does. The holder
        itself is no exception: a second claim of its own at the same priority wins nothing, and it still holds.
        """
        row = self._database.execute(
            "SELECT number, op_id, priority, since, written_by FROM visible_operations WHERE op_id = ?",
            (op_id,),
        ).fetchone()
        if row is not None and (priority <= row[2] or self._quarantine.hides(holder)):
            return False, Claim(*row)
        since = time.time()
        (number,) = self._database.execute(
            "INSERT OR REPLACE INTO operations (op_id, priority, since, written_by) VALUES (?, ?, ?, ?) "
            "RETURNING number",
            (op_id, priority, since, holder),
        ).fetchone()
        self._make_room(holder)
        return True, Claim(number, op_id, priority, since, holder)

    def written_by(self, name: str, before: int | None, limit: int) -> list[Claim]:
        """Return the newest claims of a caller, newest first, whether it is in quarantine or not.

        Args:
            before: a number; those before it.
        """
        rows = self._database.execute(
            "SELECT number, op_id, priority, since, written_by FROM operations "
            "WHERE written_by = ? AND number < ? ORDER BY number DESC LIMIT ?",
            (name, _NEWEST if before is None else before, limit),
        )
        return [Claim(*row) for row in rows]

    @property
    def count(self) -> int:
        """The number of claims; on the thread that owns the database."""
        return int(self._database.execute("SELECT count(*) FROM operations").fetchone()[0])

    def _make_room(self, holder: str) -> None:
        self._database.execute(
            "DELETE FROM operations WHERE written_by = ? AND number <= "
            "(SELECT number FROM operations WHERE written_by = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (holder, holder, self._most_of_a_holder),
        )
        self._database.execute(
            "DELETE FROM operations WHERE number <= "
            "(SELECT number FROM operations ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._most,),
        )
