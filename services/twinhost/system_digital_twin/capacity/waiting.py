"""Who of those who wait for memory is given it next: turns, and backfill. Pure: no clock, socket, or database.

Requests are served by priority, and among equals in turns: first the holder who was given memory longest ago, and each
holder's requests by arrival.

A request that fits is given its memory, though others before it wait for more than there is: backfill, by EASY's rule
(D. Lifka, "The ANL/IBM SP Scheduling System", 1995). Every lease has an end, so it is known when, at the latest, a
request that waits will fit. Who doesn't delay that moment goes first. Who does may delay the same request MAX_OVERTAKEN
times, or never if it fits now. From then on that request is first, and nobody delays it until the moment that is known
by then. If leases were renewed meanwhile, so that it still doesn't fit, it may be delayed as often again: so a request
that can't be met holds nobody back for good.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from twinhost.system_digital_twin.capacity.forecast import Resource

MAX_OVERTAKEN = 16
NOW, NEVER = float("-inf"), float("inf")
_MOST_HOLDERS = 1_024  # whose turns are remembered

# A place for a lease: resource, machine (or the host, where that is unknown), and the card's UUID (or its index).
Slot = tuple[Resource, str, str | int | None]


class PlacedLease(NamedTuple):
    """A lease on a place, and its end by the monotonic clock."""

    ends_at: float
    amount_mb: float
    holder: str


class Place(NamedTuple):
    """What may be leased on a place, what is free of that now, and its leases by their ends."""

    limit_mb: float
    free_mb: float
    leases: tuple[PlacedLease, ...] = ()

    def with_lease(self, lease: PlacedLease) -> "Place":
        return Place(self.limit_mb, self.free_mb - lease.amount_mb, tuple(sorted((*self.leases, lease))))

    def held_by(self, holder: str) -> float:
        """Return the MB that a holder has leased here."""
        return sum(lease.amount_mb for lease in self.leases if lease.holder == holder)

    def share_of(self, holder: str) -> float:
        """Return the part of what may be leased here that a holder has leased."""
        return self.held_by(holder) / self.limit_mb


class WaitingRequest(msgspec.Struct, kw_only=True):
    """A request for memory; `could` are the places that it could have if they were empty."""

    number: int  # in the order of arrival
    holder: str
    amount_mb: float
    priority: int
    until: float  # monotonic
    share: float = 1.0  # the part of each place that its holder may have
    could: set[Slot] = msgspec.field(default_factory=set)
    overtaken: int = 0  # by later ones that delayed it
    kept_until: float | None = None  # while it is not to be delayed: when it fits, as far as is known

    def exceeds_share(self, place: Place) -> bool:
        """Return whether it would give its holder more than its share of a place."""
        return self.amount_mb > self.left_of_share_mb(place)

    def left_of_share_mb(self, place: Place) -> float:
        """Return what its holder may still have of a place, in MB."""
        return max(0.0, self.share * place.limit_mb - place.held_by(self.holder))

    def within_share_at(self, place: Place) -> float | None:
        """Return when enough of its holder's own leases on a place have ended; None: that is not enough."""
        held_mb = place.held_by(self.holder)
        for lease in place.leases:
            if lease.holder == self.holder:
                held_mb -= lease.amount_mb
                if held_mb + self.amount_mb <= self.share * place.limit_mb:
                    return lease.ends_at
        return None

    def met_at(self, places: Mapping[Slot, Place]) -> float:
        """Return when it fits, by the ends of leases that are known: NOW; NEVER, if not before its wait ends."""
        return min((self._met_on(places[slot]) for slot in self.could if slot in places), default=NEVER)

    def _met_on(self, place: Place) -> float:
        if self.exceeds_share(place):
            return NEVER  # who holds the memory itself keeps no more of it
        free_mb = place.free_mb
        if free_mb >= self.amount_mb:
            return NOW
        for lease in place.leases:
            if lease.ends_at > self.until:
                break
            free_mb += lease.amount_mb
            if free_mb >= self.amount_mb:
                return lease.ends_at
        return NEVER

    def is_delayed(self, slot: Slot, lease: PlacedLease, places: Mapping[Slot, Place]) -> bool:
        """Return whether a lease on a place would delay it, as far as is known."""
        if slot not in self.could:
            return False
        return self.met_at({**places, slot: places[slot].with_lease(lease)}) > self.met_at(places)

    def may_be_delayed(self, places: Mapping[Slot, Place]) -> bool:
        return self.overtaken < MAX_OVERTAKEN and self.met_at(places) > NOW

    def was_not_met(self, places: Mapping[Slot, Place], now: float) -> None:
        """Keep its places, or let them go again, after it has been considered and not served."""
        if self.overtaken < MAX_OVERTAKEN:
            return
        if self.kept_until is None:
            met_at = self.met_at(places)
            self.kept_until = met_at if met_at < NEVER else None
        elif now > self.kept_until:
            self.overtaken, self.kept_until = 0, None


class ServingOrder:
    """The order of those who wait."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}  # the number of the last lease that a holder was given
        self._given = 0

    def order_of(self, request: WaitingRequest) -> tuple[bool, int, int, int]:
        """Return a key: the first to be served has the smallest."""
        if request.overtaken >= MAX_OVERTAKEN:
            return False, 0, 0, request.number
        return True, -request.priority, self._served.get(request.holder, 0), request.number

    def may_have(
        self,
        request: WaitingRequest,
        slot: Slot,
        lease: PlacedLease,
        places: Mapping[Slot, Place],
        waiting: Iterable[WaitingRequest],
    ) -> bool:
        """Return whether a request may be given a lease that fits, for all who wait."""
        order = self.order_of(request)
        return not any(
            other.is_delayed(slot, lease, places) and not other.may_be_delayed(places)
            for other in waiting
            if self.order_of(other) < order
        )

    def given(
        self,
        request: WaitingRequest,
        slot: Slot,
        lease: PlacedLease,
        places: Mapping[Slot, Place],
        waiting: Iterable[WaitingRequest],
    ) -> None:
        """Count a lease: `places` are as before it, `waiting` are those who wait then."""
        self._given += 1
        self._served[request.holder] = self._given
        for other in waiting:
            if other.number < request.number and other.is_delayed(slot, lease, places):
                other.overtaken += 1
        if len(self._served) > _MOST_HOLDERS:
            del self._served[min(self._served, key=self._served.__getitem__)]
