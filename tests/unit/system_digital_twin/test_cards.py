"""VRAM by card: placement, leases that older versions stored, and what agents report where there is no NVML."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.system_digital_twin.metrics_bench import (
    INTERVAL_S,
    NEWCOMER,
    NOBODY,
    OPERATOR,
    UMRA,
    Clock,
    MetricsBench,
    sample,
    with_gpu,
    with_gpus,
)
from twinhost.agent.host_metrics import MachineSample
from twinhost.secure_zmq.callers import Caller
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin.capacity.forecast import CardId
from twinhost.system_digital_twin.capacity.leases import Lease
from twinhost.system_digital_twin.capacity.reservations import DEAD_AFTER_S
from twinhost.system_digital_twin.state_files import MIGRATIONS

TWO_CARDS = {"cuda:0": 10_000.0, "cuda:1": 8_000.0}


def reported(
    bench: MetricsBench,
    total_mb: float,
    models: dict[str, float],
    caller: Any = UMRA,
    *,
    used_mb: float | None = None,
    totals: dict[str, float] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Let an agent report its VRAM, and return the reply; `models` are MB by device, `totals` the capacities."""
    loaded = {f"m-{device}": {"device": device, "vram_usage_mb": used} for device, used in models.items()}
    payload = {
        "agent_name": caller.name,
        "total_vram_mb": total_mb,
        "total_vram_used_mb": sum(models.values()) if used_mb is None else used_mb,
        "loaded_models": loaded,
    } | ({} if totals is None else {"device_totals_mb": totals})
    return bench.ask("update_vram_metrics", caller, payload=payload, **fields)


def test_a_request_larger_than_every_card_is_refused(bench: MetricsBench) -> None:
    """Two cards with 6,000 MB free each are not 12,000; the one with the most is named."""
    bench.both_measured(pc2=with_gpus((4_000, 10_500), (4_000, 10_600)))
    refused = bench.ask("reserve_vram", amount_mb=10_000)
    assert refused["code"] == "limit_reached"
    assert "pc2's VRAM on GPU 1 would be at 14000 of 10600 MB" in refused["error"]
    assert "6070 MB can be reserved there, and no card of pc2 has more" in refused["error"]
    simulated = bench.ask("simulate_load", load_type="vram", value=10_000, host="pc2")
    assert (simulated["recommendation"], simulated["gpu"]) == (
        "deny_insufficient_resources",
        {"index": 1, "uuid": None},
    )


def test_leases_go_to_the_card_with_the_most_room(bench: MetricsBench) -> None:
    bench.both_measured(pc2=with_gpus((4_000, 10_000), (3_000, 10_000)))
    replies = [bench.ask("reserve_vram", amount_mb=5_000) for _ in range(3)]
    assert [reply.get("gpu") for reply in replies] == [{"index": 1, "uuid": None}, {"index": 0, "uuid": None}, None]
    assert replies[0]["placement"]["considered"][1]["gpu"] == {"index": 1, "uuid": None}
    assert bench.ask("reserve_ram", amount_mb=1)["gpu"] is None
    assert [lease["gpu"] for lease in bench.ask("list_leases")["leases"]][:2] == [reply["gpu"] for reply in replies[:2]]


def test_a_card_is_recognised_by_its_uuid() -> None:
    """Its index may be another after a restart of the driver."""
    lease = Lease(
        lease_id="x", resource="vram", host="pc2", amount_mb=1, holder="a", state="reserved", created=0, deadline=1,
        gpu=0, gpu_uuid="GPU-1",
    )  # fmt: skip
    cards: list[CardId] = [{"index": 1, "uuid": "GPU-1"}, {"index": 0, "uuid": "GPU-2"}, {"index": 0, "uuid": None}]
    assert [lease.on_card(card) for card in cards] == [True, False, True]


