"""Rate limits, each by key: a token bucket, a budget of log lines that is built on it, and an exact limit of a window.

Keys must come from a small set.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable

WINDOW_S = 10.0
LINES_PER_WINDOW = 50


class TokenBuckets:
    """A token bucket for each key; safe to use from any thread."""

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

    def charge(self, key: Hashable, tokens: float, since: float) -> None:
        """Take tokens that were spent from `since`, by the clock, until now; a bucket may go into debt by that.

        Nothing is added to it for that time.
        """
        with self._lock:
            self._levels[key] = self._level(key, since) - tokens, self._clock()

    def level(self, key: Hashable) -> float:
        """Return the tokens in a bucket; less than 0 where it is in debt."""
        with self._lock:
            return self._level(key, self._clock())

    def _level(self, key: Hashable, now: float) -> float:
        level, then = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + (now - then) * self._per_second)


class WindowLimit:
    """At most so many times in any window of so many seconds, for each key; a token bucket would admit twice as many.

    For one thread.
    """

    def __init__(self, times: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._times = times
        self._seconds = seconds
        self._clock = clock
        self._admitted: dict[Hashable, deque[float]] = {}

    def take(self, key: Hashable) -> bool:
        """Return whether it may happen once more now; only then it is counted."""
        times, now = self._admitted.setdefault(key, deque(maxlen=self._times)), self._clock()
        if len(times) == self._times and now - times[0] < self._seconds:
            return False
        times.append(now)
        return True


class LogBudget:
    """At most 50 log lines at once and 5 more per second for each key, so that no cause can hide what others did.

    Safe to use from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(LINES_PER_WINDOW, LINES_PER_WINDOW / WINDOW_S, clock)
        self._lock = threading.Lock()
        self._left_out: Counter[Hashable] = Counter()

    def log(self, write: Callable[..., object], event: str, key: Hashable, /, **fields: object) -> None:
        """Write a line, with the number of those that were left out before it, where the budget has room for it.

        Args:
            write: a logger's method.
            event: the line's event.
            key: whose budget it takes from.
            fields: of the line.
        """
        left_out = self.admit(key)
        if left_out is not None:
            write(event, **fields, **({"not_logged_before": left_out} if left_out else {}))

    def admit(self, key: Hashable) -> int | None:
        """Return None where the line must not be written, else how many were left out before it."""
        admitted = self._buckets.take(key)
        with self._lock:
            if admitted:
                return self._left_out.pop(key, 0)
            self._left_out[key] += 1
            return None
