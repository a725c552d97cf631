"""The actions on metrics.

How a client that knows of one host is served: it reads `metrics["cpu_usage"]`, and `history["cpu_usage"]`. So the
contract's fields stand there, at the top, and are mainpc's, the host that the twin runs on; the same fields of
every host, mainpc's too, stand under `hosts`, by name. With a `host` asked for, `history` is that host's alone.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.agent.host_metrics.sample import GpuSample, HostSample
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotFound, NotGranted
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin.metrics.history import Bucket
from twinhost.system_digital_twin.metrics.metrics import Metrics, VramReport, VramReports
from twinhost.system_digital_twin.registry.actions import SUCCESS, require_speaks_for

MEGABYTES = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
PERCENT = Annotated[float, msgspec.Meta(ge=0, le=100)]
MILLISECONDS = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
MOMENT_S = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
AGE_S = Annotated[float, msgspec.Meta(ge=0, le=4e9)]  # since before the epoch, until the year 2096


class GetMetrics(Request, tag="get_metrics"):
    """The metrics of every host, now or as far back as they are in memory."""

    metrics_type: Literal["current", "history"] = "current"


class GetHistory(Request, tag="get_history"):
    """The course of the metrics, of one host or of all: the samples in memory, or means per minute or hour on disk."""

    host: NAME | None = None
    resolution: Literal["sample", "minute", "hour"] = "sample"


class GpuReport(msgspec.Struct, kw_only=True):
    """One GPU, as the reporting host's driver tells of it."""

    index: Annotated[int, msgspec.Meta(ge=0, le=1_023)]
    name: Annotated[str, msgspec.Meta(max_length=256)]
    used_mb: MEGABYTES
    total_mb: MEGABYTES
    utilisation_percent: PERCENT | None = None


GPUS = Annotated[tuple[GpuReport, ...], msgspec.Meta(max_length=64)]


class ReportMetrics(Request, tag="report_metrics"):
    """What a host has measured of itself. Which host it is says the key; `host` counts on an open link alone.

    `wall` is when, in seconds since the epoch by the host's clock: the same one told again is counted once.
    `late_by_s` says that it is told late, and how many seconds ago it was measured: it is no current one, and it
    needs `wall`.
    """

    ram_used_mb: MEGABYTES
    ram_total_mb: MEGABYTES
    cpu_percent: PERCENT | None = None
    vram_used_mb: MEGABYTES | None = None
    vram_total_mb: MEGABYTES | None = None
    gpus: GPUS = ()
    latency_ms: MILLISECONDS | None = None
    limited: bool = False
    host: NAME | None = None
    wall: MOMENT_S | None = None
    late_by_s: AGE_S | None = None

    def __post_init__(self) -> None:
        if self.late_by_s is not None and self.wall is None:
            raise ValueError("Object missing required field `wall`: a late sample says when it was measured")


class LoadedModel(msgspec.Struct):
    """A model that an agent has loaded, and where."""

    device: NAME
    vram_usage_mb: MEGABYTES


class VramPayload(msgspec.Struct, kw_only=True):
    """An agent's account of the VRAM that it manages."""

    agent_name: NAME
    total_vram_mb: MEGABYTES
    total_vram_used_mb: MEGABYTES
    loaded_models: Annotated[dict[NAME, LoadedModel], msgspec.Meta(max_length=1_024)]


class UpdateVramMetrics(Request, tag="update_vram_metrics"):
    """An agent tells which models it has loaded."""

    payload: VramPayload


class Gpu(TypedDict):
    """One GPU."""

    index: int
    name: str
    used_mb: float | None
    total_mb: float | None
    utilisation_percent: float | None


class HostMetrics(TypedDict):
    """A host as it is now; `stale` where it is silent, `limited` where its figures are those of its container."""

    cpu_usage: float | None
    ram_usage_mb: float | None
    ram_total_mb: float | None
    vram_usage_mb: float | None
    vram_total_mb: float | None
    network_latency_ms: float | None
    timestamp: str
    stale: bool
    limited: bool | None
    gpus: list[Gpu]


class VramReported(TypedDict):
    """What an agent told of its models, `devices` being MB by device."""

    agent_name: str
    host: str
    total_vram_mb: float
    total_vram_used_mb: float
    devices: dict[str, float]
    models: int
    timestamp: str


