"""How the solutions fared: by pattern and by who reported it, so that a reporter's word can be left out."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from twinhost.secure_zmq.errors import LimitReached, NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.errors.matching import BUDGET_S, Entry, PatternIndex, accept
from twinhost.unified_memory_reasoning.errors.specificity import Requirement, Specificity, requirement_of
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine, create_visible_views

_OUTCOMES_SCHEMA = """
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
        create_visible_views(database, "solution_outcomes")
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
            "SELECT coalesce(sum(successes), 0), coalesce(sum(failures), 0) FROM visible_solution_outcomes "
            "WHERE pattern_id = ?",
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


MIGRATION = f"""
CREATE TABLE error_patterns (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    error_type TEXT NOT NULL,
    pattern TEXT NOT NULL,
    solution TEXT,
    occurrence_count INTEGER NOT NULL,
    last_seen REAL,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    written_by TEXT NOT NULL,
    UNIQUE (written_by, error_type, pattern)
) STRICT;
CREATE INDEX error_patterns_by_writer ON error_patterns (written_by, id);
{_OUTCOMES_SCHEMA}
"""
MOST = 5_000
MOST_OF_A_WRITER = 2_000
MOST_GENERAL = 100  # of those that require no text of three characters and are searched for in every message
_COLUMNS = "id, error_type, pattern, solution, occurrence_count, last_seen, created, updated, written_by"
_ROOM = "delete some (list_error_patterns, delete_error_pattern)"


@dataclass(frozen=True, slots=True)
class ErrorPattern:
    """One pattern; times in seconds since the epoch, `last_seen` None where it never answered."""

    pattern_id: int
    error_type: str
    pattern: str
    solution: str | None
    occurrence_count: int
    last_seen: float | None
    created: float
    updated: float
    written_by: str
    score: Score

    @property
    def specificity(self) -> Specificity:
        """How specific it is."""
        return requirement_of(self.pattern).specificity


@dataclass(frozen=True, slots=True)
class Added:
    """A pattern that was stored; `reads` is how many bytes of a message it is searched for in."""

    pattern_id: int
    requirement: Requirement
    reads: int
    new: bool


@dataclass(frozen=True, slots=True)
class Match:
    """The pattern that knows a message, None where none does.

    `general` says that it requires no text of three characters; `complete` is False where time ran out before
    every pattern that could match was tried.
    """

    known: ErrorPattern | None
    general: bool
    complete: bool


