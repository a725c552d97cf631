"""Who gets memory, where, and when: the hosts' state, placement by card, and the queue of requests that wait.

`waiting` has the rules of the queue. Hosts on one machine have the same places, whichever of them a request names. What
an identity holds, waits for, and has reported ends when none of its keys is live any more.

The queue is in memory. A client repeats its request after a restart, or after a lost connection, with the same
request_id: then it keeps its place, or gets the lease that it has been given meanwhile.
"""

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, NotRequired, TypedDict, get_args

import msgspec

from twinhost.agent.host_metrics import HostSample
from twinhost.secure_zmq.actions import Withdrawable
from twinhost.secure_zmq.budgets import over_budget
from twinhost.secure_zmq.errors import (
    LimitReached,
    NotFound,
    PeerNotLive,
    RequestError,
    RequestIdReused,
    StoreUnavailable,
)
from twinhost.store.database import Database
from twinhost.system_digital_twin import ITSELF, SUCCESS, Success
from twinhost.system_digital_twin.capacity.forecast import (
    DENY,
    Card,
    CardId,
    Forecast,
    HostState,
    Placement,
    Resource,
    best_of,
    by_card,
    forecast_of,
    place,
)
from twinhost.system_digital_twin.capacity.leases import Lease, LeaseReply, Leases, OpenLease, leased
from twinhost.system_digital_twin.capacity.waiting import Place, PlacedLease, ServingOrder, Slot, WaitingRequest
from twinhost.system_digital_twin.events.events import Events, Topic
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.metrics.vram_reports import VramRecord, VramReports, card_of, is_gpu

MAX_WAITING = 256
MAX_WAITING_PER_HOLDER = 16
MAX_NOTIFIED = 100  # leases whose holders are notified, for one request
RECONNECT_S = 3.0  # for which a request without a connection keeps its place
DEAD_AFTER_S = 5.0  # of silence seen by this process, which may itself have been stopped before
_MEASURED = ("cpu_percent", "ram_used_mb", "ram_total_mb")  # of a machine
LEASE_WANTED = "lease_wanted"
_RETRY_S = 1.0
_NOTIFY_EVERY_S = 1.0


class Candidate(TypedDict):
    """The recommendation for one host, and its reason; `gpu` is the best card for VRAM."""

    host: str
    recommendation: str
    reason: str
    gpu: NotRequired[CardId | None]


class PlacementReply(TypedDict):
    """The host that the load fits on, null if none; the reason; and every host that was considered."""

    host: str | None
    reason: str
    considered: list[Candidate]


class Reserved(Success, LeaseReply):
    """The memory is reserved."""


