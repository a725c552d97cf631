"""What an interaction is, what becomes of one that is added, and what a session has in mind."""

from dataclasses import dataclass
from typing import Any

import msgspec

from twinhost.unified_memory_reasoning.conversations.summary import Part

COLUMNS = "id, session_id, speaker, type, content, metadata, importance, strength, created, tier, written_by"


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction; `created` in seconds since the epoch, `speaker` empty where none was told."""

    id: int
    session_id: str
    speaker: str
    kind: str
    content: str
    metadata: dict[str, Any]
    importance: float
    strength: float
    created: float
    tier: int
    written_by: str


@dataclass(frozen=True, slots=True)
class Added:
    """What became of an interaction: its number, its importance, and how many places the session's window has."""

    id: int
    importance: float
    window_size: int


@dataclass(frozen=True, slots=True)
class Context:
    """What a session, or a speaker in it, has in mind, of everybody who is visible."""

    summary: Part
    items: list[Interaction]  # of the window, in its order
    further: list[Interaction]  # of tier 0, in the same order
    window_size: int
    stored: int  # interactions of the session, of all speakers
    in_view: int  # of these, the speaker's; all of them where none is named
    newest: list[int]  # of those in view, 256 at most, of tiers 0 to 2, newest first
    last_updated: float | None  # of the session, seconds since the epoch


def interaction_of(row: tuple[Any, ...]) -> Interaction:
    """Return the interaction that a row of COLUMNS tells of."""
    fields: list[Any] = list(row)
    fields[5] = msgspec.json.decode(fields[5])
    return Interaction(*fields)
