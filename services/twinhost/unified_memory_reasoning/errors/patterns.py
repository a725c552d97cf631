"""Error patterns, and the outcomes of their solutions by reporter, so that a reporter's outcomes can be hidden."""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, NotRequired, TypedDict

from twinhost.secure_zmq.errors import LimitReached, MalformedRequest, NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.errors.matching import BUDGET_S, Entry, PatternIndex, accept
from twinhost.unified_memory_reasoning.errors.similarity import SimilarPatterns, SuggestionDocument
from twinhost.unified_memory_reasoning.errors.specificity import Requirement, Specificity, requirement_of
from twinhost.unified_memory_reasoning.provenance.quarantine import (
    MAX_NUMBER,
    Quarantine,
    WrittenRow,
    create_visible_views,
    document_of,
    lists_written,
)

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


def success_rate(successes: int, failures: int) -> float:
    """Return (successes + 1) / (reports + 2), by Laplace's rule: 0.5 before the first report."""
    return (successes + 1) / (successes + failures + 2)


class ScoreDocument(TypedDict):
    """How often a solution helped and how often it didn't; `success_rate` (0 to 1) is 0.5 before the first report."""

    success_rate: float
    successes: int
    failures: int


class OutcomeCounts(TypedDict):
    """How often a solution helped, and how often it didn't."""

    successes: int
    failures: int


class WrittenOutcome(WrittenRow):
    """One caller's reports on a pattern's solution; `note` is the newest, null if there is none."""

    pattern_id: int
    score: OutcomeCounts
    note: NotRequired[str | None]
    updated: str
    written_by: str


_WRITTEN_OUTCOMES = (
    "SELECT id AS number, pattern_id, json_object('successes', successes, 'failures', failures) AS score, note, "
    "updated, written_by FROM solution_outcomes WHERE written_by = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"
)


class SolutionOutcomes:
    """One row for each pattern and reporter."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "solution_outcomes")
        self._database = database

    def add(self, pattern_id: int, note: str | None, written_by: str, *, success: bool) -> None:
        """Count one outcome; a note replaces the reporter's previous one."""
        self._database.execute(
            "INSERT INTO solution_outcomes (pattern_id, successes, failures, note, updated, written_by) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (pattern_id, written_by) DO UPDATE SET "
            "successes = successes + excluded.successes, failures = failures + excluded.failures, "
            "note = coalesce(excluded.note, note), updated = excluded.updated",
            (pattern_id, int(success), int(not success), note, self._database.clock.time(), written_by),
        )

    def score(self, pattern_id: int) -> ScoreDocument:
        """Return a solution's score, without quarantined reporters."""
        return self._database.select(
            _score,
            "SELECT coalesce(sum(successes), 0) AS successes, coalesce(sum(failures), 0) AS failures "
            "FROM visible_solution_outcomes WHERE pattern_id = ?",
            (pattern_id,),
        )[0]

    def forget(self, pattern_id: int) -> None:
        """Delete the outcomes of a solution that was replaced."""
        self._database.execute("DELETE FROM solution_outcomes WHERE pattern_id = ?", (pattern_id,))

    written_by = lists_written(WrittenOutcome, _WRITTEN_OUTCOMES)


def _score(successes: int, failures: int) -> ScoreDocument:
    rate = round(success_rate(successes, failures), 3)
    return {"success_rate": rate, "successes": successes, "failures": failures}


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
CASE_MIGRATION = "ALTER TABLE error_patterns ADD COLUMN ignores_case INTEGER NOT NULL DEFAULT 0;"  # of older ones
MOST = 5_000
MOST_OF_A_WRITER = 2_000
MOST_GENERAL = 100  # patterns that require no text of three characters; every message is searched for them
_SUMS = ", ".join(
    f"(SELECT coalesce(sum({name}), 0) FROM visible_solution_outcomes WHERE pattern_id = p.id) AS {name}"  # noqa: S608
    for name in ("successes", "failures")
)
_COLUMNS = "id AS pattern_id, error_type, pattern, solution, occurrence_count, last_seen, created, updated, written_by"
_PATTERNS = f"SELECT {_COLUMNS}, ignores_case, {_SUMS} FROM {{}} AS p WHERE {{}} ORDER BY id DESC LIMIT ?"  # noqa: S608 - constants
_WRITTEN = (
    f"SELECT id AS number, {_COLUMNS}, "  # noqa: S608 - constants
    "(SELECT json_object('successes', coalesce(sum(successes), 0), 'failures', coalesce(sum(failures), 0)) "
    "FROM visible_solution_outcomes WHERE pattern_id = p.id) AS score "
    "FROM error_patterns AS p WHERE written_by = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"
)
_ALL = "SELECT id, error_type, pattern, solution, ignores_case, written_by FROM error_patterns"
_SOLUTION = "SELECT error_type, solution FROM error_patterns WHERE id = ?"
SUGGESTED = 3
_ROOM = "delete some (list_error_patterns, delete_error_pattern)"


