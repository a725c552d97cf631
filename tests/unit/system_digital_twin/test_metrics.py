"""The metrics of the hosts: what is current, what is no more, and what is kept of it on disk."""

from typing import Any

import pytest

from tests.unit.system_digital_twin.metrics_bench import INTERVAL_S, Clock, MetricsBench, sample
from twinhost.agent.host_metrics import DiskSample, HostSample, MachineSample
from twinhost.secure_zmq.errors import LimitReached, NotFound, StoreUnavailable
from twinhost.system_digital_twin.metrics import history as metrics_history
from twinhost.system_digital_twin.metrics.history import Bucket, Figure, MetricsHistory
from twinhost.system_digital_twin.metrics.metrics import KEPT_IN_MEMORY, MAX_HOSTS

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.set_wall_clock(HOUR_S - clock.time() % HOUR_S)  # the tests begin at the full hour
    return clock


def figures(history: MetricsHistory, host: str = "pc2") -> list[tuple[float | None, float | None, int]]:
    """Return mean, greatest, and number of the CPU's figures of every minute."""
    rows = history.read(host, "minute")
    return [(row.cpu_percent.mean, row.cpu_percent.greatest, row.cpu_percent.count) for row in rows]


def current(bench: MetricsBench, host: str) -> HostSample:
    known = bench.metrics.current(host)
    assert known is not None
    return known


def test_configured_hosts_are_there_from_the_start(bench: MetricsBench) -> None:
    """Nothing is known of them, and that is what is said; the own one comes first."""
    assert bench.metrics.hosts() == ["mainpc", "pc2"]
    for host in bench.metrics.hosts():
        assert bench.metrics.current(host) is None
        assert bench.metrics.stale(host)
        assert bench.metrics.last_received(host) is None


def test_an_unknown_host_is_not_found(bench: MetricsBench) -> None:
    with pytest.raises(NotFound, match="no host 'pc9' is known; there are: mainpc, pc2"):
        bench.metrics.current("pc9")


def test_a_sample_is_dated_by_mainpcs_clock(bench: MetricsBench, clock: Clock) -> None:
    """A host whose clock is years off is current all the same."""
    bench.measured("pc2", sample(wall=12.0))
    assert abs(current(bench, "pc2").wall - clock.time()) < 1


def test_silent_for_three_intervals_a_host_is_unknown(bench: MetricsBench, clock: Clock) -> None:
    """Its last figures are not shown as current; with the next sample it is known again."""
    bench.measured("pc2")
    clock.let_pass(3 * INTERVAL_S - 1)
    assert not bench.metrics.stale("pc2")
    clock.let_pass(2)
    assert bench.metrics.stale("pc2")
    assert bench.metrics.current("pc2") is None
    bench.measured("pc2")
    assert bench.metrics.current("pc2") is not None


@pytest.mark.parametrize("by_seconds", [-10 * DAY_S, 10 * DAY_S])
def test_a_wall_clock_that_is_set_silences_nobody(bench: MetricsBench, clock: Clock, by_seconds: float) -> None:
    bench.measured("pc2")
    clock.set_wall_clock(by_seconds)
    assert not bench.metrics.stale("pc2")
    assert bench.metrics.current("pc2") is not None


def test_the_newest_60_are_in_memory(bench: MetricsBench) -> None:
    for number in range(KEPT_IN_MEMORY + 5):
        bench.measured("pc2", sample(ram_used_mb=number))
    assert KEPT_IN_MEMORY == 60
    assert [each.ram_used_mb for each in bench.metrics.samples("pc2")] == list(range(5, 65))