class Placed(Reserved):
    """The memory is reserved, on the host that was chosen for it."""

    placement: PlacementReply


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder asks for: `amount_mb` MB, on one host or on any."""

    resource: Resource
    amount_mb: float
    host: str | None
    ttl_s: float
    wait_s: float
    priority: int
    holder: str
    request_id: str | None


class Hosts:
    """The state of every host at one moment, read when it is needed."""

    def __init__(self, metrics: Metrics, reports: VramReports, leases: Leases, dead: Collection[str] = ()) -> None:
        """What the agents in `dead` have reported to use is free."""
        self._metrics = metrics
        self._reports = reports
        self._dead = dead
        self._open = leases
        self._states: dict[str, HostState] = {}
        self._places: dict[Slot, Place] = {}

    @cached_property
    def _leases(self) -> dict[str, list[OpenLease]]:
        return self._open.by_host()

    @cached_property
    def _by_machine(self) -> dict[str | None, list[OpenLease]]:
        by_machine: dict[str | None, list[OpenLease]] = {}
        for held in itertools.chain.from_iterable(self._leases.values()):
            by_machine.setdefault(self._machine_of(held), []).append(held)
        return by_machine

    def names(self, host: str | None) -> list[str]:
        """Return the host that is asked for, or all."""
        return self._metrics.hosts() if host is None else [host]

    def leases(self, host: str) -> list[OpenLease]:
        """Return the leases on a host, and on the others of its machine, which share its memory."""
        machine, own = self._metrics.machine_of(host), self._leases.get(host, [])
        if machine is None:
            return own
        return [*self._by_machine.get(machine, []), *(held for held in own if self._machine_of(held) != machine)]

    def _machine_of(self, held: OpenLease) -> str | None:
        """Return the machine of a lease; where an older version stored it without, the one that its host is on now."""
        host = held.lease.host
        if held.lease.machine is not None:
            return held.lease.machine or None
        return self._metrics.machine_of(host) if host in self._metrics.hosts() else None

    def state(self, host: str) -> HostState:
        """Return the metrics and leases of a host; NotFound for an unknown one."""
        if host not in self._states:
            sample, open_now, by = self._metrics.current(host), self.leases(host), self._measures(host)
            of_machine, since = sample and self._metrics.current(by), self._metrics.measured_since(by)
            self._states[host] = HostState(
                host=host,
                latency_ms=sample.latency_ms if sample else None,
                **{name: getattr(of_machine, name) for name in _MEASURED if of_machine},
                ram_leased=leased(open_now, "ram", lambda _: since),
                vram_leased=leased(open_now, "vram", lambda _: since),
                cards=self._leased_cards(host) if sample else (),
            )
        return self._states[host]

    def places(self, resource: Resource) -> dict[Slot, Place]:
        """Return the measured places of all hosts, each of a machine's once."""
        return {
            self.slot(resource, on): self.place(resource, on, 0.0)
            for host in self._metrics.hosts()
            for on in _on_places(resource, 0.0, self.state(host))
            if on.limit
        }

    def place(self, resource: Resource, on: Forecast, amount_mb: float) -> Place:
        """Return the place that a forecast of a load of that size is about."""
        slot = self.slot(resource, on)
        if slot not in self._places:
            taken = (
                PlacedLease(held.expires_at, held.lease.amount_mb, held.lease.holder)
                for held in self.leases(on.host)
                if held.lease.resource == resource and (on.gpu is None or held.lease.on_card(on.gpu))
            )
            free_mb = (on.headroom or 0.0) + amount_mb
            self._places[slot] = Place(on.limit or 0.0, free_mb, tuple(sorted(taken)))
        return self._places[slot]

    def slot(self, resource: Resource, on: Forecast) -> Slot:
        """Return the place that a forecast is about."""
        card = None if on.gpu is None else on.gpu["uuid"] or on.gpu["index"]
        return resource, self._metrics.machine_of(on.host) or on.host, card

    def _measures(self, host: str) -> str:
        """Return the host whose measurements of the machine count: the first that is there, mainpc before all.

        Each host says itself on which machine it is, and would otherwise lease more of that than there is.
        """
        there = {host, *self._metrics.same_machine(host)}
        return next((name for name in self._metrics.hosts() if name in there and not self._metrics.stale(name)), host)

    def reporters(self, host: str) -> tuple[str, ...]:
        """Return the agents whose reports describe the cards of a host's machine, where no driver measures them."""
        on_machine, driven = self._driven(host)
        reports = self._reports.of_hosts(on_machine) if driven is None else []
        return tuple(sorted(report.agent_name for report in reports))

    def cards(self, host: str) -> list[Card]:
        """Return the cards that a driver on a host's machine measures; without one, those that agents there report.

        They are without their leases.
        """
        on_machine, driven = self._driven(host)
        if driven is None:
            return _reported(self._reports.of_hosts(on_machine), self._dead)
        return self._first_measured(driven, on_machine)

    def _driven(self, host: str) -> tuple[list[str], str | None]:
        """Return the hosts on a host's machine, and the first of them with a driver that measures cards.

        Each host says itself on which machine it is; of others, only those of the configuration are believed.
        """
        others = self._metrics.same_machine(host)
        believed = [host, *filter(self._metrics.is_configured, others)]
        return [host, *others], next((name for name in believed if _measured(self._metrics.current(name))), None)

    def _leased_cards(self, host: str) -> tuple[Card, ...]:
        _, driven = self._driven(host)
        measured_since: Callable[[str], float] = self._reports.received_at  # each holder reports its own use
        if driven is not None:
            since = self._metrics.measured_since(driven)
            measured_since = lambda _: since  # noqa: E731
        open_now = self.leases(host)
        return tuple(
            msgspec.structs.replace(card, leased=leased(open_now, "vram", measured_since, card.gpu))
            for card in self.cards(host)
        )

    def _first_measured(self, driven: str, on_machine: Collection[str]) -> list[Card]:
        """Return the cards of a host, each as the first host of its machine measures it."""
        first: dict[str | int, Card] = {}
        for name in self._metrics.hosts():
            for card in _measured(self._metrics.current(name)) if name in on_machine else ():
                first.setdefault(card.index, card)
                first.setdefault(card.uuid or card.index, card)
        return [_measured_as(card, first[card.uuid or card.index]) for card in _measured(self._metrics.current(driven))]


