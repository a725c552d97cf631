"""The trend of a series, and when it reaches a limit. Pure functions.

The slope is the median of the slopes between all pairs of points (H. Theil, "A rank-invariant method of linear and
polynomial regression analysis", Proc. Kon. Ned. Akad. v. Wetensch. A 53, 1950). Up to 29 % of the points may be
outliers without moving it far. Its confidence interval is between two ranks of these slopes (P. K. Sen, "Estimates of
the regression coefficient based on Kendall's tau", J. Amer. Stat. Assoc. 63, 1968). Ties are not corrected for, which
makes the interval wider.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import median

import msgspec

MAX_POINTS = 200  # 19,900 slopes; from more points, evenly spaced ones are chosen
_Z = 1.96  # 95 % of a normal distribution are within so many standard deviations
_OF_LEVEL = 5  # newest points, whose median is the level: a jump counts after three of them
_FAR = 3.0  # times the noise; it is rarely so far below its trend by chance
_LAG_S = 600.0  # of growth that is missing: it has ended
_SIGMA = 1.4826  # times the median of the distances is the standard deviation of normal noise


class Trend(msgspec.Struct, frozen=True):
    """The slope per second and the bounds of its 95 % interval, and the level at `at`, the newest point's time.

    `line` is the value at `at` on the line through all points, `noise` the standard deviation around it.
    """

    slope: float
    low: float
    high: float
    level: float
    at: float
    line: float
    noise: float

    @property
    def growing(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low > 0

    def has_ended(self, value: float, now: float) -> bool:
        """Return whether a value is far below the line: memory was freed, or the growth has stopped."""
        line = self.line + self.slope * max(0.0, now - self.at)
        return self.slope > 0 and line - value > max(_FAR * self.noise, _LAG_S * self.slope)

    def seconds_to(self, limit: float, now: float, value: float | None = None) -> tuple[float, float, float] | None:
        """Return in how many seconds from `now` it reaches a limit, and the earliest and the latest; None: never.

        A `value` now that is below the level counts at once, one that is above it does not.
        """
        if not self.growing:
            return None
        passed_s = max(0.0, now - self.at)
        left, left_now = limit - self.level, 0.0 if value is None else limit - value
        expected, earliest, latest = (
            max(0.0, left / slope - passed_s, left_now / slope) for slope in (self.slope, self.high, self.low)
        )
        return expected, earliest, latest


def trend_of(points: Sequence[tuple[float, float]]) -> Trend | None:
    """Return the trend of points (seconds, value) in ascending order; None if they have less than two times."""
    step = math.ceil(len(points) / MAX_POINTS) or 1
    chosen = points[::-step][::-1]  # with the newest
    slopes = sorted((y - x) / (until - since) for (since, x), (until, y) in combinations(chosen, 2) if until > since)
    if not slopes:
        return None
    count, pairs = len(chosen), len(slopes)
    spread = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)  # of Kendall's S
    lower, upper = round((pairs - spread) / 2) - 1, round((pairs + spread) / 2)
    slope, at = median(slopes), chosen[-1][0]
    line = median(value + slope * (at - when) for when, value in chosen)
    return Trend(
        slope=slope,
        low=slopes[lower] if lower >= 0 else -math.inf,
        high=slopes[upper] if upper < pairs else math.inf,
        level=median(value + slope * (at - when) for when, value in points[-_OF_LEVEL:]),
        at=at,
        line=line,
        noise=_SIGMA * median(abs(line - value - slope * (at - when)) for when, value in chosen),
    )
