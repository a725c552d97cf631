"""Error patterns, and the outcomes of their solutions by reporter, so that a reporter's outcomes can be hidden."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import LimitReached, MalformedRequest, NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.errors.matching import BUDGET_S, Entry, PatternIndex, accept
from twinhost.unified_memory_reasoning.errors.similarity import SimilarPatterns, SuggestionDocument
from twinhost.unified_memory_reasoning.errors.specificity import Requirement, requirement_of
from twinhost.unified_memory_reasoning.fields import Field, Fields, Kind
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

    def forget(self, pattern_id: int) -> None:
        """Delete the outcomes of a solution that was replaced."""
        self._database.execute("DELETE FROM solution_outcomes WHERE pattern_id = ?", (pattern_id,))

    written_by = lists_written(WrittenOutcome, _WRITTEN_OUTCOMES)


SOLUTION = Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]


class PatternDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The optional fields of a pattern, each in a column of its name. A new field is the last one."""

    solution: Annotated[str | None, Field(Kind(SOLUTION, SOLUTION, str | None))] = None


PATTERN_DETAILS = Fields(PatternDetails)
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
MOST_GENERAL_OF_A_WRITER = 20
_SUMS = ", ".join(
    f"(SELECT coalesce(sum({name}), 0) FROM visible_solution_outcomes WHERE pattern_id = p.id) AS {name}"  # noqa: S608
    for name in ("successes", "failures")
)
_OPTIONAL = ", ".join(PATTERN_DETAILS.names)
_COLUMNS = (
    f"id AS pattern_id, error_type, pattern, {_OPTIONAL}, occurrence_count, last_seen, created, updated, written_by"
)
_PATTERNS = f"SELECT {_COLUMNS}, ignores_case, {_SUMS} FROM {{}} AS p WHERE {{}} ORDER BY id DESC LIMIT ?"  # noqa: S608 - constants
_WRITTEN = (
    f"SELECT id AS number, {_COLUMNS}, "  # noqa: S608 - constants
    "(SELECT json_object('successes', coalesce(sum(successes), 0), 'failures', coalesce(sum(failures), 0)) "
    "FROM visible_solution_outcomes WHERE pattern_id = p.id) AS score "
    "FROM error_patterns AS p WHERE written_by = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"
)
_ALL = "SELECT id, error_type, pattern, solution, ignores_case, written_by FROM error_patterns"
_SOLUTION = "SELECT error_type, solution, written_by, updated FROM error_patterns WHERE id = ?"
_DETAILS = (
    f"SELECT id AS pattern_id, {_OPTIONAL} FROM error_patterns "  # noqa: S608 - constants
    "WHERE written_by = ? AND error_type = ? AND pattern = ?"
)
_CHANGE = f"UPDATE error_patterns SET {' = ?, '.join(PATTERN_DETAILS.names)} = ?, updated = ? WHERE id = ?"  # noqa: S608
SUGGESTED = 3
_ROOM = "delete some (list_error_patterns, delete_error_pattern)"


class SpecificityDocument(TypedDict):
    """How specific a pattern is: the characters, character classes, and anchors that every match has."""

    literals: int
    classes: int
    anchors: int


@PATTERN_DETAILS.shown_by
class _ErrorPattern(ScoreDocument):
    pattern_id: int
    error_type: str
    pattern: str


class ErrorPatternDocument(_ErrorPattern):
    """A pattern; `solution` is null if it has none, `last_seen` if it never matched. Times are in ISO-8601."""

    ignores_case: bool  # false if a part has letters whose case counts
    specificity: SpecificityDocument
    occurrence_count: int
    last_seen: str | None
    created: str
    updated: str
    written_by: str


@PATTERN_DETAILS.listed_by
class _WrittenErrorPattern(WrittenRow):
    pattern_id: int
    error_type: NotRequired[str]
    pattern: NotRequired[str]


class WrittenErrorPattern(_WrittenErrorPattern):
    """A pattern; `solution` is null if it has none, `last_seen` if it never matched."""

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


