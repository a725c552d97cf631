"""How a memory fades, and how it is kept: pure rules on numbers, no clock and no store.

A pass comes every 300 s. What nobody has accessed for 24 h loses a tenth of its strength in it. Under 0.1 a
memory is forgotten: queries leave it out, it is still stored, and it fades no further. A reinforce makes it
stronger by a fifth, up to 5, and brings a forgotten one back in any case.

A pass that was missed is not made up for, nor the rest of one that a crash cut off: while the agent was away nobody
could ask for anything.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

PASS_EVERY_S = 300.0
IDLE_S = 86_400.0
DECAY_FACTOR = 0.9
FORGOTTEN_UNDER = 0.1
REINFORCE_FACTOR = 1.2
MOST_STRENGTH = 5.0
FIRST_STRENGTH = 1.0


def idle_since(now: float) -> float:
    """Return the moment at or before which a memory must have been accessed last to be idle; in epoch seconds."""
    return now - IDLE_S


def forgotten(strength: float) -> bool:
    """Return whether a memory of this strength is forgotten; nothing else decides it."""
    return strength < FORGOTTEN_UNDER


def decayed(strength: float) -> float:
    """Return what one pass leaves of an idle memory's strength."""
    return strength if forgotten(strength) else strength * DECAY_FACTOR


def reinforced(strength: float) -> float:
    """Return the strength after one reinforce; a forgotten memory counts as one that just is not."""
    return min(MOST_STRENGTH, max(strength, FORGOTTEN_UNDER) * REINFORCE_FACTOR)


def next_pass_in_s(last: float | None, now: float) -> float:
    """Return how many seconds after a start the first pass is due.

    Args:
        last: when the last one was, in seconds since the epoch; None where there was none.
        now: the moment of the start. A clock that was set back makes no wait longer than a whole one.
    """
    if last is None:
        return PASS_EVERY_S
    return min(PASS_EVERY_S, max(0.0, last + PASS_EVERY_S - now))


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """One memory; moments in seconds since the epoch.

    `revised` is when its body was told or deleted, `last_accessed` when it was told, asked for, or reinforced. One
    that was deleted has the marks alone: its body is empty.
    """

    id: str
    content: str
    keywords: tuple[str, ...]
    source: str
    strength: float
    created: float
    last_accessed: float
    revised: float
    deleted: bool = False

    @property
    def forgotten(self) -> bool:
        return forgotten(self.strength)


def merge(one: Memory, other: Memory) -> Memory:
    """Return what is to be known of a memory of which these two are known; they must have one id."""
    later = max(one, other, key=_standing)
    return msgspec.structs.replace(
        later,
        strength=max(one.strength, other.strength),
        created=min(one.created, other.created),
        last_accessed=max(one.last_accessed, other.last_accessed),
    )


def deleted(memory: Memory, revised: float) -> Memory:
    """Return what is left of a memory that is deleted at `revised`: its id and its marks, and nothing of its body."""
    return msgspec.structs.replace(memory, content="", keywords=(), source="", revised=revised, deleted=True)


def same_body(one: Memory, other: Memory) -> bool:
    """Return whether both say the same, whenever it was told."""
    return _body(one) == _body(other)


def _standing(memory: Memory) -> tuple[float, tuple[bool, str, tuple[str, ...], str]]:
    return memory.revised, _body(memory)


def _body(memory: Memory) -> tuple[bool, str, tuple[str, ...], str]:
    return memory.deleted, memory.content, memory.keywords, memory.source


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
