"""How far the wall clocks of two hosts differ, by the times of a request and its reply, and which of them was set."""

from typing import Annotated

import msgspec

from twinhost.moments import Clock

_DIGITS = 3
_SECONDS = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]


class ClockReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many seconds the sender's wall clock is ahead of mainpc's, to within `within_s`, by its last heartbeat.

    `set_by_s` is by how much it was set since the sender started: a step, which time that passes does not explain.
    """

    ahead_s: _SECONDS
    within_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    set_by_s: _SECONDS = 0.0


class SetClock:
    """Notices by how much the wall clock was set since the start, against the monotonic one, which can't be set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._apart = self._now_apart()

    @property
    def set_by_s(self) -> float:
        """In seconds; negative if it was set back."""
        return round(self._now_apart() - self._apart, _DIGITS)

    def _now_apart(self) -> float:
        return self._clock.time() - self._clock.monotonic()


def report_of(sent: float, took_s: float, answered: float, set_by_s: float) -> ClockReport:
    """Return the report on a request that left at `sent` by the sender's clock, and was answered at mainpc's time.

    The answer was made within the round trip, so half of that is the most by which the report is wrong.
    """
    ahead_s, within_s = sent + took_s / 2 - answered, took_s / 2
    return ClockReport(
        ahead_s=round(ahead_s, _DIGITS), within_s=round(within_s, _DIGITS) + 10**-_DIGITS, set_by_s=set_by_s
    )
