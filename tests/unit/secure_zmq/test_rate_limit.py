"""Token buckets: a burst, a rate, and a debt; and the log lines that they let through."""

import pytest

from twinhost.secure_zmq.rate_limit import LINES_PER_WINDOW, WINDOW_S, LogBudget, TokenBuckets


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_gives_its_burst_and_then_its_rate(clock: Clock) -> None:
    """Tokens come back one by one, and never more than the burst."""
    buckets = TokenBuckets(3, 0.5, clock)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    clock.now += 2.0
    assert [buckets.take("a") for _ in range(2)] == [True, False]
    clock.now += 3_600.0
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]


def test_a_refusal_costs_nothing(clock: Clock) -> None:
    """Who goes on asking waits no longer than who does not."""
    buckets = TokenBuckets(1, 1.0, clock)
    assert buckets.take("a")
    for _ in range(100):
        assert not buckets.take("a")
    clock.now += 1.0
    assert buckets.take("a")


def test_each_key_has_a_bucket_of_its_own(clock: Clock) -> None:
    buckets = TokenBuckets(1, 1.0, clock)
    assert buckets.take("a")
    assert not buckets.take("a")
    assert buckets.take("b")


def test_a_debt_is_paid_before_tokens_are_there_again(clock: Clock) -> None:
    """What was spent already is taken in full, and the wait says when the debt is paid."""
    buckets = TokenBuckets(0.25, 0.5, clock)
    assert buckets.wait_s("a") == 0.0
    buckets.charge("a", 1.25)
    assert buckets.wait_s("a") == 2.0
    clock.now += 2.5
    assert buckets.wait_s("a") == 0.0
    buckets.charge("a", 0.5)
    assert buckets.wait_s("a") == 0.5


def test_a_flood_writes_its_budget_of_log_lines(clock: Clock) -> None:
    """Over an hour it is 50 lines and 5 a second; each tells how many were left out before it."""
    budget = LogBudget(clock)
    left_out = []
    for _ in range(36_000):
        clock.now += 0.1
        left_out += [budget.admit("cause") for _ in range(10)]
    admitted = [number for number in left_out if number is not None]
    assert len(admitted) == pytest.approx(LINES_PER_WINDOW + 3_600 * LINES_PER_WINDOW / WINDOW_S, abs=1)
    assert sum(admitted) + len(admitted) == pytest.approx(len(left_out), abs=20)