class SpecificityDocument(TypedDict):
    """How specific a pattern is: the characters, character classes, and anchors that every match has."""

    literals: int
    classes: int
    anchors: int


class ErrorPatternDocument(ScoreDocument):
    """A pattern; `solution` is null if it has none, `last_seen` if it never matched. Times are in ISO-8601."""

    pattern_id: int
    error_type: str
    pattern: str
    solution: str | None
    ignores_case: bool  # false if a part has letters whose case counts
    specificity: SpecificityDocument
    occurrence_count: int
    last_seen: str | None
    created: str
    updated: str
    written_by: str


class WrittenErrorPattern(WrittenRow):
    """A pattern; `solution` is null if it has none, `last_seen` if it never matched."""

    pattern_id: int
    error_type: NotRequired[str]
    pattern: NotRequired[str]
    solution: NotRequired[str | None]
    occurrence_count: int
    last_seen: str | None
    created: str
    updated: str
    written_by: str
    score: OutcomeCounts


@dataclass(frozen=True, slots=True)
class AddedPattern:
    """A stored pattern; `reads` is how many bytes of a message are searched for it."""

    pattern_id: int
    requirement: Requirement
    reads: int
    new: bool


@dataclass(frozen=True, slots=True)
class Match:
    """The pattern that matches a message, or None.

    `general`: it requires no text of three characters. `complete` is False if time ran out before every candidate was
    tried.
    """

    known: ErrorPatternDocument | None
    general: bool
    complete: bool


