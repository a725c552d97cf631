"""Sample a host: its machine, its GPUs, and the container that its agent runs in."""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import structlog

from twinhost.agent.assembly import Foundation
from twinhost.agent.host_gauges import sample_metrics
from twinhost.agent.host_metrics import MB, Cgroup, ContainerSample, GpuSample, HostSample, MachineSample, Traffic
from twinhost.agent.machine import ByteCounts, Machine
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.worker import Worker

if TYPE_CHECKING:
    from twinhost.agent.gpus import Gpus

_log = structlog.get_logger(__name__)

_SHORTEST_S = 0.05  # over a shorter time, the CPU figure is noise, because of the clock's granularity
_FIRST_AFTER_S = 0.5
_STALE_AFTER = 3  # intervals


@dataclass(frozen=True, slots=True)
class _Reading:
    """Counters at a monotonic time; CPU in seconds of use, None outside a container."""

    at: float
    machine_cpu_s: float
    container_cpu_s: float | None
    machine_bytes: ByteCounts | None
    container_bytes: ByteCounts | None


class HostSampler:
    """Takes samples; CPU and network are measured over the time since the previous sample."""

    def __init__(
        self, cgroup: Cgroup | None = None, machine: Machine | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.clock = self._clock = clock
        self._cgroup = cgroup or Cgroup()
        self._gpus: Gpus | None = None
        self._machine = machine or Machine()
        self._before = self._read()

    def sample(self) -> HostSample:
        """Return a sample; CPU and network are None if no time has passed since the previous sample."""
        before, now = self._before, self._read()
        passed_s = now.at - before.at
        if passed_s >= _SHORTEST_S:
            self._before = now
        memory, cpus, gpus = psutil.virtual_memory(), psutil.cpu_count() or 1, self._read_gpus()
        used_s = _per_s(before.machine_cpu_s, now.machine_cpu_s, passed_s)
        return HostSample(
            wall=self._clock.time(),
            cpu_percent=_percent(used_s, cpus),
            ram_used_mb=(memory.total - memory.available) / MB,
            ram_total_mb=memory.total / MB,
            vram_used_mb=sum(gpu.used_mb for gpu in gpus) if gpus else None,
            vram_total_mb=sum(gpu.total_mb for gpu in gpus) if gpus else None,
            gpus=gpus,
            machine=self._more(cpus, _traffic(before.machine_bytes, now.machine_bytes, passed_s)),
            container=self._container(before, now, passed_s),
        )

    def _read_gpus(self) -> tuple[GpuSample, ...]:
        """Return the GPUs that can be measured now; without a driver, pynvml is not imported: 2 MB."""
        if self._gpus is None:
            try:
                ctypes.CDLL("libnvidia-ml.so.1")
            except OSError:
                return ()
            from twinhost.agent.gpus import Gpus  # noqa: PLC0415 - only now

            self._gpus = Gpus()
        return self._gpus.read()

    def _read(self) -> _Reading:
        own = self._cgroup.cpu()
        machine_bytes, container_bytes = self._machine.traffic()
        return _Reading(
            self._clock.monotonic(),
            self._machine.cpu_used_s(),
            own.used_s if own else None,
            machine_bytes,
            container_bytes,
        )

    def _more(self, cpus: int, network: Traffic | None) -> MachineSample:
        swap, (one, five, fifteen) = psutil.swap_memory(), os.getloadavg()
        return MachineSample(
            cpus=cpus,
            load=(round(one, 2), round(five, 2), round(fifteen, 2)),
            swap_used_mb=round(swap.used / MB, 2),
            swap_total_mb=round(swap.total / MB, 2),
            disks=self._machine.disks(),
            network=network,
            temperature_c=self._machine.temperature_c(),
            boot_id=self._machine.boot_id,
            virtual_machine=self._machine.virtual_machine,
            disk_faults=self._machine.disk_faults(),
        )

    def _container(self, before: _Reading, now: _Reading, passed_s: float) -> ContainerSample | None:
        cpu, memory = self._cgroup.cpu(), self._cgroup.memory()
        if cpu is None and memory is None:
            return None
        cpus = float(len(os.sched_getaffinity(0)))
        if cpu is not None and cpu.quota is not None and 0 < cpu.quota < cpus:
            cpus = cpu.quota
        used_s = _per_s(before.container_cpu_s, now.container_cpu_s, passed_s)
        limit_mb = memory.limit_mb if memory else None
        if limit_mb is not None and limit_mb >= psutil.virtual_memory().total / MB:
            limit_mb = None
        return ContainerSample(
            cpu_percent=_percent(used_s, cpus),
            cpus=cpus,
            ram_used_mb=None if memory is None else round(memory.used_mb, 2),
            ram_limit_mb=limit_mb,
            network=_traffic(before.container_bytes, now.container_bytes, passed_s),
        )


def _per_s(before: float | None, now: float | None, passed_s: float) -> float | None:
    """Return how much a counter grew per second; None if it is not known, or if too little time has passed."""
    if before is None or now is None or passed_s < _SHORTEST_S:
        return None
    return max(0.0, (now - before) / passed_s)


def _percent(used_s: float | None, cpus: float) -> float | None:
    return None if used_s is None else min(100.0, round(100 * used_s / cpus, 2))


def _traffic(before: ByteCounts | None, now: ByteCounts | None, passed_s: float) -> Traffic | None:
    if before is None or now is None:
        return None
    received = _per_s(before.received, now.received, passed_s)
    sent = _per_s(before.sent, now.sent, passed_s)
    if received is None or sent is None:
        return None
    return Traffic(received_bytes_per_s=round(received, 1), sent_bytes_per_s=round(sent, 1))


def _leave_out(_: HostSample) -> None:
    pass


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
        self._clock = self._sampler.clock
        self._taken_at = self._clock.monotonic()
        self._newest: HostSample | None = None

    @classmethod
    def of(cls, foundation: Foundation, take: Callable[[HostSample], None]) -> "SamplerThread":
        """Return the sampler of this machine, which the agent's health and metrics show too.

        It takes for the agent's own host only: of another one, the agent of that one does, or stands by and does.
        """
        settings = foundation.settings
        sampler = HostSampler(machine=Machine(settings.disks), clock=foundation.clock)
        if settings.place != settings.agent.host.name:
            take = _leave_out
        thread = cls(settings.config.limits.metrics_interval_s, take, sampler)
        foundation.health.add("metrics", lambda: thread.fault, essential=False)
        foundation.telemetry.register(lambda: sample_metrics(thread.current()))
        return thread

    def current(self) -> HostSample | None:
        """Return the newest sample, or None if it is too old; on any thread."""
        return None if self.fault else self._newest

    @property
    def fault(self) -> str | None:
        """What is wrong; None while samples arrive."""
        silent_s = self._clock.monotonic() - self._taken_at
        if silent_s > max(_STALE_AFTER * self._interval_s, _FIRST_AFTER_S + self._interval_s):
            return f"this host has not been measured for {silent_s:.0f} s; see the agent's log"
        return None

    def start(self) -> None:
        self._taken_at = self._clock.monotonic()
        super().start()

    def _run(self) -> None:
        wait_s = min(_FIRST_AFTER_S, self._interval_s)
        while not self.wait(wait_s):
            started = self._clock.monotonic()
            try:
                self._newest = self._sampler.sample()
                self._take(self._newest)
                self._taken_at = self._clock.monotonic()
            except (OSError, psutil.Error) as error:
                _log.warning("host_not_measured", reason=str(error))
            wait_s = max(0.0, self._interval_s - (self._clock.monotonic() - started))