def test_a_lease_of_the_version_before_counts_on_every_card(tmp_path: Path, clock: Clock) -> None:
    """It may be on any of them, so no card is over its capacity wherever it is."""
    path, clock_now = tmp_path / "twin.sqlite3", clock.time()
    before = Database(path, [REPLY_LOG_SCHEMA, *MIGRATIONS[:10]])
    record = {
        "lease_id": "old", "resource": "vram", "host": "pc2", "amount_mb": 5_000.0, "holder": UMRA.name,
        "state": "committed", "created": clock_now, "deadline": None,
    }  # fmt: skip
    before.execute("INSERT INTO leases VALUES (?, ?)", ("old", json.dumps(record).encode()))
    before.close()
    bench = MetricsBench(path, clock)
    bench.both_measured(pc2=with_gpus((0, 10_000), (0, 10_000)))
    (old,) = bench.ask("list_leases")["leases"]
    assert (old["lease_id"], old["gpu"], old["state"]) == ("old", None, "committed")
    assert bench.ask("reserve_vram", amount_mb=4_501)["code"] == "limit_reached"
    assert [bench.ask("reserve_vram", amount_mb=4_500)["gpu"]["index"] for _ in range(2)] == [0, 1]
    assert bench.ask("release_lease", lease_id="old")["status"] == "success"
    assert bench.ask("reserve_vram", amount_mb=5_000)["gpu"]["index"] == 0
    bench.close()


def test_what_agents_report_counts_without_nvml(bench: MetricsBench, clock: Clock) -> None:
    """The uses of all agents on one card are added; a host that is not measured has none."""
    bench.both_measured()
    reported(bench, 10_000, {"cuda:1": 3_000})
    reported(bench, 8_000, {}, NEWCOMER)  # of pc3, which is no host of this network
    lease = bench.ask("reserve_vram", amount_mb=6_500)
    assert (lease["host"], lease["gpu"]) == ("pc2", {"index": 1, "uuid": None})
    assert "9501 of 10000 MB" in bench.ask("reserve_vram", amount_mb=1)["error"]
    state = bench.ask("simulate_load", load_type="vram", value=1, host="pc2")["current_state"]
    assert (state["vram_usage_mb"], state["vram_leased_mb"]) == (3_000, 6_500)
    clock.let_pass(3 * INTERVAL_S + 1)
    assert bench.ask("reserve_vram", amount_mb=1)["code"] == "not_found"


def projected(bench: MetricsBench, host: str) -> float | None:
    """Return the VRAM of a host with 1 MB more."""
    mb: float | None = bench.ask("simulate_load", load_type="vram", value=1, host=host)["projected_vram_mb"]
    return mb


def test_a_report_from_no_host_says_that_it_does_not_count(bench: MetricsBench) -> None:
    """A key may be for a machine's own name. It counts as soon as `host` names the host."""
    bench.both_measured()
    reply = reported(bench, 10_000, {"cuda:0": 3_000}, NEWCOMER)
    assert (reply["status"], reply["host"], projected(bench, "mainpc")) == ("success", None, None)
    assert reply["message"] == (
        "VRAM of newcomer stored, but it counts on no host: pc3 is not measured; "
        "name the host that newcomer runs on in `host` (mainpc, pc2)"
    )
    reply = reported(bench, 10_000, {"cuda:0": 3_000}, NEWCOMER, host="mainpc")
    assert (reply["message"], reply["host"]) == ("VRAM of newcomer stored", "mainpc")
    assert (projected(bench, "mainpc"), projected(bench, "pc2")) == (3_001, None)


def test_a_report_counts_where_its_agent_has_leases(bench: MetricsBench) -> None:
    """While they are on one host; leases on two don't say where it runs."""
    bench.both_measured()
    for host in ("pc2", "mainpc"):
        assert bench.ask("reserve_ram", NEWCOMER, amount_mb=1, host=host)["status"] == "success"
        found = reported(bench, 10_000, {"cuda:0": 3_000}, NEWCOMER)["host"]
        assert found == ("pc2" if host == "pc2" else None)


def test_a_key_for_a_host_names_no_other_in_its_report(bench: MetricsBench) -> None:
    bench.both_measured()
    assert reported(bench, 1, {}, UMRA, host="mainpc")["code"] == "not_granted"
    assert reported(bench, 1, {}, NEWCOMER, host="pc9")["code"] == "not_found"
    assert bench.ask("get_metrics")["metrics"]["vram_reports"] == []
    assert [reported(bench, 1, {}, who, host="pc2")["host"] for who in (UMRA, OPERATOR, NOBODY)] == ["pc2"] * 3


def test_hosts_on_one_machine_share_what_agents_report(bench: MetricsBench) -> None:
    """As they share its leases: one card, whichever of the hosts its users name."""
    one = sample(machine=MachineSample(boot_id="b00t"))
    bench.both_measured(mainpc=one, pc2=one)
    reported(bench, 10_000, {"cuda:0": 3_000})
    reported(bench, 10_000, {"cuda:0": 2_000}, NEWCOMER, host="mainpc")
    assert projected(bench, "mainpc") == projected(bench, "pc2") == 5_001


