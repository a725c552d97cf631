"""The actions that look ahead: what a load would do, where it fits, and memory that is promised to one alone."""

import time
from collections.abc import Sequence
from typing import Annotated, Literal, NoReturn, NotRequired, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import LimitReached, MalformedRequest, NotFound
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin.capacity.forecast import (
    Forecast,
    HostState,
    LoadType,
    Placement,
    Resource,
    forecast,
    place,
)
from twinhost.system_digital_twin.capacity.leases import MAX_TTL_S, Lease, Leases
from twinhost.system_digital_twin.metrics.actions import rounded
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.registry.actions import SUCCESS

AMOUNT = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
TTL = Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL_S)]
DEFAULT_TTL_S = 60.0


class SimulateLoad(Request, tag="simulate_load"):
    """What a load would do to a host, or where it fits: MB of RAM or VRAM, percent of the CPU, or network load."""

    load_type: LoadType
    value: Annotated[AMOUNT, msgspec.Meta(examples=[64])] | None = None
    value_mb: AMOUNT | None = None  # an older name of the same
    host: NAME | None = None


class ReserveVram(Request, tag="reserve_vram"):
    """Promise me so much VRAM, on this host or on any."""

    amount_mb: AMOUNT
    host: NAME | None = None
    ttl_s: TTL = DEFAULT_TTL_S


class ReserveRam(Request, tag="reserve_ram"):
    """Promise me so much RAM, on this host or on any."""

    amount_mb: AMOUNT
    host: NAME | None = None
    ttl_s: TTL = DEFAULT_TTL_S


class CommitLease(Request, tag="commit_lease"):
    """The memory of a lease is in use now; it lasts until it is released."""

    lease_id: NAME


class ReleaseLease(Request, tag="release_lease"):
    """The memory of a lease is free again."""

    lease_id: NAME


class ListLeases(Request, tag="list_leases"):
    """Every open lease."""


class CurrentState(TypedDict):
    """A host before the load; what is leased stands beside what is used."""

    cpu_usage: float | None
    ram_usage_mb: float | None
    ram_leased_mb: float | None
    vram_usage_mb: float | None
    vram_leased_mb: float | None
    network_latency_ms: float | None


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


