"""How much was said in each session: by whom, and where each of its tiers begins; counters, so that no row is counted.

The newest 50 interactions of a session are tier 0, the next 200 tier 1, the next 1000 tier 2, older ones tier 3.
"""

from collections.abc import Callable, Iterable, Mapping
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

_OF_WRITERS = (
    "SELECT coalesce(sum(count), 0) AS count, max(updated) AS updated, "
    "(SELECT count(*) FROM context_writers WHERE session_id = ?1) - count(*) AS hidden_writers "
    "FROM visible_context_writers WHERE session_id = ?1"
)
_OF_SPEAKER = "SELECT coalesce(sum(count), 0) FROM visible_context_speakers WHERE session_id = ? AND speaker = ?"


@dataclass(frozen=True, slots=True)
class Writer:
    """What one writer said in a session; `updated` in seconds since the epoch."""

    name: str
    count: int
    updated: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """How much one writer wrote down of what one speaker said in a session."""

    speaker: str
    written_by: str
    count: int


@dataclass(frozen=True, slots=True)
class Visible:
    """What the writers said that are not quarantined, and how many writers are."""

    count: int
    updated: float | None
    hidden_writers: int


@dataclass(frozen=True, slots=True)
class Move:
    """An interaction that goes on to a tier."""

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
        """Count an interaction that is stored by now, and return which others move on: one of a tier at most.

        Args:
            speaker: empty where none was told; such a one is counted for its session alone.
            next_after: returns the number of the session's interaction after a number.
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
        self._put(session_id, before + 1, oldest)
        return moves

    def visible(self, session_id: str) -> Visible:
        """Return what those said who are not quarantined."""
        return Visible(*self._database.execute(_OF_WRITERS, (session_id,)).fetchone())

    def visible_of(self, session_id: str, speaker: str) -> int:
        """Return how much a speaker said by those who are not quarantined."""
        return int(self._database.execute(_OF_SPEAKER, (session_id, speaker)).fetchone()[0])

    def replace(
        self, session_id: str, writers: Iterable[Writer], speakers: Iterable[Spoken], oldest: Mapping[int, int]
    ) -> None:
        """Count a session anew; nothing is left of one without writers.

        Args:
            oldest: the number of the oldest interaction in each tier that holds any.
        """
        writers = list(writers)
        row = self._database.execute(
            "SELECT count FROM context_sessions WHERE session_id = ?", (session_id,)
        ).fetchone()
        count = sum(writer.count for writer in writers)
        self._add_to_totals(count - (row[0] if row else 0), bool(writers) - bool(row))
        for table in ("context_sessions", "context_writers", "context_speakers"):
            self._database.execute(f"DELETE FROM {table} WHERE session_id = ?", (session_id,))  # noqa: S608 - constants
        if not writers:
            return
        self._put(session_id, count, [oldest.get(tier, 0) for tier in range(len(TIERS))])
        self._database.execute_many(
            "INSERT INTO context_writers VALUES (?, ?, ?, ?)",
            [(session_id, writer.name, writer.count, writer.updated) for writer in writers],
        )
        self._database.execute_many(
            "INSERT INTO context_speakers VALUES (?, ?, ?, ?)",
            [(session_id, each.speaker, each.written_by, each.count) for each in speakers],
        )

    def _put(self, session_id: str, count: int, oldest: list[int]) -> None:
        self._database.execute(
            "INSERT INTO context_sessions VALUES (?, ?, ?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET count = "
            "excluded.count, oldest_0 = excluded.oldest_0, oldest_1 = excluded.oldest_1, oldest_2 = excluded.oldest_2",
            (session_id, count, *oldest),
        )

    def _add_to_totals(self, interactions: int, sessions: int) -> None:
        before = self.interactions, self.sessions
        self.interactions += interactions
        self.sessions += sessions

        def undo() -> None:
            self.interactions, self.sessions = before

        self._database.on_rollback(undo)
