"""Token buckets: a burst, a rate, and a debt; and the log lines that they let through."""

import pytest

from twinhost.rate_limit import LINES_PER_WINDOW, WINDOW_S, LogBudget, TokenBuckets, WindowLimit


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
    """What was spent already is taken in full."""
    buckets = TokenBuckets(0.25, 0.5, clock)
    assert buckets.level("a") == 0.25
    buckets.charge("a", 1.25, clock.now)
    assert buckets.level("a") == -1.0
    clock.now += 2.5
    assert buckets.level("a") == 0.25


def test_nothing_is_added_while_it_is_spent(clock: Clock) -> None:
    """Who works without a pause pays for all of it; a bucket that was full then gained nothing either."""
    buckets = TokenBuckets(1.0, 0.5, clock)
    for left in (0.5, 0.0, -0.5):
        began = clock.now
        clock.now += 10.0
        buckets.charge("a", 0.5, began)
        assert buckets.level("a") == left


def test_full_buckets_are_forgotten_and_others_kept(clock: Clock) -> None:
    """As many keys as there may be fill no memory, and none gets a new bucket by it."""
    buckets = TokenBuckets(2, 1.0, clock)
    buckets.charge("in debt", 2_000.0, clock.now)
    for number in range(10_000):
        clock.now += 0.1
        assert buckets.take(number)
    assert len(buckets._full_at) < 200
    assert not buckets.take("in debt")
    assert buckets.level("in debt") == pytest.approx(-998.0)


def test_no_window_admits_more_than_its_limit(clock: Clock) -> None:
    """Wherever the window begins, and each key by itself; what is refused is not counted."""
    limit, admitted = WindowLimit(3, 60.0, clock), []
    for _ in range(2_000):
        clock.now += 0.7
        admitted += [clock.now] * limit.take("a")
    assert all(later - earlier >= 60.0 for earlier, later in zip(admitted, admitted[3:], strict=False))
    assert len(admitted) == pytest.approx(3 * 2_000 * 0.7 / 60, abs=3)
    assert limit.take("b")


def test_a_flood_writes_its_budget_of_log_lines(clock: Clock) -> None:
    """Over an hour it is 50 lines and 5 a second; each says how many were left out before it."""
    budget = LogBudget(clock)
    left_out = []
    for _ in range(36_000):
        clock.now += 0.1
        left_out += [budget.admit("cause") for _ in range(10)]
    admitted = [number for number in left_out if number is not None]
    assert len(admitted) == pytest.approx(LINES_PER_WINDOW + 3_600 * LINES_PER_WINDOW / WINDOW_S, abs=1)
    assert sum(admitted) + len(admitted) == pytest.approx(len(left_out), abs=20)
