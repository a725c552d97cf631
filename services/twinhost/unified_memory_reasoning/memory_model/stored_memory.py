"""A memory, or its tombstone, as a row of the memory model's tables."""

from collections.abc import Sequence
from typing import Any

import msgspec

from twinhost.unified_memory_reasoning.memory_model.memory_merge import Memory

LIVE = (
    "SELECT m.number, m.id, m.content, m.keywords, m.source, m.strength, m.created, m.last_accessed, "
    "coalesce(c.revised, m.last_accessed), m.written_by FROM memories m LEFT JOIN memory_changes c ON c.id = m.id "
)
GONE = (
    "SELECT t.number, t.id, '', '[]', '', t.strength, t.created, t.last_accessed, c.revised, t.written_by "
    "FROM memory_tombstones t JOIN memory_changes c ON c.id = t.id "
)
_keywords = msgspec.json.Decoder(tuple[str, ...])


class Kept(msgspec.Struct, frozen=True):
    """A memory as it is stored: `number` grows with each that is new, `written_by` told its body."""

    memory: Memory
    number: int
    written_by: str


def kept(row: Sequence[Any], *, deleted: bool = False) -> Kept:
    """Return a row of `LIVE` or `GONE` as what it stands for."""
    number, memory_id, content, keywords, source, strength, created, last_accessed, revised, written_by = row
    memory = Memory(
        id=memory_id,
        content=content,
        keywords=_keywords.decode(keywords),
        source=source,
        strength=strength,
        created=created,
        last_accessed=last_accessed,
        revised=revised,
        deleted=deleted,
    )
    return Kept(memory, number, written_by)