class Course(TypedDict):
    """A host's figures over time, lists of one length; beside the mean of a minute or an hour stands the greatest."""

    timestamps: list[str]
    cpu_usage: list[float | None]
    cpu_usage_max: NotRequired[list[float | None]]
    ram_usage_mb: list[float | None]
    ram_usage_mb_max: NotRequired[list[float | None]]
    vram_usage_mb: list[float | None]
    vram_usage_mb_max: NotRequired[list[float | None]]
    network_latency_ms: list[float | None]
    network_latency_ms_max: NotRequired[list[float | None]]


class CurrentMetrics(HostMetrics):
    """mainpc's figures, those of every host by name, and what agents told of their VRAM."""

    hosts: dict[str, HostMetrics]
    vram_reports: list[VramReported]


class Courses(Course):
    """mainpc's course, and that of every host by name."""

    hosts: dict[str, Course]


class History(Course):
    """The course of `host`."""

    host: str


class Histories(History):
    """mainpc's course, and that of every host by name."""

    hosts: dict[str, Course]


class MetricsNow(TypedDict):
    """The present figures."""

    status: Literal["success"]
    metrics: CurrentMetrics


class MetricsSoFar(TypedDict):
    """The samples in memory."""

    status: Literal["success"]
    metrics: Courses


class HistoryTold(TypedDict):
    """A host's samples in memory, or what is kept of them for a day or a month."""

    status: Literal["success"]
    history: History


class HistoriesTold(TypedDict):
    """The same of all hosts."""

    status: Literal["success"]
    history: Histories


class MetricsNoted(TypedDict):
    """A host's sample is taken in."""

    status: Literal["success"]
    message: str
    host: str


class VramNoted(TypedDict):
    """An agent's models are noted, `devices` being MB by device."""

    status: Literal["success"]
    message: str
    devices: dict[str, float]


def rounded(value: float | None, digits: int = 2) -> float | None:
    """Return a figure without the digits that no clock and no counter has; None stays None."""
    return None if value is None else round(value, digits)


def host_document(metrics: Metrics, host: str) -> HostMetrics:
    """Return how a host is now; null where nothing is measured, and all of it while the host is silent."""
    sample, heard = metrics.current(host), metrics.last_heard(host)
    return {
        "cpu_usage": rounded(sample.cpu_percent) if sample else None,
        "ram_usage_mb": rounded(sample.ram_used_mb) if sample else None,
        "ram_total_mb": rounded(sample.ram_total_mb) if sample else None,
        "vram_usage_mb": rounded(sample.vram_used_mb) if sample else None,
        "vram_total_mb": rounded(sample.vram_total_mb) if sample else None,
        "network_latency_ms": rounded(sample.latency_ms, 3) if sample else None,
        "timestamp": iso_time(time.time() if heard is None else heard),  # of the newest sample, if there is one
        "stale": sample is None,
        "limited": sample.limited if sample else None,
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "used_mb": rounded(gpu.used_mb),
                "total_mb": rounded(gpu.total_mb),
                "utilisation_percent": rounded(gpu.utilisation_percent),
            }
            for gpu in (sample.gpus if sample else ())
        ],
    }


