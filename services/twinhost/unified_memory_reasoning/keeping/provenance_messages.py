"""What an operator asks about who wrote what: every field with its type and its bounds."""

from typing import Annotated

import msgspec

from twinhost.secure_zmq.wire import NAME, Request

MAX_LIMIT = 1_000
NUMBER = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
REASON = Annotated[str, msgspec.Meta(max_length=256)]


class MemoryBy(Request, tag="memory_by"):
    """What a caller wrote, newest first, in quarantine or not: of every kind, or of one.

    `limit` is of each kind. `before` goes with `kind`, and is the `next_before` of the page above.
    """

    name: NAME
    kind: NAME | None = None
    before: NUMBER | None = None
    limit: LIMIT = 100


class QuarantineMemory(Request, tag="quarantine_memory"):
    """Hide from every recall what a caller wrote and will write."""

    name: NAME
    reason: REASON = ""


class ReleaseMemory(Request, tag="release_memory"):
    """Show again what a caller wrote."""

    name: NAME


class ListQuarantine(Request, tag="list_quarantine"):
    """Whose rows are hidden, since when, by whom, and why."""
