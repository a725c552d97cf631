"""The hosts as a placement sees them: what is measured of each and of its cards, and what is leased on them."""

import itertools
from collections.abc import Callable, Collection

import msgspec

from twinhost.agent.host_metrics import HostSample
from twinhost.system_digital_twin.capacity.forecast import Card, HostState
from twinhost.system_digital_twin.capacity.leases import Leases, OpenLease, leased
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.metrics.vram_reports import VramRecord, VramReports, card_of, is_gpu

_MEASURED = ("cpu_percent", "ram_used_mb", "ram_total_mb", "latency_ms")


class Hosts:
    """The state of every host at one moment, read when it is needed."""

    def __init__(self, metrics: Metrics, reports: VramReports, leases: Leases, dead: Collection[str] = ()) -> None:
        """What the agents in `dead` have reported to use is free."""
        self._metrics = metrics
        self._reports = reports
        self._dead = dead
        self._leases = leases.by_host()
        self._by_machine: dict[str | None, list[OpenLease]] = {}
        for held in itertools.chain.from_iterable(self._leases.values()):
            self._by_machine.setdefault(self._machine_of(held), []).append(held)
        self._states: dict[str, HostState] = {}

    def names(self, host: str | None) -> list[str]:
        """Return the host that is asked for, or all."""
        return self._metrics.hosts() if host is None else [host]

    def leases(self, host: str) -> list[OpenLease]:
        """Return the leases on a host, and on the others of its machine, which share its memory."""
        machine, own = self._metrics.machine_of(host), self._leases.get(host, [])
        if machine is None:
            return own
        return [*self._by_machine.get(machine, []), *(held for held in own if self._machine_of(held) != machine)]

    def _machine_of(self, held: OpenLease) -> str | None:
        """Return the machine of a lease; where an older version stored it without, the one that its host is on now."""
        host = held.lease.host
        return held.lease.machine or (self._metrics.machine_of(host) if host in self._metrics.hosts() else None)

    def state(self, host: str) -> HostState:
        """Return the metrics and leases of a host; NotFound for an unknown one."""
        if host not in self._states:
            sample, since, open_now = self._metrics.current(host), self._metrics.measured_since(host), self.leases(host)
            self._states[host] = HostState(
                host=host,
                **{name: getattr(sample, name) for name in _MEASURED if sample},
                ram_leased=leased(open_now, "ram", lambda _: since),
                vram_leased=leased(open_now, "vram", lambda _: since),
                cards=self._cards(host) if sample else (),
            )
        return self._states[host]

    def _cards(self, host: str) -> tuple[Card, ...]:
        """Return the cards that a driver on a host's machine measures; without one, those that agents there report."""
        on_machine = [host, *self._metrics.same_machine(host)]
        driven = next((name for name in on_machine if _measured(self._metrics.current(name))), None)
        measured_since: Callable[[str], float]
        if driven is None:
            cards = _reported(self._reports.of_hosts(on_machine), self._dead)
            measured_since = self._reports.received_at  # each holder reports its own use
        else:
            cards, since = _measured(self._metrics.current(driven)), self._metrics.measured_since(driven)
            measured_since = lambda _: since  # noqa: E731
        open_now = self.leases(host)
        return tuple(
            msgspec.structs.replace(card, leased=leased(open_now, "vram", measured_since, card.gpu)) for card in cards
        )


def _measured(sample: HostSample | None) -> list[Card]:
    """Return the cards of a sample; one where an older host sent a sum alone."""
    if sample is None:
        return []
    if not sample.gpus and sample.vram_used_mb is not None and sample.vram_total_mb is not None:
        return [Card(index=0, used_mb=sample.vram_used_mb, total_mb=sample.vram_total_mb)]
    return [Card(index=gpu.index, uuid=gpu.uuid, used_mb=gpu.used_mb, total_mb=gpu.total_mb) for gpu in sample.gpus]


def _reported(reports: list[VramRecord], dead: Collection[str]) -> list[Card]:
    """Return the cards whose capacities agents state; if none does, the one card that all of them name.

    Where agents state different capacities of a card, the least counts.
    """
    alive = [report for report in reports if report.agent_name not in dead]
    capacities: dict[int, float] = {}
    for report in reports:
        for device, total_mb in report.device_totals_mb.items():
            if (index := card_of(device)) is not None:
                capacities[index] = min(total_mb, capacities.get(index, total_mb))
    if capacities:
        return [
            Card(index=index, used_mb=sum(report.used_on(index) for report in alive), total_mb=total_mb)
            for index, total_mb in sorted(capacities.items())
        ]
    devices = {device for report in reports for device in report.devices if is_gpu(device)}
    total_mb = max((report.total_vram_mb for report in reports), default=0.0)
    if len(devices) > 1 or not total_mb:
        return []
    digits = "".join(devices)[len("".join(devices).rstrip("0123456789")) :]  # "cuda:1", "1"
    return [Card(index=int(digits[:3] or 0), used_mb=sum(report.used_mb for report in alive), total_mb=total_mb)]
