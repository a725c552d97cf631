"""What is read of the memories: by what they say, by what changed, by who wrote them, and how many there are.

Nothing here tells a row whose writer is in quarantine; `written_by` alone does, for whoever judges the writer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.model import LIVE, Kept, kept
from twinhost.unified_memory_reasoning.provenance.quarantine import create_visible_views

_NEWEST = 2**63 - 1
_CHANGES = """
CREATE TEMP VIEW IF NOT EXISTS visible_memory_changes AS
SELECT c.change, t.id IS NOT NULL AS deleted, coalesce(m.number, t.number) AS number, c.id,
    coalesce(m.content, '') AS content, coalesce(m.keywords, '[]') AS keywords, coalesce(m.source, '') AS source,
    coalesce(m.strength, t.strength) AS strength, coalesce(m.created, t.created) AS created,
    coalesce(m.last_accessed, t.last_accessed) AS last_accessed, c.revised,
    coalesce(m.written_by, t.written_by) AS written_by
FROM memory_changes c LEFT JOIN memories m ON m.id = c.id LEFT JOIN memory_tombstones t ON t.id = c.id
WHERE coalesce(m.written_by, t.written_by) NOT IN (SELECT name FROM quarantined)
"""
_CHANGED = "SELECT * FROM visible_memory_changes WHERE change > ? ORDER BY change LIMIT ?"
_BANDS = {  # of strengths: from, and under
    "under_0.1": (0.0, 0.1),
    "0.1_to_0.5": (0.1, 0.5),
    "0.5_to_1": (0.5, 1.0),
    "1_to_2": (1.0, 2.0),
    "2_to_5": (2.0, 6.0),  # 5 is the most there is
}
_IN_BANDS = ", ".join(
    f"coalesce(sum(strength >= {least} AND strength < {under}), 0)" for least, under in _BANDS.values()
)
_COUNTED = (
    "SELECT count(*), coalesce(sum(forgotten), 0), avg(strength), min(strength), max(strength), "  # noqa: S608 - constants
    f"{_IN_BANDS} FROM visible_memories"
)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which memories are meant: those that fit all of it; None fits every one."""

    ids: Sequence[str] | None = None
    keywords: Sequence[str] | None = None  # any of them
    source: str | None = None
    min_strength: float | None = None
    include_forgotten: bool = False
    before: int | None = None  # a number
    limit: int = 100


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some memories, in their order; `more`: not all that were asked for. `last_change` is that of the last one."""

    entries: list[Kept]
    more: bool
    last_change: int = 0


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """How many memories there are; `strengths` by band; the other strengths are None where there is no memory."""

    total: int
    forgotten: int
    mean_strength: float | None
    least_strength: float | None
    greatest_strength: float | None
    strengths: dict[str, int]


class MemoryRecall:
    """The reads; `fresh` adds to a row what was accessed a moment ago and is not on disk yet."""

    def __init__(self, database: Database, fresh: Callable[[Kept], Kept]) -> None:
        create_visible_views(database, "memories")
        database.execute(_CHANGES)
        self._database = database
        self._fresh = fresh

    def query(self, chosen: Selection, max_bytes: int) -> Page:
        """Return the memories that are meant, newest first: at least one, and no more than fit into `max_bytes`."""
        conditions = ["m.number < ?"]
        values: list[Any] = [_NEWEST if chosen.before is None else chosen.before]
        if chosen.ids is not None:
            conditions.append(f"m.id IN ({_marks(chosen.ids)})")
            values += chosen.ids
        if chosen.keywords is not None:
            folded = sorted({keyword.casefold() for keyword in chosen.keywords})
            numbers = f"SELECT number FROM memory_keywords WHERE keyword IN ({_marks(folded)})"  # noqa: S608 - marks
            conditions.append(f"m.number IN ({numbers})")
            values += folded
        if chosen.source is not None:
            conditions.append("+m.source = ?" if chosen.ids is not None else "m.source = ?")  # ids are fewer
            values.append(chosen.source)
        if chosen.min_strength is not None:
            conditions.append("m.strength >= ?")
            values.append(chosen.min_strength)
        if not chosen.include_forgotten:
            conditions.append("m.forgotten = 0")
        sql = f"SELECT m.number FROM visible_memories m WHERE {' AND '.join(conditions)} ORDER BY m.number DESC LIMIT ?"  # noqa: S608 - the same
        chosen_rows = self._database.execute(sql, [*values, chosen.limit + 1]).fetchall()
        found = ((0, self._read(number)) for (number,) in chosen_rows)  # no text is read but those that are told
        return _page(found, 0, chosen.limit, max_bytes)

    def changes(self, since: int, limit: int, max_bytes: int) -> Page:
        """Return what changed after the change `since`, oldest change first, tombstones and forgotten ones too."""
        rows = self._database.execute(_CHANGED, (since, limit + 1))
        found = ((row[0], self._fresh(kept(row[2:], deleted=bool(row[1])))) for row in rows)
        return _page(found, since, limit, max_bytes)

    def written_by(self, name: str, before: int | None, limit: int) -> list[Kept]:
        """Return the newest memories that a caller wrote, newest first, whether it is in quarantine or not.

        Args:
            before: a number; those before it.
        """
        rows = self._database.execute(
            f"{LIVE} WHERE m.written_by = ? AND m.number < ? ORDER BY m.number DESC LIMIT ?",
            (name, _NEWEST if before is None else before, limit),
        )
        return [self._fresh(kept(row)) for row in rows]

    def _read(self, number: int) -> Kept:
        row = self._database.execute(f"{LIVE} WHERE m.number = ?", (number,)).fetchone()
        return self._fresh(kept(row))

    def counted(self) -> Counted:
        """Return how many memories there are, and how strong they are."""
        total, forgotten, mean, least, greatest, *bands = self._database.execute(_COUNTED).fetchone()
        return Counted(
            total=total,
            forgotten=forgotten,
            mean_strength=mean,
            least_strength=least,
            greatest_strength=greatest,
            strengths=dict(zip(_BANDS, bands, strict=True)),
        )


def _page(found: Iterator[tuple[int, Kept]], since: int, limit: int, max_bytes: int) -> Page:
    entries: list[Kept] = []
    last_change, size, more = since, 0, False
    for change, entry in found:
        size += _size(entry)
        if len(entries) == limit or (entries and size > max_bytes):
            more = True
            break
        entries.append(entry)
        last_change = change
    return Page(entries=entries, more=more, last_change=last_change)


def _size(entry: Kept) -> int:
    return len(msgspec.json.encode(entry))


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