def test_samples_stay_in_order_when_the_clock_is_set_back(bench: MetricsBench, clock: Clock) -> None:
    """Dated again by the clock as it is now, so a chart of them has its width, and a late one finds its place."""
    for cpu in (1.0, 2.0):
        bench.metrics.ingest_once("pc2", sample(wall=cpu, cpu_percent=cpu))
        clock.let_pass(INTERVAL_S)
    clock.set_wall_clock(-7_200)
    bench.metrics.ingest_once("pc2", sample(wall=3.0, cpu_percent=3.0))
    clock.let_pass(INTERVAL_S)
    bench.metrics.ingest_once("pc2", sample(wall=2.5, cpu_percent=2.5), 7.5)
    samples = bench.metrics.samples("pc2")
    assert [each.cpu_percent for each in samples] == [1.0, 2.0, 2.5, 3.0]
    ages = [clock.time() - each.wall for each in samples]
    assert ages == pytest.approx([15, 10, 7.5, 5], abs=0.5)
    assert current(bench, "pc2").wall == samples[-1].wall


def test_mainpcs_latency_is_measured_by_the_other_end(bench: MetricsBench, clock: Clock) -> None:
    """One round trip has two ends; of several links the slowest counts, and of a silent host nothing is known."""
    bench.measured("mainpc")
    assert current(bench, "mainpc").latency_ms is None
    bench.measured("pc2", sample(latency_ms=2.5))
    bench.measured("pc3", sample(latency_ms=7.5))
    bench.measured("mainpc")
    assert current(bench, "mainpc").latency_ms == 7.5
    clock.let_pass(3 * INTERVAL_S + 1)
    bench.measured("mainpc")
    assert current(bench, "mainpc").latency_ms is None


def test_a_new_host_is_taken_up_to_64(bench: MetricsBench, clock: Clock) -> None:
    """One more is refused while all of them report; one that fell silent makes room, and a configured one never."""
    for number in range(MAX_HOSTS - 2):
        bench.measured(f"host-{number:02}")
    assert len(bench.metrics.hosts()) == MAX_HOSTS == 64
    with pytest.raises(LimitReached, match="64 hosts report their metrics"):
        bench.measured("one-more")
    clock.let_pass(3 * INTERVAL_S + 1)
    bench.measured("host-00")
    bench.measured("one-more")
    assert len(bench.metrics.hosts()) == MAX_HOSTS
    assert {"mainpc", "pc2", "host-00", "one-more"} <= set(bench.metrics.hosts())
    assert "host-01" not in bench.metrics.hosts()


def test_a_minute_is_one_row_of_means_and_maxima(bench: MetricsBench, clock: Clock) -> None:
    """Written when it has passed; what a sample lacks counts in neither."""
    for cpu in (10.0, None, 30.0):
        bench.measured("pc2", sample(cpu_percent=cpu, latency_ms=4.0))
        clock.let_pass(INTERVAL_S)
    bench.on_tick()
    assert figures(bench.metrics.history_on_disk) == []
    clock.let_pass(MINUTE_S)
    bench.measured("pc2", sample(cpu_percent=99.0))
    bench.on_tick()
    (row,) = bench.metrics.history_on_disk.read("pc2", "minute")
    assert (row.cpu_percent.mean, row.cpu_percent.greatest, row.cpu_percent.count) == (20.0, 30.0, 2)
    assert (row.latency_ms.mean, row.vram_used_mb.mean, row.vram_used_mb.greatest) == (4.0, None, None)
    assert row.start % MINUTE_S == 0


def test_a_row_of_an_older_version_is_read_and_continued(bench: MetricsBench, clock: Clock) -> None:
    """It has no figures of swap, disks, and container; the samples that are added to its minute have them."""
    start, figure = round(clock.time()), '{"count":1,"total":60.5,"greatest":60.5}'
    old = ",".join(f'"{name}":{figure}' for name in ("cpu_percent", "ram_used_mb", "vram_used_mb", "latency_ms"))
    record = f'{{"start":{start},{old}}}'.encode()
    bench.database.execute("INSERT INTO metrics_minute (host, start, record) VALUES ('pc2', ?, ?)", (start, record))
    disk = DiskSample(name="state", used_mb=5.0, free_mb=3.0, total_mb=9.0)
    new = sample(wall=clock.time(), ram_used_mb=99.5, machine=MachineSample(disks=(disk,)))
    bench.metrics.history_on_disk.add("pc2", Bucket.at(clock.time()).add(new)[0])
    (row,) = bench.metrics.history_on_disk.read("pc2", "minute")
    assert (row.ram_used_mb.mean, row.ram_total_mb.count, row.state_disk_used_mb.mean) == (80.0, 1, 5.0)
    assert row.container_ram_used_mb.mean is None


