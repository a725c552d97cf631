"""What a host measures of itself: its machine, the GPUs, and, apart, the container that its agent runs in.

The container is measured by its own control group, version 1 or 2. Where the group is the machine's root there is no
container. A value that was not measured is None, never an invented figure.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

MB = 2**20

MEGABYTES = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
PERCENT = Annotated[float, msgspec.Meta(ge=0, le=100)]
CELSIUS = Annotated[float, msgspec.Meta(ge=-273.15, le=1e4)]
BYTES_PER_S = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
CPUS = Annotated[float, msgspec.Meta(gt=0, le=1e5)]
LOAD = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
TEXT = Annotated[str, msgspec.Meta(max_length=256)]
MAX_PROCESSES = 128  # on all GPUs of a host: 64 hosts must fit into one reply


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that uses a GPU: the `name` of its program, without arguments; null for what the driver hides."""

    pid: Annotated[int, msgspec.Meta(ge=0, le=2**32)]
    name: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    used_mb: MEGABYTES | None = None


class GpuSample(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as its driver reports it; `used_mb` is all that can't be allocated, `processes` the visible ones.

    From `slowdown_c` on the card slows itself down; null where its driver does not say.
    """

    index: Annotated[int, msgspec.Meta(ge=0, le=1_023)]
    name: TEXT
    used_mb: MEGABYTES
    total_mb: MEGABYTES
    utilisation_percent: PERCENT | None = None
    uuid: Annotated[str, msgspec.Meta(max_length=96)] | None = None
    temperature_c: CELSIUS | None = None
    slowdown_c: CELSIUS | None = None
    processes: Annotated[tuple[GpuProcess, ...], msgspec.Meta(max_length=MAX_PROCESSES)] = ()


class DiskSample(msgspec.Struct, frozen=True, kw_only=True):
    """The filesystem of the state (`state`) or of the models' folder (`models`); `free_mb` is what users can write."""

    name: TEXT
    used_mb: MEGABYTES
    free_mb: MEGABYTES
    total_mb: MEGABYTES


class DiskFault(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says is wrong with a disk: a device, or `state`; `fault` is how a sentence about it goes on."""

    disk: Annotated[str, msgspec.Meta(max_length=64)]
    fault: Annotated[str, msgspec.Meta(max_length=128)]


MAX_DISK_FAULTS = 8


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes per second since the previous sample."""

    received_bytes_per_s: BYTES_PER_S
    sent_bytes_per_s: BYTES_PER_S


class MachineSample(msgspec.Struct, frozen=True, kw_only=True):
    """More of the machine: `load` has the averages over 1, 5, and 15 minutes, `network` the physical cards' traffic.

    Hosts with the same `boot_id` are one machine. In a virtual machine, `virtual_machine` names the product that runs
    it, such as Docker Desktop.
    """

    cpus: CPUS | None = None
    load: Annotated[tuple[LOAD, ...], msgspec.Meta(min_length=3, max_length=3)] | None = None
    swap_used_mb: MEGABYTES | None = None
    swap_total_mb: MEGABYTES | None = None
    disks: Annotated[tuple[DiskSample, ...], msgspec.Meta(max_length=8)] = ()
    network: Traffic | None = None
    temperature_c: CELSIUS | None = None
    boot_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    virtual_machine: TEXT | None = None
    disk_faults: Annotated[tuple[DiskFault, ...], msgspec.Meta(max_length=MAX_DISK_FAULTS)] = ()


class ContainerSample(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's own container: `cpu_percent` of the `cpus` that it may use; no `ram_limit_mb` if it has no limit."""

    cpu_percent: PERCENT | None = None
    cpus: CPUS | None = None
    ram_used_mb: MEGABYTES | None = None
    ram_limit_mb: MEGABYTES | None = None
    network: Traffic | None = None


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """A host at one moment: `wall` in seconds since the epoch, `cpu_percent` of all CPUs of the machine.

    `latency_ms` is the round trip to the other agent. `limited`, in the reports of older hosts, means that CPU and RAM
    are those of a container. `machine` is None in those reports; `container` is None there, and outside a container.
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
    machine: MachineSample | None = None
    container: ContainerSample | None = None

    def disk_used_mb(self, name: str) -> float | None:
        """Return the used MB of a disk, or None if it is not measured."""
        disks = self.machine.disks if self.machine else ()
        return next((disk.used_mb for disk in disks if disk.name == name), None)


def boot_id(proc: Path = Path("/proc")) -> str | None:
    """Return what identifies this machine until it restarts, the same in each of its containers."""
    return read_text(proc / "sys/kernel/random/boot_id").strip() or None


ROOT = Path("/sys/fs/cgroup")

_NO_LIMIT_V1 = 2**60  # version 1 writes "no limit" as the largest page count
_V2_ONLY_BELOW_THE_ROOT = "cgroup.type"
_V1_ONLY_IN_THE_ROOT = "release_agent"


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory in use that can't be reclaimed at once, and the limit if there is one; both in MB."""

    used_mb: float
    limit_mb: float | None


@dataclass(frozen=True, slots=True)
class CpuUse:
    """Seconds of CPU used since the group was created, and the quota in CPUs; None without a quota."""

    used_s: float
    quota: float | None


class Cgroup:
    """The control group that is mounted at `root`; every reading is None if it is the machine's root group."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def memory(self) -> MemoryUse | None:
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
        return MemoryUse(max(0, used - (idle or 0)) / MB, None if limit is None else limit / MB)

    def cpu(self) -> CpuUse | None:
        """Return the container's CPU usage."""
        if (self._root / _V2_ONLY_BELOW_THE_ROOT).exists():
            used_us = _field(self._root / "cpu.stat", "usage_usec")
            return None if used_us is None else CpuUse(used_us / 1e6, _quota_v2(self._root / "cpu.max"))
        folder = self._v1("cpuacct")
        used_ns = None if folder is None else _number(folder / "cpuacct.usage")
        return None if used_ns is None else CpuUse(used_ns / 1e9, self._quota_v1())

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


def read_text(path: Path) -> str:
    """Return the text of a file of the kernel; an empty one if it can't be read."""
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
    return _whole(read_text(path).strip())


def _field(path: Path, name: str) -> int | None:
    for line in read_text(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return _whole(words[1])
    return None


def _quota_v2(path: Path) -> float | None:
    words = [_whole(word) for word in read_text(path).split()]
    if len(words) != 2 or words[0] is None or not words[1]:
        return None
    return words[0] / words[1]