def _measured_as(card: Card, other: Card) -> Card:
    return msgspec.structs.replace(card, used_mb=other.used_mb, total_mb=other.total_mb)


def _measured(sample: HostSample | None) -> list[Card]:
    """Return the cards of a sample; one where an older host sent a sum alone."""
    if sample is None:
        return []
    if not sample.gpus and sample.vram_used_mb is not None and sample.vram_total_mb is not None:
        return [Card(index=0, used_mb=sample.vram_used_mb, total_mb=sample.vram_total_mb)]
    return [Card(index=gpu.index, uuid=gpu.uuid, used_mb=gpu.used_mb, total_mb=gpu.total_mb) for gpu in sample.gpus]


def _reported(reports: list[VramRecord], dead: Collection[str]) -> list[Card]:
    """Return the cards whose capacities agents state; if none does, the one card that all of them name.

    Where agents state different capacities of a card, the least counts. Agents of another host are asked only if those
    of this one state nothing.
    """
    own = [report for report in reports if report.most == 1.0]
    alive = [report for report in reports if report.agent_name not in dead]
    if capacities := _capacities(own) or _capacities(reports):
        return [
            Card(
                index=index,
                used_mb=sum(report.used_on(index, total_mb) for report in alive),
                total_mb=total_mb,
                reported_by=by,
            )
            for index, (total_mb, by) in sorted(capacities.items())
        ]
    described = own or reports
    devices = {device for report in described for device in report.devices if is_gpu(device)}
    total_mb, by = max(((report.total_vram_mb, report.writer) for report in described), default=(0.0, ""))
    if len(devices) > 1 or not total_mb:
        return []
    digits = "".join(devices)[len("".join(devices).rstrip("0123456789")) :]  # "cuda:1", "1"
    used_mb = sum(min(report.used_mb, report.most * total_mb) for report in alive)
    return [Card(index=int(digits[:3] or 0), used_mb=used_mb, total_mb=total_mb, reported_by=by)]


def _capacities(reports: Iterable[VramRecord]) -> dict[int, tuple[float, str]]:
    """Return the least capacity of each card that is stated, and by whom."""
    capacities: dict[int, tuple[float, str]] = {}
    for report in reports:
        for device, total_mb in report.device_totals_mb.items():
            if (index := card_of(device)) is not None:
                stated = total_mb, report.writer
                capacities[index] = min(stated, capacities.get(index, stated))
    return capacities


class _Waiter(WaitingRequest, kw_only=True):
    """A request that waits for its reply."""

    demand: Demand
    answer: Withdrawable[Reserved | Placed] = msgspec.field(default_factory=Withdrawable)
    reason: str = ""
    gone_since: float | None = None  # monotonic: without a connection
    notified: set[str] = msgspec.field(default_factory=set)  # the leases whose holders were notified
    notify_at: float = 0.0  # monotonic: when the next holders may be notified

    def waited_s(self, now: float) -> float:
        return now - self.until + self.demand.wait_s


class QueuedWait(NamedTuple):
    """A request for memory that waits; `held_by` is what others have leased where it could have it, most first.

    `behind` are the holders before it that want the same memory, first first.
    """

    holder: str
    resource: Resource
    host: str | None
    amount_mb: float
    waited_s: float
    reason: str = ""
    held_by: tuple[tuple[str, float], ...] = ()
    priority: int = 0
    left_s: float = 0.0
    behind: tuple[str, ...] = ()


