"""What the connections of a silent peer say about why it is silent. Pure."""

from collections.abc import Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # only servers load it
    from twinhost.secure_zmq.descriptors import TcpAnswers

TIMED_OUT_S = 9.0  # without a message: libzmq, or TCP, may have ended the connection, or a reset answered a keepalive
_LATER_MS = 1_000  # than the last data: no acknowledgement of a reply, but the answer to a keepalive


class Silence(Enum):
    """Why a peer is silent, as far as its connections show it."""

    ENDED = auto()  # the other side closed them
    CUT = auto()  # nothing acknowledges on them, or they can't be made
    FROZEN = auto()  # its machine acknowledges, and its program says nothing
    QUIET = auto()  # they were open when it fell silent: one of the last two


def of_open(connections: "Iterable[TcpAnswers]") -> Silence:
    """Return what a peer's open connections show; one that its machine answers counts."""
    seen = list(connections)
    if any(not one.unanswered and one.since_data_ms - one.since_acknowledged_ms > _LATER_MS for one in seen):
        return Silence.FROZEN
    return Silence.CUT if any(one.unanswered for one in seen) else Silence.QUIET


def of_closed(quiet_s: float) -> Silence:
    """Return what it shows that the last connection ended so long after its last message."""
    return Silence.ENDED if quiet_s < TIMED_OUT_S else Silence.QUIET


def reconnecting(before: Silence | None) -> Silence | None:
    """Return what it shows that no connection can be made, after one that showed this."""
    return before if before in (None, Silence.ENDED) else Silence.CUT


def known_since(before: Silence | None, now: Silence | None) -> Silence | None:
    """Return what is known during one silence: what was seen stays so when its connection has timed out."""
    return before if before is not None and now in (None, Silence.QUIET) else now
