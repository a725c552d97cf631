"""How the solutions fared: by pattern and by who reported it, so that a reporter's word can be left out."""

import time
from dataclasses import dataclass

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.keeping.quarantine import VISIBLE

MIGRATION = """
CREATE TABLE solution_outcomes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pattern_id INTEGER NOT NULL REFERENCES error_patterns (id) ON DELETE CASCADE,
    successes INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    note TEXT,
    updated REAL NOT NULL,
    written_by TEXT NOT NULL,
    UNIQUE (pattern_id, written_by)
) STRICT;
CREATE INDEX solution_outcomes_by_writer ON solution_outcomes (written_by, id);
"""


@dataclass(frozen=True, slots=True)
class Score:
    """How often a solution helped, and how often not."""

    successes: int = 0
    failures: int = 0

    @property
    def success_rate(self) -> float:
        """(successes + 1) / (reports + 2), by Laplace's rule: 0.5 where nobody has reported yet."""
        return (self.successes + 1) / (self.successes + self.failures + 2)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What one reporter said of one pattern's solution; `note` is the newest, `updated` in seconds since the epoch."""

    number: int
    pattern_id: int
    score: Score
    note: str | None
    updated: float
    written_by: str


class SolutionOutcomes:
    """One row for a pattern and a reporter."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pattern_id: int, note: str | None, written_by: str, *, success: bool) -> None:
        """Count one outcome; a note takes the place of the reporter's last one, none leaves it."""
        self._database.execute(
            "INSERT INTO solution_outcomes (pattern_id, successes, failures, note, updated, written_by) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (pattern_id, written_by) DO UPDATE SET "
            "successes = successes + excluded.successes, failures = failures + excluded.failures, "
            "note = coalesce(excluded.note, note), updated = excluded.updated",
            (pattern_id, int(success), int(not success), note, time.time(), written_by),
        )

    def score(self, pattern_id: int) -> Score:
        """Return a solution's score, without what a quarantined reporter said."""
        row = self._database.execute(
            "SELECT coalesce(sum(successes), 0), coalesce(sum(failures), 0) FROM solution_outcomes "  # noqa: S608
            f"WHERE pattern_id = ? AND {VISIBLE}",
            (pattern_id,),
        ).fetchone()
        return Score(*row)

    def forget(self, pattern_id: int) -> None:
        """Forget what was said of a solution that is another now."""
        self._database.execute("DELETE FROM solution_outcomes WHERE pattern_id = ?", (pattern_id,))

    def written_by(self, name: str, before: int | None, limit: int) -> list[Outcomes]:
        """Return what a reporter said, quarantined or not, newest row first, below the number `before`."""
        rows = self._database.execute(
            "SELECT id, pattern_id, successes, failures, note, updated, written_by FROM solution_outcomes "
            "WHERE written_by = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (name, before if before is not None else 2**63 - 1, limit),
        ).fetchall()
        return [Outcomes(row[0], row[1], Score(row[2], row[3]), *row[4:]) for row in rows]
