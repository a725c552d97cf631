"""The machine of a host, as /proc and /sys show it, which are the machine's in a container too.

Two exceptions: lxcfs mounts another /proc, whose values then count as the machine's; and a container has its own
network interfaces, unless it uses the machine's network.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from twinhost.agent.host_metrics import MAX_DISK_FAULTS, MB, DiskFault, DiskSample, boot_id, read_text

_CPU_SENSORS = ("x86_pkg_temp", "coretemp", "k10temp", "zenpower", "cpu", "soc")  # how their names begin
_COLDEST_C, _HOTTEST_C = -50.0, 150.0  # beyond that a sensor is not connected
_DEAD_DISKS = ("offline", "transport-offline", "dead", "broken")  # states of SCSI and NVMe devices, and of RAIDs
_STOPPED = frozenset({"emergency_ro", "shutdown"})  # what ext4 adds to its options: since Linux 6.15 without `ro`
_VIRTUAL_MACHINES = {"linuxkit": "Docker Desktop", "microsoft": "WSL 2"}  # by a word in the kernel's release


@dataclass(frozen=True, slots=True)
class ByteCounts:
    """Bytes received and sent since the start."""

    received: int
    sent: int


class Machine:
    """Reads the machine, and the filesystems of the folders in `disks`, by name."""

    def __init__(
        self, disks: Mapping[str, Path] | None = None, proc: Path = Path("/proc"), sys: Path = Path("/sys")
    ) -> None:
        self._disks = dict(disks or {})
        self._proc, self._sys = proc, sys
        self.boot_id = boot_id(proc)
        release = read_text(proc / "sys/kernel/osrelease").lower()
        self.virtual_machine = next((name for word, name in _VIRTUAL_MACHINES.items() if word in release), None)

    def cpu_used_s(self) -> float:
        """Return the seconds that all CPUs together were busy since the start."""
        times = psutil.cpu_times()
        idle_s = times.idle + getattr(times, "iowait", 0.0)
        guest_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user and nice too
        return float(sum(times) - guest_s - idle_s)

    def disks(self) -> tuple[DiskSample, ...]:
        """Return the filesystems that can be measured."""
        samples = []
        for name, path in self._disks.items():
            with contextlib.suppress(OSError):
                usage = psutil.disk_usage(str(path))
                sizes = {"used_mb": usage.used, "free_mb": usage.free, "total_mb": usage.total}
                samples.append(DiskSample(name=name, **{field: round(size / MB, 2) for field, size in sizes.items()}))
        return tuple(samples)

    def disk_faults(self) -> tuple[DiskFault, ...]:
        """Return what the kernel shows to everybody, in a container too: of all disks of the machine, and of `state`.

        What SMART knows needs privileges, which an agent does not have.
        """
        return tuple(itertools.islice(self._disk_faults(), MAX_DISK_FAULTS))

    def _disk_faults(self) -> Iterator[DiskFault]:
        if self._state_is_read_only():
            yield DiskFault(disk="state", fault="is read-only, as the kernel has it after an error")
        for path in sorted(self._sys.glob("fs/ext4/*/errors_count")):
            yield from _errors(path.parent.name, _count(path), "ext4")
        for path in sorted(self._sys.glob("fs/btrfs/*/devinfo/*/error_stats")):
            counts = (int(word) for word in read_text(path).split() if word.isdecimal())
            yield from _errors(path.parents[2].name, sum(counts), "btrfs")
        for path in sorted(self._sys.glob("block/md*/md/degraded")):
            if (missing := _count(path)) > 0:
                yield _fault(path.parents[1].name, f"is a degraded RAID, which lacks {missing} of its disks")
        for path in sorted([*self._sys.glob("block/*/device/state"), *self._sys.glob("block/md*/md/array_state")]):
            if (word := read_text(path).strip()) in _DEAD_DISKS:
                yield _fault(path.parents[1].name, f"is {word}")
        for path in sorted(self._proc.glob("spl/kstat/zfs/*/state")):
            if (word := read_text(path).strip()) not in ("", "ONLINE"):
                yield _fault(path.parent.name, f"is a ZFS pool whose state is {word}")

    def _state_is_read_only(self) -> bool:
        """Return whether the state's filesystem is mounted read-only, or ext4 has stopped writing to it."""
        folder = self._disks.get("state")
        if folder is None:
            return False
        try:
            flags, device = os.statvfs(folder).f_flag, folder.stat().st_dev
        except OSError:
            return False
        number = f"{os.major(device)}:{os.minor(device)}"
        mounts = (line.partition(" - ") for line in read_text(self._proc / "self/mountinfo").splitlines())
        return bool(flags & os.ST_RDONLY) or any(
            mount.split()[2:3] == [number] and _STOPPED & set(filesystem.split(" ")[-1].split(","))
            for mount, _, filesystem in mounts
        )

    def traffic(self) -> tuple[ByteCounts | None, ByteCounts | None]:
        """Return the bytes of the machine's physical interfaces, or, if none is visible, of the container's own.

        Virtual ones (bridges, bonds, tunnels) would count the same bytes again.
        """
        counters = psutil.net_io_counters(pernic=True)
        physical = [name for name in counters if (self._sys / "class/net" / name / "device").exists()]
        names = physical or [name for name in counters if name != "lo"]
        total = ByteCounts(
            sum(counters[name].bytes_recv for name in names), sum(counters[name].bytes_sent for name in names)
        )
        return (total, None) if physical else (None, total)

    def temperature_c(self) -> float | None:
        """Return the temperature of the hottest CPU sensor; without one, that of the hottest thermal zone."""
        zones = [(read_text(zone / "type"), zone / "temp") for zone in self._sys.glob("class/thermal/thermal_zone*")]
        chips = [
            (read_text(input_.parent / "name"), input_) for input_ in self._sys.glob("class/hwmon/hwmon*/temp*_input")
        ]
        cpu = [path for name, path in (*zones, *chips) if name.startswith(_CPU_SENSORS)]
        for paths in (cpu, [path for _, path in zones]):
            known = [value for path in paths if (value := _celsius(path)) is not None]
            if known:
                return max(known)
        return None


def _errors(device: str, count: int, filesystem: str) -> Iterator[DiskFault]:
    if count > 0:
        yield _fault(device, f"has {count} {'error' if count == 1 else 'errors'} of its {filesystem} filesystem")


def _fault(device: str, fault: str) -> DiskFault:
    return DiskFault(disk=device[:64], fault=fault)


def _count(path: Path) -> int:
    """Return a number of the kernel; 0 where it is not known."""
    word = read_text(path).strip()
    return int(word) if word.isdecimal() else 0


def _celsius(path: Path) -> float | None:
    try:
        value = int(read_text(path)) / 1_000
    except ValueError:
        return None
    return value if _COLDEST_C < value < _HOTTEST_C else None
