"""How often somebody may propose keys: each takes work at the disk, and once retired a mark that stays for ever."""

import time
from collections import deque


class Rate:
    """At most so many times in so many seconds, for each of a small set of names."""

    def __init__(self, times: int, seconds: float) -> None:
        self._times = times
        self._seconds = seconds
        self._admitted: dict[str, deque[float]] = {}

    def admit(self, name: str) -> bool:
        """Return whether it may happen once more now; only then it is counted."""
        times = self._admitted.setdefault(name, deque(maxlen=self._times))
        now = time.monotonic()
        if len(times) == self._times and now - times[0] < self._seconds:
            return False
        times.append(now)
        return True
