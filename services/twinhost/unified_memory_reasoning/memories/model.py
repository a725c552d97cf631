"""How a memory decays and how two versions of it merge: pure rules, without a clock or a store.

A decay pass runs every 300 s. It takes a tenth of the strength of each memory that nobody has accessed for 24 h. Under
0.1 a memory is forgotten: queries skip it, it is still stored, and it decays no further. Reinforcing a memory makes it
stronger by a fifth, up to 5, and always recovers a forgotten one.

A missed pass is not run later, nor the rest of one that a crash interrupted: nobody could access anything while the
agent was down.
"""

import msgspec

PASS_EVERY_S = 300.0
IDLE_S = 86_400.0
DECAY_FACTOR = 0.9
FORGOTTEN_UNDER = 0.1
REINFORCE_FACTOR = 1.2
MOST_STRENGTH = 5.0
FIRST_STRENGTH = 1.0


def idle_since(now: float) -> float:
    """Return the time of last access, in seconds since the epoch, at or before which a memory is idle."""
    return now - IDLE_S


def forgotten(strength: float) -> bool:
    """Return whether a memory of this strength is forgotten."""
    return strength < FORGOTTEN_UNDER


def decayed(strength: float) -> float:
    """Return an idle memory's strength after one pass."""
    return strength if forgotten(strength) else strength * DECAY_FACTOR


def reinforced(strength: float) -> float:
    """Return the strength after a reinforcement; a forgotten memory starts from FORGOTTEN_UNDER."""
    return min(MOST_STRENGTH, max(strength, FORGOTTEN_UNDER) * REINFORCE_FACTOR)


def next_pass_in_s(last: float | None, now: float) -> float:
    """Return how many seconds after a start the first pass is due.

    Args:
        last: when the last one was, in seconds since the epoch; None if there was none.
        now: the time of the start. If the clock was set back, the wait is still at most 300 s.
    """
    if last is None:
        return PASS_EVERY_S
    return min(PASS_EVERY_S, max(0.0, last + PASS_EVERY_S - now))


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """One memory; times in seconds since the epoch.

    `revised` is when its body was stored or deleted, `last_accessed` when it was stored, read by id, or reinforced. The
    body of a deleted one is empty.
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
    """Return two versions of one memory as one."""
    later = max(one, other, key=_version)
    return msgspec.structs.replace(
        later,
        strength=max(one.strength, other.strength),
        created=min(one.created, other.created),
        last_accessed=max(one.last_accessed, other.last_accessed),
    )


def deleted(memory: Memory, revised: float) -> Memory:
    """Return the tombstone of a memory that is deleted at `revised`: without its body."""
    return msgspec.structs.replace(memory, content="", keywords=(), source="", revised=revised, deleted=True)


def same_body(one: Memory, other: Memory) -> bool:
    """Return whether both have the same content, keywords and source."""
    return _body(one) == _body(other)


def _version(memory: Memory) -> tuple[float, tuple[bool, str, tuple[str, ...], str]]:
    return memory.revised, _body(memory)


def _body(memory: Memory) -> tuple[bool, str, tuple[str, ...], str]:
    return memory.deleted, memory.content, memory.keywords, memory.source


class Kept(msgspec.Struct, frozen=True):
    """A stored memory: `number` grows with each new one, `written_by` is the caller who stored its body."""

    memory: Memory
    number: int
    written_by: str
