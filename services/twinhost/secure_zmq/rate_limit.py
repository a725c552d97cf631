"""Rate limits: a token bucket for each key, and a budget of log lines that is built on it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable

WINDOW_S = 10.0
LINES_PER_WINDOW = 50


class TokenBuckets:
    """A token bucket for each key; safe to use from any thread. Keys must come from a small set."""

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Make buckets that are full at first.

        Args:
            burst: the tokens that a bucket holds at most.
            per_second: the tokens that are added to it in a second.
            clock: in seconds, monotonic.
        """
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._levels: dict[Hashable, tuple[float, float]] = {}  # tokens, and when that was

    def take(self, key: Hashable) -> bool:
        """Take one token; return False, and take nothing, where there is none."""
        with self._lock:
            now = self._clock()
            level = self._level(key, now)
            if level < 1.0:
                return False
            self._levels[key] = level - 1.0, now
            return True

    def charge(self, key: Hashable, tokens: float) -> None:
        """Take tokens that were spent already; a bucket may go into debt by that."""
        with self._lock:
            now = self._clock()
            self._levels[key] = self._level(key, now) - tokens, now

    def wait_s(self, key: Hashable) -> float:
        """Return the seconds until a bucket that is empty or in debt has tokens again; 0 where it has some."""
        with self._lock:
            return max(0.0, -self._level(key, self._clock()) / self._per_second)

    def _level(self, key: Hashable, now: float) -> float:
        level, then = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + (now - then) * self._per_second)


class LogBudget:
    """At most 50 log lines at once and 5 more per second for each key, so that no cause can hide what others did.

    Safe to use from any thread. Keys must come from a small set.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(LINES_PER_WINDOW, LINES_PER_WINDOW / WINDOW_S, clock)
        self._lock = threading.Lock()
        self._left_out: Counter[Hashable] = Counter()

    def admit(self, key: Hashable) -> int | None:
        """Return None where the line must not be written, else how many were left out before it."""
        admitted = self._buckets.take(key)
        with self._lock:
            if admitted:
                return self._left_out.pop(key, 0)
            self._left_out[key] += 1
            return None
