"""What the detectors of resources judge: the samples, cards, leases, and forecasts of every host."""

import dataclasses
from collections.abc import Iterator

from twinhost.agent.assembly import Foundation
from twinhost.agent.disk import reserve_of
from twinhost.agent.host_metrics import MB, DiskFault
from twinhost.deployment import NO_RESPONSE
from twinhost.network_config import Agent
from twinhost.system_digital_twin.attention.resources import STATE, HostCard, Memory, Unmeasured, Volume
from twinhost.system_digital_twin.capacity.forecast import Card
from twinhost.system_digital_twin.capacity.reservations import QueuedWait, Reservations
from twinhost.system_digital_twin.capacity.time_to_full import Filling, Forecasts
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.registry.registry import Registry

LONG_WAIT_S = 60.0  # for a lease
_FOR_A_MINUTE = 12  # samples, at the default interval


class Machines:
    """The resources of every host, as of now."""

    def __init__(
        self,
        foundation: Foundation,
        registry: Registry,
        metrics: Metrics,
        reservations: Reservations,
        forecasts: Forecasts,
    ) -> None:
        self._foundation, self._registry, self._metrics = foundation, registry, metrics
        self._reservations, self._forecasts = reservations, forecasts
        self._unmeasured_since: dict[str, float] = {}  # monotonic

    def _machine(self, host: str) -> str:
        return self._metrics.machine_of(host) or host

    def cannot_write(self) -> set[str]:
        return {self._foundation.settings.place} if self._foundation.database.fault is not None else set()

    def volumes(self) -> Iterator[Volume]:
        """Yield the state of this process as it is now, and the disks of all hosts as they were measured last."""
        own, settings = self._foundation.settings.place, self._foundation.settings
        seen, fails = self._foundation.disk.volume, bool(self.cannot_write())
        if seen.size:
            sizes = seen.free / MB, seen.size / MB
            volume = Volume(own, STATE, *sizes, self._machine(own), seen.reserve / MB, fails)
            # Now and then a write succeeds all the same, which must not part the silence of others from its cause.
            yield dataclasses.replace(volume, writes_fail=fails or volume.nothing_left)
        reserve_bytes = settings.config.limits.disk_reserve_bytes
        for host in self._metrics.hosts():
            sample = self._metrics.current(host)
            for disk in sample.machine.disks if sample is not None and sample.machine is not None else ():
                is_state = disk.name == STATE
                if not (is_state and host == own and seen.size):
                    reserve_mb = reserve_of(disk.total_mb * MB, reserve_bytes) / MB if is_state else 0.0
                    yield Volume(host, disk.name, disk.free_mb, disk.total_mb, self._machine(host), reserve_mb)

    def disk_faults(self) -> Iterator[tuple[str, str, DiskFault]]:
        for host in self._metrics.hosts():
            sample = self._metrics.current(host)
            for fault in sample.machine.disk_faults if sample is not None and sample.machine is not None else ():
                yield host, self._machine(host), fault

    def memories(self) -> Iterator[Memory]:
        for host in self._metrics.hosts():
            newest, samples = self._metrics.current(host), self._metrics.samples(host)[-_FOR_A_MINUTE:]
            if newest is not None and len(samples) == _FOR_A_MINUTE:
                least_mb = min(sample.ram_used_mb for sample in samples)
                yield Memory(host, least_mb, newest.ram_total_mb, self._machine(host))

    def cards(self) -> Iterator[HostCard]:
        hosts = self._reservations.hosts()
        for host in self._metrics.hosts():
            if (sample := self._metrics.current(host)) is None:
                continue
            machine = self._machine(host)
            for gpu in sample.gpus:
                card = Card(index=gpu.index, uuid=gpu.uuid, used_mb=gpu.used_mb, total_mb=gpu.total_mb)
                yield HostCard(host, card, machine, gpu)
            for card in hosts.cards(host):  # of a driver, it says no more
                yield HostCard(host, card, machine, None, hosts.reporters(host))

    def unmeasured(self) -> Iterator[Unmeasured]:
        """Yield the hosts that have answered for a while, and of which no sample has come."""
        now, grace_s = self._foundation.clock.monotonic(), self._metrics.stale_after_s
        of_hosts = filter(self._runs_at_home, self._foundation.settings.config.agents.values())
        records = ((agent.host.name, self._registry.find(agent.name)) for agent in of_hosts)
        there = {host for host, record in records if record and self._registry.status(record) != NO_RESPONSE}
        stale = [host for host in self._metrics.hosts() if host in there and self._metrics.stale(host)]
        self._unmeasured_since = {host: self._unmeasured_since.get(host, now) for host in stale}
        for host, since in self._unmeasured_since.items():
            if now - since >= grace_s:
                yield Unmeasured(host, self._metrics.last_received(host))

    def _runs_at_home(self, agent: Agent) -> bool:
        """Return whether an agent is on its own host: where it may stand by, and else is not known to be away."""
        log = None if self._foundation.log is None else self._foundation.log.state
        if log is None or (of_agent := log.agents.get(agent.name)) is None:
            return True
        processes = (of_agent.holder, *(standby.name for standby in of_agent.following))
        return agent.host.name in map(agent.host_of, processes)

    def filling(self) -> list[Filling]:
        return self._forecasts.filling()

    def long_waits(self) -> list[QueuedWait]:
        return self._reservations.long_waits(LONG_WAIT_S)
