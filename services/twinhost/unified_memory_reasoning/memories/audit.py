"""Memories that need attention: contradictory, duplicate, never read, expired, due for a review.

Each memory is indexed by marks of its text: one of the whole text, and those of its claims (see `claims`) unless it has
a key, whose values follow each other. Two memories contradict each other only while both are valid and not forgotten,
and if neither supersedes the other, at once or later.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from typing import Any, NotRequired, TypedDict, cast

from twinhost.fence import one_line
from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import InParts
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.language import MAX_CLAIMING_CHARACTERS, claims_of, contradict, opposite
from twinhost.unified_memory_reasoning.memories.model import Memory, now_ms
from twinhost.unified_memory_reasoning.memories.validity import Validity

MOST_CONFLICTS = 10  # that the reply to a `store_memory` names
MOST_CHARACTERS = 200  # of a content
_MOST_COMPARED = 50  # memories with one mark, the newest
_MOST_GROUPS = 500  # marks that several memories have, in one audit
_MOST_UNREAD = 10_000  # memories that are examined: those accessed least recently
_NUMBERS_AT_ONCE = 500  # of older memories without marks, in one tick of the server
_CHARACTERS_AT_ONCE = 20_000  # whose claims are read in one tick, or for one `store_memory`; about 10 ms
_AROUND_CHARACTERS = 40  # that a text takes the time of, besides its own

_REMEMBERED = "SELECT 1 FROM visible_memories m WHERE m.number = c.number AND m.forgotten = 0"
_WITH_MARK = (
    f"SELECT c.number FROM memory_claims c WHERE c.mark = ? AND EXISTS ({_REMEMBERED}) "  # noqa: S608 - constants
    f"ORDER BY c.number DESC LIMIT {_MOST_COMPARED}"
)
_OF_KIND = "SELECT DISTINCT mark FROM memory_claims WHERE mark >= ? AND mark < ? ORDER BY mark LIMIT ?"
_SHARED = _OF_KIND.replace("DISTINCT mark", "mark").replace("ORDER", "GROUP BY mark HAVING count(*) > 1 ORDER")
_UNMARKED = (
    "SELECT number, (SELECT key FROM memory_details d WHERE d.number = m.number), content FROM memories m "
    "WHERE number > ?1 AND number <= ?2 AND NOT EXISTS (SELECT 1 FROM memory_claims c WHERE c.number = m.number) "
    "ORDER BY number"
)
_BRIEF = "m.id, m.content, m.written_by"
_BY_NUMBER = f"SELECT {_BRIEF}, m.created AS since FROM visible_memories m WHERE m.number = ?"  # noqa: S608 - constants
_UNREAD = (
    f"SELECT {_BRIEF}, m.last_accessed AS since FROM (SELECT number FROM memories WHERE forgotten = 0 "  # noqa: S608
    f"ORDER BY last_accessed LIMIT {_MOST_UNREAD}) JOIN visible_memories m USING (number) "
    "JOIN memory_changes c ON c.id = m.id WHERE m.last_accessed <= c.revised ORDER BY m.last_accessed LIMIT ?2"
)
_PAST = (
    f"SELECT {_BRIEF}, d.{{0}} AS since FROM memory_details d JOIN visible_memories m USING (number) "  # noqa: S608
    "WHERE d.{0} <= ?1 ORDER BY d.{0} LIMIT ?2"
)
_SUPERSEDES = (
    "SELECT count(*) FROM memory_supersedes s JOIN memories m ON m.id = s.superseded "
    "WHERE (s.number, m.number) IN (VALUES (?1, ?2), (?2, ?1))"
)


_NONE: Mapping[str, list[str]] = {}


class BriefMemory(TypedDict):
    """A memory in a list; `since` (ISO-8601) is when it was stored, expired, or became due; the content may be cut."""

    memory_id: str
    content: str
    written_by: str
    since: str


class Audited(TypedDict):
    """The lists of an audit, and the names of those that have more entries."""

    contradictory: list[list[BriefMemory]]
    duplicates: list[list[BriefMemory]]
    never_read: list[BriefMemory]
    expired: list[BriefMemory]
    review_due: list[BriefMemory]
    more: list[str]
    disputed: NotRequired[list[list[BriefMemory]]]


class MemoryAudit:
    """The marks of memories' texts, and the lists that are made from them."""

    def __init__(self, database: Database, validity: Validity) -> None:
        self._database = database
        self._validity = validity
        self._indexed = 0  # every memory up to this number has its marks
        self._newest = int(database.value("SELECT coalesce(max(number), 0) FROM memories"))  # that may have none

    def forget(self, number: int) -> None:
        """Delete the marks of a memory that is changed."""
        self._database.execute("DELETE FROM memory_claims WHERE number = ?", (number,))

    def mark_new(self, memories: Sequence[tuple[int, str | None, str]], known: Mapping[str, list[str]] = _NONE) -> None:
        """Store the marks of memories that have none, by number, key and content, ascending; inside a transaction.

        Of many long ones, the last are marked later: see `index_older`. What `text_marks` has returned is not computed.
        """
        marked = self._mark(memories, known)
        if marked < len(memories):  # after a crash, or if they are rolled back, `index_older` looks for them in vain
            self._indexed = min(self._indexed, memories[marked][0] - 1)
            self._newest = max(self._newest, memories[-1][0])

    def index_older(self) -> None:
        """Mark some memories that have no marks yet: those of an earlier version, and the last of many new ones.

        Raises:
            StoreUnavailable: they are not marked; the next call tries again.
        """
        if self._indexed >= self._newest:
            return
        upto = self._indexed + _NUMBERS_AT_ONCE
        unmarked = self._database.execute(_UNMARKED, (self._indexed, upto)).fetchall()
        if unmarked:
            with self._database.transaction():
                if (marked := self._mark(unmarked)) < len(unmarked):
                    upto = unmarked[marked - 1][0]
        self._indexed = upto

    def _mark(self, memories: Sequence[tuple[int, str | None, str]], known: Mapping[str, list[str]] = _NONE) -> int:
        """Store the marks of some memories, at least one, and return of how many."""
        left, marks, marked = _CHARACTERS_AT_ONCE, list[tuple[str, int]](), 0
        for number, key, content in memories:
            if left <= 0:
                break
            of_text = ["k"] if key is not None else known.get(content) or _marks_of(content)
            marks += [(mark, number) for mark in of_text]
            left -= 0 if key is not None else _AROUND_CHARACTERS + min(len(content), MAX_CLAIMING_CHARACTERS)
            marked += 1
        self._database.execute_many("INSERT OR IGNORE INTO memory_claims VALUES (?, ?)", marks)
        return marked

    def conflicts(self, number: int, memory: Memory) -> list[BriefMemory]:
        """Return the memories that contradict one that is stored, newest first; of long ones, not all are compared."""
        if memory.details.key is not None:
            return []
        claims = claims_of(memory.content)
        numbers = {other for mark in claims.marks for other in self._with_mark(opposite(mark))} - {number}
        valid = self._valid(sorted(numbers, reverse=True))
        conflicting = (
            other
            for other, content in self._affordable(valid)
            if contradict(claims, claims_of(content)) and not self._supersedes(other, number)
        )
        briefs = map(self._brief, islice(conflicting, MOST_CONFLICTS))
        return [brief for brief in briefs if brief is not None]

    def lists(self, limit: int) -> InParts[Audited]:
        """Return the lists, each with at most `limit` entries."""
        now = now_ms(self._database.clock)

        def past(sql: str) -> list[BriefMemory]:
            return self._database.select(_brief, sql, (now, limit + 1))

        def briefs(groups: Iterator[Sequence[int]]) -> InParts[list[list[BriefMemory]]]:
            listed: list[list[BriefMemory]] = []
            for group in groups:
                entries = [entry for number in group if (entry := self._brief(number)) is not None]
                if len(entries) > 1:  # otherwise nothing was found, or it was deleted since
                    listed.append(entries)
                if len(listed) > limit:
                    break
                yield
            return listed

        lists: dict[str, list[Any]] = {}
        lists["contradictory"] = yield from briefs(self._contradictory())
        lists["duplicates"] = yield from briefs(self._duplicates())
        lists["never_read"] = past(_UNREAD)
        yield
        lists["expired"] = past(_PAST.format("valid_until"))
        lists["review_due"] = past(_PAST.format("review_at"))
        lists["disputed"] = yield from briefs(self._validity.disputed(_MOST_GROUPS, now))
        audited: dict[str, Any] = {name: entries[:limit] for name, entries in lists.items()}
        audited["more"] = [name for name, entries in lists.items() if len(entries) > limit]
        return cast(Audited, audited)

    def _contradictory(self) -> Iterator[Sequence[int]]:
        """Yield pairs that contradict each other, and () for others that were compared."""
        seen: set[tuple[int, int]] = set()
        for one, other in self._possible_conflicts():
            pair = (min(one, other), max(one, other))
            if one == other or pair in seen:
                continue
            seen.add(pair)
            claims = (claims_of(self._content(side)) for side in pair)
            yield pair if contradict(*claims) and not self._supersedes(*pair) else ()

    def _possible_conflicts(self) -> Iterator[tuple[int, int]]:
        for (mark,) in self._database.execute(_SHARED, ("s ", "s!", _MOST_GROUPS)).fetchall():
            yield from combinations(self._valid(self._with_mark(mark)), 2)
        for (mark,) in self._database.execute(_OF_KIND, ("d ", "d!", _MOST_GROUPS)).fetchall():
            yield from product(self._valid(self._with_mark(mark)), self._valid(self._with_mark(opposite(mark))))

    def _duplicates(self) -> Iterator[Sequence[int]]:
        """Yield groups of memories without a key that have the same text."""
        for (mark,) in self._database.execute(_SHARED, ("t ", "t!", _MOST_GROUPS)).fetchall():
            yield sorted(self._with_mark(mark))

    def _with_mark(self, mark: str) -> list[int]:
        return [number for (number,) in self._database.execute(_WITH_MARK, (mark,))]

    def _valid(self, numbers: Iterable[int]) -> list[int]:
        kept = list(numbers)
        ended = self._validity.ended(kept, now_ms(self._database.clock))
        return [number for number in kept if number not in ended]

    def _supersedes(self, one: int, other: int) -> bool:
        """Return whether one of two memories supersedes the other, even if it is not valid yet."""
        return bool(self._database.value(_SUPERSEDES, (one, other)))

    def _affordable(self, numbers: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Yield memories with their contents, up to about _CHARACTERS_AT_ONCE in all."""
        left = _CHARACTERS_AT_ONCE
        for number in numbers:
            if left <= 0:
                return
            content = self._content(number)
            left -= min(len(content), MAX_CLAIMING_CHARACTERS)
            yield number, content

    def _content(self, number: int) -> str:
        return self._database.value("SELECT content FROM memories WHERE number = ?", (number,)) or ""

    def _brief(self, number: int) -> BriefMemory | None:
        return self._database.select_one(_brief, _BY_NUMBER, (number,))


def _brief(id: str, content: str, written_by: str, since: float) -> BriefMemory:  # noqa: A002 - a column
    return {
        "memory_id": id,
        "content": one_line(content, MOST_CHARACTERS),
        "written_by": written_by,
        "since": iso_time(since),
    }


def text_marks(contents: Iterable[str]) -> InParts[dict[str, list[str]]]:
    """Return the marks of some texts without a key, by text: as many as are marked with one request."""
    left, marks = _CHARACTERS_AT_ONCE, dict[str, list[str]]()
    for content in contents:
        if left <= 0:
            break
        marks[content] = _marks_of(content)
        left -= _AROUND_CHARACTERS + min(len(content), MAX_CLAIMING_CHARACTERS)
        yield
    return marks


def _marks_of(content: str) -> list[str]:
    return [_of_text(content), *claims_of(content).marks]


def _of_text(content: str) -> str:
    """Return the mark that texts share which differ in case and white space alone."""
    return "t " + hashlib.sha256(" ".join(content.casefold().split()).encode()).hexdigest()[:32]
