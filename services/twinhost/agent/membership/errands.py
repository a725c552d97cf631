"""What other agents are to be asked, for whom, and who goes first; bounded, and no caller has it all.

The more urgent go first, and among equals who came first. A caller may keep all but one of the threads busy, so
that another's errand is never behind all of one's.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from twinhost.secure_zmq.errors import LimitReached, RequestIdReused
from twinhost.secure_zmq.wire import Reply

DEADLINE_S = 4.5  # from the request on, its time in the queue included; a caller that waits for 5 s hears why
MAX_OPEN = 64  # requests that wait for an answer
MAX_OF_A_CALLER = 16


@dataclass(frozen=True, slots=True)
class Errand:
    """What to ask whom, for whom."""

    agent_name: str
    operation: str
    fields: Mapping[str, Any]
    priority: int  # 1 to 10, 10 goes first
    caller: str
    on_behalf: bool  # whether the caller's name is proven, and passed on
    request_id: str | None


@dataclass(order=True, slots=True)
class Waiting:
    """An errand that nobody has taken yet, or that somebody is on; `deadline` is monotonic."""

    order: tuple[int, int]
    errand: Errand = field(compare=False)
    answer: "Future[Reply]" = field(compare=False)
    deadline: float = field(compare=False)

    @property
    def left_s(self) -> float:
        """How many seconds are left, at least 0."""
        return max(0.0, self.deadline - time.monotonic())


class Errands:
    """The errands that wait, and those under way; for any thread."""

    def __init__(self, workers: int) -> None:
        """Hand errands to that many threads."""
        self._most_at_once = max(1, workers - 1)  # of a caller
        self._numbers = itertools.count()
        self._waiting: list[Waiting] = []
        self._open: Counter[str] = Counter()  # requests by caller, the same one asked twice counts twice
        self._under_way: Counter[str] = Counter()  # errands by caller that a thread is on
        self._by_id: dict[tuple[str, str], Waiting] = {}
        self._changed = threading.Condition()
        self._ended = False

    def add(self, errand: Errand) -> "Future[Reply]":
        """Return the answer to come; the same one where the request is under way already.

        Raises:
            LimitReached: too many wait, of this caller or of all.
            RequestIdReused: the same id is under way for something else.
        """
        with self._changed:
            self._require_room(errand.caller)
            same = self._by_id.get((errand.caller, errand.request_id)) if errand.request_id is not None else None
            if same is not None and same.errand != errand:
                raise RequestIdReused(f"request_id {errand.request_id!r} is under way with another body")
            self._open[errand.caller] += 1
            waiting = same or self._put(errand)
        waiting.answer.add_done_callback(lambda _: self._close(errand.caller))
        return waiting.answer

    def take(self) -> Waiting | None:
        """Wait for the next one, for a thread that is free; None once `end()` was called."""
        with self._changed:
            while not self._ended:
                chosen = self._next()
                if chosen is not None:
                    self._waiting.remove(chosen)
                    self._under_way[chosen.errand.caller] += 1
                    return chosen
                self._changed.wait(min((each.left_s for each in self._waiting), default=None))
        return None

    def end(self) -> None:
        """Let those who wait for an errand go; nobody gets another one."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def done(self, waiting: Waiting) -> None:
        """Note that a thread is free again; the answer is set after that."""
        errand = waiting.errand
        with self._changed:
            _less(self._under_way, errand.caller)
            if errand.request_id is not None:
                del self._by_id[errand.caller, errand.request_id]
            self._changed.notify_all()

    def _put(self, errand: Errand) -> Waiting:
        order = (-errand.priority, next(self._numbers))
        waiting = Waiting(order, errand, Future(), time.monotonic() + DEADLINE_S)
        self._waiting.append(waiting)
        if errand.request_id is not None:
            self._by_id[errand.caller, errand.request_id] = waiting
        self._changed.notify()
        return waiting

    def _next(self) -> Waiting | None:
        """Return the first whose caller does not keep too many threads busy, or one that is past its deadline."""
        free = [
            each
            for each in self._waiting
            if self._under_way[each.errand.caller] < self._most_at_once or each.left_s == 0
        ]
        return min(free, default=None)

    def _require_room(self, caller: str) -> None:
        every, own = self._open.total(), self._open[caller]
        if own >= MAX_OF_A_CALLER or every >= MAX_OPEN:
            raise LimitReached(
                f"{own} requests of {caller} and {every} of all wait for other agents; "
                f"{MAX_OF_A_CALLER} and {MAX_OPEN} may: wait for an answer, and ask again"
            )

    def _close(self, caller: str) -> None:
        with self._changed:
            _less(self._open, caller)


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
