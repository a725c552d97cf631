"""Leases of memory, so that the same memory is not reserved twice; in SQLite, and in memory.

Every lease expires at its deadline, unless its holder extends it. A committed one is in use: its holder has allocated
the memory. The deadline is counted by the monotonic clock, and across a restart by the wall clock.

VRAM is leased on one card. A lease that an older version stored names none, and counts in full on every card of its
host, since it may be on any of them.
"""

import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Literal, TypedDict

import msgspec

from twinhost.moments import iso_time
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import LimitReached, NotFound
from twinhost.store.database import Database
from twinhost.system_digital_twin import reply_from
from twinhost.system_digital_twin.capacity.forecast import CardId, Forecast, Leased, Resource
from twinhost.system_digital_twin.metrics.history import rounded

MIGRATION = """
CREATE TABLE leases (
    lease_id TEXT PRIMARY KEY NOT NULL,
    record BLOB NOT NULL
) STRICT;
"""
# Leases that were committed without an end get one: a day, the default of `lease_s`.
MIGRATION_ENDS = """
UPDATE leases SET record = CAST(
    json_set(CAST(record AS TEXT), '$.deadline', strftime('%s', 'now') + 86400.0, '$.ttl_s', 86400.0) AS BLOB
) WHERE json_extract(CAST(record AS TEXT), '$.deadline') IS NULL;
"""
MAX_LEASES = 1_000
MAX_PER_HOLDER = 100
MAX_TTL_S = 86_400.0

