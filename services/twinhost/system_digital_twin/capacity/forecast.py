"""What a load would do to a host, and which host it fits on. Pure functions of the hosts' metrics."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import msgspec

LoadType = Literal["cpu", "ram", "vram", "network"]
Resource = Literal["ram", "vram"]

PROCEED = "proceed"
DENY = "deny_insufficient_resources"
CAUTION_CPU = "caution_high_cpu"
CAUTION_LATENCY = "caution_high_latency"

VRAM_PERCENT = 95
RAM_PERCENT = 90
CPU_PERCENT = 90
LATENCY_MS = 200
LATENCY_PER_VALUE = 1.5  # ms that one unit of network load adds


class Projection(TypedDict, total=False):
    """A host under the load; only the fields that concern this type of load."""

    projected_cpu_percent: float | None
    projected_ram_mb: float | None
    ram_capacity_mb: float | None
    projected_vram_mb: float | None
    vram_capacity_mb: float | None
    projected_latency_ms: float | None


class Leased(msgspec.Struct, frozen=True, kw_only=True):
    """MB of a host's open leases: those not yet in its newest sample, and those that the sample contains."""

    to_come_mb: float = 0.0
    in_use_mb: float = 0.0

    def on(self, used_mb: float) -> float:
        """Return the MB in use or leased: what is measured, but at least what leases use, and what they will use."""
        return max(used_mb, self.in_use_mb) + self.to_come_mb


class CardId(TypedDict):
    """The card of a lease or of a forecast; `uuid` is null where the driver's is not known."""

    index: int
    uuid: str | None


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of a host: what is measured of it, and its leases; `reported_by` has its capacity if no driver has."""

    index: int
    uuid: str | None = None
    used_mb: float
    total_mb: float
    reported_by: str | None = None
    leased: Leased = Leased()

    @property
    def gpu(self) -> CardId:
        return {"index": self.index, "uuid": self.uuid}


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """A host's current metrics and leases. What is not measured is None; `vram_leased` is a sum to show."""

    host: str
    cpu_percent: float | None = None
    ram_used_mb: float | None = None
    ram_total_mb: float | None = None
    latency_ms: float | None = None
    ram_leased: Leased = Leased()
    vram_leased: Leased = Leased()
    cards: tuple[Card, ...] = ()


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """The effect on one host, for VRAM on one card; `headroom` is what would be left below the limit.

    `headroom` and `limit`, the most that may be in use, are None if they are not measured.
    """

    host: str
    recommendation: str
    reason: str
    projection: Projection
    headroom: float | None
    limit: float | None = None
    gpu: CardId | None = None
    reported_by: str | None = None  # whose report has the capacity of the card

    @property
    def fits(self) -> bool:
        return self.recommendation == PROCEED


class Placement(msgspec.Struct, frozen=True):
    """The host that a load fits on, None if none, and the reason; `best` is the forecast with the most headroom."""

    host: str | None
    reason: str
    best: Forecast


def forecast_of(state: HostState, load_type: LoadType, value: float) -> Forecast:
    """Return what a load of `value` (MB, percent of the CPU, or units of network load) would do to a host.

    VRAM is never a sum over cards: the forecast is that of the card with the most headroom.
    """
    if load_type == "cpu":
        return _cpu(state, value)
    if load_type == "network":
        return _network(state, value)
    if load_type == "ram":
        return _memory(state, load_type, value)
    return best_of(by_card(state, value))


def by_card(state: HostState, value: float) -> list[Forecast]:
    """Return what a load of `value` MB of VRAM would do to each card of a host; one unknown if there is no card."""
    return [_memory(state, "vram", value, card) for card in state.cards or (None,)]


def best_of(forecasts: Sequence[Forecast]) -> Forecast:
    """Return the forecast with the most headroom; the first of equals."""
    return max(forecasts, key=lambda forecast: (forecast.fits, forecast.headroom is not None, forecast.headroom or 0.0))


