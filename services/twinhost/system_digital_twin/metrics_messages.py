"""What SystemDigitalTwin is asked and told about metrics: every field with its type and its bounds."""

from typing import Annotated, Literal

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
