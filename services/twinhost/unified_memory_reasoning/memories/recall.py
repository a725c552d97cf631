"""Reads of memories: by their fields, by what changed, by writer, and how many there are.

All of them skip the rows of quarantined writers, except `written_by`, which is for operators.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.moments import iso_time
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import page_of
from twinhost.unified_memory_reasoning.memories.details import decode_details
from twinhost.unified_memory_reasoning.memories.model import Fading, Kept, folded_key, now_ms
from twinhost.unified_memory_reasoning.memories.rows import (
    GRAPH,
    GRAPH_SOURCE,
    MemoryRows,
    strength_now,
)
from twinhost.unified_memory_reasoning.memories.upkeep import MemoryUpkeep
from twinhost.unified_memory_reasoning.memories.validity import AS_OF, OF_KEY, OF_KEYS
from twinhost.unified_memory_reasoning.provenance.quarantine import (
    MAX_NUMBER,
    WrittenRow,
    create_visible_views,
    document_of,
)

_CHANGES_VIEW = """
CREATE TEMP VIEW IF NOT EXISTS visible_memory_changes AS SELECT c.change, c.id
FROM memory_changes c LEFT JOIN memories m ON m.id = c.id LEFT JOIN memory_tombstones t ON t.id = c.id
WHERE coalesce(m.written_by, t.written_by) NOT IN (SELECT name FROM quarantined)
"""
_BANDS = {  # of strengths: at least, and under
    "under_0.1": (0.0, 0.1),
    "0.1_to_0.5": (0.1, 0.5),
    "0.5_to_1": (0.5, 1.0),
    "1_to_2": (1.0, 2.0),
    "2_to_5": (2.0, 6.0),  # 5 is the maximum
}
_IN_BANDS = ", ".join(
    f"'{band}', coalesce(sum(strength >= {least} AND strength < {under}), 0)" for band, (least, under) in _BANDS.items()
)
_COUNTED = (
    "WITH m AS MATERIALIZED (SELECT forgotten, {} AS strength FROM visible_memories m) "  # noqa: S608 - constants
    "SELECT count(*) AS total, coalesce(sum(forgotten), 0) AS forgotten, avg(strength) AS mean, "
    f"min(strength) AS least, max(strength) AS greatest, json_object({_IN_BANDS}) AS bands FROM m"
)

_BRIEF = (
    "m.number, m.id, m.content, m.written_by, m.created, "
    "(SELECT details FROM memory_details WHERE number = m.number) AS details"
)
# LIKE ignores the case of ASCII alone, and ends at a NUL: texts with anything else are compared in Python.
MAY_CONTAIN = (
    "SELECT number, content FROM memories INDEXED BY memories_of_graph "  # noqa: S608 - constants
    f"WHERE source = '{GRAPH_SOURCE}' AND written_by NOT IN (SELECT name FROM quarantined) "
    "AND (content LIKE ? ESCAPE '!' OR length(content) < length(CAST(content AS BLOB)))"
)
_LIKE_CHARACTERS = 16  # of a text: LIKE may compare all of them at each place, and Python's `in` does not
_OF_SAME_ENTITIES = f"""
SELECT number FROM memory_keywords WHERE keyword IN (
    SELECT keyword FROM memory_keywords WHERE number IN (SELECT value FROM json_each(?))
    AND keyword >= '{GRAPH}:' AND keyword < '{GRAPH};'
    AND NOT EXISTS (
        SELECT 1 FROM memory_details d
        WHERE d.number = memory_keywords.number AND d.folded_key >= '{GRAPH}:r' AND d.folded_key < '{GRAPH}:s'
    )
)
""".strip()  # noqa: S608 - constants; a relation is found by the entities that it connects


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The conditions that a memory must meet; None: any."""

    ids: Sequence[str] | None = None
    keywords: Sequence[str] | None = None  # any of them
    source: str | None = None
    key: str | None = None
    as_of: float | None = None  # only what was valid at this time
    min_strength: float | None = None
    include_forgotten: bool = False
    before: int | None = None  # a number
    limit: int = 100
    keys: Sequence[str] | None = None  # any of them
    entities_with: str | None = None  # parts of the graph whose entities may have this text


class MemoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of memories; `last_change` is the number of the last one's change."""

    entries: list[Kept]
    more: bool
    last_change: int = 0


class MemoryInBrief(TypedDict):
    """A memory's text, and whose it is; times in ISO-8601.

    `number` grows with each new memory. `key` is absent if there is none, `valid_from` if it is `created`.
    """

    number: int
    id: str
    content: str
    written_by: str
    created: str
    key: NotRequired[str]
    valid_from: NotRequired[str]


class WrittenMemory(WrittenRow):
    """A memory, also a forgotten one, but never a deleted one."""

    id: NotRequired[str]
    content: NotRequired[str]
    keywords: NotRequired[tuple[str, ...]]
    source: NotRequired[str]
    strength: float
    created: str
    last_accessed: str
    revised: str
    deleted: Literal[False]
    written_by: str


class StrengthDocument(TypedDict):
    """How strong the memories are, null if there are none; `bands` counts them by strength."""

    mean: float | None
    least: float | None
    greatest: float | None
    bands: dict[str, int]


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """How many memories there are, and how strong they are."""

    total: int
    forgotten: int
    strength: StrengthDocument