class MetricsActions(Feature):
    """Reading the metrics, and telling the twin of them."""

    def __init__(self, metrics: Metrics, reports: VramReports) -> None:
        self._metrics = metrics
        self._reports = reports

    @action(forwardable=True)
    def metrics(self, request: GetMetrics, _: Caller) -> MetricsNow | MetricsSoFar:
        own, names = self._metrics.own_host, self._metrics.hosts()
        if request.metrics_type == "history":
            courses = {name: _course(self._metrics.samples(name)) for name in names}
            return {"status": SUCCESS, "metrics": {**courses[own], "hosts": courses}}
        hosts = {name: host_document(self._metrics, name) for name in names}
        reports = [_report(each) for each in self._reports.all()]
        return {"status": SUCCESS, "metrics": {**hosts[own], "hosts": hosts, "vram_reports": reports}}

    @action(forwardable=True)
    def history(self, request: GetHistory, _: Caller) -> HistoryTold | HistoriesTold:
        if request.host is not None:
            return {"status": SUCCESS, "history": {**self._course_of(request.host, request), "host": request.host}}
        courses = {name: self._course_of(name, request) for name in self._metrics.hosts()}
        own = self._metrics.own_host
        return {"status": SUCCESS, "history": {**courses[own], "host": own, "hosts": courses}}

    @action(mutates=True)
    def report(self, request: ReportMetrics, caller: Caller) -> MetricsNoted:
        host = self._reporting_host(request.host, caller)
        gpus = tuple(
            GpuSample(
                index=gpu.index,
                name=gpu.name,
                used_mb=gpu.used_mb,
                total_mb=gpu.total_mb,
                utilisation_percent=gpu.utilisation_percent,
            )
            for gpu in request.gpus
        )
        sample = HostSample(
            wall=request.wall or 0.0,  # dated when it is taken in
            cpu_percent=request.cpu_percent,
            ram_used_mb=request.ram_used_mb,
            ram_total_mb=request.ram_total_mb,
            vram_used_mb=request.vram_used_mb,
            vram_total_mb=request.vram_total_mb,
            gpus=gpus,
            latency_ms=request.latency_ms,
            limited=request.limited,
        )
        if request.wall is None:
            self._metrics.ingest(host, sample)
        elif not self._metrics.ingest_once(host, sample, request.late_by_s):
            return {"status": SUCCESS, "message": f"metrics of {host} were noted before", "host": host}
        return {"status": SUCCESS, "message": f"metrics of {host} noted", "host": host}

    @action(mutates=True)
    def update_vram(self, request: UpdateVramMetrics, caller: Caller) -> VramNoted:
        told = request.payload
        require_speaks_for(caller, told.agent_name)
        devices: dict[str, float] = {}
        for model in told.loaded_models.values():
            devices[model.device] = devices.get(model.device, 0.0) + model.vram_usage_mb
        report = VramReport(
            agent_name=told.agent_name,
            host=caller.host,
            total_vram_mb=told.total_vram_mb,
            total_vram_used_mb=told.total_vram_used_mb,
            devices=devices,
            models=len(told.loaded_models),
        )
        self._reports.put(report)
        return {"status": SUCCESS, "message": f"VRAM of {told.agent_name} noted", "devices": devices}

    def _reporting_host(self, claimed: str | None, caller: Caller) -> str:
        """Return whose figures these are: those of the host in the caller's key."""
        if caller.operator:
            raise NotGranted("a host reports its own metrics with its own key; an operator's key is that of a person")
        host = caller.host
        if not caller.authenticated:
            if claimed is None:
                raise MalformedRequest("Object missing required field `host`; nobody is authenticated on an open link")
            if not self._metrics.is_configured(claimed):
                raise NotFound(f"the configuration has no host {claimed[:64]!r}")
            host = claimed
        elif claimed is not None and claimed.lower() != host.lower():
            raise NotGranted(f"{caller.name} is on {host} by its key, not on {claimed[:64]!r}; leave host out")
        if host == self._metrics.own_host:
            raise NotGranted(f"{host} measures itself, and nobody else reports its metrics")
        return host

    def _course_of(self, host: str, request: GetHistory) -> Course:
        samples = self._metrics.samples(host)  # also finds out whether there is such a host
        if request.resolution == "sample":
            return _course(samples)
        return _downsampled_course(self._metrics.history_on_disk.read(host, request.resolution))


def _course(samples: Sequence[HostSample]) -> Course:
    return {
        "timestamps": [iso_time(each.wall) for each in samples],
        "cpu_usage": [rounded(each.cpu_percent) for each in samples],
        "ram_usage_mb": [rounded(each.ram_used_mb) for each in samples],
        "vram_usage_mb": [rounded(each.vram_used_mb) for each in samples],
        "network_latency_ms": [rounded(each.latency_ms, 3) for each in samples],
    }


def _downsampled_course(rows: Sequence[Bucket]) -> Course:
    """Return means under the contract's names, and the greatest sample of each row beside them."""
    return {
        "timestamps": [iso_time(row.start) for row in rows],
        "cpu_usage": [rounded(row.cpu_percent.mean) for row in rows],
        "cpu_usage_max": [rounded(row.cpu_percent.greatest) for row in rows],
        "ram_usage_mb": [rounded(row.ram_used_mb.mean) for row in rows],
        "ram_usage_mb_max": [rounded(row.ram_used_mb.greatest) for row in rows],
        "vram_usage_mb": [rounded(row.vram_used_mb.mean) for row in rows],
        "vram_usage_mb_max": [rounded(row.vram_used_mb.greatest) for row in rows],
        "network_latency_ms": [rounded(row.latency_ms.mean, 3) for row in rows],
        "network_latency_ms_max": [rounded(row.latency_ms.greatest, 3) for row in rows],
    }


def _report(report: VramReport) -> VramReported:
    return {
        "agent_name": report.agent_name,
        "host": report.host,
        "total_vram_mb": report.total_vram_mb,
        "total_vram_used_mb": report.total_vram_used_mb,
        "devices": report.devices,
        "models": report.models,
        "timestamp": iso_time(report.wall),
    }
