"""Which of many patterns know a message: those that can't match are left out by three letters of theirs.

Every pattern that requires a text stands under three characters of it. A look-up takes the threes of the
message, searches for the patterns that stand under them, the most specific first, and stops at the first
that is found. So its cost hangs on the message and on the patterns that resemble it, not on how many there are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from twinhost.unified_memory_reasoning.known_errors.bounded_pattern import found
from twinhost.unified_memory_reasoning.known_errors.pattern_specificity import SHORTEST_TEXT, Requirement

BUDGET_S = 0.25  # for one look-up; a search under way is ended, and takes 0.2 s at the worst


@dataclass(frozen=True, slots=True)
class Entry:
    """One pattern."""

    pattern_id: int
    pattern: str
    requirement: Requirement
    written_by: str

    @property
    def rank(self) -> tuple[tuple[int, int, int], int]:
        """The most specific first, then the newest."""
        return self.requirement.specificity, self.pattern_id


@dataclass(frozen=True, slots=True)
class Found:
    """The most specific patterns that know a message, more than one where they are equally specific; newest first.

    `complete` is False where the time was over before all that could match were tried.
    """

    entries: tuple[Entry, ...]
    complete: bool


class PatternIndex:
    """Patterns by their number."""

    def __init__(self, budget_s: float = BUDGET_S) -> None:
        self._budget_s = budget_s
        self._entries: dict[int, Entry] = {}
        self._threes: dict[int, frozenset[str]] = {}  # under which each stands
        self._under: dict[str, set[int]] = {}
        self._general: set[int] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def general(self) -> int:
        """How many patterns require no text, and so are searched for in every message."""
        return len(self._general)

    def add(self, entry: Entry) -> None:
        """Add a pattern that is not there yet."""
        number = entry.pattern_id
        self._entries[number] = entry
        if entry.requirement.general:
            self._general.add(number)
            return
        self._threes[number] = frozenset(self._rarest(text) for text in entry.requirement.texts)
        for three in self._threes[number]:
            self._under.setdefault(three, set()).add(number)

    def remove(self, pattern_id: int) -> Entry:
        """Take a pattern out and return it."""
        entry = self._entries.pop(pattern_id)
        self._general.discard(pattern_id)
        for three in self._threes.pop(pattern_id, frozenset()):
            under = self._under[three]
            under.discard(pattern_id)
            if not under:
                del self._under[three]
        return entry

    def search(self, message: str, hides: Callable[[str], bool]) -> Found:
        """Return the most specific patterns that are found in a message, but none of a writer whom `hides` names."""
        deadline = time.perf_counter() + self._budget_s
        folded, coded = message.casefold(), message.encode(errors="replace")
        known: list[Entry] = []
        for entry in self._candidates(folded):
            if known and entry.requirement.specificity != known[0].requirement.specificity:
                break
            if hides(entry.written_by) or not entry.requirement.may_match(folded):
                continue
            if time.perf_counter() > deadline:
                return Found(tuple(known), complete=False)
            if found(entry.pattern, coded):
                known.append(entry)
        return Found(tuple(known), complete=True)

    def _candidates(self, folded: str) -> list[Entry]:
        numbers = set(self._general)
        for three in _threes_of(folded) & self._under.keys():
            numbers |= self._under[three]
        return sorted((self._entries[number] for number in numbers), key=lambda entry: entry.rank, reverse=True)

    def _rarest(self, text: str) -> str:
        """Return the three characters of a text under which the fewest patterns stand."""
        return min(sorted(_threes_of(text)), key=lambda three: len(self._under.get(three, ())))


def _threes_of(text: str) -> set[str]:
    return {text[at : at + SHORTEST_TEXT] for at in range(len(text) - SHORTEST_TEXT + 1)}