def test_a_host_that_falls_silent_has_its_last_minute_written(bench: MetricsBench, clock: Clock) -> None:
    """Nobody else's sample is needed for it."""
    bench.measured("pc2")
    clock.let_pass(MINUTE_S + 3 * INTERVAL_S)
    bench.on_tick()
    bench.on_tick()
    assert figures(bench.metrics.history_on_disk) == [(10.0, 10.0, 1)]


def test_a_minute_goes_on_after_a_restart(bench: MetricsBench, clock: Clock) -> None:
    """Both parts are one row, and its mean is that of all samples."""
    bench.measured("pc2", sample(cpu_percent=10.0))
    bench.measured("pc2", sample(cpu_percent=20.0))
    bench.restart()
    bench.measured("pc2", sample(cpu_percent=60.0))
    bench.restart()
    assert figures(bench.metrics.history_on_disk) == [(30.0, 60.0, 3)]
    assert [row.cpu_percent.count for row in bench.metrics.history_on_disk.read("pc2", "hour")] == [3]


def test_completed_minutes_survive_kill_9(bench: MetricsBench, clock: Clock) -> None:
    """Of the minute under way nothing is promised."""
    for cpu in (10.0, 20.0):
        bench.measured("pc2", sample(cpu_percent=cpu))
        clock.let_pass(MINUTE_S)
        bench.measured("pc2", sample(cpu_percent=cpu))
        bench.on_tick()
    bench.restart(killed=True)
    assert figures(bench.metrics.history_on_disk) == [(10.0, 10.0, 1), (15.0, 20.0, 2)]


def test_an_hour_is_the_sum_of_its_minutes(bench: MetricsBench, clock: Clock) -> None:
    """Sixty minutes and one, in two rows."""
    for minute in range(61):
        bench.metrics.history_on_disk.add("pc2", minute_at(clock, minute, float(minute)))
    first, second = bench.metrics.history_on_disk.read("pc2", "hour")
    assert (first.cpu_percent.count, first.cpu_percent.greatest) == (60, 59.0)
    assert (second.cpu_percent.count, second.start - first.start) == (1, HOUR_S)


def minute_at(clock: Clock, minute: int, cpu: float = 1.0) -> Bucket:
    """Return a minute that lies so many minutes after a past full hour."""
    begin = int(clock.time()) // HOUR_S * HOUR_S - 2 * HOUR_S
    return Bucket(begin + minute * MINUTE_S, Figure(1, cpu, cpu))


