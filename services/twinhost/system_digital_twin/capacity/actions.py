"""The actions on capacity: what a load would do, which host it fits on, and leases of memory."""

from typing import Annotated, NotRequired, TypedDict

import msgspec

from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import Feature, Withdrawable, action
from twinhost.secure_zmq.budgets import Budgets
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin import SUCCESS, Success
from twinhost.system_digital_twin.capacity.forecast import (
    CardId,
    HostState,
    LoadType,
    Projection,
    Resource,
    forecast_of,
    place,
)
from twinhost.system_digital_twin.capacity.leases import MAX_TTL_S, LeaseReply, Leases
from twinhost.system_digital_twin.capacity.reservations import (
    Demand,
    Placed,
    PlacementReply,
    Reservations,
    Reserved,
    placement_reply,
)
from twinhost.system_digital_twin.metrics.history import rounded

AMOUNT = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
TTL = Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL_S)]
DEFAULT_TTL_S = 60.0
MAX_WAIT_S = 3_600.0


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
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT_S)] = 0.0
    priority: Annotated[int, msgspec.Meta(ge=-100, le=100)] = 0


class ReserveVram(_Reserve, tag="reserve_vram"):
    """Reserve `amount_mb` MB of VRAM on one card for `ttl_s` seconds, of one host or where the most is free.

    If it is not free, the request waits for up to `wait_s` seconds, in the order of `priority` and then of arrival.
    """


class ReserveRam(_Reserve, tag="reserve_ram"):
    """Reserve `amount_mb` MB of RAM for `ttl_s` seconds, of one host or where the most is free.

    If it is not free, the request waits for up to `wait_s` seconds, in the order of `priority` and then of arrival.
    """


class CommitLease(Request, tag="commit_lease"):
    """Report that a lease's memory is in use: it expires `ttl_s` seconds from now, unless it is committed again.

    Without `ttl_s` it lasts for as long as the caller's budget allows (`lease_s`, by default a day).
    """

    lease_id: NAME
    ttl_s: TTL | None = None


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


class LoadSimulated(Success, Projection):
    """What the load would do: `reason` if it does not fit, `placement` if the request named no host.

    VRAM is projected on one card, `gpu`, never on a sum of cards. Only the projections that concern this type of load
    are present.
    """

    timestamp: str
    host: str
    current_state: CurrentState
    load_type: LoadType
    requested_value: float
    recommendation: str
    gpu: NotRequired[CardId]
    reason: NotRequired[str]
    placement: NotRequired[PlacementReply]


class Committed(Success, LeaseReply):
    """The lease lasts until `expires`, unless it is released or renewed before."""


class Released(Success):
    """The memory is free again."""

    lease_id: str
    message: str


class LeaseList(Success):
    """Every open lease."""

    leases: list[LeaseReply]


class LoadActions(Feature):
    """Forecasts from the hosts' metrics and open leases."""

    def __init__(self, reservations: Reservations, leases: Leases, budgets: Budgets) -> None:
        self._reservations = reservations
        self._leases = leases
        self._budgets = budgets
        self._clock = leases.clock

    @action(forwardable=True)
    def simulate(self, request: SimulateLoad, _: Caller) -> LoadSimulated:
        value = request.value if request.value is not None else request.value_mb
        if value is None:
            raise MalformedRequest("Object missing required field `value`; add the amount of the load")
        hosts = self._reservations.hosts()
        names = hosts.names(request.host)
        forecasts = [forecast_of(hosts.state(name), request.load_type, value) for name in names]
        placement = place(forecasts)
        chosen = placement.best
        reply: LoadSimulated = {
            "status": SUCCESS,
            "timestamp": iso_time(self._clock.time()),
            "host": chosen.host,
            "current_state": _current(hosts.state(chosen.host)),
            "load_type": request.load_type,
            "requested_value": value,
            "recommendation": chosen.recommendation,
            **chosen.projection,  # type: ignore[typeddict-item] # it has none of the optional keys below
        }
        if chosen.gpu is not None:
            reply["gpu"] = chosen.gpu
        if not chosen.fits:
            reply["reason"] = chosen.reason
        if request.host is None:
            reply["placement"] = placement_reply(placement, forecasts)
        return reply

    @action(mutates=True, unowned="it adds a lease, of the caller's")
    def reserve_vram(self, request: ReserveVram, caller: Caller) -> Reserved | Placed | Withdrawable[Reserved | Placed]:
        return self._reserve("vram", request, caller)

    @action(mutates=True, unowned="it adds a lease, of the caller's")
    def reserve_ram(self, request: ReserveRam, caller: Caller) -> Reserved | Placed | Withdrawable[Reserved | Placed]:
        return self._reserve("ram", request, caller)

    @action(mutates=True)
    def commit(self, request: CommitLease, caller: Caller) -> Committed:
        if request.ttl_s is not None:
            self._require_ttl(caller, request.ttl_s)
        lease = self._leases.commit(request.lease_id, caller, request.ttl_s, self._budgets.of(caller).lease_s)
        return {"status": SUCCESS, **self._leases.describe(lease)}

    @action(mutates=True, from_reserve=True)
    def release(self, request: ReleaseLease, caller: Caller) -> Released:
        lease = self._leases.release(request.lease_id, caller)
        message = f"{lease.amount_mb:g} MB of {lease.resource.upper()} on {lease.host} are free again"
        return {"status": SUCCESS, "lease_id": lease.lease_id, "message": message}

    @action(forwardable=True)
    def list_leases(self, _: ListLeases, __: Caller) -> LeaseList:
        return {"status": SUCCESS, "leases": [self._leases.describe(lease) for lease in self._leases.all()]}

    def _reserve(
        self, resource: Resource, request: _Reserve, caller: Caller
    ) -> Reserved | Placed | Withdrawable[Reserved | Placed]:
        self._require_ttl(caller, request.ttl_s)
        self._budgets.require(caller, "lease_priority", 0, request.priority, "ask with a lower `priority`")
        return self._reservations.reserve(
            Demand(
                resource=resource,
                amount_mb=request.amount_mb,
                host=request.host,
                ttl_s=request.ttl_s,
                wait_s=request.wait_s,
                priority=request.priority,
                holder=caller.name,
                request_id=request.request_id,
            ),
            self._budgets.of(caller).lease_share,
        )

    def _require_ttl(self, caller: Caller, ttl_s: float) -> None:
        self._budgets.require(caller, "lease_s", 0, ttl_s, "ask with a shorter `ttl_s`, and renew with commit_lease")


def _current(state: HostState) -> CurrentState:
    return {
        "cpu_usage": rounded(state.cpu_percent),
        "ram_usage_mb": rounded(state.ram_used_mb),
        "ram_leased_mb": rounded(state.ram_leased.to_come_mb + state.ram_leased.in_use_mb),
        "vram_usage_mb": rounded(sum(card.used_mb for card in state.cards) if state.cards else None),
        "vram_leased_mb": rounded(state.vram_leased.to_come_mb + state.vram_leased.in_use_mb),
        "network_latency_ms": rounded(state.latency_ms, 3),
    }
