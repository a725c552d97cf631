"""How much of the agent's time one caller's patterns and messages may take, however many of them come at once.

A caller has a quarter of a second, and half of the time that passes between its requests is added to what is left
of it. What takes 2 ms or less costs nothing: an ordinary look-up takes 0.1 ms. One request may go into debt, by as
much as it takes; the next one is refused until the debt is paid.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from twinhost.secure_zmq.errors import LimitReached

MOST_S = 0.25  # of one caller, at once; what begins within it is not cut short
FREE_S = 0.002  # of every request
REFILL = 0.5  # of the time that passes


class SearchAllowance:
    """What every caller has left; callers are few, as each has a key."""

    def __init__(self, most_s: float = MOST_S, refill: float = REFILL) -> None:
        self._most_s = most_s
        self._refill = refill
        self._left: dict[str, tuple[float, float]] = {}  # seconds, and when that was

    @contextmanager
    def spending(self, caller: str) -> Iterator[None]:
        """Take what is done inside off a caller's seconds, even if it fails.

        Raises:
            LimitReached: they are used up; nothing is done.
        """
        self._require(caller)
        left_s, began = self._left_s(caller), time.thread_time()  # of this thread: a busy machine is nobody's fault
        try:
            yield
        finally:
            spent_s = time.thread_time() - began
            self._left[caller] = left_s - max(0.0, spent_s - FREE_S), time.monotonic()

    def _require(self, caller: str) -> None:
        left_s = self._left_s(caller)
        if left_s <= 0:
            raise LimitReached(
                f"the patterns and messages of {caller} took the {self._most_s:g} s that one caller gets at once; "
                f"ask again in {max(0.1, -left_s / self._refill):.1f} s"
            )

    def _left_s(self, caller: str) -> float:
        now = time.monotonic()
        left_s, then = self._left.get(caller, (self._most_s, now))
        return min(self._most_s, left_s + (now - then) * self._refill)