class Reservations:
    """Gives leases where the memory is free, and keeps the queue; on the loop's thread."""

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        reports: VramReports,
        leases: Leases,
        events: Events,
        has_died: Callable[[str], bool],
        is_live: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Give leases.

        Args:
            database: where they are.
            metrics: what the hosts measure.
            reports: what agents report, where no driver measures it.
            leases: those that are open.
            events: where holders are notified.
            has_died: whether a holder is a registered agent that has stopped sending heartbeats.
            is_live: whether a key of an identity is authorised now.
        """
        self._database = database
        self._clock = database.clock
        self._metrics = metrics
        self._reports = reports
        self._leases = leases
        self._events = events
        self._has_died = has_died
        self._is_live = is_live
        self._waiters: list[_Waiter] = []
        self._order = ServingOrder()
        self._numbers = 0
        self._silent_since: dict[str, float] = {}
        self._dead: set[str] = set()  # which have leases, or have reported VRAM
        self._retry_at = 0.0

    def waiting(self) -> Counter[str]:
        """Return how many requests wait, by resource."""
        return Counter(waiter.demand.resource for waiter in self._waiters)

    def hosts(self) -> Hosts:
        """Return the hosts as they are now."""
        return Hosts(self._metrics, self._reports, self._leases, self._dead)

    def shares(self) -> dict[str, float]:
        """Return the largest part of any place that each holder has leased."""
        hosts, shares = self.hosts(), dict[str, float]()
        resources: tuple[Resource, ...] = get_args(Resource)
        for there in itertools.chain.from_iterable(hosts.places(resource).values() for resource in resources):
            for holder in {lease.holder for lease in there.leases}:
                shares[holder] = max(shares.get(holder, 0.0), there.share_of(holder))
        return shares

    def long_waits(self, longer_than_s: float) -> list[QueuedWait]:
        """Return the requests that have waited for longer, each as if it were the first."""
        now, hosts = self._clock.monotonic(), self.hosts()
        long = (waiter for waiter in self._waiters if waiter.waited_s(now) > longer_than_s)
        return [self._wait_of(waiter, (), hosts, now) for waiter in long]

    def queue(self, most: int) -> list[QueuedWait]:
        """Return the first of those who wait, in the order in which they will be served."""
        now, hosts = self._clock.monotonic(), self.hosts()
        first = sorted(self._waiters, key=self._order.order_of)[:most]
        return [self._wait_of(waiter, first[:at], hosts, now) for at, waiter in enumerate(first)]

    def _wait_of(self, waiter: _Waiter, before: Iterable[_Waiter], hosts: Hosts, now: float) -> QueuedWait:
        demand = waiter.demand
        there = [place for slot, place in hosts.places(demand.resource).items() if slot in waiter.could]
        holders = {lease.holder for place in there for lease in place.leases}
        held = ((holder, sum(place.held_by(holder) for place in there)) for holder in holders)
        return QueuedWait(
            holder=demand.holder,
            resource=demand.resource,
            host=demand.host,
            amount_mb=demand.amount_mb,
            waited_s=waiter.waited_s(now),
            reason=waiter.reason,
            held_by=tuple(sorted(held, key=lambda item: (-item[1], item[0]))),
            priority=waiter.priority,
            left_s=waiter.until - now,
            behind=tuple(dict.fromkeys(other.holder for other in before if other.could & waiter.could)),
        )

    def end_all_of(self, agent_name: str) -> None:
        """End an agent's leases and its report, in the transaction under way."""
        self._leases.delete(self._leases.held_by([agent_name]))
        self._reports.delete([agent_name])

    def reserve(self, demand: Demand, share: float = 1.0) -> "Reserved | Placed | Withdrawable[Reserved | Placed]":
        """Reserve memory now; if it is not free, and the demand waits, return the reply that is to come.

        Args:
            demand: what is asked for.
            share: the part of each place that the holder may have.

        Raises:
            NotFound: there is no such host, or nothing of this kind is measured on it.
            LimitReached: it is not free, or never can be; or a limit of leases or of the queue is reached.
            OverBudget: it is free, or could be, and exceeds the holder's share.
            RequestIdReused: the same request_id waits with another demand.
        """
        if demand.wait_s and demand.request_id is not None and (known := self._repeated(demand)) is not None:
            return known
        self._numbers += 1
        waiter = _Waiter(
            demand=demand,
            number=self._numbers,
            holder=demand.holder,
            amount_mb=demand.amount_mb,
            priority=demand.priority,
            until=self._clock.monotonic() + demand.wait_s,
            share=share,
        )
        hosts = self.hosts()
        forecasts = self._consider(waiter, hosts, self._waiters)
        placement = place(forecasts)
        if placement.host is not None:
            return self._grant(waiter, placement, forecasts, hosts, self._waiters, waited=False)
        self._require_share(waiter, hosts)
        unknown = any(self._metrics.stale(host) for host in hosts.names(demand.host))  # what it has may be enough
        if not demand.wait_s or not (waiter.could or unknown):
            raise _refusal(demand, forecasts)
        self._leases.require_room(demand.holder)
        self._require_place(demand.holder)
        waiter.reason = _refused(demand, forecasts)
        self._waiters.append(waiter)
        return waiter.answer

    def on_tick(self) -> None:
        """Free what has expired and what dead and revoked holders have, and give it to those who wait.

        Raises:
            StoreUnavailable: nothing was given, and it is retried.
        """
        holders = {lease.holder for lease in self._leases.all()}
        gone = {name for name in holders | self._reports.writers() if not self._is_live(name)}
        self._dead, clock = self._find_dead(holders | self._reports.agents()), self._clock.monotonic()
        self._waiters = [other for other in self._waiters if not self._left(other, clock)]
        ended = {*self._leases.expired(), *self._leases.held_by(self._dead | gone)}
        if not (ended or gone or self._waiters) or clock < self._retry_at:
            return
        try:
            with self._database.transaction():
                self._leases.delete(ended)
                self._reports.delete(self._reports.written_by(gone))
                answers = self._serve()
        except StoreUnavailable:
            self._retry_at = clock + _RETRY_S
            raise
        for waiter in tuple(self._waiters):
            answer = answers.get(waiter.number)
            if answer is None and waiter.until <= clock:
                waited = f"{waiter.demand.wait_s:g} s of waiting were not enough"
                answer = LimitReached(f"{waiter.reason}; {waited}; see list_leases")
            if answer is not None:
                self._waiters.remove(waiter)
                _finish(waiter.answer, answer)

    def _serve(self) -> dict[int, "Reserved | Placed | RequestError"]:
        """Give free memory to those who wait, in order; return the answers by the waiters' numbers."""
        answers: dict[int, Reserved | Placed | RequestError] = {}
        hosts, clock, wanted = self.hosts(), self._clock.monotonic(), set[Slot]()
        waiting = list(self._waiters)
        pending = sorted(waiting, key=self._order.order_of)
        while pending:
            waiter = pending.pop(0)
            try:
                forecasts = self._consider(waiter, hosts, waiting)
                placement = place(forecasts)
                if placement.host is not None and waiter.gone_since is None:
                    waiting.remove(waiter)
                    answers[waiter.number] = self._grant(waiter, placement, forecasts, hosts, waiting, waited=True)
                    hosts = self.hosts()
                    pending.sort(key=self._order.order_of)
                    continue
            except RequestError as error:
                if isinstance(error, StoreUnavailable):
                    raise
                answers[waiter.number] = error
                continue
            if placement.host is None and waiter.notify_at <= clock:
                self._ask_holders(waiter, hosts, waiter.could - wanted)
            waiter.reason = _refused(waiter.demand, forecasts)
            waiter.was_not_met(hosts.places(waiter.demand.resource), clock)
            wanted |= waiter.could
        return answers

    def _consider(self, waiter: _Waiter, hosts: Hosts, waiting: Sequence[_Waiter]) -> list[Forecast]:
        """Return the best forecast of each host, among the places that the holder, and those who wait, leave it."""
        demand, best = waiter.demand, []
        lease, name = self._lease_for(waiter), demand.resource.upper()
        places = hosts.places(demand.resource) if waiting else {}
        waiter.could = set()
        for host in hosts.names(demand.host):
            options = _on_places(demand.resource, demand.amount_mb, hosts.state(host))
            allowed, reason = [], ""
            for forecast in options:
                slot = hosts.slot(demand.resource, forecast)
                if forecast.limit is None or demand.amount_mb > waiter.share * forecast.limit:
                    continue
                waiter.could.add(slot)
                if not forecast.fits:
                    continue
                if waiter.exceeds_share(hosts.place(demand.resource, forecast, demand.amount_mb)):
                    reason = reason or f"{demand.holder} would have more of {host}'s {name} than its share"
                elif not self._order.may_have(waiter, slot, lease, places, waiting):
                    reason = f"{host}'s {name} is kept for requests that wait for it"
                else:
                    allowed.append(forecast)
            choice = best_of(allowed or options)
            if choice.fits and not allowed:
                choice = msgspec.structs.replace(choice, recommendation=DENY, reason=reason)
            best.append(choice)
        return best

    def _require_share(self, waiter: _Waiter, hosts: Hosts) -> None:
        """Raise OverBudget if the holder's share alone is why a request can't be met, now or ever."""
        demand = waiter.demand
        on = {
            hosts.place(demand.resource, forecast, demand.amount_mb): forecast.fits
            for host in hosts.names(demand.host)
            for forecast in _on_places(demand.resource, demand.amount_mb, hosts.state(host))
            if forecast.limit is not None and demand.amount_mb <= forecast.limit
        }
        free = [there for there, fits in on.items() if fits]
        never = bool(on) and not waiter.could
        if not never and (demand.wait_s or not free or not all(map(waiter.exceeds_share, free))):
            return
        tried = min(free or on, key=lambda there: there.share_of(demand.holder))
        ends_at = waiter.within_share_at(tried)
        left_mb = int(waiter.left_of_share_mb(tried))
        raise over_budget(
            demand.holder,
            "lease_share",
            tried.share_of(demand.holder),
            waiter.share,
            f"release a lease, or ask for at most {left_mb} MB" if left_mb else "release a lease",
            None if ends_at is None else self._clock.time() + ends_at - self._clock.monotonic(),
        )

    def _lease_for(self, waiter: _Waiter) -> PlacedLease:
        return PlacedLease(self._clock.monotonic() + waiter.demand.ttl_s, waiter.amount_mb, waiter.holder)

    def _grant(
        self,
        waiter: _Waiter,
        placement: Placement,
        forecasts: Iterable[Forecast],
        hosts: Hosts,
        waiting: Sequence[_Waiter],
        *,
        waited: bool,
    ) -> Reserved | Placed:
        demand, on = waiter.demand, placement.best
        lease = self._leases.reserve(
            demand.resource,
            on,
            demand.amount_mb,
            demand.ttl_s,
            demand.holder,
            waited_as=demand.request_id if waited else None,
            machine=self._metrics.machine_of(on.host) or "",  # what the host says later doesn't move it
        )
        places = hosts.places(demand.resource) if waiting else {}
        self._order.given(waiter, hosts.slot(demand.resource, on), self._lease_for(waiter), places, waiting)
        reserved: Reserved = {"status": SUCCESS, **self._leases.describe(lease)}
        return reserved if demand.host is not None else {**reserved, "placement": placement_reply(placement, forecasts)}

    def _repeated(self, demand: Demand) -> "Reserved | Withdrawable[Reserved | Placed] | None":
        """Return the reply to a request that waits, or has waited, under this id."""
        assert demand.request_id is not None
        for waiter in self._waiters:
            if (waiter.demand.holder, waiter.demand.request_id) == (demand.holder, demand.request_id):
                if waiter.demand != demand:
                    raise RequestIdReused(f"request_id {demand.request_id!r} waits with another body; use a new id")
                waiter.answer.cancel()  # the connection that it came on is no longer used
                waiter.answer, waiter.gone_since = Withdrawable(), None
                return waiter.answer
        lease = self._leases.waited_for(demand.resource, demand.amount_mb, demand.holder, demand.request_id)
        return None if lease is None else {"status": SUCCESS, **self._leases.describe(lease)}

    def _require_place(self, holder: str) -> None:
        if len(self._waiters) >= MAX_WAITING:
            raise LimitReached(f"{MAX_WAITING} requests wait for memory, which is the limit; ask again later")
        if sum(other.demand.holder == holder for other in self._waiters) >= MAX_WAITING_PER_HOLDER:
            raise LimitReached(f"{MAX_WAITING_PER_HOLDER} requests of {holder} wait, which is the limit; cancel one")

    def _left(self, waiter: _Waiter, clock: float) -> bool:
        """Return whether the client of a request is gone, and had the time to reconnect, or may no longer ask."""
        if not self._is_live(waiter.holder):
            _finish(waiter.answer, PeerNotLive(f"no key of {waiter.holder} is valid here any more; enrol a new key"))
            return True
        if not waiter.answer.cancelled():
            return False
        if waiter.gone_since is None:
            waiter.gone_since = clock
        return clock - waiter.gone_since >= RECONNECT_S

    def _find_dead(self, names: Collection[str]) -> set[str]:
        """Return the holders and reporters that have died, and have not come back within DEAD_AFTER_S."""
        clock, before = self._clock.monotonic(), self._silent_since
        self._silent_since = {name: before.get(name, clock) for name in names if self._has_died(name)}
        return {name for name, since in self._silent_since.items() if clock - since >= DEAD_AFTER_S}

    def _ask_holders(self, waiter: _Waiter, hosts: Hosts, slots: set[Slot]) -> None:
        """Notify the holders of leases whose release would help: once per request, of MAX_NOTIFIED leases at most."""
        wanted = {lease.lease_id: lease for lease in self._helpful(waiter.demand, hosts, slots)}
        waiter.notify_at = self._clock.monotonic() + _NOTIFY_EVERY_S
        new = [lease for lease_id, lease in wanted.items() if lease_id not in waiter.notified]
        for lease in new[: MAX_NOTIFIED - len(waiter.notified)]:
            self._database.after_commit(waiter.notified.add, lease.lease_id)
            data = {
                "lease_id": lease.lease_id,
                "holder": lease.holder,
                "resource": lease.resource,
                "host": lease.host,
                "amount_mb": waiter.demand.amount_mb,
                "wanted_by": waiter.demand.holder,
                "priority": waiter.demand.priority,
            }
            event = {"event_id": uuid.uuid4().hex, "event_type": LEASE_WANTED, "source_agent": ITSELF, "data": data}
            left_s = max(1.0, waiter.until - self._clock.monotonic())
            self._events.add(Topic.EVENT, {**event, "propagate": True, "ttl": left_s}, ITSELF, ttl_s=left_s)

    def _helpful(self, demand: Demand, hosts: Hosts, slots: set[Slot]) -> Iterator[Lease]:
        """Yield the leases whose release would make room: those that suffice alone, or all that suffice together."""
        for host in hosts.names(demand.host):
            for on in _on_places(demand.resource, demand.amount_mb, hosts.state(host)):
                if on.headroom is None or hosts.slot(demand.resource, on) not in slots:
                    continue
                there = [
                    held.lease
                    for held in hosts.leases(host)
                    if held.lease.resource == demand.resource and (on.gpu is None or held.lease.on_card(on.gpu))
                ]
                alone = [lease for lease in there if on.headroom + lease.amount_mb >= 0]
                if on.headroom + sum(lease.amount_mb for lease in there) >= 0:
                    yield from alone or there


