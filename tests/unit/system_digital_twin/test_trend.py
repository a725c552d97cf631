"""The trend of a series: robust against outliers, with a 95 % interval, and at a bounded cost."""

import random

import pytest

from twinhost.system_digital_twin.capacity import trend as trend_module
from twinhost.system_digital_twin.capacity.trend import Trend, trend_of

MINUTE_S = 60.0
VALUES = (1.0, 2.5, 2.1, 4.6, 4.0, 6.3, 5.2, 8.4, 9.7, 8.8)


def line(count: int, slope: float, noise: float = 0.0, seed: int = 1) -> list[tuple[float, float]]:
    chance = random.Random(seed)
    return [(MINUTE_S * i, 100 + slope * MINUTE_S * i + chance.gauss(0, noise)) for i in range(count)]


def known(points: list[tuple[float, float]]) -> Trend:
    trend = trend_of(points)
    assert trend is not None
    return trend


def test_slope_and_interval_equal_those_of_scipy() -> None:
    """As scipy.stats.theilslopes (1.17) computes them, at 95 %."""
    trend = known([(float(i), value) for i, value in enumerate(VALUES)])
    assert (trend.slope, trend.low, trend.high) == pytest.approx((0.96, 0.7, 1.2))


@pytest.mark.parametrize("outlier", [0.0, 1e6])
def test_a_quarter_of_outliers_does_not_move_the_slope(outlier: float) -> None:
    """A least-squares slope would be wrong by orders of magnitude."""
    points = line(60, 0.5)
    for at in random.Random(3).sample(range(60), 15):
        points[at] = (points[at][0], outlier)
    assert known(points).slope == pytest.approx(0.5, rel=0.05)


def test_the_interval_contains_the_true_slope() -> None:
    """In about 95 of 100 series."""
    trends = [known(line(30, 0.5, noise=40, seed=seed)) for seed in range(200)]
    assert 180 <= sum(trend.low <= 0.5 <= trend.high for trend in trends) < 200


def test_a_series_without_growth_reaches_no_limit() -> None:
    """Constant, falling, or only noise, except about one in 40 noisy series."""
    assert not known(line(60, 0)).growing
    assert known(line(60, -0.5)).seconds_to(1e6, 0) is None
    assert sum(known(line(60, 0, noise=40, seed=seed)).growing for seed in range(200)) <= 12


def test_a_limit_is_reached_when_the_level_gets_there() -> None:
    """The time counts from now, not from the newest point; over the limit it is 0."""
    trend = known(line(60, 0.5))  # 1,870 at its end
    assert trend.seconds_to(2_870, trend.at) == pytest.approx((2_000, 2_000, 2_000))
    assert trend.seconds_to(2_870, trend.at + 500) == pytest.approx((1_500, 1_500, 1_500))
    assert trend.seconds_to(1_000, trend.at) == (0, 0, 0)
    expected, earliest, latest = known(line(60, 0.5, noise=100)).seconds_to(5_000, trend.at) or (0, 0, 0)
    assert earliest < expected < latest


def test_a_jump_of_the_level_counts_after_three_points() -> None:
    """Freed memory counts as free, although the hour's trend has not changed yet."""
    points = line(60, 0.5)
    freed = [(at, value - 1_500) for at, value in points[-3:]]
    assert known([*points[:-3], *freed]).level < 500
    assert known([*points[:-2], *freed[1:]]).level > 1_500


def test_a_value_below_the_level_counts_at_once() -> None:
    """One above it does not: memory that is used for a moment fills nothing."""
    trend = known(line(60, 0.5))  # 1,870 at its end
    assert trend.seconds_to(2_870, trend.at, 1_370) == pytest.approx((3_000, 3_000, 3_000))
    assert trend.seconds_to(2_870, trend.at, 2_860) == pytest.approx((2_000, 2_000, 2_000))


@pytest.mark.parametrize("noise", [0.0, 40.0])
def test_a_trend_has_ended_far_below_its_line(noise: float) -> None:
    """Within the noise, or ten minutes behind, it goes on."""
    trend = known(line(60, 0.5, noise=noise))
    far = max(300.0, 4 * noise)
    assert trend.has_ended(trend.line - far - 1, trend.at)
    assert trend.has_ended(trend.line, trend.at + 2 * far + 2)
    assert not trend.has_ended(trend.line - 2 * noise, trend.at)
    assert not trend.has_ended(trend.line + 1_000, trend.at)
    assert not known(line(60, -0.5)).has_ended(-1e6, trend.at)


def test_two_points_have_no_certain_trend() -> None:
    assert not known([(0.0, 1.0), (60.0, 2.0)]).growing
    assert trend_of([(0.0, 1.0)]) is None
    assert trend_of([]) is None
    assert trend_of([(0.0, 1.0), (0.0, 2.0)]) is None


def test_many_points_cost_no_more_than_two_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are chosen evenly, and the newest is among them."""
    compared: list[int] = []

    def counting(points: list[tuple[float, float]], size: int) -> list[tuple[tuple[float, float], ...]]:
        compared.append(len(points))
        return [(points[0], points[-1])]

    monkeypatch.setattr(trend_module, "combinations", counting)
    points = line(10_001, 0.5)
    trend = known(points)
    assert (compared[0] <= 200, trend.at) == (True, points[-1][0])
    assert trend.slope == pytest.approx(0.5)
