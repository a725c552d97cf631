"""Times in requests: each field that names one is read here, into seconds since the epoch in whole milliseconds."""

from typing import Annotated

import msgspec

from twinhost.moments import Clock, parse_time
from twinhost.secure_zmq.errors import MalformedRequest

ISO_TIME = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
EPOCH_S = Annotated[float, msgspec.Meta(ge=0, le=1e11)]  # seconds since the epoch
TIME = ISO_TIME | EPOCH_S
FIRST_S, LAST_S = -62_135_596_800.0, 253_402_300_799.999  # of the years 1 to 9999, which ISO-8601 can represent


def seconds_of(value: str | float, path: str, expected: str = "a time in ISO-8601") -> float:
    """Return the time that a field names; a number is one already.

    Args:
        value: the field's value.
        path: where it is in the request, such as `$.since`.
        expected: what the field may be, for the error.

    Raises:
        MalformedRequest: it names no time.
    """
    try:
        seconds = value if isinstance(value, float) else parse_time(value).timestamp()
    except ValueError:
        raise MalformedRequest(
            f"Expected {expected}, such as 2026-11-27T08:00:00Z, got {value!r} - at `{path}`"
        ) from None
    return min(round(seconds, 3), LAST_S)  # the last half millisecond would be rounded into the year 10000


def stored_seconds_of(value: str | float, path: str) -> float:
    """Return the time that a field names, for a column: it is in the years 1970 to 9999.

    Raises:
        MalformedRequest: it names no time, or another one.
    """
    seconds = seconds_of(value, path)
    if seconds < 0:
        raise MalformedRequest(f"Expected a time in the years 1970 to 9999, got {value!r} - at `{path}`")
    return seconds


def past_seconds_of(value: str | float, path: str, clock: Clock, ahead_s: float = 60.0) -> float:
    """Return the time that a field names, for a column: it is in the past.

    Args:
        value: the field's value.
        path: where it is in the request.
        clock: this host's.
        ahead_s: how far ahead of the clock it may be, since clocks differ.

    Raises:
        MalformedRequest: it names no time, one before 1970, or one further ahead.
    """
    seconds = stored_seconds_of(value, path)
    if seconds > clock.time() + ahead_s:
        raise MalformedRequest(
            f"{value!r} is more than {ahead_s:g} s ahead of this host's clock; set the sender's clock, or omit the "
            f"field where it may be omitted - at `{path}`"
        )
    return seconds
