"""Forecasts of full memory and disks from the stored history, and the event before, once per episode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.older_database import downgrade
from tests.unit.system_digital_twin.metrics_bench import (
    NOBODY,
    OPERATOR,
    UMRA,
    Clock,
    MetricsBench,
    sample,
    with_gpus,
)
from twinhost.agent.host_metrics import DiskSample, HostSample, MachineSample
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin import ITSELF
from twinhost.system_digital_twin.capacity.time_to_full import ENDED, FULL_SOON, MIGRATION, MIGRATION_MACHINE
from twinhost.system_digital_twin.state_files import MIGRATIONS

TOTAL_MB = 1_000.0


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.set_wall_clock(90.0 - clock.time() % 60)  # in mid-minute: a sample a minute is in each minute
    return clock


def measured(bench: MetricsBench, used_mb: float) -> None:
    """Add a sample of pc2, and tick the agent once for each host."""
    bench.measured("pc2", sample(ram_used_mb=used_mb, ram_total_mb=TOTAL_MB))
    bench.on_tick()


def passed(bench: MetricsBench, clock: Clock, minutes: int, used_mb: Callable[[int], float]) -> None:
    """Let minutes pass, with a sample of pc2 in each and at their end."""
    for minute in range(minutes):
        measured(bench, used_mb(minute))
        clock.let_pass(60)
    measured(bench, used_mb(minutes - 1))


def constant(_: int) -> float:
    return 300.0


def forecast(bench: MetricsBench, resource: str = "ram", host: str = "pc2") -> dict[str, Any]:
    (found,) = bench.ask("get_forecast", host=host, resource=resource)["forecasts"]
    assert (found["host"], found["resource"]) == (host, resource)
    return dict(found)


def test_what_grows_has_a_time_and_an_interval(bench: MetricsBench, clock: Clock) -> None:
    """3 MB a minute, of which 403 remain."""
    passed(bench, clock, 60, lambda minute: 420 + 3 * minute + (minute * 7 % 5))
    found = forecast(bench)
    assert found["time_to_full_s"] == pytest.approx(60 * 403 / 3, rel=0.03)
    assert found["interval"]["low"] <= found["time_to_full_s"] <= found["interval"]["high"]
    assert found["interval"]["high"] < 1.1 * found["time_to_full_s"]
    assert (found["growth_mb_per_hour"], found["total_mb"]) == (pytest.approx(180, rel=0.03), TOTAL_MB)
    assert (found["reason"], found["name"]) == (None, None)


@pytest.mark.parametrize(
    ("minutes", "used_mb", "reason"),
    [
        (58, lambda minute: 100.0 + 15 * minute, "less than an hour of history"),
        (65, constant, "not growing"),
        (65, lambda minute: 500.0 - minute, "not growing"),
        (65, lambda minute: 100.0 + minute * minute % 17 + minute / 999, "the interval of the growth includes none"),
    ],
)
def test_what_has_no_time_has_a_reason(
    bench: MetricsBench, clock: Clock, minutes: int, used_mb: Callable[[int], float], reason: str
) -> None:
    passed(bench, clock, minutes, used_mb)
    found = forecast(bench)
    assert (found["time_to_full_s"], found["interval"], found["reason"]) == (None, None, reason)


def test_an_hour_of_history_is_enough_and_is_said(bench: MetricsBench, clock: Clock) -> None:
    passed(bench, clock, 60, lambda minute: 100.0 + minute)
    found = forecast(bench)
    assert found["time_to_full_s"] == pytest.approx(60 * 840, rel=0.02)
    assert (found["basis_s"], found["used_mb"]) == (3_600, 159)


def test_two_bursts_an_hour_apart_are_no_hour_of_history(bench: MetricsBench, clock: Clock) -> None:
    passed(bench, clock, 10, lambda minute: 100.0 + minute)
    clock.let_pass(45 * 60)
    passed(bench, clock, 10, lambda minute: 200.0 + minute)
    assert forecast(bench)["reason"] == "less than an hour of history"


@pytest.mark.parametrize("after", [lambda _: 300.0, lambda minute: 300.0 + minute], ids=["flat", "growing"])
def test_nothing_is_forecast_full_after_space_was_freed(
    bench: MetricsBench, clock: Clock, after: Callable[[int], float]
) -> None:
    """At once, and for the hour in which the growth before it is seen."""
    passed(bench, clock, 70, lambda minute: 290.0 + 10 * minute)
    assert forecast(bench)["time_to_full_s"] == pytest.approx(120, abs=60)
    measured(bench, after(0))
    assert forecast(bench)["reason"] == ENDED
    for minute in range(70):
        measured(bench, after(minute))
        left_s = forecast(bench)["time_to_full_s"]
        assert left_s is None or left_s > 3_600, (minute, left_s)
        clock.let_pass(60)


def test_what_was_freed_a_moment_ago_counts(bench: MetricsBench, clock: Clock) -> None:
    """Also where it is too little to end the growth: the level is that of some minutes."""
    passed(bench, clock, 70, lambda minute: 100.0 + 10 * minute)
    assert forecast(bench)["time_to_full_s"] == pytest.approx(21 * 60, abs=90)
    measured(bench, 740.0)
    assert forecast(bench)["time_to_full_s"] == pytest.approx(26 * 60, abs=30)


def test_nothing_shorter_than_a_minute_is_forecast(bench: MetricsBench, clock: Clock) -> None:
    passed(bench, clock, 70, lambda minute: 310.0 + 10 * minute)
    assert (forecast(bench)["used_mb"], forecast(bench)["time_to_full_s"]) == (1_000, 60)


@pytest.mark.parametrize("by_seconds", [-3_600.0, 600.0])
def test_a_clock_that_was_set_begins_a_new_hour(bench: MetricsBench, clock: Clock, by_seconds: float) -> None:
    """Rows from before have times that don't fit; after it was set back, not before it has passed them."""
    passed(bench, clock, 130, lambda minute: 100.0 + minute)
    assert forecast(bench)["reason"] is None
    clock.set_wall_clock(by_seconds)
    passed(bench, clock, 58 - min(0, int(by_seconds // 60)), lambda minute: 230.0 + minute)
    assert forecast(bench)["reason"] == "less than an hour of history"
    passed(bench, clock, 4, lambda minute: 350.0 + minute)
    assert forecast(bench)["reason"] is None


def test_what_is_not_measured_has_no_forecast(bench: MetricsBench, clock: Clock) -> None:
    """A resource that a host does not have, and a host that stopped reporting."""
    passed(bench, clock, 65, lambda minute: 100.0 + minute)
    assert (forecast(bench, "vram")["reason"], forecast(bench)["reason"]) == ("not measured now", None)
    clock.let_pass(60)
    assert (forecast(bench)["reason"], forecast(bench)["time_to_full_s"]) == ("not measured now", None)
    assert forecast(bench, host="mainpc")["reason"] == "not measured now"


def test_each_disk_has_a_forecast(bench: MetricsBench, clock: Clock) -> None:
    """It is full when users can write nothing more; a disk that is not measured has no forecast."""
    for minute in range(62):
        disk = DiskSample(name="state", used_mb=500.0 + minute, free_mb=400.0 - minute, total_mb=TOTAL_MB)
        bench.measured("pc2", sample(machine=MachineSample(disks=(disk,))))
        bench.on_tick()
        clock.let_pass(60)
    bench.measured("pc2", sample(machine=MachineSample(disks=(disk,))))
    state, models = bench.ask("get_forecast", host="pc2", resource="disk")["forecasts"]
    assert (state["name"], state["total_mb"], models["name"]) == ("state", 900.0, "models")
    assert state["time_to_full_s"] == pytest.approx(60 * 339, rel=0.02)
    assert models["reason"] == "not measured now"


def test_each_of_several_cards_has_a_forecast(bench: MetricsBench, clock: Clock) -> None:
    """One fills while the sum of both does not grow; the episode is the card's, and hosts on its machine share it."""
    for minute in range(65):
        used = with_gpus((900 - 5 * minute, 2_000), (500 + 5 * minute, TOTAL_MB), uuids=("GPU-a", "GPU-b"))
        late = msgspec.structs.replace(used, wall=float(minute), machine=MachineSample(boot_id="one"))
        bench.metrics.ingest_once("pc2", late)
        bench.measured("mainpc", late)
        bench.on_tick()
        if minute == 62:
            bench.restart()
        clock.let_pass(60)
    bench.both_measured(mainpc=late, pc2=late)
    first, second = bench.ask("get_forecast", host="pc2", resource="vram")["forecasts"]
    assert (first["name"], first["total_mb"], first["reason"]) == ("GPU 0", 2_000, "not growing")
    assert (second["name"], second["total_mb"]) == ("GPU 1", TOTAL_MB)
    assert second["time_to_full_s"] == pytest.approx(60 * 180 / 5, rel=0.05)
    (event,) = [event["data"] for event in bench.sent]
    assert (event["resource"], event["name"]) == ("vram", "GPU 1")


def test_a_row_of_the_history_has_a_bounded_number_of_cards(bench: MetricsBench, clock: Clock) -> None:
    """Whatever UUIDs a host reports: the newest stay."""
    for number in range(100):
        bench.measured("mainpc", with_gpus((1, 2), (1, 2), uuids=(f"GPU-{number}", "GPU-same")))
    clock.let_pass(60)
    bench.measured("mainpc")
    (row,) = bench.metrics.history_on_disk.read("mainpc", "minute")
    assert (len(row.cards), "GPU-0" in row.cards, "GPU-99" in row.cards) == (64, False, True)
    assert row.cards["GPU-same"].count == 100


def test_hosts_on_one_machine_announce_once(bench: MetricsBench, clock: Clock) -> None:
    """Their RAM is the same."""
    for minute in range(62):
        for host in bench.metrics.hosts():
            used = sample(ram_used_mb=500.0 + 5 * minute, machine=MachineSample(boot_id="one"))
            bench.measured(host, used)
        bench.on_tick()
        clock.let_pass(60)
    assert [event["data"]["host"] for event in bench.sent] == ["mainpc"]


def test_a_rounded_size_does_not_announce_again(bench: MetricsBench, clock: Clock) -> None:
    """The used and the free MB of one disk are rounded apart, so their sum differs by hundredths."""
    for minute in range(62):
        for host, free_mb in (("mainpc", 399.99), ("pc2", 400.0)):
            disk = DiskSample(name="state", used_mb=500 + 5.0 * minute, free_mb=free_mb - 5 * minute, total_mb=TOTAL_MB)
            bench.measured(host, sample(machine=MachineSample(boot_id="one", disks=(disk,))))
        bench.on_tick()
        clock.let_pass(60)
    assert [event["data"]["host"] for event in bench.sent] == ["mainpc"]


def test_a_restart_does_not_announce_for_another_host(bench: MetricsBench, clock: Clock) -> None:
    """The episode is the machine's, which ends it too, although the host that began it does not report again."""

    def machine(minute: int) -> HostSample:
        return sample(ram_used_mb=500.0 + 5 * minute, machine=MachineSample(boot_id="one"))

    for minute in range(68):
        if minute == 62:
            bench.restart()
        if minute < 62:
            bench.measured("pc2", machine(minute))
        if minute > 5:
            bench.measured("mainpc", machine(minute))
        bench.on_tick()
        clock.let_pass(60)
    bench.measured("mainpc", machine(68))
    assert forecast(bench, host="mainpc")["time_to_full_s"] < 3_600
    assert [event["data"]["host"] for event in bench.sent] == ["pc2"]
    for _ in range(80):
        bench.measured("mainpc", machine(0))
        bench.on_tick()
        clock.let_pass(60)
    assert bench.rows("full_soon") == []


@pytest.mark.parametrize("caller", [UMRA, OPERATOR, NOBODY])
def test_without_a_host_all_hosts_are_forecast(bench: MetricsBench, caller: Caller) -> None:
    reply = bench.ask("get_forecast", caller, resource="ram")
    assert [each["host"] for each in reply["forecasts"]] == ["mainpc", "pc2"]
    assert {"ram", "vram"} <= {each["resource"] for each in bench.ask("get_forecast", caller)["forecasts"]}


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"host": "pc9"}, "not_found", "there are: mainpc, pc2"),
        ({"resource": "cpu"}, "malformed_request", "Invalid enum value 'cpu' - at `$.resource`"),
        ({"host": ""}, "malformed_request", "at `$.host`"),
    ],
)
def test_a_wrong_request_is_refused(bench: MetricsBench, fields: dict[str, Any], code: str, sentence: str) -> None:
    reply = bench.ask("get_forecast", **fields)
    assert reply["code"] == code
    assert sentence in reply["error"]


