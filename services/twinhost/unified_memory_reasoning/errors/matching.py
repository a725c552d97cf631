r"""Regular expressions whose cost is bounded, whoever wrote them: RE2, with limits on memory and steps.

RE2 takes time in proportion to the message times the compiled pattern. A pattern of 1,000 instructions is searched for
in the first 4 KiB of a message, one of up to 64 in all of its 64 KiB. A letter takes 1 instruction, `.` takes 8, and
`\pL` 1,200.

A pattern ignores case, as if it began with `(?i)`; `(?-i)` at its beginning, or `(?-i:...)`, makes case count. Patterns
that an older version stored keep their meaning.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import re2  # type: ignore[import-untyped]

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.rate_limit import TokenBuckets
from twinhost.secure_zmq.errors import LimitReached, MalformedRequest
from twinhost.unified_memory_reasoning.errors.specificity import SHORTEST_TEXT, Requirement

MAX_CHARACTERS: Final = 1_024
MAX_INSTRUCTIONS: Final = 4_000  # of the compiled pattern
MAX_STEPS: Final = 2**22  # instructions times bytes; measured: 3 ns a step at the worst, on one core
MAX_MESSAGE_BYTES: Final = 65_536
_MAX_MEMORY: Final = 512 * 1024  # bytes for a compiled pattern and its caches; RE2 keeps 128 of them
_ALLOWED = (
    f"RE2's syntax is allowed, in at most {MAX_CHARACTERS} characters and {MAX_INSTRUCTIONS} instructions compiled: "
    "no backreference, no look-around, no repetition over 1,000; "
    "write a shorter one, or several patterns"
)


def _options(*, ignores_case: bool) -> Any:
    options = re2.Options()
    options.case_sensitive = not ignores_case
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    options.never_capture = True
    return options


_OPTIONS: Final = {ignores_case: _options(ignores_case=ignores_case) for ignores_case in (False, True)}


def accept(pattern: str) -> int:
    """Check a pattern that ignores case; return in how many bytes from the start of a message it is searched.

    Raises:
        MalformedRequest: RE2 refuses it, or it is too large.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise _refused(f"it has {len(pattern)} characters")
    try:
        compiled = re2.compile(pattern, _OPTIONS[True])
    except re2.error as error:
        reason = error.args[0] if error.args else "no reason"
        raise _refused(
            f"RE2 reports `{reason.decode(errors='replace') if isinstance(reason, bytes) else reason}`"
        ) from None
    except UnicodeEncodeError:
        raise _refused("it has half of a surrogate pair") from None
    size = int(compiled.programsize)
    if size > MAX_INSTRUCTIONS:
        raise _refused(f"it compiles to {size} instructions")
    return _reads(size)


def matches(pattern: str, message: bytes, *, ignores_case: bool = True) -> bool:
    """Return whether a pattern matches the part of a message that it is searched for in."""
    try:
        compiled = re2.compile(pattern, _OPTIONS[ignores_case])
    except re2.error:  # another version of RE2 accepted it: it stays stored, and matches nothing
        return False
    return compiled.search(message[: _reads(int(compiled.programsize))]) is not None


