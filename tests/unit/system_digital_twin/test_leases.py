"""Leases: promised once, to one, for as long as was said; across restarts, and whatever the clocks do."""

from collections.abc import Callable

import pytest

from tests.unit.system_digital_twin.metrics_bench import NEWCOMER, OPERATOR, UMRA, Clock, MetricsBench
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import LimitReached, NotFound, NotGranted, StoreUnavailable
from twinhost.system_digital_twin.capacity import leases as leases_module
from twinhost.system_digital_twin.capacity.forecast import HostState, Leased, Resource, forecast_of
from twinhost.system_digital_twin.capacity.leases import Lease, leased

TTL_S = 30.0
DAY_S = 86_400.0
ON_PC2 = forecast_of(HostState(host="pc2", ram_used_mb=0.0, ram_total_mb=1_000.0), "ram", 100.0)
Act = Callable[[MetricsBench, Lease], Lease]


def reserve(bench: MetricsBench, caller: Caller = UMRA, ttl_s: float = TTL_S) -> Lease:
    with bench.database.transaction():
        return bench.leases.reserve("ram", ON_PC2, 100.0, ttl_s, caller.name)


def on_pc2(bench: MetricsBench, measured_since: float, host: str = "pc2", resource: Resource = "ram") -> Leased:
    return leased(bench.leases.by_host().get(host, []), resource, lambda _: measured_since)


def commit(bench: MetricsBench, lease: Lease, caller: Caller = UMRA) -> Lease:
    with bench.database.transaction():
        return bench.leases.commit(lease.lease_id, caller, None, DAY_S)


def release(bench: MetricsBench, lease: Lease, caller: Caller = UMRA) -> Lease:
    with bench.database.transaction():
        return bench.leases.release(lease.lease_id, caller)


def test_a_lease_lapses_at_its_time_and_not_before(bench: MetricsBench, clock: Clock) -> None:
    """At once for who asks, and with the next tick on disk."""
    lease = reserve(bench)
    left_s = bench.leases.expires_in_s(lease)
    assert left_s is not None
    assert TTL_S - 1 < left_s <= TTL_S
    clock.let_pass(TTL_S - 1)
    bench.on_tick()
    assert bench.leases.all() == [lease]
    clock.let_pass(1)
    assert bench.leases.all() == []
    assert on_pc2(bench, 0) == Leased()
    assert len(bench.rows("leases")) == 1
    bench.on_tick()
    assert bench.rows("leases") == []


@pytest.mark.parametrize("act", [commit, release])
def test_a_lapsed_lease_is_found_no_more(bench: MetricsBench, clock: Clock, act: Act) -> None:
    lease = reserve(bench)
    clock.let_pass(TTL_S)
    with pytest.raises(NotFound, match="it expired or was released, or never existed"):
        act(bench, lease)


def test_a_committed_lease_without_an_end_lasts_a_day(bench: MetricsBench, clock: Clock) -> None:
    """Or until it is released; twice is once."""
    lease, other = commit(bench, reserve(bench)), commit(bench, reserve(bench))
    assert (lease.state, lease.ttl_s) == ("committed", DAY_S)
    clock.let_pass(10 * TTL_S)
    bench.on_tick()
    assert commit(bench, lease) == lease
    assert bench.leases.all() == [lease, other]
    assert release(bench, other) == other
    with pytest.raises(NotFound):
        release(bench, other)
    clock.let_pass(DAY_S - 10 * TTL_S)
    bench.on_tick()
    assert (bench.leases.all(), bench.rows("leases")) == ([], [])


@pytest.mark.parametrize("killed", [True, False])
def test_leases_survive_a_restart(bench: MetricsBench, clock: Clock, killed: bool) -> None:
    """Reserved and committed; the time while nothing ran counts."""
    reserved, committed = reserve(bench), commit(bench, reserve(bench))
    clock.let_pass(TTL_S / 2)
    bench.restart(killed=killed)
    assert bench.leases.all() == [reserved, committed]
    left_s = bench.leases.expires_in_s(reserved)
    assert left_s is not None
    assert TTL_S / 2 - 1 < left_s <= TTL_S / 2
    clock.let_pass(TTL_S / 2)
    bench.restart(killed=killed)
    assert bench.leases.all() == [committed]
    bench.on_tick()
    assert len(bench.rows("leases")) == 1


@pytest.mark.parametrize("by_seconds", [-86_400, 86_400])
def test_a_wall_clock_that_is_set_ends_no_lease(bench: MetricsBench, clock: Clock, by_seconds: float) -> None:
    """Nor does it make one longer."""
    lease = reserve(bench)
    clock.set_wall_clock(by_seconds)
    bench.on_tick()
    assert bench.leases.all() == [lease]
    clock.let_pass(TTL_S)
    assert bench.leases.all() == []