def place(forecasts: Sequence[Forecast]) -> Placement:
    """Return the host that a load fits on with the most headroom; the first of equals."""
    best = best_of(forecasts)
    if not best.fits:
        return Placement(None, "it fits on no host: " + "; ".join(forecast.reason for forecast in forecasts), best)
    if len(forecasts) == 1:
        return Placement(best.host, best.reason, best)
    return Placement(best.host, f"{best.reason}; no other host has more headroom", best)


def _cpu(state: HostState, value: float) -> Forecast:
    if state.cpu_percent is None:
        return _forecast(state, CAUTION_CPU, "CPU is not measured now", {"projected_cpu_percent": None})
    demand = state.cpu_percent + value
    projected, headroom = min(100.0, demand), CPU_PERCENT - demand
    reason = f"CPU would be at {projected:.1f} %, {_within(headroom)} {CPU_PERCENT} %"
    return _forecast(state, CAUTION_CPU, reason, {"projected_cpu_percent": round(projected, 2)}, headroom)


def _network(state: HostState, value: float) -> Forecast:
    if state.latency_ms is None:
        return _forecast(state, CAUTION_LATENCY, "network latency is not measured now", {"projected_latency_ms": None})
    projected = state.latency_ms + LATENCY_PER_VALUE * value
    headroom = LATENCY_MS - projected
    reason = f"latency would be {projected:.1f} ms, {_within(headroom)} {LATENCY_MS} ms"
    return _forecast(state, CAUTION_LATENCY, reason, {"projected_latency_ms": round(projected, 3)}, headroom)


def _memory(state: HostState, resource: Resource, value: float, card: Card | None = None) -> Forecast:
    name = resource.upper()
    used_mb, total_mb, leased, percent = state.ram_used_mb, state.ram_total_mb, state.ram_leased, RAM_PERCENT
    if resource == "vram":
        used_mb, total_mb, leased = (card.used_mb, card.total_mb, card.leased) if card else (None, None, Leased())
        percent = VRAM_PERCENT
        name = f"{name} on GPU {card.index}" if card and len(state.cards) > 1 else name
    if used_mb is None or total_mb is None:
        return _forecast(state, DENY, f"{name} is not measured now", _memory_projection(resource, None, total_mb))
    in_use, limit = leased.on(used_mb), total_mb * percent / 100
    projected = in_use + value
    headroom = limit - projected
    by = card.reported_by if card is not None else None
    told = "" if by is None else f", as {by[:64]} reports"
    reason = f"{name} would be at {projected:.0f} of {total_mb:.0f} MB{told}, {_within(headroom)} {percent} %"
    if len(state.cards) > 1 and card is not None and headroom < 0:
        reason += f"; {max(0.0, limit - in_use):.0f} MB can be reserved there, and no card of {state.host} has more"
    projection = _memory_projection(resource, round(projected, 2), round(total_mb, 2))
    known = _forecast(state, DENY, reason, projection, headroom)
    return msgspec.structs.replace(known, limit=limit, gpu=None if card is None else card.gpu, reported_by=by)


def _memory_projection(resource: Resource, projected_mb: float | None, capacity_mb: float | None) -> Projection:
    if resource == "ram":
        return {"projected_ram_mb": projected_mb, "ram_capacity_mb": capacity_mb}
    return {"projected_vram_mb": projected_mb, "vram_capacity_mb": capacity_mb}


def _within(headroom: float) -> str:
    return "within" if headroom >= 0 else "over"


def _forecast(
    state: HostState, otherwise: str, reason: str, projection: Projection, headroom: float | None = None
) -> Forecast:
    """Return a forecast, which is to proceed if the headroom is known and not negative, else `otherwise`."""
    fits = headroom is not None and headroom >= 0
    return Forecast(
        host=state.host,
        recommendation=PROCEED if fits else otherwise,
        reason=f"{state.host}'s {reason}",
        projection=projection,
        headroom=headroom,
    )