class MemoryReads:
    """The reads of all memories."""

    def __init__(self, database: Database, rows: MemoryRows, upkeep: MemoryUpkeep, fading: Fading) -> None:
        create_visible_views(database, "memories")
        database.execute(_CHANGES_VIEW)
        self.clock = database.clock
        self.upkeep = upkeep
        self._database = database
        self._rows = rows
        self._fading = fading

    def query(self, chosen: Selection, max_bytes: int) -> MemoryPage:
        """Return the selected memories, newest first: at least one, and no more than `max_bytes` of them.

        Naming them by id counts as an access.
        """
        numbers_found = self._database.execute(*self._selecting("m.number", chosen)).fetchall()
        entries_found = (self._rows.read(number) for (number,) in numbers_found)  # the texts of one page, not of all
        entries, more = page_of((self.upkeep.fresh(entry) for entry in entries_found if entry), chosen.limit, max_bytes)
        return MemoryPage(entries=self.upkeep.access(entries) if chosen.ids else entries, more=more)

    def brief(self, chosen: Selection, max_bytes: int) -> tuple[list[MemoryInBrief], bool]:
        """Return what `query` does, in brief, and whether there are more."""
        return page_of(
            map(_in_brief, self._database.execute(*self._selecting(_BRIEF, chosen))), chosen.limit, max_bytes
        )

    def _selecting(self, columns: str, chosen: Selection) -> tuple[str, list[Any]]:
        """Return the statement that reads columns of the selected memories and of one more, and its values."""
        conditions = ["m.number < ?"]
        values: list[Any] = [MAX_NUMBER if chosen.before is None else chosen.before]
        if chosen.ids is not None:
            conditions.append(f"m.id IN ({_marks(chosen.ids)})")
            values += chosen.ids
        if chosen.keywords is not None:
            folded = sorted({keyword.casefold() for keyword in chosen.keywords})
            numbers = f"SELECT number FROM memory_keywords WHERE keyword IN ({_marks(folded)})"  # noqa: S608 - marks
            conditions.append(f"m.number IN ({numbers})")
            values += folded
        if chosen.source is not None:
            few = (chosen.ids, chosen.keys, chosen.entities_with) != (None, None, None)
            conditions.append("+m.source = ?" if few else "m.source = ?")
            values.append(chosen.source)
        if chosen.min_strength is not None:
            conditions.append(f"{strength_now(self._fading, 'm', repr(now_ms(self.clock)))} >= ?")
            values.append(chosen.min_strength)
        if chosen.key is not None:
            conditions.append(OF_KEY)
            values.append(folded_key(chosen.key))
        if chosen.keys is not None:
            conditions.append(OF_KEYS)
            values.append(json.dumps([folded_key(key) for key in chosen.keys]))
        if chosen.as_of is not None:
            conditions.append(AS_OF)
            values += [chosen.as_of] * 4
        if chosen.entities_with is not None:
            conditions.append("m.number IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(self._of_entities_with(chosen.entities_with)))
        if not chosen.include_forgotten:
            conditions.append("m.forgotten = 0")
        sql = (
            f"SELECT {columns} FROM visible_memories m WHERE {' AND '.join(conditions)} ORDER BY m.number DESC LIMIT ?"  # noqa: S608 - the same
        )
        return sql, [*values, chosen.limit + 1]

    def _of_entities_with(self, text: str) -> list[int]:
        """Return the numbers of the graph's parts that share an entity with one that has a text in any case."""
        wanted = text.lower()
        pattern = re.sub("[%_!]", r"!\g<0>", wanted[:_LIKE_CHARACTERS])
        rows = self._database.execute(MAY_CONTAIN, (f"%{pattern}%",))
        numbers = [number for number, content in rows if wanted in content.lower()]
        same = self._database.execute(_OF_SAME_ENTITIES, (json.dumps(numbers),))
        return [number for (number,) in same]

    def changes(self, since: int, limit: int, max_bytes: int) -> MemoryPage:
        """Return what changed after the change `since`, oldest change first, with tombstones and forgotten ones."""
        rows = self._database.execute(
            "SELECT change, id FROM visible_memory_changes WHERE change > ? ORDER BY change LIMIT ?", (since, limit + 1)
        ).fetchall()
        entries = ((change, self._rows.find(memory_id)) for change, memory_id in rows)
        changed = ((change, self.upkeep.fresh(entry)) for change, entry in entries if entry)
        page, more = page_of(changed, limit, max_bytes, lambda change: change[1])
        return MemoryPage(entries=[entry for _, entry in page], more=more, last_change=page[-1][0] if page else since)

    def written_by(self, name: str, before: int | None, limit: int) -> list[WrittenMemory]:
        """Return a caller's memories, quarantined or not, newest first."""
        entries = self._rows.written_by(name, MAX_NUMBER if before is None else before, limit)
        return [_written(self.upkeep.fresh(entry)) for entry in entries]

    def counted(self) -> Counted:
        """Return how many memories there are, and how strong they are."""

        def counted(total: int, forgotten: int, bands: str, **strength: float | None) -> Counted:
            strengths: Any = {**strength, "bands": msgspec.json.decode(bands)}
            return Counted(total=total, forgotten=forgotten, strength=strengths)

        return self._database.select(
            counted, _COUNTED.format(strength_now(self._fading, "m", repr(now_ms(self.clock))))
        )[0]


def _in_brief(row: tuple[int, str, str, str, float, str | None]) -> MemoryInBrief:
    number, memory_id, content, written_by, created, details = row
    brief: MemoryInBrief = {
        "number": number,
        "id": memory_id,
        "content": content,
        "written_by": written_by,
        "created": iso_time(created),
    }
    if details is not None:
        more = decode_details(details)
        if more.key is not None:
            brief["key"] = more.key
        if more.valid_from is not None and more.valid_from != created:
            brief["valid_from"] = iso_time(more.valid_from)
    return brief


_written_memory = document_of(WrittenMemory)


def _written(entry: Kept) -> WrittenMemory:
    columns = msgspec.structs.asdict(entry.memory)
    del columns["details"]
    return _written_memory(number=entry.number, written_by=entry.written_by, **columns)


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
