"""What SystemDigitalTwin answers about metrics: percent, MB, and ms; null is what nobody measured."""

from typing import Literal, NotRequired, TypedDict


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
