"""Rate limits, each by key: token buckets, a budget of log lines that uses them, and an exact sliding window.

Keys must come from a small set, since a key is never dropped.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable

WINDOW_S = 10.0
LINES_PER_WINDOW = 50
_ROUNDING = 1e-6  # of a token, for a level that is computed from a time
_KEPT = 64  # buckets of which nothing is forgotten; of more, the full ones are, each time their number has doubled


class TokenBuckets:
    """A token bucket for each key; safe to use from any thread."""

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            burst: the most tokens that a bucket holds.
            per_second: the tokens that are added to it per second; more than 0.
            clock: in seconds, monotonic.
        """
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._full_at: dict[Hashable, float] = {}  # when each bucket is full again: one number says its level
        self._most = _KEPT

    def take(self, key: Hashable) -> bool:
        """Take one token; return False if there is none."""
        with self._lock:
            now = self._clock()
            level = self._level(key, now)
            if level < 1.0 - _ROUNDING:
                return False
            self._set(key, level - 1.0, now)
            return True

    def charge(self, key: Hashable, tokens: float, since: float) -> None:
        """Take tokens that were spent from `since`, by the clock, until now; the level may become negative.

        No tokens are added for that time.
        """
        with self._lock:
            self._set(key, self._level(key, since) - tokens, self._clock())

    def level(self, key: Hashable) -> float:
        """Return the tokens in a bucket; it may be negative."""
        with self._lock:
            return self._level(key, self._clock())

    def _level(self, key: Hashable, now: float) -> float:
        missing = max(0.0, self._full_at.get(key, now) - now) * self._per_second
        return self._burst - missing

    def _set(self, key: Hashable, level: float, now: float) -> None:
        self._full_at[key] = now + (self._burst - level) / self._per_second
        if len(self._full_at) > self._most:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
            self._most = _KEPT + 2 * len(self._full_at)


class WindowLimit:
    """A limit of `times` in any window of `seconds`, for each key; a token bucket would admit twice as many.

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
    """At most 50 log lines at once and 5 more per second for each key, so that no key can suppress the lines of others.

    Safe to use from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(LINES_PER_WINDOW, LINES_PER_WINDOW / WINDOW_S, clock)
        self._lock = threading.Lock()
        self._left_out: Counter[Hashable] = Counter()

    def log(self, write: Callable[..., object], event: str, key: Hashable, /, **fields: object) -> None:
        """Write a line, with the number of those that were suppressed before it, if the budget allows it.

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
        """Return None where the line must not be written, else how many were suppressed before it."""
        admitted = self._buckets.take(key)
        with self._lock:
            if admitted:
                return self._left_out.pop(key, 0)
            self._left_out[key] += 1
            return None
