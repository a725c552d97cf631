"""From when until when a key is good; CURVE knows no expiry, so it stands in the key file and is checked here."""

from dataclasses import dataclass
from datetime import UTC, datetime

from twinhost.secure_zmq.errors import KeyFileMalformed

CLOCK_TOLERANCE_S = 60  # two hosts' clocks may differ by that much
WARN_BEFORE_S = 14 * 86_400  # from when on the end of a key is spoken of
DAY_S = 86_400
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_LATEST = 253_402_300_799  # 9999-12-31T23:59:59Z, beyond which no key file can say it


@dataclass(frozen=True, slots=True)
class Validity:
    """A span of time in seconds since the epoch, whole ones; None is an open end."""

    not_before: int | None = None
    not_after: int | None = None

    def __post_init__(self) -> None:
        if any(moment is not None and not 0 <= moment <= _LATEST for moment in (self.not_before, self.not_after)):
            raise KeyFileMalformed("not_before and not_after must lie in the years 1970 to 9999")
        if self.not_before is not None and self.not_after is not None and self.not_after <= self.not_before:
            raise KeyFileMalformed("not_after must be later than not_before")

    def has_begun(self, now: float) -> bool:
        """Return whether it is good already at `now`, the clocks' tolerance granted."""
        return self.not_before is None or now >= self.not_before - CLOCK_TOLERANCE_S

    def has_ended(self, now: float) -> bool:
        """Return whether it is over at `now`, the clocks' tolerance granted."""
        return self.not_after is not None and now > self.not_after + CLOCK_TOLERANCE_S

    def holds(self, now: float) -> bool:
        """Return whether it has begun and has not ended."""
        return self.has_begun(now) and not self.has_ended(now)

    def days_left(self, now: float) -> float | None:
        """Return the days until `not_after`, negative after it; None where there is no end."""
        return None if self.not_after is None else (self.not_after - now) / DAY_S

    def ends_soon(self, now: float) -> bool:
        """Return whether a warning is due: within 14 days of the end, or after it."""
        return self.not_after is not None and self.not_after - now < WARN_BEFORE_S


UNLIMITED = Validity()


def format_moment(seconds: int) -> str:
    """Return seconds since the epoch as a key file writes them: `2026-11-25T04:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_FORMAT)


def parse_moment(text: str) -> int:
    """Return seconds since the epoch.

    Raises:
        KeyFileMalformed: it is not written as `format_moment` does it.
    """
    try:
        moment = datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)
        seconds = int(moment.timestamp())
        if format_moment(seconds) == text:
            return seconds
    except (ValueError, OverflowError):
        pass
    raise KeyFileMalformed(f"{text!r} must be a moment in UTC, written as 2026-11-25T04:00:00Z")
