"""The actions on metrics.

Clients that were written for one host read `metrics["cpu_usage"]` and `history["cpu_usage"]`. So these fields are at
the top, and are mainpc's. The same fields of every host, mainpc included, are under `hosts`, by name. With `host` in
the request, `history` is that host's only.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec

from twinhost.agent.host_metrics import (
    MAX_PROCESSES,
    MEGABYTES,
    PERCENT,
    ContainerSample,
    GpuSample,
    HostSample,
    MachineSample,
)
from twinhost.agent.request_times import EPOCH_S
from twinhost.network_config import Agent
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.budgets import Budgets
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotFound, NotGranted
from twinhost.secure_zmq.wire import NAME, OWN_NAME, Request
from twinhost.system_digital_twin import SUCCESS, Success
from twinhost.system_digital_twin.metrics.history import TimeSeries
from twinhost.system_digital_twin.metrics.metrics import HostMetrics, Metrics
from twinhost.system_digital_twin.metrics.vram_reports import VramRecord, VramReport, VramReports, card_of, is_gpu
from twinhost.system_digital_twin.registry.actions import require_speaks_for

MILLISECONDS = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
AGE_S = Annotated[float, msgspec.Meta(ge=0, le=4e9)]  # up to an age before the epoch, until the year 2096


class GetMetrics(Request, tag="get_metrics"):
    """Return the metrics of every host: the current ones, or those of the samples in memory."""

    metrics_type: Literal["current", "history"] = "current"


class GetHistory(Request, tag="get_history"):
    """Return the metrics of one host or all over time: the samples in memory, or means per minute or hour on disk."""

    host: NAME | None = None
    resolution: Literal["sample", "minute", "hour"] = "sample"


GPUS = Annotated[tuple[GpuSample, ...], msgspec.Meta(max_length=64)]


class ReportMetrics(Request, tag="report_metrics"):
    """Report what the caller's host has measured of itself, an agent's action; `host` is needed on an open link only.

    Of a host on which the configuration has agents, only these report.

    `wall` is when it was measured, in seconds since the epoch by the host's clock; a sample with it is counted once,
    even if it is sent again. `late_by_s` is the age of a late sample in seconds, which needs `wall` and enters only the
    history. CPU, RAM, and `machine` are the machine's, `container` has the agent's own container. With `limited`, which
    older hosts send, CPU and RAM are the container's.
    """

    ram_used_mb: MEGABYTES
    ram_total_mb: MEGABYTES
    cpu_percent: PERCENT | None = None
    vram_used_mb: MEGABYTES | None = None
    vram_total_mb: MEGABYTES | None = None
    gpus: GPUS = ()
    latency_ms: MILLISECONDS | None = None
    limited: bool = False
    machine: MachineSample | None = None
    container: ContainerSample | None = None
    host: NAME | None = None
    wall: EPOCH_S | None = None
    late_by_s: AGE_S | None = None

    def __post_init__(self) -> None:
        if sum(len(gpu.processes) for gpu in self.gpus) > MAX_PROCESSES:
            raise ValueError(f"Expected at most {MAX_PROCESSES} processes on all GPUs - at `$.gpus[].processes`")
        if self.late_by_s is not None and self.wall is None:
            raise ValueError("Object missing required field `wall`: a late sample says when it was measured")


class LoadedModel(msgspec.Struct):
    """A model that an agent has loaded, and the device that it is on."""

    device: NAME
    vram_usage_mb: MEGABYTES


class VramPayload(msgspec.Struct, kw_only=True):
    """The VRAM that an agent manages, in MB; `device_totals_mb` has the capacity of each card, such as `cuda:1`."""

    agent_name: OWN_NAME
    total_vram_mb: MEGABYTES
    total_vram_used_mb: MEGABYTES
    loaded_models: Annotated[dict[NAME, LoadedModel], msgspec.Meta(max_length=1_024)]
    device_totals_mb: Annotated[dict[NAME, MEGABYTES], msgspec.Meta(max_length=64)] = {}


class UpdateVramMetrics(Request, tag="update_vram_metrics"):
    """Report which models an agent has loaded, and their VRAM in MB.

    It counts on the caller's host. If that is not measured, `host` names the one that the agent runs on; without
    `host`, that of the caller's leases counts. Without a driver, the cards in `device_totals_mb` can be leased, or the
    only one that is named.
    """

    payload: VramPayload
    host: NAME | None = None


class CurrentMetrics(HostMetrics):
    """mainpc's metrics, those of every host by name, and the agents' VRAM reports."""

    hosts: dict[str, HostMetrics]
    vram_reports: list[VramReport]


class AllSeries(TimeSeries):
    """mainpc's time series, and that of every host by name."""

    hosts: dict[str, TimeSeries]


