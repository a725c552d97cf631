"""The actions that look ahead: what a load would do, where it fits, and memory that is promised to one alone."""

import time
from collections.abc import Sequence
from typing import NoReturn

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import LimitReached, MalformedRequest, NotFound
from twinhost.system_digital_twin.forecast import Forecast, HostState, LoadType, Placement, Resource, forecast, place
from twinhost.system_digital_twin.handlers import SUCCESS
from twinhost.system_digital_twin.leases import Lease, Leases
from twinhost.system_digital_twin.load_messages import (
    CommitLease,
    ListLeases,
    ReleaseLease,
    ReserveRam,
    ReserveVram,
    SimulateLoad,
)
from twinhost.system_digital_twin.load_replies import (
    Committed,
    Considered,
    CurrentState,
    LeasesTold,
    LeaseTold,
    LoadSimulated,
    Placed,
    PlacementTold,
    Released,
    Reserved,
)
from twinhost.system_digital_twin.metrics import Metrics
from twinhost.system_digital_twin.state_documents import rounded


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
