"""A bound on how much of the log one cause may take, so that nobody can write over what others did."""

import threading
import time
from collections.abc import Hashable

WINDOW_S = 10.0
LINES_PER_WINDOW = 50


class LogBudget:
    """At most 50 lines per 10 s for each key; safe to use from any thread. Keys must come from a small set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[Hashable, tuple[float, int]] = {}  # when it began, and what came in it

    def admit(self, key: Hashable) -> int | None:
        """Return None where the line must not be written, else how many were left out before it."""
        now = time.monotonic()
        with self._lock:
            began, count = self._windows.get(key, (now, 0))
            left_out = 0
            if now - began >= WINDOW_S:
                left_out = max(0, count - LINES_PER_WINDOW)
                began, count = now, 0
            self._windows[key] = (began, count + 1)
        return left_out if count < LINES_PER_WINDOW else None