class HostSeries(TimeSeries):
    """The time series of `host`."""

    host: str


class AllHostSeries(HostSeries):
    """mainpc's time series, and that of every host by name."""

    hosts: dict[str, TimeSeries]


class MetricsNow(Success):
    """The current metrics."""

    metrics: CurrentMetrics


class RecentMetrics(Success):
    """The samples in memory."""

    metrics: AllSeries


class HostHistory(Success):
    """One host's metrics over time."""

    history: HostSeries


class History(Success):
    """Every host's metrics over time."""

    history: AllHostSeries


class MetricsStored(Success):
    """A host's sample is stored."""

    message: str
    host: str


class VramStored(Success):
    """The report is stored; `devices` has the MB per device. `host` is null if it counts on none."""

    message: str
    host: str | None
    devices: dict[str, float]


class MetricsActions(Feature):
    """Reading metrics, and reporting them."""

    def __init__(
        self,
        metrics: Metrics,
        reports: VramReports,
        leased_on: Callable[[str], str | None],
        budgets: Budgets,
        agents: Callable[[], Mapping[str, Agent]],
    ) -> None:
        """`leased_on` returns the host of a caller's leases, if it is one; `agents` those of the configuration."""
        self._metrics = metrics
        self._reports = reports
        self._leased_on = leased_on
        self._budgets = budgets
        self._agents = agents

    @action(forwardable=True)
    def metrics(self, request: GetMetrics, _: Caller) -> MetricsNow | RecentMetrics:
        own, names = self._metrics.own_host, self._metrics.hosts()
        if request.metrics_type == "history":
            series = {name: self._metrics.series(name) for name in names}
            return {"status": SUCCESS, "metrics": {**series[own], "hosts": series}}
        hosts = {name: self._metrics.now(name) for name in names}
        return {"status": SUCCESS, "metrics": {**hosts[own], "hosts": hosts, "vram_reports": self._reports.all()}}

    @action(forwardable=True)
    def history(self, request: GetHistory, _: Caller) -> HostHistory | History:
        if request.host is not None:
            one = self._metrics.series(request.host, request.resolution)
            return {"status": SUCCESS, "history": {**one, "host": request.host}}
        series = {name: self._metrics.series(name, request.resolution) for name in self._metrics.hosts()}
        own = self._metrics.own_host
        return {"status": SUCCESS, "history": {**series[own], "host": own, "hosts": series}}

    @action(mutates=True, unowned="a host has no writer; its agents alone report it")
    def report(self, request: ReportMetrics, caller: Caller) -> MetricsStored:
        host = self._reporting_host(request.host, caller)
        fields = msgspec.structs.asdict(request)
        sample = msgspec.convert(  # without `wall` it gets the time at which it is added
            {**fields, "wall": request.wall or 0.0}, HostSample, from_attributes=True
        )
        message = f"metrics of {host} stored"
        if request.wall is None:
            self._metrics.ingest(host, sample)
        elif not self._metrics.ingest_once(host, sample, request.late_by_s):
            message = f"metrics of {host} were stored before"
        return {"status": SUCCESS, "message": message, "host": host}

    @action(mutates=True, unowned="each agent reports for itself")
    def update_vram(self, request: UpdateVramMetrics, caller: Caller) -> VramStored:
        payload = request.payload
        require_speaks_for(caller, payload.agent_name)
        if unknown := [device for device in payload.device_totals_mb if card_of(device) is None]:
            raise MalformedRequest(
                f"device {unknown[0][:64]!r} names no card - at `$.payload.device_totals_mb`; name it by the index of "
                "the card, such as cuda:1"
            )
        host = self._host_of_models(request.host, caller)
        devices: dict[str, float] = {}
        for model in payload.loaded_models.values():
            devices[model.device] = devices.get(model.device, 0.0) + model.vram_usage_mb
        self._reports.put(
            VramRecord(
                agent_name=payload.agent_name,
                host=host or caller.host,
                total_vram_mb=payload.total_vram_mb,
                total_vram_used_mb=payload.total_vram_used_mb,
                devices=devices,
                device_totals_mb=payload.device_totals_mb,
                models=len(payload.loaded_models),
                most=1.0 if caller.host == host else self._budgets.of(caller).lease_share,
                written_by=caller.name,
            )
        )
        message = f"VRAM of {payload.agent_name} stored"
        if host is None:
            message += (
                f", but it counts on no host: {caller.host} is not measured; "
                f"name the host that {payload.agent_name} runs on in `host` ({', '.join(self._metrics.hosts())})"
            )
        elif not payload.device_totals_mb and self._needs_reports(host) and sum(map(is_gpu, devices)) > 1:
            message += (
                f", but no VRAM of {host} is leased: no driver measures it, and the report has one total for several "
                "devices; add the capacity of each card in `device_totals_mb`, by a name such as cuda:1"
            )
        return {"status": SUCCESS, "message": message, "host": host, "devices": devices}

    def _needs_reports(self, host: str) -> bool:
        """Return whether a host is measured, and no driver on its machine measures cards."""
        samples = [self._metrics.current(name) for name in (host, *self._metrics.same_machine(host))]
        return samples[0] is not None and not any(
            sample and (sample.gpus or sample.vram_total_mb) for sample in samples
        )

    def _host_of_models(self, claimed: str | None, caller: Caller) -> str | None:
        """Return the host on which a report counts, None if that is not known.

        A key may be for a machine's own name, which is no host: only such a caller, or an operator, may name one.
        """
        known = self._metrics.hosts()
        if claimed is None:
            own = caller.host if caller.host in known else self._leased_on(caller.name)
            return own if own in known else None
        if caller.authenticated and not caller.operator and caller.host in known and claimed != caller.host:
            raise NotGranted(f"the key of {caller.name} is for host {caller.host}, not {claimed[:64]!r}; omit `host`")
        if claimed not in known:
            raise NotFound(f"no host {claimed[:64]!r} is known; there are: {', '.join(known)}")
        return claimed

    def _reporting_host(self, claimed: str | None, caller: Caller) -> str:
        """Return the host in the caller's key; on an open link, the configured host that the caller claims."""
        if caller.operator:
            raise NotGranted("an operator's key can't report the metrics of a host; use a key of that host")
        host = caller.host
        if not caller.authenticated:
            if claimed is None:
                raise MalformedRequest("Object missing required field `host`, which an open link needs; add it")
            if not self._metrics.is_configured(claimed):
                raise NotFound(
                    f"network_config.yaml has no host {claimed[:64]!r}; there are: {', '.join(self._metrics.hosts())}"
                )
            host = claimed
        elif claimed is not None and claimed.lower() != host.lower():
            raise NotGranted(f"the key of {caller.name} is for host {host}, not {claimed[:64]!r}; omit `host`")
        if host == self._metrics.own_host:
            raise NotGranted(f"{host} measures itself and accepts no reports; report the metrics of another host")
        placed = [agent.name for agent in self._agents().values() if agent.host.name == host]
        if caller.authenticated and placed and caller.name not in placed:
            raise NotGranted(
                f"{caller.name} may not report the metrics of {host}, which {', '.join(placed)} measures; report your "
                "own VRAM with update_vram_metrics"
            )
        return host
