"""Counters of each session: interactions by writer and speaker, and where its tiers begin; so that no row is counted.

The newest 50 interactions of a session are tier 0, the next 200 tier 1, the next 1000 tier 2, older ones tier 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views

MIGRATION = """
CREATE TABLE context_sessions (
    session_id TEXT PRIMARY KEY NOT NULL,
    count INTEGER NOT NULL,
    oldest_0 INTEGER NOT NULL,
    oldest_1 INTEGER NOT NULL,
    oldest_2 INTEGER NOT NULL
) STRICT;
CREATE TABLE context_writers (
    session_id TEXT NOT NULL,
    written_by TEXT NOT NULL,
    count INTEGER NOT NULL,
    updated REAL NOT NULL,
    PRIMARY KEY (session_id, written_by)
) STRICT;
CREATE TABLE context_speakers (
    session_id TEXT NOT NULL,
    speaker TEXT NOT NULL,
    written_by TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (session_id, speaker, written_by)
) STRICT;
"""
TIERS = (50, 200, 1_000)  # how many of a session tiers 0, 1 and 2 hold; tier 3 holds the rest
UP_TO_TIER = tuple(sum(TIERS[: tier + 1]) for tier in range(len(TIERS)))  # how many each and those before it hold

_VISIBLE = (
    "SELECT coalesce(sum(count), 0) AS count, max(updated) AS updated, "
    "(SELECT count(*) FROM context_writers WHERE session_id = ?1) - count(*) AS hidden_writers "
    "FROM visible_context_writers WHERE session_id = ?1"
)
_VISIBLE_OF_SPEAKER = (
    "SELECT coalesce(sum(count), 0) FROM visible_context_speakers WHERE session_id = ? AND speaker = ?"
)
_RECOUNT = (
    "INSERT INTO context_sessions SELECT session_id, count(*), coalesce(min(id) FILTER (WHERE tier = 0), 0), "
    "coalesce(min(id) FILTER (WHERE tier = 1), 0), coalesce(min(id) FILTER (WHERE tier = 2), 0) "
    "FROM interactions WHERE session_id = ? GROUP BY session_id",
    "INSERT INTO context_writers SELECT session_id, written_by, count(*), max(created) FROM interactions "
    "WHERE session_id = ? GROUP BY written_by",
    "INSERT INTO context_speakers SELECT session_id, speaker, written_by, count(*) FROM interactions "
    "WHERE session_id = ? AND speaker <> '' GROUP BY speaker, written_by",
)


@dataclass(frozen=True, slots=True)
class Visible:
    """What the writers of a session who are not quarantined wrote, and how many writers are quarantined."""

    count: int
    updated: float | None
    hidden_writers: int


@dataclass(frozen=True, slots=True)
class Move:
    """An interaction that moves to a tier."""

    id: int
    tier: int


class SessionCounts:
    """The counters of each session, and of all together."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "context_writers", "context_speakers")
        self._database = database
        count, sessions = database.execute("SELECT coalesce(sum(count), 0), count(*) FROM context_sessions").fetchone()
        self.interactions, self.sessions = int(count), int(sessions)  # for any thread to read

    def add(
        self,
        session_id: str,
        number: int,
        speaker: str,
        written_by: str,
        created: float,
        next_after: Callable[[int], int],
    ) -> list[Move]:
        """Count an interaction that was just stored, and return which others change tier: at most one of each tier.

        Args:
            session_id: its session.
            number: its id.
            speaker: empty if none was given; then it counts for the session only.
            written_by: the caller.
            created: seconds since the epoch.
            next_after: returns the id of the session's next interaction after an id.
        """
        self._database.execute(
            "INSERT INTO context_writers VALUES (?, ?, 1, ?) ON CONFLICT (session_id, written_by) DO UPDATE SET "
            "count = count + 1, updated = max(updated, excluded.updated)",
            (session_id, written_by, created),
        )
        if speaker:
            self._database.execute(
                "INSERT INTO context_speakers VALUES (?, ?, ?, 1) "
                "ON CONFLICT (session_id, speaker, written_by) DO UPDATE SET count = count + 1",
                (session_id, speaker, written_by),
            )
        row = self._database.execute(
            "SELECT count, oldest_0, oldest_1, oldest_2 FROM context_sessions WHERE session_id = ?", (session_id,)
        ).fetchone()
        self._add_to_totals(1, 0 if row else 1)
        before, *oldest = row or (0, number, 0, 0)
        moves = []
        for tier, held in enumerate(UP_TO_TIER):
            if before < held:
                break
            moving = oldest[tier]
            moves.append(Move(moving, tier + 1))
            oldest[tier] = next_after(moving)
            if tier + 1 < len(oldest) and oldest[tier + 1] == 0:
                oldest[tier + 1] = moving
        self._database.execute(
            "INSERT INTO context_sessions VALUES (?, ?, ?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET count = "
            "excluded.count, oldest_0 = excluded.oldest_0, oldest_1 = excluded.oldest_1, oldest_2 = excluded.oldest_2",
            (session_id, before + 1, *oldest),
        )
        return moves

    def visible(self, session_id: str) -> Visible:
        """Return the counters of the writers who are not quarantined."""
        return self._database.select(Visible, _VISIBLE, (session_id,))[0]

    def visible_of(self, session_id: str, speaker: str) -> int:
        """Return how many of a speaker's interactions are visible."""
        return int(self._database.execute(_VISIBLE_OF_SPEAKER, (session_id, speaker)).fetchone()[0])

    def recount(self, session_id: str) -> int:
        """Count a session's rows again after some were removed, and return how many are left."""
        before = self._count(session_id)
        for table in ("context_sessions", "context_writers", "context_speakers"):
            self._database.execute(f"DELETE FROM {table} WHERE session_id = ?", (session_id,))  # noqa: S608 - constants
        for statement in _RECOUNT:
            self._database.execute(statement, (session_id,))
        after = self._count(session_id)
        self._add_to_totals(after - before, bool(after) - bool(before))
        return after

    def _count(self, session_id: str) -> int:
        row = self._database.execute(
            "SELECT count FROM context_sessions WHERE session_id = ?", (session_id,)
        ).fetchone()
        return int(row[0]) if row else 0

    def _add_to_totals(self, interactions: int, sessions: int) -> None:
        before = self.interactions, self.sessions
        self.interactions += interactions
        self.sessions += sessions

        def undo() -> None:
            self.interactions, self.sessions = before

        self._database.on_rollback(undo)