def _reads(size: int) -> int:
    return min(MAX_MESSAGE_BYTES, MAX_STEPS // max(1, size))


def _refused(why: str) -> MalformedRequest:
    return MalformedRequest(f"the pattern is refused ({why}) - at `$.pattern`; {_ALLOWED}")


BUDGET_S = 0.01  # of CPU time for one lookup; a search that has begun is finished, and takes at most 15 ms


@dataclass(frozen=True, slots=True)
class Entry:
    """One pattern."""

    pattern_id: int
    pattern: str
    requirement: Requirement
    written_by: str
    ignores_case: bool = True

    @property
    def rank(self) -> tuple[tuple[int, int, int], int]:
        """The most specific first, then the newest."""
        return self.requirement.specificity, self.pattern_id


@dataclass(frozen=True, slots=True)
class Matches:
    """The most specific patterns that match a message, newest first; several if they are equally specific.

    `complete` is False if the CPU time was used up before every candidate was tried.
    """

    entries: tuple[Entry, ...]
    complete: bool


class PatternIndex:
    """Patterns by number, and by a trigram of each text that they require."""

    def __init__(self, budget_s: float = BUDGET_S) -> None:
        self._budget_s = budget_s
        self._entries: dict[int, Entry] = {}
        self._trigrams: dict[int, frozenset[str]] = {}  # each is indexed under these
        self._under: dict[str, set[int]] = {}
        self._general: set[int] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def general(self) -> int:
        """How many patterns require no text, so that every message is searched for them."""
        return len(self._general)

    def general_of(self, writer: str) -> int:
        """Return how many of these a writer has."""
        return sum(self._entries[number].written_by == writer for number in self._general)

    def add(self, entry: Entry) -> None:
        """Add a new pattern."""
        number = entry.pattern_id
        self._entries[number] = entry
        if entry.requirement.general:
            self._general.add(number)
            return
        self._trigrams[number] = frozenset(self._rarest(text) for text in entry.requirement.texts)
        for trigram in self._trigrams[number]:
            self._under.setdefault(trigram, set()).add(number)

    def remove(self, pattern_id: int) -> Entry:
        """Remove a pattern and return it."""
        entry = self._entries.pop(pattern_id)
        self._general.discard(pattern_id)
        for trigram in self._trigrams.pop(pattern_id, frozenset()):
            under = self._under[trigram]
            under.discard(pattern_id)
            if not under:
                del self._under[trigram]
        return entry

    def search(self, message: str, hides: Callable[[str], bool]) -> Matches:
        """Return the most specific patterns that match a message, except those whose writer is hidden."""
        deadline = time.thread_time() + self._budget_s  # a busy machine finds as much as an idle one
        folded, coded = message.casefold(), message.encode(errors="replace")
        known: list[Entry] = []
        for entry in self._candidates(folded):
            if known and entry.requirement.specificity != known[0].requirement.specificity:
                break
            if hides(entry.written_by) or not entry.requirement.may_match(folded):
                continue
            if time.thread_time() > deadline:
                return Matches(tuple(known), complete=False)
            if matches(entry.pattern, coded, ignores_case=entry.ignores_case):
                known.append(entry)
        return Matches(tuple(known), complete=True)

    def _candidates(self, folded: str) -> list[Entry]:
        numbers = set(self._general)
        for trigram in _trigrams_of(folded) & self._under.keys():
            numbers |= self._under[trigram]
        return sorted((self._entries[number] for number in numbers), key=lambda entry: entry.rank, reverse=True)

    def _rarest(self, text: str) -> str:
        """Return the trigram of a text under which the fewest patterns are indexed."""
        return min(sorted(_trigrams_of(text)), key=lambda trigram: len(self._under.get(trigram, ())))


def _trigrams_of(text: str) -> set[str]:
    return {text[at : at + SHORTEST_TEXT] for at in range(len(text) - SHORTEST_TEXT + 1)}


BURST_S = 0.25  # of CPU time, of one caller; a search that begins within it is not cut short
FREE_S = 0.002  # of every request
REFILL = 0.5  # seconds of CPU time per second


class CpuBudget:
    """The per-caller CPU budget for patterns and messages: a token bucket of seconds for each caller."""

    def __init__(self, burst_s: float = BURST_S, refill: float = REFILL, clock: Clock = SYSTEM_CLOCK) -> None:
        self._burst_s = burst_s
        self._refill = refill
        self._clock = clock
        self._buckets = TokenBuckets(burst_s, refill, clock.monotonic)  # of seconds of CPU time

    @contextmanager
    def spending(self, caller: str) -> Iterator[None]:
        """Charge a caller for the CPU time of what is done inside, even if it fails.

        Raises:
            LimitReached: the budget is used up; nothing is done.
        """
        if (left_s := self._buckets.level(caller)) <= 0:
            raise LimitReached(
                f"the patterns and messages of {caller} used up its CPU budget of {self._burst_s:g} s; "
                f"try again in {max(0.1, -left_s / self._refill):.1f} s"
            )
        since, began = self._clock.monotonic(), time.thread_time()  # of this thread: other load is not charged
        try:
            yield
        finally:
            spent_s = time.thread_time() - began
            self._buckets.charge(caller, max(0.0, spent_s - FREE_S), since)