def placement_reply(placement: Placement, forecasts: Iterable[Forecast]) -> PlacementReply:
    """Return a placement as a reply has it."""
    considered: list[Candidate] = []
    for forecast in forecasts:
        candidate: Candidate = {
            "host": forecast.host,
            "recommendation": forecast.recommendation,
            "reason": forecast.reason,
        }
        considered.append(candidate if forecast.gpu is None else {**candidate, "gpu": forecast.gpu})
    return {"host": placement.host, "reason": placement.reason, "considered": considered}


def _on_places(resource: Resource, amount_mb: float, state: HostState) -> list[Forecast]:
    return by_card(state, amount_mb) if resource == "vram" else [forecast_of(state, "ram", amount_mb)]


def _refused(demand: Demand, forecasts: Iterable[Forecast]) -> str:
    reasons = "; ".join(forecast.reason for forecast in forecasts)
    return f"{demand.amount_mb:g} MB of {demand.resource.upper()} can't be reserved: {reasons}"


def _refusal(demand: Demand, forecasts: list[Forecast]) -> RequestError:
    if all(forecast.headroom is None for forecast in forecasts):
        what = "no GPU is measured" if demand.resource == "vram" else "no RAM is measured"
        reasons = "; ".join(forecast.reason for forecast in forecasts)
        return NotFound(f"{what} on which {demand.amount_mb:g} MB could be reserved ({reasons}); see get_metrics")
    return LimitReached(f"{_refused(demand, forecasts)}; see list_leases")


def _finish(answer: "Withdrawable[Reserved | Placed]", outcome: "Reserved | Placed | RequestError") -> None:
    if answer.cancelled():
        return
    if isinstance(outcome, RequestError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
