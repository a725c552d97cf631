"""The container's own control group, versions 1 and 2; on one machine all containers read the same /proc.

Where the group is the machine's root nothing is limited and nothing is read: a machine is measured by /proc.
"""

from dataclasses import dataclass
from pathlib import Path

from twinhost.agent.host_metrics.sample import MB

ROOT = Path("/sys/fs/cgroup")

_NO_LIMIT_V1 = 2**60  # version 1 writes "no limit" as the largest page count there is
_V2_ONLY_BELOW_THE_ROOT = "cgroup.type"
_V1_ONLY_IN_THE_ROOT = "release_agent"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in use that can't be given back at once, and the limit where there is one; both in MB."""

    used_mb: float
    limit_mb: float | None


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU used since the group began, and how many CPUs' worth the quota allows; None for all."""

    used_s: float
    quota: float | None


class Cgroup:
    """The control group that is mounted at `root`; every reading is None where it is a machine's."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def memory(self) -> Memory | None:
        """Return what the container uses and may use; page cache that is idle counts as free."""
        if (self._root / _V2_ONLY_BELOW_THE_ROOT).exists():
            used, limit = _number(self._root / "memory.current"), _number(self._root / "memory.max")
            idle = _field(self._root / "memory.stat", "inactive_file")
        elif (folder := self._v1("memory")) is not None:
            used, limit = _number(folder / "memory.usage_in_bytes"), _number(folder / "memory.limit_in_bytes")
            idle = _field(folder / "memory.stat", "total_inactive_file")
            limit = None if limit is None or limit >= _NO_LIMIT_V1 else limit
        else:
            return None
        if used is None:
            return None
        return Memory(max(0, used - (idle or 0)) / MB, None if limit is None else limit / MB)

    def cpu(self) -> Cpu | None:
        """Return how much CPU the container has used."""
        if (self._root / _V2_ONLY_BELOW_THE_ROOT).exists():
            used_us = _field(self._root / "cpu.stat", "usage_usec")
            return None if used_us is None else Cpu(used_us / 1e6, _quota_v2(self._root / "cpu.max"))
        folder = self._v1("cpuacct")
        used_ns = None if folder is None else _number(folder / "cpuacct.usage")
        return None if used_ns is None else Cpu(used_ns / 1e9, self._quota_v1())

    def _quota_v1(self) -> float | None:
        folder = self._v1("cpu")
        if folder is None:
            return None
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return quota / period if quota is not None and quota > 0 and period else None

    def _v1(self, controller: str) -> Path | None:
        for name in (controller, "cpu,cpuacct", "cpuacct,cpu") if controller != "memory" else (controller,):
            folder = self._root / name
            if (folder / "cgroup.procs").exists():
                return None if (folder / _V1_ONLY_IN_THE_ROOT).exists() else folder
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _whole(word: str) -> int | None:
    try:
        return int(word)
    except ValueError:  # "max", or a file that is not there
        return None


def _number(path: Path) -> int | None:
    return _whole(_text(path).strip())


def _field(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return _whole(words[1])
    return None


def _quota_v2(path: Path) -> float | None:
    words = [_whole(word) for word in _text(path).split()]
    if len(words) != 2 or words[0] is None or not words[1]:
        return None
    return words[0] / words[1]
