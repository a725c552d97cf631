"""Times that a caller gives: ISO-8601 with an offset, returned in seconds since the epoch, in whole milliseconds."""

import time
from datetime import datetime
from typing import Annotated

import msgspec

from twinhost.secure_zmq.errors import MalformedRequest

MOMENT = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
MAX_AHEAD_S = 60.0  # of this host's clock, in which a past time may be: clocks differ


def moment(text: str, path: str) -> float:
    """Return the time that a text names.

    Raises:
        MalformedRequest: it has no offset, names no time, or one before 1970.
    """
    try:
        parsed = datetime.fromisoformat(text)
        seconds = round(parsed.timestamp(), 3) if parsed.tzinfo else -1.0
    except (ValueError, OverflowError):
        seconds = -1.0
    if seconds < 0:
        raise MalformedRequest(
            f"Expected a time in ISO-8601 with an offset, since 1970, such as 2026-11-27T08:00:00+00:00, "
            f"got {text!r} - at `{path}`"
        )
    return seconds


def past_moment(text: str, path: str) -> float:
    """Return the time that a text names, which is not in the future.

    Raises:
        MalformedRequest: it is not readable, or more than a minute ahead of this host's clock.
    """
    seconds = moment(text, path)
    if seconds > time.time() + MAX_AHEAD_S:
        raise MalformedRequest(
            f"{text!r} is more than {MAX_AHEAD_S:g} s ahead of this host's clock; check the caller's clock, or omit "
            f"the field for the present time - at `{path}`"
        )
    return seconds
