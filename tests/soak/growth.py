"""Whether a series grows: a straight line after the warm-up, held against how much the series scatters about it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP = 1 / 3  # of the time, in which caches, batches, and stored replies fill
_SIGMAS = 3.0
_PIECES = 12  # the time after the warm-up, cut up: neighbours in time are alike, so samples by themselves prove little


@dataclass(frozen=True, slots=True)
class Fit:
    """A series after its warm-up: where it began, its growth until the end by the line, and what may be noise."""

    first: float
    last: float
    growth: float
    noise: float

    @property
    def grows(self) -> bool:
        return self.growth > self.noise


def fit(seconds: Sequence[float], values: Sequence[float], floor: float) -> Fit:
    """Return the fit of a series.

    Args:
        seconds: when each value was taken, from the start on.
        values: as many.
        floor: growth up to this is none, whatever the scatter.
    """
    kept = [pair for pair in zip(seconds, values, strict=True) if pair[0] >= WARM_UP * seconds[-1]]
    size = max(1, len(kept) // _PIECES)
    pieces = [kept[at : at + size] for at in range(0, len(kept), size)]
    moments = [statistics.fmean(moment for moment, _ in piece) for piece in pieces]
    levels = [statistics.fmean(value for _, value in piece) for piece in pieces]
    slope, intercept = statistics.linear_regression(moments, levels)
    rest = [level - (slope * moment + intercept) for moment, level in zip(moments, levels, strict=True)]
    spread = sum((moment - statistics.fmean(moments)) ** 2 for moment in moments)
    error = (sum(each**2 for each in rest) / max(1, len(rest) - 2) / spread) ** 0.5 if spread else 0.0
    span = kept[-1][0] - kept[0][0]
    return Fit(kept[0][1], kept[-1][1], slope * span, max(floor, _SIGMAS * error * span))