def test_full_within_an_hour_is_announced_once(bench: MetricsBench, clock: Clock) -> None:
    """Not earlier, not again every minute, and not again after a restart or a kill."""
    passed(bench, clock, 60, lambda minute: 250.0 + 5 * minute)
    assert bench.sent == []
    passed(bench, clock, 40, lambda minute: 550.0 + 5 * minute)
    (event,) = bench.sent
    assert (event["event_type"], event["source_agent"], event["written_by"]) == (FULL_SOON, ITSELF, ITSELF)
    assert (event["data"]["host"], event["data"]["resource"]) == ("pc2", "ram")
    assert 3_000 < event["data"]["time_to_full_s"] <= 3_600
    bench.restart(killed=True)
    passed(bench, clock, 10, lambda minute: 750.0 + 5 * minute)
    bench.restart()
    passed(bench, clock, 5, lambda minute: 800.0 + 5 * minute)
    assert len(bench.sent) == 1


def test_an_episode_ends_after_ten_minutes_over_the_limit(bench: MetricsBench, clock: Clock) -> None:
    """A resource that will be full soon after that is announced again."""
    passed(bench, clock, 62, lambda minute: 500.0 + 5 * minute)
    passed(bench, clock, 80, constant)
    assert (len(bench.sent), bench.rows("full_soon")) == (1, [])
    passed(bench, clock, 60, lambda minute: 300.0 + 10 * minute)
    assert len(bench.sent) == 2


