"""Whether others used the machine while something was measured."""

import resource
from collections.abc import Sequence
from pathlib import Path

import psutil

_TICKS_A_SECOND = 100.0  # of /proc/stat
ALLOWED = 0.15  # of a core


class Contention:
    """Counts the processor seconds of everybody but ourselves since it was made."""

    def __init__(self, servers: Sequence[int]) -> None:
        """Begin.

        Args:
            servers: processes of ours that go on; those that ended since are counted by themselves.
        """
        self._servers = servers
        self._before = _busy_s() - self._own_s()

    def share(self, seconds: float) -> float:
        """Return how much of one core others used, in so many seconds."""
        return max(0.0, _busy_s() - self._own_s() - self._before) / seconds

    def _own_s(self) -> float:
        used = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            own = resource.getrusage(who)
            used += own.ru_utime + own.ru_stime
        for pid in self._servers:
            times = psutil.Process(pid).cpu_times()
            used += times.user + times.system
        return used


def _busy_s() -> float:
    """Return what the kernel counts as used by processes, and as taken by other machines on the same hardware."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, steal = (int(fields[place]) for place in (0, 1, 2, 7))
    return (user + nice + system + steal) / _TICKS_A_SECOND
