"""What SystemDigitalTwin is asked and told about metrics: every field with its type and its bounds."""

from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec

from twinhost.secure_zmq.wire import NAME, Request

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