def test_a_committed_lease_is_in_the_holders_next_report(bench: MetricsBench, clock: Clock) -> None:
    """Until then it counts beside what was reported, whatever else was measured of the host meanwhile."""
    bench.both_measured()
    reported(bench, 10_000, {"cuda:0": 3_000})
    lease = bench.ask("reserve_vram", amount_mb=4_000)["lease_id"]
    bench.ask("commit_lease", lease_id=lease)
    clock.let_pass(1)
    bench.both_measured()

    assert projected(bench, "pc2") == 7_001
    reported(bench, 10_000, {"cuda:0": 7_000})
    assert projected(bench, "pc2") == 7_001


@pytest.mark.parametrize("end", ["released", "expired"])
def test_a_lease_that_ends_leaves_its_holders_report(bench: MetricsBench, clock: Clock, end: str) -> None:
    """Its holder may have ended, and report nothing any more. The next report counts in full."""
    bench.both_measured()
    reported(bench, 10_000, {"cuda:0": 3_000})
    held, late = (bench.ask("reserve_vram", amount_mb=amount)["lease_id"] for amount in (4_000, 500))
    bench.ask("commit_lease", lease_id=held, ttl_s=20)
    clock.let_pass(1)
    reported(bench, 10_000, {"cuda:0": 7_000})
    clock.let_pass(1)
    bench.ask("commit_lease", lease_id=late)
    if end == "released":
        bench.ask("release_lease", lease_id=held)
    clock.let_pass(20)
    bench.both_measured()
    bench.on_tick()
    assert projected(bench, "pc2") == 3_501
    bench.ask("release_lease", lease_id=late)
    assert projected(bench, "pc2") == 3_001
    bench.restart()
    bench.both_measured()
    assert projected(bench, "pc2") == 3_001
    reported(bench, 10_000, {"cuda:0": 7_000})
    assert projected(bench, "pc2") == 7_001


def test_what_a_dead_agent_reported_is_free(bench: MetricsBench, clock: Clock) -> None:
    """Its card stays; and if it comes back, its report counts again."""
    bench.both_measured()
    reported(bench, 10_000, {"cuda:0": 9_000})
    waiting = bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=5_000, wait_s=60)
    bench.dead.add(UMRA.name)
    bench.on_tick()
    assert waiting.reply() is None
    clock.let_pass(DEAD_AFTER_S)
    bench.both_measured()
    bench.on_tick()
    reply = waiting.reply()
    assert reply is not None
    assert (reply["status"], projected(bench, "pc2")) == ("success", 5_001)
    bench.dead.clear()
    bench.on_tick()
    assert projected(bench, "pc2") == 14_001


@pytest.mark.parametrize("models", [{"cuda:0": 1.0, "cuda:1": 1.0}, {}])
def test_a_card_of_unknown_capacity_is_not_leased(bench: MetricsBench, models: dict[str, float]) -> None:
    """Of several devices an agent reports the sum; and one may report none at all."""
    bench.both_measured()
    reported(bench, 10_000 if models else 0, models)
    assert bench.ask("reserve_vram", amount_mb=1)["code"] == "not_found"


def test_who_reported_a_capacity_is_named(bench: MetricsBench) -> None:
    """In what is refused and in what is leased on it; of those who state one, who states the least."""
    bench.both_measured()
    reported(bench, 8_000, {}, totals={"cuda:0": 8_000})
    lease = bench.ask("reserve_vram", amount_mb=100)
    assert lease["capacity_reported_by"] == UMRA.name
    assert f"8000 MB, as {UMRA.name} reports, within 95 %" in lease["placement"]["reason"]
    reported(bench, 500, {}, Caller("other", "pc2", UMRA.roles, "SHA256:other"), totals={"cuda:0": 500})
    refused = bench.ask("reserve_vram", amount_mb=1_000, host="pc2")["error"]
    assert "500 MB, as other reports, over 95 %" in refused
    bench.both_measured(pc2=with_gpus((0, 4_000)))
    assert bench.ask("reserve_vram", amount_mb=100)["capacity_reported_by"] is None
    assert [lease["capacity_reported_by"] for lease in bench.ask("list_leases")["leases"]] == [UMRA.name, None]


