"""One measurement of one host; whatever was not measured is None, never a figure that somebody made up."""

import msgspec

MB = 2**20


class GpuSample(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as its driver tells of it; `used_mb` is all that can't be allocated."""

    index: int
    name: str
    used_mb: float
    total_mb: float
    utilisation_percent: float | None = None


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """A host at one moment: `wall` in seconds since the epoch, `cpu_percent` of the CPU that the host may use.

    `latency_ms` is the round trip to the other agent, and `limited` says that the figures are those of a container.
    """

    wall: float
    cpu_percent: float | None
    ram_used_mb: float
    ram_total_mb: float
    vram_used_mb: float | None = None
    vram_total_mb: float | None = None
    gpus: tuple[GpuSample, ...] = ()
    latency_ms: float | None = None
    limited: bool = False