def test_less_than_ten_minutes_do_not_end_an_episode(bench: MetricsBench, clock: Clock) -> None:
    """A host that does not report does not end it either."""
    passed(bench, clock, 62, lambda minute: 500.0 + 5 * minute)
    passed(bench, clock, 6, constant)  # of which the forecast is over 90 minutes for less than 10
    assert bench.rows("full_soon")[0][3] is not None
    passed(bench, clock, 20, lambda minute: 800.0 + 5 * minute)
    ((_, _, _, calm_since, *_),) = bench.rows("full_soon")
    for _ in range(3):
        clock.let_pass(1_200)
        bench.on_tick()
    assert (len(bench.sent), calm_since, len(bench.rows("full_soon"))) == (1, None, 1)


def test_hosts_are_forecast_in_turn(bench: MetricsBench, clock: Clock) -> None:
    """Even if the agent runs once a minute only, the first host does not keep the others waiting."""
    for _ in range(2):
        clock.let_pass(61)
        bench.forecasts.on_tick()
    assert [bool(bench.forecasts.newest(host)) for host in bench.metrics.hosts()] == [True, True]


def test_a_store_that_fails_announces_nothing_yet(bench: MetricsBench, clock: Clock) -> None:
    """The episode and its event are written together, or later together."""
    passed(bench, clock, 59, lambda minute: 200.0 + 10 * minute)
    clock.let_pass(60)
    bench.measured("pc2", sample(ram_used_mb=790.0, ram_total_mb=TOTAL_MB))
    bench.metrics.on_tick()
    bench.database.execute("PRAGMA query_only=ON")
    for _ in bench.metrics.hosts():
        with pytest.raises(StoreUnavailable):
            bench.forecasts.on_tick()
    assert bench.sent == []
    bench.database.execute("PRAGMA query_only=OFF")
    clock.let_pass(60)
    measured(bench, 810.0)
    assert (len(bench.sent), len(bench.rows("full_soon"))) == (1, 1)


