"""Leases of memory, so that the same memory is not reserved twice; in SQLite, and in memory.

A reserved lease expires at its deadline. A committed one is in use: its holder has allocated the memory, and it lasts
until it is released. The deadline is counted by the monotonic clock, and across a restart by the wall clock.
"""

import time
import uuid
from typing import Literal, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import LimitReached, NotFound, NotGranted, StoreUnavailable
from twinhost.store.database import Database
from twinhost.system_digital_twin.capacity.forecast import Leased, Resource
from twinhost.system_digital_twin.metrics.history import rounded

MIGRATION = """
CREATE TABLE leases (
    lease_id TEXT PRIMARY KEY NOT NULL,
    record BLOB NOT NULL
) STRICT;
"""
MAX_LEASES = 1_000
MAX_PER_HOLDER = 100
MAX_TTL_S = 86_400.0
_RETRY_S = 1.0  # until a failed deletion of expired leases is retried

State = Literal["reserved", "committed"]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One lease as it is stored; `deadline` in seconds since the epoch, None once it is committed."""

    lease_id: str
    resource: Resource
    host: str
    amount_mb: float
    holder: str
    state: State
    created: float
    deadline: float | None
    machine: str | None = None  # the boot id of the host's machine


class LeaseReply(TypedDict):
    """A lease of `amount_mb` MB; `expires` is null once it is committed."""

    lease_id: str
    resource: Resource
    host: str
    amount_mb: float
    holder: str
    state: str
    created: str
    expires: str | None
    expires_in_s: float | None


class _Open(msgspec.Struct, frozen=True):
    lease: Lease
    expires_at: float | None  # monotonic
    committed_at: float = 0.0  # monotonic


class Leases:
    """Open leases by id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._encoder = msgspec.json.Encoder()
        self._open: dict[str, _Open] = {}
        self._retry_at = 0.0
        wall, clock = time.time(), time.monotonic()
        decoder = msgspec.json.Decoder(Lease)
        for (record,) in database.execute("SELECT record FROM leases"):
            lease = decoder.decode(record)
            expires_at = None
            if lease.deadline is not None:  # a wall clock that was set back must not extend a lease
                expires_at = clock + min(lease.deadline - wall, lease.deadline - lease.created)
            self._open[lease.lease_id] = _Open(lease, expires_at, clock)

    def reserve(
        self,
        resource: Resource,
        host: str,
        amount_mb: float,
        ttl_s: float,
        caller: Caller,
        machine: str | None = None,
    ) -> Lease:
        """Reserve memory of a host, which is on `machine`, for `ttl_s` seconds; the caller has found that it is free.

        Raises:
            LimitReached: MAX_LEASES are open, or MAX_PER_HOLDER of this holder.
        """
        open_now = self._live()
        if len(open_now) >= MAX_LEASES:
            raise LimitReached(f"{MAX_LEASES} leases are open, which is the limit; release some first")
        if sum(each.lease.holder == caller.name for each in open_now) >= MAX_PER_HOLDER:
            raise LimitReached(f"{caller.name} holds {MAX_PER_HOLDER} leases, which is the limit; release some first")
        wall = time.time()
        lease = Lease(
            lease_id=uuid.uuid4().hex,
            resource=resource,
            host=host,
            amount_mb=amount_mb,
            holder=caller.name,
            state="reserved",
            created=wall,
            deadline=wall + ttl_s,
            machine=machine,
        )
        self._write(_Open(lease, time.monotonic() + ttl_s))
        return lease

    def commit(self, lease_id: str, caller: Caller) -> Lease:
        """Record that the memory is in use; the lease no longer expires. A second call changes nothing.

        Raises:
            NotFound: no such lease is open.
            NotGranted: it is another holder's.
        """
        held = self._held(lease_id, caller)
        if held.lease.state == "committed":
            return held.lease
        lease = msgspec.structs.replace(held.lease, state="committed", deadline=None)
        self._write(_Open(lease, None, time.monotonic()))
        return lease

    def release(self, lease_id: str, caller: Caller) -> Lease:
        """End a lease, and return it; raises as `commit`."""
        lease = self._held(lease_id, caller).lease
        self._delete([lease_id])
        return lease

    def all(self) -> list[Lease]:
        """Return the open leases, oldest first."""
        return [each.lease for each in self._live()]

    def expires_in_s(self, lease: Lease) -> float | None:
        """Return the seconds until an open lease expires; None if it does not."""
        known = self._open.get(lease.lease_id)
        if known is None or known.expires_at is None:
            return None
        return max(0.0, known.expires_at - time.monotonic())

    def describe(self, lease: Lease) -> LeaseReply:
        return {
            "lease_id": lease.lease_id,
            "resource": lease.resource,
            "host": lease.host,
            "amount_mb": lease.amount_mb,
            "holder": lease.holder,
            "state": lease.state,
            "created": iso_time(lease.created),
            "expires": None if lease.deadline is None else iso_time(lease.deadline),
            "expires_in_s": rounded(self.expires_in_s(lease), 3),
        }

    def leased(self, resource: Resource, host: str, measured_since: float, machine: str | None = None) -> Leased:
        """Return what is leased on a host whose newest sample was taken after the monotonic `measured_since`.

        All hosts on one `machine` share its memory, so their leases count too.
        """
        to_come = in_use = 0.0
        for each in self._live():
            on_it = each.lease.host == host or (machine and each.lease.machine == machine)
            if each.lease.resource != resource or not on_it:
                continue
            if each.lease.state == "committed" and each.committed_at <= measured_since:
                in_use += each.lease.amount_mb
            else:
                to_come += each.lease.amount_mb
        return Leased(to_come_mb=to_come, in_use_mb=in_use)

    def on_tick(self) -> None:
        """Delete expired leases.

        Raises:
            StoreUnavailable: they are still on disk; they no longer count, and the deletion is retried.
        """
        clock = time.monotonic()
        expired = [
            name for name, each in self._open.items() if each.expires_at is not None and each.expires_at <= clock
        ]
        if not expired or clock < self._retry_at:
            return
        try:
            with self._database.transaction():
                self._delete(expired)
        except StoreUnavailable:
            self._retry_at = clock + _RETRY_S
            raise

    def _live(self) -> list[_Open]:
        clock = time.monotonic()
        live = [each for each in self._open.values() if each.expires_at is None or each.expires_at > clock]
        return sorted(live, key=lambda each: each.lease.created)

    def _held(self, lease_id: str, caller: Caller) -> _Open:
        known = self._open.get(lease_id)
        if known is None or (known.expires_at is not None and known.expires_at <= time.monotonic()):
            raise NotFound(
                f"no lease {lease_id[:64]!r} is open: it expired or was released, or never existed; see list_leases"
            )
        if known.lease.holder != caller.name and not caller.operator:
            raise NotGranted("this lease is another holder's; only its holder or an operator may commit or release it")
        return known

    def _write(self, entry: _Open) -> None:
        self._database.execute(
            "INSERT INTO leases VALUES (?, ?) ON CONFLICT (lease_id) DO UPDATE SET record = excluded.record",
            (entry.lease.lease_id, self._encoder.encode(entry.lease)),
        )
        self._database.restore_on_rollback(self._open, entry.lease.lease_id)
        self._open[entry.lease.lease_id] = entry

    def _delete(self, lease_ids: list[str]) -> None:
        for lease_id in lease_ids:
            self._database.execute("DELETE FROM leases WHERE lease_id = ?", (lease_id,))
            self._database.restore_on_rollback(self._open, lease_id)
            del self._open[lease_id]
