"""The store of digital twins: the sole owner of what is known of each user.

A quarantined writer's twin is not told, and not removed. An update puts another in its place, as in any twin's; its
revision goes on, from which can be told that a hidden one was there. A quarantined writer itself replaces and removes
no twin that is told.
"""

import time
from dataclasses import dataclass
from typing import Any

import msgspec

from twinhost.secure_zmq.errors import NotFound, NotGranted
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine, create_visible_views

MIGRATION = """
CREATE TABLE twins (
    user_id TEXT PRIMARY KEY NOT NULL,
    twin BLOB NOT NULL,
    revision INTEGER NOT NULL,
    written_by TEXT NOT NULL,
    updated REAL NOT NULL
) STRICT;
"""
BY_WRITER_MIGRATION = "CREATE INDEX twins_by_writer ON twins (written_by);"
_NEWEST = 2**63 - 1
_FIND = "SELECT twin, revision, written_by, updated FROM visible_twins WHERE user_id = ?"
_REMOVE = "DELETE FROM twins WHERE user_id IN (SELECT user_id FROM visible_twins WHERE user_id = ?)"


@dataclass(frozen=True, slots=True)
class Twin:
    """A user's twin; `revision` counts the updates since it was first stored, `updated` is seconds since the epoch."""

    data: dict[str, Any]
    revision: int
    written_by: str
    updated: float


@dataclass(frozen=True, slots=True)
class WrittenTwin:
    """A twin as its writer is asked for it; `number` grows with each user who is new."""

    number: int
    user_id: str
    data: dict[str, Any]
    revision: int
    updated: float


class Twins:
    """Twins by user, in SQLite; every row says which caller wrote it."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "twins")
        self._database = database
        self._quarantine = Quarantine(database)
        self._count: int = database.execute("SELECT count(*) FROM twins").fetchone()[0]

    def put(self, user_id: str, data: dict[str, Any], written_by: str) -> int:
        """Store a twin in place of the one there is; return its revision.

        Raises:
            NotGranted: the writer is in quarantine, and the one there is is told.
        """
        self._require_unhidden(user_id, written_by)
        (revision,) = self._database.execute(
            "INSERT INTO twins VALUES (?, ?, 1, ?, ?) ON CONFLICT (user_id) DO UPDATE SET "
            "twin = excluded.twin, revision = revision + 1, written_by = excluded.written_by, "
            "updated = excluded.updated RETURNING revision",
            (user_id, msgspec.json.encode(data), written_by, time.time()),
        ).fetchone()
        if revision == 1:
            self._add_to_count(1)
        return int(revision)

    def find(self, user_id: str) -> Twin | None:
        """Return a user's twin, or None where there is none, or its writer is in quarantine."""
        row = self._database.execute(_FIND, (user_id,)).fetchone()
        return Twin(msgspec.json.decode(row[0]), *row[1:]) if row else None

    def written_by(self, name: str, before: int | None, limit: int) -> list[WrittenTwin]:
        """Return the twins that a caller wrote last, in quarantine or not, the newest user first.

        Args:
            name: the caller.
            before: those with numbers under it.
            limit: at most so many.
        """
        rows = self._database.execute(
            "SELECT rowid, user_id, twin, revision, updated FROM twins WHERE written_by = ? AND rowid < ? "
            "ORDER BY rowid DESC LIMIT ?",
            (name, _NEWEST if before is None else before, limit),
        )
        return [WrittenTwin(row[0], row[1], msgspec.json.decode(row[2]), *row[3:]) for row in rows]

    def remove(self, user_id: str, removed_by: str | None = None) -> None:
        """Forget a twin.

        Args:
            removed_by: the caller; None is nobody who could be in quarantine.

        Raises:
            NotFound: there is none that is told.
            NotGranted: there is, and who removes it is in quarantine.
        """
        self._require_unhidden(user_id, removed_by)
        removed = self._database.execute(_REMOVE, (user_id,))
        if removed.rowcount == 0:
            raise NotFound(f"there is no twin of {user_id[:64]!r}; `update_twin` stores one")
        self._add_to_count(-1)

    @property
    def count(self) -> int:
        """The number of twins; kept in memory, for any thread to read."""
        return self._count

    def _require_unhidden(self, user_id: str, caller: str | None) -> None:
        if caller is None or not self._quarantine.hides(caller):
            return
        if self._database.execute(_FIND, (user_id,)).fetchone() is not None:
            raise NotGranted(
                f"what {caller[:64]} writes is in quarantine, and changes no twin of another; "
                "an operator ends that (`release_memory`)"
            )

    def _add_to_count(self, change: int) -> None:
        before = self._count
        self._count += change

        def undo() -> None:
            self._count = before

        self._database.on_rollback(undo)