_Stored = tuple[int, PatternDetails]  # a pattern's number, and its details


class ErrorPatterns:
    """Patterns in SQLite, and in memory by what they require."""

    def __init__(
        self,
        database: Database,
        *,
        most: int = MOST,
        most_of_a_writer: int = MOST_OF_A_WRITER,
        most_general: int = MOST_GENERAL,
        most_general_of_a_writer: int = MOST_GENERAL_OF_A_WRITER,
        budget_s: float = BUDGET_S,
    ) -> None:
        create_visible_views(database, "error_patterns")
        self.clock = database.clock
        self._database = database
        self._most, self._most_of_a_writer = most, most_of_a_writer
        self._most_general, self._most_general_of_a_writer = most_general, most_general_of_a_writer
        self.outcomes = SolutionOutcomes(database)
        self._quarantine = Quarantine(database)
        self._index = PatternIndex(budget_s)
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

    def add(self, error_type: str, pattern: str, written_by: str, **details: Any) -> AddedPattern:
        """Store a pattern; if this writer has stored it already, replace those of its `PatternDetails` that are given.

        A solution that differs from the previous one begins without outcomes.

        Raises:
            MalformedRequest: RE2 refuses the pattern, or it is too large.
            LimitReached: there are too many patterns, too many of this writer, or too many that require no text.
        """
        reads, requirement, now = accept(pattern), requirement_of(pattern), self.clock.time()
        known = self._database.select_one(_stored, _DETAILS, (written_by, error_type, pattern))
        number, before = known or self._insert(error_type, pattern, written_by, requirement, now)
        after = msgspec.structs.replace(before, **details)
        if after != before:
            self._database.execute(_CHANGE, (*msgspec.structs.astuple(after), now, number))
        if after.solution is not None and after.solution != before.solution:
            self.outcomes.forget(number)
            self._database.on_rollback(self._similar.put(number, error_type, pattern, after.solution, written_by))
        return AddedPattern(number, requirement, reads, new=known is None)

    def match(self, message: str) -> Match:
        """Find the pattern that matches a message, and count that it was seen."""
        matches = self._index.search(message, cache(self._quarantine.hides))
        if not matches.entries:
            return Match(None, general=False, complete=matches.complete)
        best = max(
            (self.find(entry.pattern_id) for entry in matches.entries),
            key=lambda known: (success_rate(known["successes"], known["failures"]), known["pattern_id"]),
        )
        self._database.execute(
            "UPDATE error_patterns SET occurrence_count = occurrence_count + 1, last_seen = ? WHERE id = ?",
            (self.clock.time(), best["pattern_id"]),
        )
        general = any(entry.requirement.general for entry in matches.entries if entry.pattern_id == best["pattern_id"])
        return Match(self.find(best["pattern_id"]), general=general, complete=matches.complete)

    def similar(self, message: str, known: ErrorPatternDocument | None) -> list[SuggestionDocument]:
        """Return the solutions of patterns that a message resembles, the most similar first, each solution once.

        Args:
            message: the error.
            known: the pattern that matches it, whose solution is not suggested; None if none does.
        """
        suggestions: dict[str, SuggestionDocument] = {}
        for similarity, number in self._similar.search(message, cache(self._quarantine.hides)):
            error_type, solution, writer, updated = self._database.execute(_SOLUTION, (number,)).fetchone()
            if known is None or known.get("solution") != solution:
                suggestion = SuggestionDocument(
                    score=round(similarity, 3),
                    pattern_id=number,
                    error_type=error_type,
                    solution=solution,
                    written_by=writer,
                    updated=iso_time(updated),
                )
                suggestions.setdefault(solution, suggestion)
        return list(suggestions.values())[:SUGGESTED]

    def report(self, pattern_id: int, note: str | None, reporter: str, *, success: bool) -> ScoreDocument:
        """Count whether a pattern's solution helped, and return its score.

        Raises:
            NotFound: there is no such pattern, or its writer is quarantined.
            MalformedRequest: it has no solution.
        """
        if self.find(pattern_id).get("solution") is None:
            raise MalformedRequest(
                f"error pattern {pattern_id} has no solution - at `$.pattern_id`; `add_error_pattern` gives it one"
            )
        self.outcomes.add(pattern_id, note, reporter, success=success)
        known = self.find(pattern_id)
        return {"success_rate": known["success_rate"], "successes": known["successes"], "failures": known["failures"]}

    def find(self, pattern_id: int, *, even_hidden: bool = False) -> ErrorPatternDocument:
        """Return a pattern.

        Raises:
            NotFound: there is none, or its writer is quarantined and not `even_hidden`.
        """
        patterns = "error_patterns" if even_hidden else "visible_error_patterns"
        known = self._database.select_one(_document, _PATTERNS.format(patterns, "id = ?"), (pattern_id, 1))
        if known is None:
            raise NotFound(f"there is no error pattern {pattern_id}; `list_error_patterns` lists them")
        return known

    def remove(self, pattern_id: int) -> None:
        """Delete a pattern that there is, and the outcomes of its solution."""
        self._database.execute("DELETE FROM error_patterns WHERE id = ?", (pattern_id,))
        entry = self._index.remove(pattern_id)
        self._database.on_rollback(self._index.add, entry)
        self._database.on_rollback(self._similar.remove(pattern_id))

    def newest(self, before: int | None, limit: int) -> list[ErrorPatternDocument]:
        """Return visible patterns, newest first, with numbers below `before`."""
        values = (MAX_NUMBER if before is None else before, limit)
        return self._database.select(_document, _PATTERNS.format("visible_error_patterns", "id < ?"), values)

    written_by = lists_written(WrittenErrorPattern, _WRITTEN)

    def _insert(self, error_type: str, pattern: str, written_by: str, requirement: Requirement, now: float) -> _Stored:
        self._require_room(written_by, requirement)
        number = self._database.value(
            "INSERT INTO error_patterns (error_type, pattern, ignores_case, occurrence_count, created, updated, "
            "written_by) VALUES (?, ?, 1, 0, ?, ?, ?) RETURNING id",
            (error_type, pattern, now, now, written_by),
        )
        self._index.add(Entry(number, pattern, requirement, written_by))
        self._database.on_rollback(self._index.remove, number)
        return number, PATTERN_DETAILS.none

    def _require_room(self, written_by: str, requirement: Requirement) -> None:
        if len(self._index) >= self._most:
            raise LimitReached(f"{self._most} error patterns are stored and that is the limit; {_ROOM}")
        own = self._database.value("SELECT count(*) FROM error_patterns WHERE written_by = ?", (written_by,))
        if own >= self._most_of_a_writer:
            raise LimitReached(f"{written_by} has {own} error patterns and that is the limit of one writer; {_ROOM}")
        if requirement.general:
            self._require_room_for_general(written_by)

    def _require_room_for_general(self, written_by: str) -> None:
        if self._index.general >= self._most_general:
            stored = f"{self._most_general} patterns"
        elif (own := self._index.general_of(written_by)) >= self._most_general_of_a_writer:
            stored = f"{own} patterns of {written_by}"
        else:
            return
        raise LimitReached(
            f"{stored} require no text of three characters and that is the limit; "
            f"add a word to the pattern that every such message contains, or {_ROOM}"
        )


def _stored(pattern_id: int, **details: Any) -> _Stored:
    return pattern_id, PatternDetails(**details)


_shown = document_of(ErrorPatternDocument)


def _document(pattern: str, ignores_case: int, successes: int, failures: int, **columns: Any) -> ErrorPatternDocument:
    requirement = requirement_of(pattern, ignores_case=bool(ignores_case))
    return _shown(
        **columns,
        pattern=pattern,
        ignores_case=requirement.ignores_case,
        specificity=requirement.specificity._asdict(),
        success_rate=round(success_rate(successes, failures), 3),
        successes=successes,
        failures=failures,
    )