class _Stored(NamedTuple):
    pattern_id: int
    solution: str | None


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
        self._index = PatternIndex(budget_s, database.clock)
        self._similar = SimilarPatterns()
        for number, kind, pattern, solution, ignores_case, writer in database.execute(_ALL):
            requirement = requirement_of(pattern, ignores_case=bool(ignores_case))
            self._index.add(Entry(number, pattern, requirement, writer, bool(ignores_case)))
            if solution is not None:
                self._similar.put(number, kind, pattern, solution, writer)

    @property
    def count(self) -> int:
        """The number of patterns, with quarantined writers'; kept in memory, for any thread to read."""
        return len(self._index)

    def add(self, error_type: str, pattern: str, solution: str | None, written_by: str) -> AddedPattern:
        """Store a pattern; if this writer has stored it already, replace its solution if one is given.

        A solution that differs from the previous one begins without outcomes.

        Raises:
            MalformedRequest: RE2 refuses the pattern, or it is too large.
            LimitReached: there are too many patterns, too many of this writer, or too many that require no text.
        """
        reads, requirement, now = accept(pattern), requirement_of(pattern), self._database.clock.time()
        known = self._database.select_one(
            _Stored,
            "SELECT id AS pattern_id, solution FROM error_patterns "
            "WHERE written_by = ? AND error_type = ? AND pattern = ?",
            (written_by, error_type, pattern),
        )
        if known is not None:
            if solution is not None and solution != known.solution:
                self.outcomes.forget(known.pattern_id)
                self._database.execute(
                    "UPDATE error_patterns SET solution = ?, updated = ? WHERE id = ?",
                    (solution, now, known.pattern_id),
                )
                undo = self._similar.put(known.pattern_id, error_type, pattern, solution, written_by)
                self._database.on_rollback(undo)
            return AddedPattern(known.pattern_id, requirement, reads, new=False)
        self._require_room(written_by, requirement)
        number = self._database.value(
            "INSERT INTO error_patterns "
            "(error_type, pattern, solution, ignores_case, occurrence_count, created, updated, written_by) "
            "VALUES (?, ?, ?, 1, 0, ?, ?, ?) RETURNING id",
            (error_type, pattern, solution, now, now, written_by),
        )
        self._index.add(Entry(number, pattern, requirement, written_by))

        def forget() -> None:
            self._index.remove(number)

        self._database.on_rollback(forget)
        if solution is not None:
            self._database.on_rollback(self._similar.put(number, error_type, pattern, solution, written_by))
        return AddedPattern(number, requirement, reads, new=True)

    def match(self, message: str) -> Match:
        """Find the pattern that matches a message, and count that it was seen."""
        matches = self._index.search(message, cache(self._quarantine.hides))
        if not matches.entries:
            return Match(None, general=False, complete=matches.complete)
        best = max(
            (self._read(entry.pattern_id) for entry in matches.entries),
            key=lambda known: (success_rate(known["successes"], known["failures"]), known["pattern_id"]),
        )
        self._database.execute(
            "UPDATE error_patterns SET occurrence_count = occurrence_count + 1, last_seen = ? WHERE id = ?",
            (self._database.clock.time(), best["pattern_id"]),
        )
        general = any(entry.requirement.general for entry in matches.entries if entry.pattern_id == best["pattern_id"])
        return Match(self._read(best["pattern_id"]), general=general, complete=matches.complete)

    def similar(self, message: str, known: ErrorPatternDocument | None) -> list[SuggestionDocument]:
        """Return the solutions of patterns that a message resembles, the most similar first, each solution once.

        Args:
            message: the error.
            known: the pattern that matches it, whose solution is not suggested; None if none does.
        """
        suggestions: dict[str, SuggestionDocument] = {}
        for similarity, number in self._similar.search(message, cache(self._quarantine.hides)):
            error_type, solution = self._database.execute(_SOLUTION, (number,)).fetchone()
            if known is None or known["solution"] != solution:
                suggestion = SuggestionDocument(
                    score=round(similarity, 3), pattern_id=number, error_type=error_type, solution=solution
                )
                suggestions.setdefault(solution, suggestion)
        return list(suggestions.values())[:SUGGESTED]

    def report(self, pattern_id: int, note: str | None, reporter: str, *, success: bool) -> ScoreDocument:
        """Count whether a pattern's solution helped, and return its score.

        Raises:
            NotFound: there is no such pattern, or its writer is quarantined.
            MalformedRequest: it has no solution.
        """
        if self.find(pattern_id)["solution"] is None:
            raise MalformedRequest(
                f"error pattern {pattern_id} has no solution - at `$.pattern_id`; `add_error_pattern` gives it one"
            )
        self.outcomes.add(pattern_id, note, reporter, success=success)
        return self.outcomes.score(pattern_id)

    def find(self, pattern_id: int, *, even_hidden: bool = False) -> ErrorPatternDocument:
        """Return a pattern.

        Raises:
            NotFound: there is none, or its writer is quarantined and not `even_hidden`.
        """
        known = self._read(pattern_id)
        if self._quarantine.hides(known["written_by"]) and not even_hidden:
            raise _not_found(pattern_id)
        return known

    def remove(self, pattern_id: int) -> None:
        """Delete a pattern and the outcomes of its solution.

        Raises:
            NotFound: there is none.
        """
        if self._database.execute("DELETE FROM error_patterns WHERE id = ?", (pattern_id,)).rowcount == 0:
            raise _not_found(pattern_id)
        entry = self._index.remove(pattern_id)
        self._database.on_rollback(lambda: self._index.add(entry))
        self._database.on_rollback(self._similar.remove(pattern_id))

    def newest(self, before: int | None, limit: int) -> list[ErrorPatternDocument]:
        """Return visible patterns, newest first, with numbers below `before`."""
        values = (MAX_NUMBER if before is None else before, limit)
        return self._database.select(_document, _PATTERNS.format("visible_error_patterns", "id < ?"), values)

    written_by = lists_written(WrittenErrorPattern, _WRITTEN)

    def _read(self, pattern_id: int) -> ErrorPatternDocument:
        known = self._database.select_one(_document, _PATTERNS.format("error_patterns", "id = ?"), (pattern_id, 1))
        if known is None:
            raise _not_found(pattern_id)
        return known

    def _require_room(self, written_by: str, requirement: Requirement) -> None:
        if len(self._index) >= self._most:
            raise LimitReached(f"{self._most} error patterns are stored and that is the limit; {_ROOM}")
        own = self._database.value("SELECT count(*) FROM error_patterns WHERE written_by = ?", (written_by,))
        if own >= self._most_of_a_writer:
            raise LimitReached(f"{written_by} has {own} error patterns and that is the limit of one writer; {_ROOM}")
        if requirement.general and self._index.general >= self._most_general:
            raise LimitReached(
                f"{self._most_general} patterns require no text of three characters and that is the limit; "
                f"add a word to the pattern that every such message contains, or {_ROOM}"
            )


def specificity_document(specificity: Specificity) -> SpecificityDocument:
    """Return a specificity as a reply has it."""
    return {"literals": specificity.literals, "classes": specificity.classes, "anchors": specificity.anchors}


_shown = document_of(ErrorPatternDocument)


def _document(pattern: str, ignores_case: int, successes: int, failures: int, **columns: Any) -> ErrorPatternDocument:
    requirement = requirement_of(pattern, ignores_case=bool(ignores_case))
    return _shown(
        **columns,
        pattern=pattern,
        ignores_case=requirement.ignores_case,
        specificity=specificity_document(requirement.specificity),
        **_score(successes, failures),
    )


def _not_found(pattern_id: int) -> NotFound:
    return NotFound(f"there is no error pattern {pattern_id}; `list_error_patterns` lists them")