def test_a_database_without_episodes_is_migrated(bench: MetricsBench, clock: Clock, tmp_path: Path) -> None:
    """Its history is forecast at once."""
    passed(bench, clock, 62, lambda minute: 100.0 + minute)
    bench.close()
    downgrade(tmp_path / "twin.sqlite3", [REPLY_LOG_SCHEMA, *MIGRATIONS[: MIGRATIONS.index(MIGRATION)]])
    bench.open()
    bench.measured("pc2", sample(ram_used_mb=162.0, ram_total_mb=170.0))
    bench.on_tick()
    assert [event["data"]["host"] for event in bench.sent] == ["pc2"]


def test_an_episode_of_the_version_before_goes_on(bench: MetricsBench, clock: Clock, tmp_path: Path) -> None:
    """It knows its host only, not the machine."""
    passed(bench, clock, 62, lambda minute: 500.0 + 5 * minute)
    bench.close()
    downgrade(tmp_path / "twin.sqlite3", [REPLY_LOG_SCHEMA, *MIGRATIONS[: MIGRATIONS.index(MIGRATION_MACHINE)]])
    bench.open()
    passed(bench, clock, 2, lambda minute: 800.0 + 5 * minute)
    ((host, *_, machine, total_mb),) = bench.rows("full_soon")
    assert (len(bench.sent), host, machine, total_mb) == (1, "pc2", None, None)
