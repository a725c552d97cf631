"""Two records of one memory become one, whichever comes first and however often: pure.

A record is three things that merge each by itself.

- The body, which is content, keywords, and source, or that it was deleted. The later one by `revised` stands. At one
  moment a deletion stands above a content, and of two contents the greater one does, compared as text: so every store
  decides alike.
- The marks. The newer `last_accessed`, the greater `strength`, and the older `created` stand.
- `forgotten`, which follows from the strength and is never told.

Each is the greater one of a total order, so the merge is idempotent, commutative, and associative: stores that
tell each other all they have end up with the same, in any order. Who wrote a record is no part of it: each store
knows its own caller.
"""

import msgspec

from twinhost.unified_memory_reasoning.memory_model import memory_decay


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
        return memory_decay.forgotten(self.strength)


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
