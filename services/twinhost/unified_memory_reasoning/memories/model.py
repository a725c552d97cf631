"""How a memory fades and how two versions of it merge: pure rules, without a clock or a store.

By days, a memory has its full strength when it is accessed. From then on the strength halves every
`half_life_days` x strength: it is computed from the time of the last access, and the stored strength does not change. A
pass every 300 s records which memories are under 0.1.

By passes, the rule of version 0.2, a pass every 300 s takes a tenth of the stored strength of each memory that nobody
has accessed for 24 h. A missed pass is not run later, nor the rest of one that a crash interrupted: nobody could access
anything while the agent was down.

Under 0.1 a memory is forgotten: queries skip it, but it is still stored. Reinforcing a memory makes it stronger by a
fifth, up to 5, and always recovers a forgotten one. A pinned memory never fades.
"""

import unicodedata
from typing import Any, NamedTuple

import msgspec

from twinhost.moments import Clock
from twinhost.unified_memory_reasoning.memories.details import NONE, Details

MAX_CONTENT_CHARACTERS = 65_536
DAY_S = 86_400.0
PASS_EVERY_S = 300.0
IDLE_S = 86_400.0
DECAY_FACTOR = 0.9
FORGOTTEN_UNDER = 0.1
REINFORCE_FACTOR = 1.2
MOST_STRENGTH = 5.0
_SHOWING_NOTHING = "\u115f\u1160\u2800\u3164\uffa0"  # fillers of Hangul, and the empty pattern of Braille
FIRST_STRENGTH = 1.0


def now_ms(clock: Clock) -> float:
    """Return seconds since the epoch in whole milliseconds, as on the wire."""
    return round(clock.time(), 3)


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


def is_visible(text: str) -> bool:
    """Return whether a text has a letter, digit, punctuation or symbol that shows anything."""
    return any(unicodedata.category(character)[0] in "LNPS" and character not in _SHOWING_NOTHING for character in text)


def folded_key(key: str | None) -> str | None:
    """Return a key as keys are compared: without case and surplus white space.

    A blank key, which other stores may have, is like no other.
    """
    if key is None:
        return None
    return " ".join(unicodedata.normalize("NFC", key).casefold().split()) or key


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """One memory; times in seconds since the epoch.

    `revised` is when its body was stored or deleted, `last_accessed` when it was stored, found, read by id, or
    reinforced. `strength` is that of the last access. The body of a deleted one is empty.
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
    details: Details = NONE

    @property
    def occurred(self) -> float:
        """When it happened, or if that was not given, when it was stored."""
        return self.created if self.details.occurred_at is None else self.details.occurred_at

    @property
    def starts(self) -> float:
        """When it begins to be valid."""
        return self.occurred if self.details.valid_from is None else self.details.valid_from


class Idle(NamedTuple):
    """A memory that is not forgotten, as a pass reads it."""

    last_accessed: float
    number: int
    id: str
    strength: float
    pinned: bool


class Fading(msgspec.Struct, frozen=True):
    """The rule by which memories fade; `half_life_days` is None for the rule by passes."""

    half_life_days: float | None

    def strength(self, stored: float, last_accessed: float, now: float, *, pinned: bool = False) -> float:
        """Return how strong a memory is now."""
        if self.half_life_days is None or pinned or stored <= 0:
            return stored
        days = max(0.0, now - last_accessed) / DAY_S
        return float(stored * 0.5 ** (days / self.half_life_days / stored))

    def forgotten(self, memory: Memory, now: float) -> bool:
        """Return whether a memory is forgotten now."""
        idle = Idle(memory.last_accessed, 0, memory.id, memory.strength, memory.details.pinned)
        return self.idle_forgotten(idle, now)

    def idle_forgotten(self, idle: Idle, now: float) -> bool:
        """Return whether an idle memory is forgotten now."""
        return not idle.pinned and forgotten(self.strength(idle.strength, idle.last_accessed, now))

    def after_pass(self, idle: Idle, now: float) -> tuple[float, bool] | None:
        """Return the stored strength after a pass, and whether it is then forgotten; None if nothing changes."""
        if idle.pinned:
            return None
        if self.half_life_days is None:
            strength = decayed(idle.strength)
            return strength, forgotten(strength)
        return (idle.strength, True) if self.idle_forgotten(idle, now) else None

    def idle_since(self, now: float) -> float:
        """Return the time of last access at or before which a pass reads a memory."""
        return now - IDLE_S if self.half_life_days is None else now


BY_DAYS = Fading(30.0)  # the default of the configuration


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
    return msgspec.structs.replace(
        memory, content="", keywords=(), source="", details=NONE, revised=revised, deleted=True
    )


def same_body(one: Memory, other: Memory) -> bool:
    """Return whether both have the same content, keywords, source and details."""
    return _body(one) == _body(other)


def _version(memory: Memory) -> tuple[Any, ...]:
    return memory.revised, _body(memory)


def _body(memory: Memory) -> tuple[Any, ...]:
    """Return the body so that any two compare, here as in every store: a missing detail is less than any other."""
    details = msgspec.structs.asdict(memory.details)
    ordered = (() if value is None else (value,) for value in (details.pop("key"), *details.values()))
    return memory.deleted, memory.content, memory.keywords, memory.source, *ordered


class Kept(msgspec.Struct, frozen=True):
    """A stored memory: `number` grows with each new one, `written_by` is the caller who stored its body."""

    memory: Memory
    number: int
    written_by: str
