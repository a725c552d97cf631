"""What a host measures of itself: the CPU and memory of the container or the machine, and the GPUs.

A container is measured by its own control group, version 1 or 2, since on one machine all containers read the same
/proc. Where the group is the machine's root nothing is limited, and /proc is used. A value that was not measured is
None, never an invented figure.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

MB = 2**20


class GpuSample(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as its driver reports it; `used_mb` is what can't be allocated."""

    index: int
    name: str
    used_mb: float
    total_mb: float
    utilisation_percent: float | None = None


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """A host at one moment: `wall` in seconds since the epoch, `cpu_percent` of the CPU that the host may use.

    `latency_ms` is the round trip to the other agent; `limited` means that the figures are those of a container.
    """

    wall: float
    cpu_percent: float | None
    ram_used_mb: float
    ram_total_mb: float
    vram_used_mb: float | None = None
    vram_total_mb: float | None = None
    gpus: tuple[GpuSample, ...] = ()
    latency_ms: float | None = None
    limited: bool = False


ROOT = Path("/sys/fs/cgroup")

_NO_LIMIT_V1 = 2**60  # version 1 writes "no limit" as the largest page count
_V2_ONLY_BELOW_THE_ROOT = "cgroup.type"
_V1_ONLY_IN_THE_ROOT = "release_agent"


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in use that can't be reclaimed at once, and the limit if there is one; both in MB."""

    used_mb: float
    limit_mb: float | None


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU used since the group was created, and the quota in CPUs; None without a quota."""

    used_s: float
    quota: float | None


class Cgroup:
    """The control group that is mounted at `root`; every reading is None if it is the machine's root group."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def memory(self) -> Memory | None:
        """Return the container's memory; idle page cache counts as free."""
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
        """Return the container's CPU usage."""
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
    except ValueError:  # "max", or a missing file
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