def test_a_clock_set_back_across_a_restart_extends_no_lease(bench: MetricsBench, clock: Clock) -> None:
    reserve(bench)
    clock.set_wall_clock(-86_400)
    bench.restart()
    clock.let_pass(TTL_S)
    assert bench.leases.all() == []


@pytest.mark.parametrize("by_seconds", [-3_600, 3_600])
def test_a_takeover_by_another_clock_ends_no_lease(bench: MetricsBench, clock: Clock, by_seconds: float) -> None:
    """Else its memory would be granted twice; it has its whole TTL then, and ends by the new clock."""
    lease = reserve(bench)
    clock.set_wall_clock(by_seconds)
    bench.logged = True
    bench.restart(killed=True)
    (kept,) = bench.leases.all()
    assert kept.lease_id == lease.lease_id
    assert kept.deadline == pytest.approx(clock.time() + TTL_S, abs=1)
    clock.let_pass(TTL_S - 1)
    assert bench.leases.all() == [kept]
    clock.let_pass(1)
    assert bench.leases.all() == []


@pytest.mark.sdt_security
def test_only_its_holder_or_an_operator_touches_a_lease(bench: MetricsBench) -> None:
    """To everybody else it is another's, committed or not."""
    for act in (commit, release):
        lease = reserve(bench)
        with pytest.raises(NotGranted, match="or an operator to change it"):
            act(bench, lease, NEWCOMER)
        assert lease in bench.leases.all()
        act(bench, lease, OPERATOR)
    (left,) = bench.leases.all()
    assert (left.state, left.holder) == ("committed", UMRA.name)


def test_what_a_sample_can_not_contain_yet_is_to_come(bench: MetricsBench, clock: Clock) -> None:
    """A lease is in the measured figures only once it was committed and the host has been measured since."""
    lease = reserve(bench)
    assert on_pc2(bench, clock.monotonic()) == Leased(to_come_mb=100.0)
    commit(bench, lease)
    before = clock.monotonic() - 1
    assert on_pc2(bench, before) == Leased(to_come_mb=100.0)
    assert on_pc2(bench, clock.monotonic()) == Leased(in_use_mb=100.0)
    assert on_pc2(bench, 0, "mainpc") == on_pc2(bench, 0, resource="vram") == Leased()


def test_after_a_restart_the_host_must_be_measured_again(bench: MetricsBench, clock: Clock) -> None:
    commit(bench, reserve(bench))
    bench.restart()
    assert on_pc2(bench, 0) == Leased(to_come_mb=100.0)
    assert on_pc2(bench, clock.monotonic()) == Leased(in_use_mb=100.0)


def test_leases_are_bounded(bench: MetricsBench, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder has 100, everybody together 1,000; a lapsed one takes no place."""
    assert (leases_module.MAX_LEASES, leases_module.MAX_PER_HOLDER) == (1_000, 100)
    monkeypatch.setattr(leases_module, "MAX_LEASES", 5)
    monkeypatch.setattr(leases_module, "MAX_PER_HOLDER", 3)
    first, _, _ = reserve(bench), reserve(bench, ttl_s=2 * TTL_S), reserve(bench, ttl_s=2 * TTL_S)
    with pytest.raises(LimitReached, match="holds 3 leases, which is the limit"):
        reserve(bench)
    reserve(bench, NEWCOMER)
    reserve(bench, NEWCOMER)
    with pytest.raises(LimitReached, match="5 leases are open, which is the limit"):
        reserve(bench, OPERATOR)
    release(bench, first)
    reserve(bench)
    clock.let_pass(TTL_S)
    reserve(bench)


def test_a_store_that_fails_promises_nothing_and_forgets_nothing(bench: MetricsBench, clock: Clock) -> None:
    """What can't be written is undone in memory too; the end of a lease is tried again."""
    lease = reserve(bench)
    bench.database.execute("ALTER TABLE leases RENAME TO away")
    acts: list[Callable[[], Lease]] = [
        lambda: reserve(bench),
        lambda: commit(bench, lease),
        lambda: release(bench, lease),
    ]
    for act in acts:
        with pytest.raises(StoreUnavailable):
            act()
        assert bench.leases.all() == [lease]
    clock.let_pass(TTL_S)
    with pytest.raises(StoreUnavailable):
        bench.reservations.on_tick()
    bench.reservations.on_tick()  # not yet due
    assert bench.leases.all() == []
    bench.database.execute("ALTER TABLE away RENAME TO leases")
    clock.let_pass(2)
    bench.reservations.on_tick()
    assert bench.rows("leases") == []
