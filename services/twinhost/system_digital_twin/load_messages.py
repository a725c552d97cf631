"""What SystemDigitalTwin is asked about loads and leases: every field with its type and its bounds."""

from typing import Annotated

import msgspec

from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin.forecast import LoadType
from twinhost.system_digital_twin.leases import MAX_TTL_S

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
