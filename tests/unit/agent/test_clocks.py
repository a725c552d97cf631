"""The clocks of two hosts are compared within a round trip, and a clock that is set is noticed."""

import pytest

from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.clocks import SetClock, report_of


@pytest.mark.parametrize(("ahead_s", "took_s"), [(0.0, 0.002), (7_200.0, 0.01), (-7_200.0, 2.0), (3.0, 30.0)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])  # of the round trip, until mainpc answers
def test_the_true_difference_is_within_the_bounds(ahead_s: float, took_s: float, share: float) -> None:
    sent = 1_700_000_000.0
    report = report_of(sent, took_s, answered=sent - ahead_s + share * took_s, set_by_s=0.0)
    assert abs(report.ahead_s - ahead_s) <= report.within_s <= took_s / 2 + 0.002


def test_a_step_of_the_clock_is_told_from_time_that_passes() -> None:
    clock = Clock()
    watch = SetClock(clock)
    clock.let_pass(86_400)
    assert watch.set_by_s == pytest.approx(0, abs=0.1)
    clock.set_wall_clock(-7_200)
    assert watch.set_by_s == pytest.approx(-7_200, abs=0.1)
    clock.set_wall_clock(7_200)
    assert watch.set_by_s == pytest.approx(0, abs=0.1)
