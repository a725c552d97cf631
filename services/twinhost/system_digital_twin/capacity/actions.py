"""The actions on capacity: what a load would do, which host it fits on, and leases of memory."""

import time
from collections.abc import Sequence
from typing import Annotated, NoReturn, NotRequired, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import LimitReached, MalformedRequest, NotFound
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin import SUCCESS, Success
from twinhost.system_digital_twin.capacity.forecast import (
    Forecast,
    HostState,
    LoadType,
    Placement,
    Projection,
    Resource,
    forecast,
    place,
)
from twinhost.system_digital_twin.capacity.leases import MAX_TTL_S, LeaseReply, Leases
from twinhost.system_digital_twin.metrics.history import rounded
from twinhost.system_digital_twin.metrics.metrics import Metrics

AMOUNT = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
TTL = Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL_S)]
DEFAULT_TTL_S = 60.0
_MEASURED = ("cpu_percent", "ram_used_mb", "ram_total_mb", "vram_used_mb", "vram_total_mb", "latency_ms")


class SimulateLoad(Request, tag="simulate_load"):
    """Predict what a load would do to a host, or find the host it fits on.

    `value` is in MB for ram and vram, in percent for cpu, and for network in units that add 1.5 ms of latency each.
    """

    load_type: LoadType
    value: Annotated[AMOUNT, msgspec.Meta(examples=[64])] | None = None
    value_mb: AMOUNT | None = None  # the older name of `value`
    host: NAME | None = None


class _Reserve(Request):
    amount_mb: AMOUNT
    host: NAME | None = None
    ttl_s: TTL = DEFAULT_TTL_S


class ReserveVram(_Reserve, tag="reserve_vram"):
    """Reserve `amount_mb` MB of VRAM for `ttl_s` seconds, on one host or on the host with the most headroom."""


class ReserveRam(_Reserve, tag="reserve_ram"):
    """Reserve `amount_mb` MB of RAM for `ttl_s` seconds, on one host or on the host with the most headroom."""


class CommitLease(Request, tag="commit_lease"):
    """Report that a lease's memory is in use: the lease no longer expires, and lasts until it is released."""

    lease_id: NAME


class ReleaseLease(Request, tag="release_lease"):
    """End a lease: its memory is free again."""

    lease_id: NAME


class ListLeases(Request, tag="list_leases"):
    """Return every open lease."""


class CurrentState(TypedDict):
    """A host before the load: what is used, and what is leased on its machine."""

    cpu_usage: float | None
    ram_usage_mb: float | None
    ram_leased_mb: float | None
    vram_usage_mb: float | None
    vram_leased_mb: float | None
    network_latency_ms: float | None


class Candidate(TypedDict):
    """The recommendation for one host, and its reason."""

    host: str
    recommendation: str
    reason: str


class PlacementReply(TypedDict):
    """The host that the load fits on, null if none; the reason; and every host that was considered."""

    host: str | None
    reason: str
    considered: list[Candidate]


class LoadSimulated(Success, Projection):
    """What the load would do: `reason` if it does not fit, `placement` if the request named no host.

    Only the projections that concern this type of load are present.
    """

    timestamp: str
    host: str
    current_state: CurrentState
    load_type: LoadType
    requested_value: float
    recommendation: str
    reason: NotRequired[str]
    placement: NotRequired[PlacementReply]


class Reserved(Success, LeaseReply):
    """The memory is reserved."""


class Placed(Reserved):
    """The memory is reserved, on the host that was chosen for it."""

    placement: PlacementReply


class Committed(Success, LeaseReply):
    """The lease lasts until it is released."""


class Released(Success):
    """The memory is free again."""

    lease_id: str
    message: str


class LeaseList(Success):
    """Every open lease."""

    leases: list[LeaseReply]


class LoadActions(Feature):
    """Forecasts from the hosts' metrics and open leases."""

    def __init__(self, metrics: Metrics, leases: Leases) -> None:
        self._metrics = metrics
        self._leases = leases

    @action(forwardable=True)
    def simulate(self, request: SimulateLoad, _: Caller) -> LoadSimulated:
        value = request.value if request.value is not None else request.value_mb
        if value is None:
            raise MalformedRequest("Object missing required field `value`; add the amount of the load")
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
            **chosen.projection,  # type: ignore[typeddict-item] # it has none of the optional keys below
        }
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
        return {"status": SUCCESS, **self._leases.describe(self._leases.commit(request.lease_id, caller))}

    @action(mutates=True)
    def release(self, request: ReleaseLease, caller: Caller) -> Released:
        lease = self._leases.release(request.lease_id, caller)
        message = f"{lease.amount_mb:g} MB of {lease.resource.upper()} on {lease.host} are free again"
        return {"status": SUCCESS, "lease_id": lease.lease_id, "message": message}

    @action(forwardable=True)
    def list_leases(self, _: ListLeases, __: Caller) -> LeaseList:
        return {"status": SUCCESS, "leases": [self._leases.describe(lease) for lease in self._leases.all()]}

    def _reserve(self, resource: Resource, request: _Reserve, caller: Caller) -> Reserved | Placed:
        forecasts = self._forecasts(request.host, resource, request.amount_mb)
        placement = place(forecasts)
        if placement.host is None:
            self._refuse(resource, request.amount_mb, forecasts)
        host = placement.best.host
        lease = self._leases.reserve(
            resource, host, request.amount_mb, request.ttl_s, caller, self._metrics.machine_of(host)
        )
        reserved: Reserved = {"status": SUCCESS, **self._leases.describe(lease)}
        return reserved if request.host is not None else {**reserved, "placement": _placement(placement, forecasts)}

    def _refuse(self, resource: Resource, amount_mb: float, forecasts: Sequence[Forecast]) -> NoReturn:
        reasons = "; ".join(each.reason for each in forecasts)
        if all(each.headroom is None for each in forecasts):
            what = "no GPU is measured" if resource == "vram" else "no RAM is measured"
            raise NotFound(f"{what} on which {amount_mb:g} MB could be reserved ({reasons}); see get_metrics")
        raise LimitReached(f"{amount_mb:g} MB of {resource.upper()} can't be reserved: {reasons}; see list_leases")

    def _forecasts(self, host: str | None, load_type: LoadType, value: float) -> list[Forecast]:
        names = self._metrics.hosts() if host is None else [host]
        return [forecast(self._state(name), load_type, value) for name in names]

    def _state(self, host: str) -> HostState:
        sample, since = self._metrics.current(host), self._metrics.measured_since(host)
        machine = self._metrics.machine_of(host)
        return HostState(
            host=host,
            **{name: getattr(sample, name) for name in _MEASURED if sample},
            ram_leased=self._leases.leased("ram", host, since, machine),
            vram_leased=self._leases.leased("vram", host, since, machine),
        )


def _current(state: HostState) -> CurrentState:
    return {
        "cpu_usage": rounded(state.cpu_percent),
        "ram_usage_mb": rounded(state.ram_used_mb),
        "ram_leased_mb": rounded(state.ram_leased.to_come_mb + state.ram_leased.in_use_mb),
        "vram_usage_mb": rounded(state.vram_used_mb),
        "vram_leased_mb": rounded(state.vram_leased.to_come_mb + state.vram_leased.in_use_mb),
        "network_latency_ms": rounded(state.latency_ms, 3),
    }


def _placement(placement: Placement, forecasts: Sequence[Forecast]) -> PlacementReply:
    considered: list[Candidate] = [
        {"host": each.host, "recommendation": each.recommendation, "reason": each.reason} for each in forecasts
    ]
    return {"host": placement.host, "reason": placement.reason, "considered": considered}