class LoadActions(Feature):
    """Forecasts on the metrics and the open leases of the hosts."""

    def __init__(self, metrics: Metrics, leases: Leases) -> None:
        self._metrics = metrics
        self._leases = leases

    @action(forwardable=True)
    def simulate(self, request: SimulateLoad, _: Caller) -> LoadSimulated:
        value = request.value if request.value is not None else request.value_mb
        if value is None:
            raise MalformedRequest("Object missing required field `value`; give how much load it is")
        forecasts = self._forecasts(request.host, request.load_type, value)
        placement = place(forecasts)
        chosen = placement.best
        reply: LoadSimulated = {
            "status": SUCCESS,
            "timestamp": iso_time(time.time()),
            "host": chosen.host,
            "current_state": _current(self._state(chosen.host)),
            "load_type": request.load_type,
            "requested_value": value,
            "recommendation": chosen.recommendation,
        }
        reply.update(chosen.projection)  # type: ignore[typeddict-item] # which has some of its fields
        if not chosen.fits:
            reply["reason"] = chosen.reason
        if request.host is None:
            reply["placement"] = _placement(placement, forecasts)
        return reply

    @action(mutates=True)
    def reserve_vram(self, request: ReserveVram, caller: Caller) -> Reserved | Placed:
        return self._reserve("vram", request, caller)

    @action(mutates=True)
    def reserve_ram(self, request: ReserveRam, caller: Caller) -> Reserved | Placed:
        return self._reserve("ram", request, caller)

    @action(mutates=True)
    def commit(self, request: CommitLease, caller: Caller) -> Committed:
        return {"status": SUCCESS, **self._document(self._leases.commit(request.lease_id, caller))}

    @action(mutates=True)
    def release(self, request: ReleaseLease, caller: Caller) -> Released:
        lease = self._leases.release(request.lease_id, caller)
        message = f"{lease.amount_mb:g} MB of {lease.resource.upper()} on {lease.host} are free again"
        return {"status": SUCCESS, "lease_id": lease.lease_id, "message": message}

    @action(forwardable=True)
    def list_leases(self, _: ListLeases, __: Caller) -> LeasesTold:
        return {"status": SUCCESS, "leases": [self._document(lease) for lease in self._leases.all()]}

    def _reserve(self, resource: Resource, request: ReserveVram | ReserveRam, caller: Caller) -> Reserved | Placed:
        forecasts = self._forecasts(request.host, resource, request.amount_mb)
        placement = place(forecasts)
        if placement.host is None:
            self._refuse(resource, request.amount_mb, forecasts)
        lease = self._leases.reserve(resource, placement.best.host, request.amount_mb, request.ttl_s, caller)
        reserved: Reserved = {"status": SUCCESS, **self._document(lease)}
        if request.host is not None:
            return reserved
        placed: Placed = {**reserved, "placement": _placement(placement, forecasts)}
        return placed

    def _refuse(self, resource: Resource, amount_mb: float, forecasts: Sequence[Forecast]) -> NoReturn:
        reasons = "; ".join(each.reason for each in forecasts)
        if all(each.headroom is None for each in forecasts):
            what = "no GPU is measured" if resource == "vram" else "no RAM is measured"
            raise NotFound(f"{what} where {amount_mb:g} MB could be reserved ({reasons}); see get_metrics")
        raise LimitReached(f"{amount_mb:g} MB of {resource.upper()} can't be promised: {reasons}; see list_leases")

    def _forecasts(self, host: str | None, load_type: LoadType, value: float) -> list[Forecast]:
        names = self._metrics.hosts() if host is None else [host]
        return [forecast(self._state(name), load_type, value) for name in names]

    def _state(self, host: str) -> HostState:
        sample, since = self._metrics.current(host), self._metrics.measured_since(host)
        return HostState(
            host=host,
            cpu_percent=sample.cpu_percent if sample else None,
            ram_used_mb=sample.ram_used_mb if sample else None,
            ram_total_mb=sample.ram_total_mb if sample else None,
            vram_used_mb=sample.vram_used_mb if sample else None,
            vram_total_mb=sample.vram_total_mb if sample else None,
            latency_ms=sample.latency_ms if sample else None,
            ram_leased=self._leases.leased("ram", host, since),
            vram_leased=self._leases.leased("vram", host, since),
        )

    def _document(self, lease: Lease) -> LeaseTold:
        return {
            "lease_id": lease.lease_id,
            "resource": lease.resource,
            "host": lease.host,
            "amount_mb": lease.amount_mb,
            "holder": lease.holder,
            "state": lease.state,
            "created": iso_time(lease.created),
            "expires": None if lease.deadline is None else iso_time(lease.deadline),
            "expires_in_s": rounded(self._leases.expires_in_s(lease), 3),
        }


def _current(state: HostState) -> CurrentState:
    return {
        "cpu_usage": rounded(state.cpu_percent),
        "ram_usage_mb": rounded(state.ram_used_mb),
        "ram_leased_mb": rounded(state.ram_leased.to_come_mb + state.ram_leased.in_use_mb),
        "vram_usage_mb": rounded(state.vram_used_mb),
        "vram_leased_mb": rounded(state.vram_leased.to_come_mb + state.vram_leased.in_use_mb),
        "network_latency_ms": rounded(state.latency_ms, 3),
    }


def _placement(placement: Placement, forecasts: Sequence[Forecast]) -> PlacementTold:
    considered: list[Considered] = [
        {"host": each.host, "recommendation": each.recommendation, "reason": each.reason} for each in forecasts
    ]
    return {"host": placement.host, "reason": placement.reason, "considered": considered}
