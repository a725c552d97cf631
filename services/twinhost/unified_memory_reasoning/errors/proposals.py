"""Proposals of patterns, made from the shapes of error messages that no pattern matches (see `shapes`)."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, NotRequired, TypedDict

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.errors.matching import matches
from twinhost.unified_memory_reasoning.errors.shapes import (
    BLANKS,
    OR,
    SeenShape,
    branch_of,
    generalised,
    is_specific,
    shape_of,
    united,
)
from twinhost.unified_memory_reasoning.errors.similarity import terms_of
from twinhost.unified_memory_reasoning.provenance.quarantine import (
    MAX_NUMBER,
    Quarantine,
    WrittenRow,
    create_visible_views,
    document_of,
    lists_written,
)

MIGRATION = """
CREATE TABLE unknown_errors (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pattern TEXT NOT NULL UNIQUE,
    seen INTEGER NOT NULL,
    last_seen REAL NOT NULL,
    dismissed_by TEXT,
    dismissed REAL
) STRICT;
CREATE INDEX unknown_errors_by_worth ON unknown_errors (dismissed, seen, last_seen);
CREATE TABLE unknown_error_reports (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    error_id INTEGER NOT NULL REFERENCES unknown_errors (id) ON DELETE CASCADE,
    seen INTEGER NOT NULL,
    first_seen REAL NOT NULL,
    last_seen REAL NOT NULL,
    example TEXT NOT NULL,
    written_by TEXT NOT NULL,
    UNIQUE (error_id, written_by)
) STRICT;
CREATE INDEX unknown_error_reports_by_writer ON unknown_error_reports (written_by, id);
"""
PROPOSED = "error_pattern_proposed"  # the type of the event
PROPOSE_AFTER = 3
MOST = 2_000  # shapes
MOST_OF_A_WRITER = 500
_MOST_SETTLED = 100  # proposals that one new pattern is compared with
_SETTLE_S = 0.1
_EXAMPLE_CHARACTERS = 1_000

Publish = Callable[[str, dict[str, Any]], None]  # the type of an event, and its data

_OPEN_ERRORS = (  # a dismissal by a quarantined writer doesn't count
    "CREATE TEMP VIEW IF NOT EXISTS open_errors AS SELECT * FROM unknown_errors "
    "WHERE dismissed_by IS NULL OR dismissed_by IN (SELECT name FROM quarantined)"
)
_PROPOSALS = (
    "SELECT e.id AS proposal_id, e.pattern, sum(r.seen) AS seen, min(r.first_seen) AS first_seen, "
    "max(r.last_seen) AS last_seen, group_concat(r.written_by, char(0)) AS writers, "
    "(SELECT example FROM visible_unknown_error_reports AS x WHERE x.error_id = e.id "
    "ORDER BY x.last_seen DESC, x.id DESC LIMIT 1) AS example "
    "FROM open_errors AS e JOIN visible_unknown_error_reports AS r ON r.error_id = e.id WHERE "
)
_WRITTEN = (
    "SELECT r.id AS number, e.pattern, r.seen, r.last_seen, r.example, r.written_by FROM unknown_error_reports AS r "
    "JOIN unknown_errors AS e ON e.id = r.error_id WHERE r.written_by = ?1 AND r.id < ?2 ORDER BY r.id DESC LIMIT ?3"
)
_ALIKE = (  # of as many words
    "SELECT e.id, e.pattern, (SELECT coalesce(sum(r.seen), 0) FROM open_errors AS o JOIN visible_unknown_error_reports "
    "AS r ON r.error_id = o.id WHERE o.id = e.id) AS seen FROM unknown_errors AS e "
    "WHERE length(e.pattern) - length(replace(e.pattern, ?1, '')) = ?2 - length(replace(?3, ?1, '')) "
    "AND NOT instr(e.pattern, ?4)"
)
_UNITED_WITH = (  # the shape that has this one as a branch
    "SELECT pattern FROM unknown_errors WHERE instr(pattern, ?1) "
    "AND instr('|' || substr(pattern, 1 + length('(?m)')) || '|', ?2) LIMIT 1"
)
_OF_OTHER_WRITERS = (
    "SELECT e.id, e.pattern, sum(r.seen) AS seen, min(r.example) AS example FROM open_errors AS e "
    "JOIN visible_unknown_error_reports AS r ON r.error_id = e.id "
    "GROUP BY e.id HAVING sum(r.seen) < ?1 AND NOT max(r.written_by = ?2)"
)
_MOVE_REPORTS = (
    "INSERT INTO unknown_error_reports (error_id, seen, first_seen, last_seen, example, written_by) "
    "SELECT ?1, seen, first_seen, last_seen, example, written_by FROM unknown_error_reports WHERE error_id = ?2 "
    "ON CONFLICT (error_id, written_by) DO UPDATE SET seen = seen + excluded.seen, "
    "first_seen = min(first_seen, excluded.first_seen), last_seen = max(last_seen, excluded.last_seen), "
    "example = iif(excluded.last_seen > last_seen, excluded.example, example)"
)
_LEAST = "SELECT id FROM unknown_errors ORDER BY dismissed IS NOT NULL, seen, last_seen LIMIT 1"
_OF_THE_HIDDEN_ALONE = (
    "SELECT r.error_id FROM quarantined AS q JOIN unknown_error_reports AS r ON r.written_by = q.name "
    "JOIN open_errors AS e ON e.id = r.error_id WHERE NOT EXISTS "
    "(SELECT 1 FROM visible_unknown_error_reports AS x WHERE x.error_id = r.error_id) LIMIT 1"
)
_LEAST_OF_A_FULL_QUOTA = (  # a report, its shape, and how often it was sent
    "SELECT r.id, r.error_id, r.seen FROM unknown_error_reports AS r JOIN unknown_errors AS e ON e.id = r.error_id "
    "WHERE r.written_by = ?1 AND ?2 <= (SELECT count(*) FROM unknown_error_reports WHERE written_by = ?1) "
    "AND NOT EXISTS (SELECT 1 FROM unknown_error_reports AS x JOIN unknown_errors AS y ON y.id = x.error_id "
    "WHERE x.written_by = ?1 AND y.pattern = ?3) ORDER BY e.dismissed IS NOT NULL, r.seen, r.last_seen LIMIT 1"
)


class ProposalDocument(TypedDict):
    """A pattern for an error that no pattern matches: how often it was seen, when, by whom, and the newest message."""

    proposal_id: int
    pattern: str
    seen: int
    first_seen: str
    last_seen: str
    written_by: list[str]
    example: str


class WrittenUnknownError(WrittenRow):
    """A caller's reports of one error shape that no pattern matches."""

    pattern: NotRequired[str]
    seen: int
    last_seen: str
    example: NotRequired[str]
    written_by: str