def test_the_only_device_of_a_report_names_its_writer(bench: MetricsBench) -> None:
    bench.both_measured()
    reported(bench, 8_000, {"cuda:1": 10})
    assert bench.ask("reserve_vram", amount_mb=100)["capacity_reported_by"] == UMRA.name


def test_cards_of_stated_capacity_are_leased_without_nvml(bench: MetricsBench) -> None:
    """Each by itself, with what all agents use on it; a card without a model is one too."""
    bench.both_measured()
    assert reported(bench, 18_000, {"cuda:0": 5_000}, totals=TWO_CARDS)["message"].endswith(" stored")
    reported(bench, 18_000, {"cuda:0": 1_000, "cuda:1": 500, "cpu": 0}, NEWCOMER, host="pc2")
    refused = bench.ask("reserve_vram", amount_mb=7_500, host="pc2")["error"]
    assert "pc2's VRAM on GPU 1 would be at 8000 of 8000 MB" in refused
    replies = [bench.ask("reserve_vram", amount_mb=3_000) for _ in range(4)]
    assert [reply.get("gpu") for reply in replies] == [
        {"index": 1, "uuid": None},
        {"index": 1, "uuid": None},
        {"index": 0, "uuid": None},
        None,
    ]
    bench.both_measured(pc2=with_gpus((0, 4_000)))
    (measured,) = bench.reservations.hosts().state("pc2").cards  # the driver's, which outrank what is reported
    assert (measured.used_mb, measured.total_mb) == (0, 4_000)
    assert [report.get("device_totals_mb") for report in bench.ask("get_metrics")["metrics"]["vram_reports"]] == [
        TWO_CARDS,
        None,
    ]


def test_use_without_a_card_counts_on_every_card(bench: MetricsBench) -> None:
    """On a device of another kind of name, or in the sum alone; and the least capacity that is stated counts."""
    bench.both_measured()
    reported(bench, 18_000, {"cuda:0": 1_000, "PC2": 500}, used_mb=2_000, totals=TWO_CARDS)
    reported(bench, 18_000, {}, NEWCOMER, host="pc2", totals={"cuda:0": 7_000.0})
    cards = bench.reservations.hosts().state("pc2").cards
    assert [(card.index, card.used_mb, card.total_mb) for card in cards] == [(0, 2_000, 7_000), (1, 1_000, 8_000)]


def test_a_lease_that_ends_leaves_its_own_card(bench: MetricsBench, clock: Clock) -> None:
    """Of the holder's report, also after a restart; the other card's use stays."""
    bench.both_measured()
    reported(bench, 18_000, {}, totals=TWO_CARDS)
    held = [bench.ask("reserve_vram", amount_mb=6_000) for _ in range(2)]
    assert [lease["gpu"]["index"] for lease in held] == [0, 1]
    for lease in held:
        bench.ask("commit_lease", lease_id=lease["lease_id"])
    clock.let_pass(1)
    reported(bench, 18_000, {"cuda:0": 6_000, "cuda:1": 6_000}, totals=TWO_CARDS)
    bench.ask("release_lease", lease_id=held[1]["lease_id"])
    bench.restart()
    bench.both_measured()
    assert [card.used_mb for card in bench.reservations.hosts().state("pc2").cards] == [6_000, 0]


def test_what_a_dead_agent_used_on_a_card_is_free(bench: MetricsBench, clock: Clock) -> None:
    """And nothing is leased on the cards of a host that is no longer measured."""
    bench.both_measured()
    reported(bench, 18_000, {"cuda:0": 9_000, "cuda:1": 7_000}, totals=TWO_CARDS)
    bench.dead.add(UMRA.name)
    bench.on_tick()
    clock.let_pass(DEAD_AFTER_S)
    bench.both_measured()
    bench.on_tick()
    assert [card.used_mb for card in bench.reservations.hosts().state("pc2").cards] == [0, 0]
    clock.let_pass(3 * INTERVAL_S + 1)
    assert bench.ask("reserve_vram", amount_mb=1)["code"] == "not_found"