def test_minutes_are_kept_for_a_day_and_hours_for_a_month(bench: MetricsBench, clock: Clock) -> None:
    """What is older is neither read nor, once as much has come, there."""
    history, now = bench.metrics.history_on_disk, int(clock.time())
    for age_s in (31 * DAY_S, 29 * DAY_S, 2 * DAY_S, 23 * HOUR_S, HOUR_S):
        history.add("pc2", Bucket((now - age_s) // MINUTE_S * MINUTE_S, Figure(1, age_s, age_s)))
    assert [row.cpu_percent.total for row in history.read("pc2", "minute")] == [23 * HOUR_S, HOUR_S]
    assert [row.cpu_percent.total for row in history.read("pc2", "hour")] == [
        29 * DAY_S,
        2 * DAY_S,
        23 * HOUR_S,
        HOUR_S,
    ]


def test_the_tables_are_bounded(bench: MetricsBench, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,440 minutes and 720 hours of a host, and so many rows in all, whatever the clock does."""
    history, start = bench.metrics.history_on_disk, int(clock.time()) // HOUR_S * HOUR_S - 1_500 * HOUR_S
    with bench.database.transaction():
        for hour in range(1_500):
            history.add("pc2", Bucket(start + hour * HOUR_S, Figure(1, 1.0, 1.0)))
        history.add("mainpc", Bucket(start, Figure(1, 1.0, 1.0)))
    counts = "SELECT host, count(*) FROM {} GROUP BY host ORDER BY host"
    assert bench.database.execute(counts.format("metrics_minute")).fetchall() == [("mainpc", 1), ("pc2", 1_440)]
    assert bench.database.execute(counts.format("metrics_hour")).fetchall() == [("mainpc", 1), ("pc2", 720)]
    monkeypatch.setattr(metrics_history, "_MAX_ROWS", 100)
    for host in range(5):
        history.add(f"host-{host}", Bucket(start, Figure(1, 1.0, 1.0)))
    assert bench.database.execute("SELECT count(*) FROM metrics_minute").fetchone() == (100,)


def test_a_clock_that_was_wrong_deletes_nothing(bench: MetricsBench, clock: Clock) -> None:
    """A sample dated in another year leaves the rows of today where they are."""
    bench.measured("pc2")
    clock.let_pass(MINUTE_S)
    for years in (50, -100, 50):
        clock.set_wall_clock(years * 365 * DAY_S)
        bench.measured("pc2", sample(cpu_percent=77.0))
        bench.on_tick()
    bench.measured("pc2")
    bench.on_tick()
    assert (10.0, 10.0, 1) in figures(bench.metrics.history_on_disk)


def test_a_store_that_fails_loses_no_minute(bench: MetricsBench, clock: Clock) -> None:
    """It is tried again after a while and not at every tick; figures in memory go on."""
    bench.measured("pc2", sample(cpu_percent=50.0))
    bench.metrics.on_tick()
    bench.database.execute("ALTER TABLE metrics_minute RENAME TO away")
    clock.let_pass(MINUTE_S)
    bench.measured("pc2")
    with pytest.raises(StoreUnavailable):
        bench.metrics.on_tick()
    bench.metrics.on_tick()  # not yet due
    assert bench.metrics.current("pc2") is not None
    bench.database.execute("ALTER TABLE away RENAME TO metrics_minute")
    clock.let_pass(6)
    bench.metrics.on_tick()
    assert figures(bench.metrics.history_on_disk) == [(50.0, 50.0, 1)]


def test_a_buckets_figures_add_up() -> None:
    """Merging is the same as adding each sample."""
    values = [3.0, None, 1.0, 8.0]
    whole = Figure()
    for value in values:
        whole = whole.add(value)
    halves = Figure().add(3.0).add(None).merge(Figure().add(1.0).add(8.0))
    assert whole == halves == Figure(3, 12.0, 8.0)
    assert (Figure().mean, Figure().greatest, whole.mean) == (None, None, 4.0)


def host_sample(clock: Clock, age_s: float = 0.0, **changed: Any) -> HostSample:
    """Return a sample that names its moment, by a clock that is an hour ahead of mainpc's."""
    return sample(wall=clock.time() + HOUR_S - age_s, **changed)


def test_a_repeated_sample_counts_once(bench: MetricsBench, clock: Clock) -> None:
    """In time or late, in whatever order, and over a restart; it is on disk at once."""
    first, second = host_sample(clock, cpu_percent=10.0), host_sample(clock, 5.0, cpu_percent=30.0)
    with bench.database.transaction():
        assert bench.metrics.ingest_once("pc2", first)
        assert not bench.metrics.ingest_once("pc2", first)
        assert not bench.metrics.ingest_once("pc2", first, 40.0)
        assert bench.metrics.ingest_once("pc2", second, 5.0)
    bench.restart(killed=True)
    with bench.database.transaction():
        assert not bench.metrics.ingest_once("pc2", second, 6.0)
        assert not bench.metrics.ingest_once("pc2", first)
        assert bench.metrics.ingest_once("pc3", first)
    counted = sum(count for _, _, count in figures(bench.metrics.history_on_disk))
    assert (counted, figures(bench.metrics.history_on_disk, "pc3")) == (2, [(10.0, 10.0, 1)])


def test_a_late_sample_is_never_the_current_one(bench: MetricsBench, clock: Clock) -> None:
    """Neither where a newer one is known, nor where none is, nor after a restart; nor does it keep a host alive."""
    bench.metrics.ingest_once("pc2", host_sample(clock, 40.0, cpu_percent=99.0), 40.0)
    assert (bench.metrics.current("pc2"), bench.metrics.last_received("pc2"), bench.metrics.stale("pc2")) == (
        None,
        None,
        True,
    )
    bench.metrics.ingest_once("pc2", host_sample(clock, cpu_percent=20.0))
    bench.metrics.ingest_once("pc2", host_sample(clock, 30.0, cpu_percent=98.0), 30.0)
    bench.metrics.ingest_once("pc2", host_sample(clock, -0.01, cpu_percent=97.0), 0.0)
    assert current(bench, "pc2").cpu_percent == 20.0
    since = bench.metrics.measured_since("pc2")
    clock.let_pass(3 * INTERVAL_S + 1)
    bench.metrics.ingest_once("pc2", host_sample(clock, 10.0), 10.0)
    assert bench.metrics.stale("pc2")
    assert bench.metrics.measured_since("pc2") == since


def test_a_late_sample_is_sorted_into_its_place(bench: MetricsBench, clock: Clock) -> None:
    """Dated by mainpc's clock: in memory among the others, and on disk in the minute in which it was taken."""
    for age_s in (300.0, 200.0):
        clock.let_pass(1)
        bench.metrics.ingest_once("pc2", host_sample(clock, age_s, ram_used_mb=age_s), age_s)
    bench.metrics.ingest_once("pc2", host_sample(clock, ram_used_mb=0.0))
    bench.metrics.ingest_once("pc2", host_sample(clock, 250.0, ram_used_mb=250.0), 250.0)
    assert [each.ram_used_mb for each in bench.metrics.samples("pc2")] == [300.0, 250.0, 200.0, 0.0]
    oldest = bench.metrics.samples("pc2")[0]
    assert abs(clock.time() - 1 - 300.0 - oldest.wall) < 0.5
    starts = [row.start for row in bench.metrics.history_on_disk.read("pc2", "minute")]
    assert starts[0] == oldest.wall // MINUTE_S * MINUTE_S
    assert len(starts) >= 3


def test_what_is_older_than_a_table_keeps_is_not_in_it(bench: MetricsBench, clock: Clock) -> None:
    """It would drive out a row that is read."""
    for age_s in (2 * DAY_S, 40 * DAY_S):
        assert bench.metrics.ingest_once("pc2", host_sample(clock, age_s), age_s)
    assert len(bench.rows("metrics_minute")) == 0
    assert len(bench.rows("metrics_hour")) == 1


def test_a_late_sample_of_an_unloaded_host_is_on_disk(bench: MetricsBench, clock: Clock) -> None:
    """It makes no room for itself: hosts that report now are not driven out by one that did."""
    bench.metrics.ingest_once("pc9", host_sample(clock, 60.0), 60.0)
    assert bench.metrics.hosts() == ["mainpc", "pc2"]
    assert len(bench.metrics.history_on_disk.read("pc9", "minute")) == 1


def test_samples_rolled_back_leave_nothing(bench: MetricsBench, clock: Clock) -> None:
    """Neither in memory nor on disk, and reported again they count."""
    bench.metrics.ingest_once("pc2", host_sample(clock, 1.0))
    before = bench.metrics.samples("pc2"), bench.metrics.current("pc2"), bench.rows("metrics_minute")
    new, late = host_sample(clock, cpu_percent=77.0), host_sample(clock, 2.0)

    def undone() -> None:
        with bench.database.transaction():
            assert bench.metrics.ingest_once("pc2", new)
            assert bench.metrics.ingest_once("pc2", late, 2.0)
            assert bench.metrics.ingest_once("pc3", new)
            raise KeyError("a fault of the program")

    with pytest.raises(KeyError):
        undone()
    after = bench.metrics.samples("pc2"), bench.metrics.current("pc2"), bench.rows("metrics_minute")
    assert after == before
    assert bench.metrics.hosts() == ["mainpc", "pc2"]
    assert bench.metrics.ingest_once("pc2", new)
    assert bench.metrics.ingest_once("pc2", late, 2.0)
