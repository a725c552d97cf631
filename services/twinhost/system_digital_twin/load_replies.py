"""What SystemDigitalTwin answers about loads to come and leases: percent, MB, and ms; null is what nobody measured."""

from typing import Literal, NotRequired, TypedDict


class CurrentState(TypedDict):
    """A host before the load; what is leased stands beside what is used."""

    cpu_usage: float | None
    ram_usage_mb: float | None
    ram_leased_mb: float | None
    vram_usage_mb: float | None
    vram_leased_mb: float | None
    network_latency_ms: float | None


class Projection(TypedDict, total=False):
    """A host under the load; only what that kind of load concerns."""

    projected_cpu_percent: float | None
    projected_ram_mb: float | None
    ram_capacity_mb: float | None
    projected_vram_mb: float | None
    vram_capacity_mb: float | None
    projected_latency_ms: float | None


class Considered(TypedDict):
    """What would become of one host, and why."""

    host: str
    recommendation: str
    reason: str


class PlacementTold(TypedDict):
    """The host that it fits on, null where it fits on none, why, and the others."""

    host: str | None
    reason: str
    considered: list[Considered]


class LoadSimulated(TypedDict):
    """What the load would do; `reason` where it doesn't fit, `placement` where no host was asked for.

    Of the projection there is what that kind of load concerns.
    """

    status: Literal["success"]
    timestamp: str
    host: str
    current_state: CurrentState
    load_type: Literal["cpu", "ram", "vram", "network"]
    requested_value: float
    recommendation: str
    projected_cpu_percent: NotRequired[float | None]
    projected_ram_mb: NotRequired[float | None]
    ram_capacity_mb: NotRequired[float | None]
    projected_vram_mb: NotRequired[float | None]
    vram_capacity_mb: NotRequired[float | None]
    projected_latency_ms: NotRequired[float | None]
    reason: NotRequired[str]
    placement: NotRequired[PlacementTold]


class LeaseTold(TypedDict):
    """A lease; `expires` is null once it is committed."""

    lease_id: str
    resource: Literal["ram", "vram"]
    host: str
    amount_mb: float
    holder: str
    state: str
    created: str
    expires: str | None
    expires_in_s: float | None


class Reserved(LeaseTold):
    """The memory is promised."""

    status: Literal["success"]


class Placed(Reserved):
    """The memory is promised, on the host that was found for it."""

    placement: PlacementTold


class Committed(LeaseTold):
    """The lease stays until it is released."""

    status: Literal["success"]


class Released(TypedDict):
    """The memory is free again."""

    status: Literal["success"]
    lease_id: str
    message: str


class LeasesTold(TypedDict):
    """Every open lease."""

    status: Literal["success"]
    leases: list[LeaseTold]