def test_a_report_of_several_devices_says_what_it_lacks(bench: MetricsBench) -> None:
    """Where no driver measures the cards; a capacity needs a device that names its card."""
    bench.both_measured()
    assert reported(bench, 10_000, {"cuda:0": 1, "cuda:1": 1, "cpu": 1})["message"] == (
        f"VRAM of {UMRA.name} stored, but no VRAM of pc2 is leased: no driver measures it, and the report has one "
        "total for several devices; add the capacity of each card in `device_totals_mb`, by a name such as cuda:1"
    )
    bench.both_measured(pc2=with_gpu(1_000, 2_000))
    assert reported(bench, 10_000, {"cuda:0": 1, "cuda:1": 1})["message"].endswith(" stored")
    for device in ("PC2", "cpu:0"):
        refused = reported(bench, 1, {}, totals={device: 1})
        assert refused["code"] == "malformed_request"
        assert f"device '{device}' names no card - at `$.payload.device_totals_mb`" in refused["error"]


def test_a_model_on_the_cpu_is_on_no_card(bench: MetricsBench) -> None:
    bench.both_measured()
    reported(bench, 10_000, {"cuda:1": 3_000, "cpu": 0})
    assert bench.ask("reserve_vram", amount_mb=1)["gpu"] == {"index": 1, "uuid": None}


def test_a_driver_outranks_what_agents_report(bench: MetricsBench) -> None:
    bench.both_measured(pc2=with_gpu(1_000, 2_000))
    reported(bench, 80_000, {})
    assert "2100 of 2000 MB" in bench.ask("reserve_vram", amount_mb=1_100)["error"]


def test_a_driver_of_the_same_machine_outranks_reports(bench: MetricsBench) -> None:
    """A host without NVML has the cards that the machine's other host measures, and their use; none counts twice."""
    machine = MachineSample(boot_id="b00t")
    bench.both_measured(mainpc=sample(machine=machine), pc2=with_gpu(1_500, 2_000, machine=machine))
    assert reported(bench, 80_000, {"cuda:0": 1, "cuda:1": 1}, OPERATOR, host="mainpc")["message"].endswith(" stored")
    reported(bench, 80_000, {}, NEWCOMER, host="mainpc", totals=TWO_CARDS)
    assert projected(bench, "mainpc") == projected(bench, "pc2") == 1_501
    assert bench.ask("reserve_vram", amount_mb=300, host="mainpc")["status"] == "success"
    assert bench.ask("reserve_vram", amount_mb=300, host="pc2")["code"] == "limit_reached"


@pytest.mark.sdt_security
def test_a_foreign_host_has_no_cards_of_a_machine(bench: MetricsBench) -> None:
    """An agent of a host that is not in the configuration says that it is on pc2's machine, with a larger card."""
    machine = MachineSample(boot_id="b00t")
    bench.both_measured(pc2=sample(machine=machine))
    reported(bench, 10_000, {}, totals={"cuda:0": 10_000.0})
    bench.measured("pc3", with_gpu(0, 90_000, machine=machine))
    assert "20000 of 10000 MB" in bench.ask("reserve_vram", amount_mb=20_000, host="pc2")["error"]


def test_a_sum_without_cards_is_one_card(bench: MetricsBench) -> None:
    """An older host reports its VRAM alone."""
    bench.both_measured(pc2=sample(vram_used_mb=0.0, vram_total_mb=1_000.0))
    assert bench.ask("reserve_vram", amount_mb=900)["gpu"] == {"index": 0, "uuid": None}


def test_a_committed_lease_may_have_an_end(bench: MetricsBench, clock: Clock) -> None:
    """So that it ends with its holder; each commit with `ttl_s` renews it, also across a restart."""
    bench.both_measured()
    lease = bench.ask("reserve_ram", amount_mb=1, ttl_s=5)["lease_id"]
    assert bench.ask("commit_lease", lease_id=lease, ttl_s=20)["expires_in_s"] > 19
    clock.let_pass(15)
    assert bench.ask("commit_lease", lease_id=lease, ttl_s=20)["expires_in_s"] > 19
    assert bench.ask("commit_lease", lease_id=lease)["expires_in_s"] is not None
    clock.let_pass(15)
    bench.restart(killed=True)
    (left,) = bench.ask("list_leases")["leases"]
    assert 3 < left["expires_in_s"] <= 5
    clock.let_pass(5)
    bench.on_tick()
    assert bench.rows("leases") == []
    assert bench.ask("commit_lease", lease_id=lease, ttl_s=20)["code"] == "not_found"
