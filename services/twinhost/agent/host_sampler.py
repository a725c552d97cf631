"""Sample a host: the container's own figures in a container, else the machine's."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import structlog

from twinhost.agent.gpus import Gpus
from twinhost.agent.host_metrics import MB, Cgroup, HostSample
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

_SHORTEST_S = 0.05  # over a shorter time, the CPU figure is noise, because of the clock's granularity
_FIRST_AFTER_S = 0.5
_STALE_AFTER = 3  # intervals


@dataclass(frozen=True, slots=True)
class _Reading:
    """CPU seconds used so far, of the `cpus` that may be used, at a monotonic time."""

    used_s: float
    cpus: float
    at: float


class HostSampler:
    """Takes samples; the CPU figure is for the time since the sample before."""

    def __init__(self, cgroup: Cgroup | None = None, gpus: Gpus | None = None) -> None:
        self._cgroup = cgroup or Cgroup()
        self._gpus = gpus or Gpus()
        self._before = self._read_cpu()[0]

    def sample(self) -> HostSample:
        """Return a sample; its `cpu_percent` is None if no time has passed since the sample before."""
        reading, limited = self._read_cpu()
        used_mb, total_mb, memory_is_limited = self._read_ram()
        gpus = self._gpus.read()
        return HostSample(
            wall=time.time(),
            cpu_percent=self._cpu_percent(reading),
            ram_used_mb=used_mb,
            ram_total_mb=total_mb,
            vram_used_mb=sum(gpu.used_mb for gpu in gpus) if gpus else None,
            vram_total_mb=sum(gpu.total_mb for gpu in gpus) if gpus else None,
            gpus=gpus,
            limited=limited or memory_is_limited,
        )

    def _cpu_percent(self, reading: _Reading) -> float | None:
        before, passed_s = self._before, reading.at - self._before.at
        if passed_s < _SHORTEST_S:
            return None
        self._before = reading
        return min(100.0, max(0.0, 100 * (reading.used_s - before.used_s) / passed_s / reading.cpus))

    def _read_cpu(self) -> tuple[_Reading, bool]:
        """Return the reading, and whether a quota applies."""
        own = self._cgroup.cpu()
        if own is None:
            times = psutil.cpu_times()
            idle_s = times.idle + getattr(times, "iowait", 0.0)
            guest_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user and nice too
            return _Reading(sum(times) - guest_s - idle_s, float(psutil.cpu_count() or 1), time.monotonic()), False
        may_use = float(len(os.sched_getaffinity(0)))
        limited = own.quota is not None and own.quota < may_use
        return _Reading(own.used_s, own.quota if limited and own.quota else may_use, time.monotonic()), limited

    def _read_ram(self) -> tuple[float, float, bool]:
        """Return MB used, MB in total, and whether the total is a container's limit."""
        machine, own = psutil.virtual_memory(), self._cgroup.memory()
        if own is not None and own.limit_mb is not None and own.limit_mb < machine.total / MB:
            return own.used_mb, own.limit_mb, True
        return (machine.total - machine.available) / MB, machine.total / MB, False


class SamplerThread(Worker):
    """Takes a sample every `interval_s` on a thread of its own, so that a driver that hangs blocks nothing else."""

    def __init__(
        self, interval_s: float, take: Callable[[HostSample], None], sampler: HostSampler | None = None
    ) -> None:
        """Pass every sample to `take`, on this thread."""
        super().__init__("host-sampler", self._run, join_timeout_s=1.0)
        self._interval_s = interval_s
        self._take = take
        self._sampler = sampler or HostSampler()
        self._taken_at = time.monotonic()

    @property
    def fault(self) -> str | None:
        """What is wrong; None while samples arrive."""
        silent_s = time.monotonic() - self._taken_at
        if silent_s > max(_STALE_AFTER * self._interval_s, _FIRST_AFTER_S + self._interval_s):
            return f"this host has not been measured for {silent_s:.0f} s; see the agent's log"
        return None

    def start(self) -> None:
        self._taken_at = time.monotonic()
        super().start()

    def _run(self) -> None:
        wait_s = min(_FIRST_AFTER_S, self._interval_s)
        while not self.wait(wait_s):
            started = time.monotonic()
            try:
                self._take(self._sampler.sample())
                self._taken_at = time.monotonic()
            except (OSError, psutil.Error) as error:
                _log.warning("host_not_measured", reason=str(error))
            wait_s = max(0.0, self._interval_s - (time.monotonic() - started))