class ErrorPatterns:
    """Patterns in SQLite, and in memory by what they require."""

    def __init__(
        self,
        database: Database,
        *,
        most: int = MOST,
        most_of_a_writer: int = MOST_OF_A_WRITER,
        most_general: int = MOST_GENERAL,
        budget_s: float = BUDGET_S,
    ) -> None:
        create_visible_views(database, "error_patterns")
        self._database = database
        self._most, self._most_of_a_writer, self._most_general = most, most_of_a_writer, most_general
        self.outcomes = SolutionOutcomes(database)
        self._quarantine = Quarantine(database)
        self._index = PatternIndex(budget_s)
        for number, pattern, writer in database.execute("SELECT id, pattern, written_by FROM error_patterns"):
            self._index.add(Entry(number, pattern, requirement_of(pattern), writer))

    @property
    def count(self) -> int:
        """The number of patterns, quarantined writers' among them; kept in memory, for any thread to read."""
        return len(self._index)

    def add(self, error_type: str, pattern: str, solution: str | None, written_by: str) -> Added:
        """Store a pattern; where this writer has it already, put the solution in place of the old one.

        No solution leaves the old one. A solution that differs begins without outcomes.

        Raises:
            MalformedRequest: RE2 refuses the pattern, or it is too large.
            LimitReached: there are as many as may be, of everybody, of this writer, or of those without a text.
        """
        reads, requirement, now = accept(pattern), requirement_of(pattern), time.time()
        row = self._database.execute(
            "SELECT id, solution FROM error_patterns WHERE written_by = ? AND error_type = ? AND pattern = ?",
            (written_by, error_type, pattern),
        ).fetchone()
        if row is not None:
            if solution is not None and solution != row[1]:
                self.outcomes.forget(row[0])
                self._database.execute(
                    "UPDATE error_patterns SET solution = ?, updated = ? WHERE id = ?", (solution, now, row[0])
                )
            return Added(row[0], requirement, reads, new=False)
        self._require_room(written_by, requirement)
        (number,) = self._database.execute(
            "INSERT INTO error_patterns "
            "(error_type, pattern, solution, occurrence_count, created, updated, written_by) "
            "VALUES (?, ?, ?, 0, ?, ?, ?) RETURNING id",
            (error_type, pattern, solution, now, now, written_by),
        ).fetchone()
        self._index.add(Entry(number, pattern, requirement, written_by))

        def undo() -> None:
            self._index.remove(number)

        self._database.on_rollback(undo)
        return Added(number, requirement, reads, new=True)

    def match(self, message: str) -> Match:
        """Find what is known of a message, and count that it was seen."""
        found = self._index.search(message, cache(self._quarantine.hides))
        if not found.entries:
            return Match(None, general=False, complete=found.complete)
        best = max(
            (self._read(entry.pattern_id) for entry in found.entries),
            key=lambda known: (known.score.success_rate, known.pattern_id),
        )
        self._database.execute(
            "UPDATE error_patterns SET occurrence_count = occurrence_count + 1, last_seen = ? WHERE id = ?",
            (time.time(), best.pattern_id),
        )
        general = requirement_of(best.pattern).general
        return Match(self._read(best.pattern_id), general=general, complete=found.complete)

    def find(self, pattern_id: int, *, even_hidden: bool = False) -> ErrorPattern:
        """Return a pattern.

        Raises:
            NotFound: there is none, or its writer is quarantined and `even_hidden` is not asked for.
        """
        known = self._read(pattern_id)
        if self._quarantine.hides(known.written_by) and not even_hidden:
            raise _not_found(pattern_id)
        return known

    def remove(self, pattern_id: int) -> None:
        """Forget a pattern, and what was said of its solution.

        Raises:
            NotFound: there is none.
        """
        if self._database.execute("DELETE FROM error_patterns WHERE id = ?", (pattern_id,)).rowcount == 0:
            raise _not_found(pattern_id)
        entry = self._index.remove(pattern_id)
        self._database.on_rollback(lambda: self._index.add(entry))

    def newest(self, before: int | None, limit: int) -> Iterator[ErrorPattern]:
        """Yield patterns, newest first, below the number `before`; at most `limit`."""
        return self._select("TRUE", (), before, limit, "visible_error_patterns")

    def written_by(self, name: str, before: int | None, limit: int) -> list[ErrorPattern]:
        """Return what a writer wrote, quarantined or not, newest first, below the number `before`."""
        return list(self._select("written_by = ?", (name,), before, limit))

    def _select(
        self,
        where: str,
        values: tuple[str | int, ...],
        before: int | None,
        limit: int,
        table: str = "error_patterns",
    ) -> Iterator[ErrorPattern]:
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM {table} WHERE {where} AND id < ? ORDER BY id DESC LIMIT ?",  # noqa: S608
            (*values, before if before is not None else 2**63 - 1, limit),
        )
        try:
            for row in rows:
                known: tuple[Any, ...] = (*row, self.outcomes.score(row[0]))
                yield ErrorPattern(*known)
        finally:
            rows.close()

    def _read(self, pattern_id: int) -> ErrorPattern:
        for known in self._select("id = ?", (pattern_id,), None, 1):
            return known
        raise _not_found(pattern_id)

    def _require_room(self, written_by: str, requirement: Requirement) -> None:
        if len(self._index) >= self._most:
            raise LimitReached(f"{self._most} error patterns are stored and no more are kept; {_ROOM}")
        (own,) = self._database.execute(
            "SELECT count(*) FROM error_patterns WHERE written_by = ?", (written_by,)
        ).fetchone()
        if own >= self._most_of_a_writer:
            raise LimitReached(f"{written_by} has {own} error patterns and no more are kept of one writer; {_ROOM}")
        if requirement.general and self._index.general >= self._most_general:
            raise LimitReached(
                f"{self._most_general} patterns require no text of three characters, and no more of these are kept; "
                f"write one with a word that every such message has, or {_ROOM}"
            )


def _not_found(pattern_id: int) -> NotFound:
    return NotFound(f"there is no error pattern {pattern_id}; see list_error_patterns")
