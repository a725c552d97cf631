"""The quarantine: whose rows are hidden from every recall, until they are released. Nothing is deleted by it."""

import time
from dataclasses import dataclass

from twinhost.secure_zmq.errors import LimitReached, NotFound
from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE quarantined (
    name TEXT PRIMARY KEY NOT NULL,
    since REAL NOT NULL,
    quarantined_by TEXT NOT NULL
) STRICT;
CREATE TABLE quarantine_reasons (
    name TEXT PRIMARY KEY NOT NULL REFERENCES quarantined (name) ON DELETE CASCADE,
    reason TEXT NOT NULL
) STRICT;
"""
MOST = 1_000  # names; all of them fit one reply


def create_visible_views(database: Database, *tables: str) -> None:
    """Create the view `visible_TABLE` of each table: its rows without those of quarantined writers.

    Every read that answers a caller selects from these. They are temporary: each connection has its own, and the schema
    in the file stays as it is.
    """
    for table in tables:
        database.execute(
            f"CREATE TEMP VIEW IF NOT EXISTS visible_{table} AS "  # noqa: S608 - the stores' own tables
            f"SELECT * FROM {table} WHERE written_by NOT IN (SELECT name FROM quarantined)"
        )


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One writer who is hidden; `since` in seconds since the epoch, `reason` empty where none was told."""

    name: str
    since: float
    quarantined_by: str
    reason: str


class Quarantine:
    """The names whose rows no recall tells."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, quarantined_by: str, reason: str = "") -> bool:
        """Hide what a caller wrote and will write; return whether it was seen until now.

        A second time keeps the moment and the name of the first, and takes over the reason where one is told.

        Raises:
            LimitReached: there are as many names as may be.
        """
        (count,) = self._database.execute("SELECT count(*) FROM quarantined").fetchone()
        known = self.hides(name)
        if not known and count >= MOST:
            raise LimitReached(f"{MOST} names are in quarantine and no more are taken; release some")
        self._database.execute(
            "INSERT INTO quarantined (name, since, quarantined_by) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING",
            (name, time.time(), quarantined_by),
        )
        if reason:
            self._database.execute(
                "INSERT INTO quarantine_reasons VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET reason = excluded.reason",
                (name, reason),
            )
        return not known

    def lift(self, name: str) -> None:
        """Show again what a caller wrote.

        Raises:
            NotFound: it is not hidden.
        """
        if self._database.execute("DELETE FROM quarantined WHERE name = ?", (name,)).rowcount == 0:
            raise NotFound(f"nothing of {name[:64]!r} is in quarantine; `list_quarantine` tells whose is")

    def hides(self, name: str) -> bool:
        """Return whether what a caller wrote is hidden."""
        return self._database.execute("SELECT 1 FROM quarantined WHERE name = ?", (name,)).fetchone() is not None

    def all(self) -> list[Quarantined]:
        """Return everybody in quarantine, the newest first."""
        rows = self._database.execute(
            "SELECT name, since, quarantined_by, coalesce(reason, '') FROM quarantined "
            "LEFT JOIN quarantine_reasons USING (name) ORDER BY since DESC, name"
        )
        return [Quarantined(*row) for row in rows]