class _Reported(NamedTuple):
    id: int
    pattern: str
    seen: int
    example: str


_terms = lru_cache(maxsize=2 * MOST)(terms_of)  # of examples


class PatternProposals:
    """Shapes of unknown errors, and who reported them."""

    def __init__(
        self,
        database: Database,
        publish: Publish = lambda *_: None,
        *,
        propose_after: int = PROPOSE_AFTER,
        most: int = MOST,
        most_of_a_writer: int = MOST_OF_A_WRITER,
    ) -> None:
        create_visible_views(database, "unknown_error_reports")
        database.execute(_OPEN_ERRORS)
        self._database = database
        self._publish = publish
        self._propose_after = propose_after
        self._most, self._most_of_a_writer = most, most_of_a_writer
        self._quarantine = Quarantine(database)

    def count(self, message: str, written_by: str) -> int | None:
        """Count a message that no pattern matches; publish an event when its shape becomes a proposal.

        Returns:
            The number of the proposal, or None if its shape is not proposed.
        """
        own = shape_of(message)
        if own is None:
            return None
        now, example = self._database.clock.time(), message[:_EXAMPLE_CHARACTERS]
        shape, replaced = self._counted_as(own, example, written_by)
        if replaced and (self._quarantine.hides(written_by) or not is_specific(shape, message)):
            shape, replaced = own, []
        before = self._seen(shape)
        self._replace(replaced, shape)
        self._keep_quota(shape, written_by)
        if not self._make_room(shape, written_by):
            return None
        number = self._database.value(
            "INSERT INTO unknown_errors (pattern, seen, last_seen) VALUES (?, 1, ?) "
            "ON CONFLICT (pattern) DO UPDATE SET seen = seen + 1, last_seen = excluded.last_seen RETURNING id",
            (shape, now),
        )
        self._database.execute(
            "INSERT INTO unknown_error_reports (error_id, seen, first_seen, last_seen, example, written_by) "
            "VALUES (?, 1, ?, ?, ?, ?) ON CONFLICT (error_id, written_by) DO UPDATE SET "
            "seen = seen + 1, last_seen = excluded.last_seen, example = excluded.example",
            (number, now, now, example, written_by),
        )
        seen = self._seen(shape)
        if seen < self._propose_after:
            return None
        if before < self._propose_after:
            self._publish(PROPOSED, {"proposal_id": number, "pattern": shape, "seen": seen})
        return int(number)

    def _counted_as(self, shape: str, example: str, written_by: str) -> tuple[str, list[int]]:
        """Return the shape under which a message is counted, and the ids of the shapes that it replaces."""
        united_with = self._database.execute(_UNITED_WITH, (OR, f"|{branch_of(shape)}|")).fetchone()
        if united_with is not None:
            return united_with[0], []
        alike = self._database.select(SeenShape, _ALIKE, (BLANKS, len(shape), shape, OR))
        general, replaced = generalised(shape, alike, self._propose_after)
        itself = next((known for known in alike if known.pattern == shape), None)
        if general != shape or (itself is not None and not 0 < itself.seen < self._propose_after):
            return general, replaced
        missing = self._propose_after - 1 - (0 if itself is None else itself.seen)
        others = self._in_other_words(example, written_by) if missing else []
        either, taken = united(shape, missing, [other for other in others if other.pattern != shape])
        return either, [*taken, itself.id] if taken and itself is not None else taken

    def _in_other_words(self, example: str, written_by: str) -> list[SeenShape]:
        """Return the shapes of other writers whose errors are of the same kinds, the most similar first.

        A writer that sends two shapes has two errors: a program words one error in one way.
        """
        terms = _terms(example)
        kinds = set(filter(str.isupper, terms))
        if not kinds:
            return []
        rows = self._database.select(_Reported, _OF_OTHER_WRITERS, (self._propose_after, written_by))
        same = [row for row in rows if set(filter(str.isupper, _terms(row.example))) == kinds]
        same.sort(key=lambda row: (-len(terms & _terms(row.example)), -row.seen, row.id))
        return [SeenShape(row.id, row.pattern, row.seen) for row in same]

    def _replace(self, numbers: list[int], shape: str) -> None:
        """Replace shapes by another one, which gets their reports."""
        for number in numbers:
            into = self._database.value(
                "INSERT INTO unknown_errors (pattern, seen, last_seen) SELECT ?, seen, last_seen FROM unknown_errors "
                "WHERE id = ? ON CONFLICT (pattern) DO UPDATE SET seen = seen + excluded.seen RETURNING id",
                (shape, number),
            )
            self._database.execute(_MOVE_REPORTS, (into, number))
            self._database.execute("DELETE FROM unknown_errors WHERE id = ?", (number,))

    def newest(self, before: int | None, limit: int) -> list[ProposalDocument]:
        """Return proposals, newest first, with numbers below `before`."""
        return self._select("e.id < ?", (MAX_NUMBER if before is None else before,), "e.id DESC", limit)

    def dismiss(self, proposal_id: int, caller: Caller) -> ProposalDocument:
        """Stop proposing a shape, however often it is seen.

        Raises:
            NotFound: there is no such proposal.
            NotGranted: others reported it too, and the caller may dismiss its own only.
        """
        proposals = self._select("e.id = ?", (proposal_id,), "e.id", 1)
        if not proposals:
            raise NotFound(f"there is no proposal {proposal_id}; `get_pattern_proposals` lists them")
        for reporter in proposals[0]["written_by"]:
            caller.require_change(f"proposal {proposal_id}", reporter)
        self._database.execute(
            "UPDATE unknown_errors SET dismissed_by = ?, dismissed = ? WHERE id = ?",
            (caller.name, self._database.clock.time(), proposal_id),
        )
        return proposals[0]

    def settle(self, pattern: str, caller: Caller, *, own_shape_alone: bool) -> int:
        """Delete what a new pattern matches: its own shape, and proposals whose newest example it matches.

        A quarantined writer's pattern settles nothing. The time is bounded; the rest is proposed until somebody
        dismisses it.

        Args:
            pattern: the new one, which `accept` has accepted.
            caller: its writer; one that may change its own only settles nothing that others reported too.
            own_shape_alone: compare no examples; for a pattern that requires no text.

        Returns:
            How many proposals it settled.
        """
        if self._quarantine.hides(caller.name):
            return 0
        deadline, settled = self._database.clock.monotonic() + _SETTLE_S, 0
        for proposal in self._select("TRUE", (), "max(r.last_seen) DESC", _MOST_SETTLED):
            if self._database.clock.monotonic() > deadline:
                break
            if not all(map(caller.may_change, proposal["written_by"])):
                continue
            known = not own_shape_alone and matches(pattern, proposal["example"].encode(errors="replace"))
            if known or proposal["pattern"] == pattern:
                self._database.execute("DELETE FROM unknown_errors WHERE id = ?", (proposal["proposal_id"],))
                settled += 1
        if not caller.own_only:  # its own shape is not proposed yet, and others may have reported it
            self._database.execute("DELETE FROM unknown_errors WHERE pattern = ?", (pattern,))
        return settled

    written_by = lists_written(WrittenUnknownError, _WRITTEN)

    def _select(self, where: str, values: tuple[int, ...], order: str, limit: int) -> list[ProposalDocument]:
        sql = f"{_PROPOSALS} {where} GROUP BY e.id HAVING sum(r.seen) >= ? ORDER BY {order} LIMIT ?"
        return self._database.select(_proposal, sql, (*values, self._propose_after, limit))

    def _seen(self, shape: str) -> int:
        """Return how often a shape was seen, 0 if it is dismissed."""
        seen = self._database.value(
            "SELECT coalesce(sum(r.seen), 0) FROM open_errors AS e JOIN visible_unknown_error_reports AS r "
            "ON r.error_id = e.id WHERE e.pattern = ?",
            (shape,),
        )
        return int(seen)

    def _keep_quota(self, shape: str, written_by: str) -> None:
        """Evict a writer's least frequent report if its quota is full and this shape is new to it."""
        row = self._database.execute(_LEAST_OF_A_FULL_QUOTA, (written_by, self._most_of_a_writer, shape)).fetchone()
        if row is not None:
            report, error, seen = row
            self._database.execute("DELETE FROM unknown_error_reports WHERE id = ?", (report,))
            self._database.execute("UPDATE unknown_errors SET seen = seen - ? WHERE id = ?", (seen, error))
            self._database.execute(
                "DELETE FROM unknown_errors WHERE id = ?1 AND "
                "NOT EXISTS (SELECT 1 FROM unknown_error_reports WHERE error_id = ?1)",
                (error,),
            )

    def _make_room(self, shape: str, written_by: str) -> bool:
        """Evict a shape if there are too many and this one is new; return whether there is room."""
        if self._database.execute("SELECT 1 FROM unknown_errors WHERE pattern = ?", (shape,)).fetchone() is not None:
            return True
        count = self._database.value("SELECT count(*) FROM unknown_errors")
        if count < self._most:
            return True
        leaving = self._database.execute(_OF_THE_HIDDEN_ALONE).fetchone()
        if leaving is None and self._quarantine.hides(written_by):
            return False
        leaving = leaving or self._database.execute(_LEAST).fetchone()
        self._database.execute("DELETE FROM unknown_errors WHERE id = ?", leaving)
        return True


_shown = document_of(ProposalDocument)


def _proposal(writers: str, **columns: Any) -> ProposalDocument:
    return _shown(**columns, written_by=sorted(writers.split("\0")))