State = Literal["reserved", "committed"]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One lease as it is stored; `deadline` in seconds since the epoch.

    `waited_as` is the request_id of a request that has waited for it: a repetition of it gets this lease.
    """

    lease_id: str
    resource: Resource
    host: str
    amount_mb: float
    holder: str
    state: State
    created: float
    deadline: float
    ttl_s: float | None = None  # with which the deadline was last set; None in a row that an older version wrote
    machine: str | None = None  # the boot id of the host's machine
    gpu: int | None = None
    gpu_uuid: str | None = None
    waited_as: str | None = None
    capacity_reported_by: str | None = None

    @property
    def card(self) -> CardId | None:
        """The card of its VRAM; None for RAM, and for a lease that an older version has stored."""
        return None if self.gpu is None else {"index": self.gpu, "uuid": self.gpu_uuid}

    def on_card(self, gpu: CardId) -> bool:
        """Return whether it may be on a card; a driver's indices may change, its uuids don't."""
        if self.gpu_uuid is not None and gpu["uuid"] is not None:
            return self.gpu_uuid == gpu["uuid"]
        return self.gpu is None or self.gpu == gpu["index"]


class LeaseReply(TypedDict):
    """A lease of `amount_mb` MB; `expires` is null only from an agent of version 0.3 or before.

    `gpu` is the card of its VRAM; null for RAM, and for a lease that an older version has stored.
    `capacity_reported_by` is whose report has the capacity of that card; null if a driver measures it.
    """

    lease_id: str
    resource: Resource
    host: str
    amount_mb: float
    holder: str
    state: str
    created: str
    expires: str | None
    expires_in_s: float | None
    gpu: CardId | None
    capacity_reported_by: str | None


class OpenLease(msgspec.Struct, frozen=True):
    """A lease in memory, with its times by the monotonic clock."""

    lease: Lease
    expires_at: float  # monotonic
    committed_at: float = 0.0  # monotonic


class Leases:
    """Open leases by id."""

    def __init__(self, database: Database, ended: Callable[[str, str, int | None, float, float], None]) -> None:
        """Call `ended` when a committed lease of VRAM ends: its holder, host, card, MB, and when it was committed."""
        self._database = database
        self.clock = database.clock
        self._ended = ended
        self._encoder = msgspec.json.Encoder()
        self._open: dict[str, OpenLease] = {}
        wall, clock = self.clock.time(), self.clock.monotonic()
        decoder = msgspec.json.Decoder(Lease)
        for (record,) in database.execute("SELECT record FROM leases"):
            lease = decoder.decode(record)
            left_s = lease.ttl_s or lease.deadline - lease.created
            if database.logged:  # the deadline may be by another host's clock
                lease = msgspec.structs.replace(lease, deadline=wall + left_s)
            left_s = min(lease.deadline - wall, left_s)  # a wall clock that was set back does not extend a lease
            self._open[lease.lease_id] = OpenLease(lease, clock + left_s, clock)

    def reserve(
        self,
        resource: Resource,
        on: Forecast,
        amount_mb: float,
        ttl_s: float,
        holder: str,
        *,
        waited_as: str | None = None,
        machine: str | None = None,
    ) -> Lease:
        """Reserve memory for `ttl_s` seconds, where the caller has found that it is free, of a host on `machine`.

        Raises:
            LimitReached: MAX_LEASES are open, or MAX_PER_HOLDER of this holder.
        """
        self.require_room(holder)
        wall = self.clock.time()
        lease = Lease(
            lease_id=uuid.uuid4().hex,
            resource=resource,
            host=on.host,
            amount_mb=amount_mb,
            holder=holder,
            state="reserved",
            created=wall,
            deadline=wall + ttl_s,
            machine=machine,
            ttl_s=ttl_s,
            gpu=on.gpu["index"] if on.gpu else None,
            gpu_uuid=on.gpu["uuid"] if on.gpu else None,
            waited_as=waited_as,
            capacity_reported_by=on.reported_by,
        )
        self._write(OpenLease(lease, self.clock.monotonic() + ttl_s))
        return lease

    def require_room(self, holder: str) -> None:
        """Raise LimitReached where MAX_LEASES are open, or MAX_PER_HOLDER of this holder."""
        open_now = self._live()
        if len(open_now) >= MAX_LEASES:
            raise LimitReached(f"{MAX_LEASES} leases are open, which is the limit; release some first")
        if sum(held.lease.holder == holder for held in open_now) >= MAX_PER_HOLDER:
            raise LimitReached(f"{holder} holds {MAX_PER_HOLDER} leases, which is the limit; release some first")

    def commit(self, lease_id: str, caller: Caller, ttl_s: float | None, longest_s: float) -> Lease:
        """Record that the memory is in use; the lease lasts for `ttl_s` seconds from now, else for `longest_s`.

        A further call with `ttl_s` renews the lease, and one without it changes nothing.

        Raises:
            NotFound: no such lease is open.
            NotGranted: it is another holder's.
        """
        held = self._held(lease_id, caller)
        committed = held.lease.state == "committed"
        if committed and ttl_s is None:
            return held.lease
        wall, clock, lasts_s = self.clock.time(), self.clock.monotonic(), longest_s if ttl_s is None else ttl_s
        lease = msgspec.structs.replace(held.lease, state="committed", deadline=wall + lasts_s, ttl_s=lasts_s)
        self._write(OpenLease(lease, clock + lasts_s, held.committed_at if committed else clock))
        return lease

    def release(self, lease_id: str, caller: Caller) -> Lease:
        """End a lease, and return it; raises as `commit`."""
        lease = self._held(lease_id, caller).lease
        self.delete([lease_id])
        return lease

    def held_by(self, holders: Collection[str]) -> list[str]:
        """Return the ids of the open leases of these holders."""
        return [held.lease.lease_id for held in self._live() if held.lease.holder in holders]

    def waited_for(self, resource: Resource, amount_mb: float, holder: str, request_id: str) -> Lease | None:
        """Return the open lease that a request has waited for, if it has been given one."""
        asked = (resource, amount_mb, holder, request_id)
        return next(
            (
                lease
                for lease in self.all()
                if (lease.resource, lease.amount_mb, lease.holder, lease.waited_as) == asked
            ),
            None,
        )

    def host_of(self, holder: str) -> str | None:
        """Return the host of a holder's leases; None if it has none, or has them on several hosts."""
        hosts = {lease.host for lease in self.all() if lease.holder == holder}
        return hosts.pop() if len(hosts) == 1 else None

    def all(self) -> list[Lease]:
        """Return the open leases, oldest first."""
        return [held.lease for held in self._live()]

    def expires_in_s(self, lease: Lease) -> float:
        """Return the seconds until a lease expires."""
        known = self._open.get(lease.lease_id)
        return 0.0 if known is None else max(0.0, known.expires_at - self.clock.monotonic())

    def describe(self, lease: Lease) -> LeaseReply:
        return reply_from(
            LeaseReply,
            lease,
            created=iso_time(lease.created),
            expires=iso_time(lease.deadline),
            expires_in_s=rounded(self.expires_in_s(lease), 3),
            gpu=lease.card,
        )

    def by_host(self) -> dict[str, list[OpenLease]]:
        """Return the open leases of each host, to sum with `leased`."""
        by_host: dict[str, list[OpenLease]] = {}
        for held in self._live():
            by_host.setdefault(held.lease.host, []).append(held)
        return by_host

    def expired(self) -> list[str]:
        """Return the ids of the leases that have expired, which count no more."""
        clock = self.clock.monotonic()
        return [lease_id for lease_id, held in self._open.items() if held.expires_at <= clock]

    def delete(self, lease_ids: Iterable[str]) -> None:
        """End leases, in the transaction under way."""
        for lease_id in lease_ids:
            self._database.execute("DELETE FROM leases WHERE lease_id = ?", (lease_id,))
            self._database.restore_on_rollback(self._open, lease_id)
            held = self._open.pop(lease_id)
            if (held.lease.resource, held.lease.state) == ("vram", "committed"):
                lease = held.lease
                self._ended(lease.holder, lease.host, lease.gpu, lease.amount_mb, held.committed_at)

    def _live(self) -> list[OpenLease]:
        clock = self.clock.monotonic()
        live = [held for held in self._open.values() if held.expires_at > clock]
        return sorted(live, key=lambda held: held.lease.created)

    def _held(self, lease_id: str, caller: Caller) -> OpenLease:
        known = self._open.get(lease_id)
        if known is None or known.expires_at <= self.clock.monotonic():
            raise NotFound(
                f"no lease {lease_id[:64]!r} is open: it expired or was released, or never existed; see list_leases"
            )
        caller.require_own(f"lease {lease_id}", known.lease.holder)
        return known

    def _write(self, entry: OpenLease) -> None:
        self._database.execute(
            "INSERT INTO leases VALUES (?, ?) ON CONFLICT (lease_id) DO UPDATE SET record = excluded.record",
            (entry.lease.lease_id, self._encoder.encode(entry.lease)),
        )
        self._database.restore_on_rollback(self._open, entry.lease.lease_id)
        self._open[entry.lease.lease_id] = entry


def leased(
    leases: Iterable[OpenLease], resource: Resource, measured_since: Callable[[str], float], gpu: CardId | None = None
) -> Leased:
    """Return what a host's leases take.

    Args:
        leases: those of the host.
        resource: of which kind.
        measured_since: returns, for a holder, the monotonic moment after which its use was measured.
        gpu: on this card only; None: on all of them together.
    """
    to_come = in_use = 0.0
    for held in leases:
        if held.lease.resource != resource or (gpu is not None and not held.lease.on_card(gpu)):
            continue
        if held.lease.state == "committed" and held.committed_at <= measured_since(held.lease.holder):
            in_use += held.lease.amount_mb
        else:
            to_come += held.lease.amount_mb
    return Leased(to_come_mb=to_come, in_use_mb=in_use)
