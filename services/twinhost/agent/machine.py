"""The machine of a host, as /proc and /sys show it, which are the machine's in a container too.

Two exceptions: lxcfs mounts another /proc, whose values then count as the machine's; and a container has its own
network interfaces, unless it uses the machine's network.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from twinhost.agent.host_metrics import MB, DiskSample, boot_id, read_text

_CPU_SENSORS = ("x86_pkg_temp", "coretemp", "k10temp", "zenpower", "cpu", "soc")  # how their names begin
_COLDEST_C, _HOTTEST_C = -50.0, 150.0  # beyond that a sensor is not connected
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
        self._sys = sys
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


def _celsius(path: Path) -> float | None:
    try:
        value = int(read_text(path)) / 1_000
    except ValueError:
        return None
    return value if _COLDEST_C < value < _HOTTEST_C else None
