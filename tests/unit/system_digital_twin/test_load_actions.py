"""`simulate_load` and the leases, as a client sees them."""

from datetime import datetime
from typing import Any

import pytest

from tests.unit.asked import refused
from tests.unit.system_digital_twin.metrics_bench import (
    INTERVAL_S,
    NEWCOMER,
    NOBODY,
    OPERATOR,
    UMRA,
    Clock,
    MetricsBench,
    names,
    sample,
    with_gpu,
)
from twinhost.agent.host_metrics import MachineSample
from twinhost.secure_zmq.callers import Caller

PROJECTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"projected_cpu_percent": 11.0},
    "ram": {"projected_ram_mb": 301.0, "ram_capacity_mb": 1_000.0},
    "vram": {
        "projected_vram_mb": 1_001.0,
        "vram_capacity_mb": 8_000.0,
        "gpu": {"index": 0, "uuid": None},
    },
    "network": {"projected_latency_ms": 4.0},
}


def reserved(reply: dict[str, Any]) -> str:
    assert reply["status"] == "success", reply
    return str(reply["lease_id"])


@pytest.mark.parametrize("load_type", list(PROJECTIONS))
def test_a_load_on_a_named_host(bench: MetricsBench, load_type: str) -> None:
    """Every field of the contract, and none of a reason where there is nothing to explain."""
    bench.both_measured(pc2=with_gpu(1_000, 8_000, latency_ms=2.5))
    reply = bench.ask("simulate_load", load_type=load_type, value=1, host="pc2")
    assert datetime.fromisoformat(reply.pop("timestamp")).tzinfo is not None
    assert reply == {
        "status": "success",
        "host": "pc2",
        "current_state": {
            "cpu_usage": 10.0,
            "ram_usage_mb": 300.0,
            "ram_leased_mb": 0.0,
            "vram_usage_mb": 1_000.0,
            "vram_leased_mb": 0.0,
            "network_latency_ms": 2.5,
        },
        "load_type": load_type,
        "requested_value": 1.0,
        "recommendation": "proceed",
        **PROJECTIONS[load_type],
    }


@pytest.mark.parametrize(
    ("load_type", "recommendation", "reason"),
    [
        ("cpu", "caution_high_cpu", "pc2's CPU would be at 100.0 %, over 90 %"),
        ("ram", "deny_insufficient_resources", "pc2's RAM would be at 10300 of 1000 MB, over 90 %"),
        ("vram", "deny_insufficient_resources", "pc2's VRAM would be at 11000 of 8000 MB, over 95 %"),
        ("network", "caution_high_latency", "pc2's latency would be 15002.5 ms, over 200 ms"),
    ],
)
def test_a_load_that_does_not_fit_has_a_reason(
    bench: MetricsBench, load_type: str, recommendation: str, reason: str
) -> None:
    bench.both_measured(pc2=with_gpu(1_000, 8_000, latency_ms=2.5))
    reply = bench.ask("simulate_load", load_type=load_type, value_mb=10_000, host="pc2")
    assert (reply["recommendation"], reply["reason"]) == (recommendation, reason)
    assert (reply["requested_value"], "placement" in reply) == (10_000.0, False)


def test_without_a_host_the_load_is_placed(bench: MetricsBench) -> None:
    """On the host that keeps most; the contract's fields are that host's, and each host's reason is given."""
    bench.both_measured(mainpc=sample(ram_used_mb=600.0), pc2=sample(ram_used_mb=100.0))
    reply = bench.ask("simulate_load", load_type="ram", value=500)
    assert (reply["host"], reply["projected_ram_mb"], reply["recommendation"]) == ("pc2", 600.0, "proceed")
    assert reply["current_state"]["ram_usage_mb"] == 100.0
    assert reply["placement"] == {
        "host": "pc2",
        "reason": "pc2's RAM would be at 600 of 1000 MB, within 90 %; no other host has more headroom",
        "considered": [
            {
                "host": "mainpc",
                "recommendation": "deny_insufficient_resources",
                "reason": "mainpc's RAM would be at 1100 of 1000 MB, over 90 %",
            },
            {
                "host": "pc2",
                "recommendation": "proceed",
                "reason": "pc2's RAM would be at 600 of 1000 MB, within 90 %",
            },
        ],
    }


def test_a_load_that_fits_nowhere_names_the_best_host(bench: MetricsBench) -> None:
    bench.both_measured(mainpc=sample(ram_used_mb=600.0), pc2=sample(ram_used_mb=100.0))
    reply = bench.ask("simulate_load", load_type="ram", value=5_000)
    assert (reply["host"], reply["recommendation"]) == ("pc2", "deny_insufficient_resources")
    assert reply["placement"]["host"] is None
    assert reply["placement"]["reason"].startswith("it fits on no host: mainpc's RAM would be at 5600 of 1000 MB")


def test_a_machine_with_two_hosts_is_leased_once(bench: MetricsBench) -> None:
    """What is leased on one of them is not free on the other; RAM and VRAM, and while the other is unknown too."""
    one = with_gpu(1_000, 8_000, machine=MachineSample(boot_id="b00t"))
    bench.both_measured(mainpc=one, pc2=one)
    bench.ask("reserve_ram", amount_mb=400, host="pc2")
    bench.ask("reserve_vram", amount_mb=5_000, host="mainpc")
    for host in ("mainpc", "pc2"):
        for kind, fits, too_much in (("ram", 200, 201), ("vram", 1_600, 1_601)):
            answers = [bench.ask("simulate_load", load_type=kind, value=mb, host=host) for mb in (fits, too_much)]
            assert [answer["recommendation"] for answer in answers] == ["proceed", "deny_insufficient_resources"]
    assert bench.ask("reserve_ram", amount_mb=201)["code"] == "limit_reached"
    bench.restart()
    bench.measured("mainpc", one)
    assert bench.ask("reserve_ram", amount_mb=201, host="mainpc")["code"] == "limit_reached"
    bench.both_measured(mainpc=one, pc2=with_gpu(1_000, 8_000, machine=MachineSample(boot_id="other")))
    assert bench.ask("reserve_vram", amount_mb=6_000, host="pc2")["status"] == "success"


def test_a_host_that_fell_silent_is_promised_nothing(bench: MetricsBench, clock: Clock) -> None:
    """Its last figures are not those of now."""
    bench.both_measured()
    clock.let_pass(3 * INTERVAL_S + 1)
    reply = bench.ask("simulate_load", load_type="ram", value=1, host="pc2")
    assert (reply["recommendation"], reply["reason"]) == (
        "deny_insufficient_resources",
        "pc2's RAM is not measured now",
    )
    assert (reply["projected_ram_mb"], reply["ram_capacity_mb"], reply["current_state"]["ram_usage_mb"]) == (None,) * 3
    bench.measured("mainpc")
    assert bench.ask("simulate_load", load_type="ram", value=1)["placement"]["host"] == "mainpc"


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"load_type": "disk", "value": 1}, "malformed_request", "Invalid enum value 'disk' - at `$.load_type`"),
        ({"value": 1}, "malformed_request", "missing required field `load_type`"),
        ({"load_type": "cpu"}, "malformed_request", "missing required field `value`"),
        ({"load_type": "cpu", "value": 0}, "malformed_request", "Expected `float` > 0.0 - at `$.value`"),
        ({"load_type": "cpu", "value": -5}, "malformed_request", "Expected `float` > 0.0 - at `$.value`"),
        ({"load_type": "cpu", "value": "5"}, "malformed_request", "at `$.value`"),
        ({"load_type": "cpu", "value": True}, "malformed_request", "at `$.value`"),
        ({"load_type": "vram", "value_mb": 0}, "malformed_request", "Expected `float` > 0.0 - at `$.value_mb`"),
        ({"load_type": "cpu", "value": 1, "host": "pc9"}, "not_found", "there are: mainpc, pc2"),
        ({"load_type": "cpu", "value": 1, "host": ""}, "malformed_request", "at `$.host`"),
    ],
)
def test_what_is_no_load_is_refused(bench: MetricsBench, fields: dict[str, Any], code: str, sentence: str) -> None:
    refused(bench.ask("simulate_load", **fields), code, sentence)


def test_a_reservation_says_what_was_promised(bench: MetricsBench, clock: Clock) -> None:
    """Which resource, where, how much, its holder, until when."""
    bench.both_measured()
    before = clock.time()
    reply = bench.ask("reserve_ram", amount_mb=200, host="pc2", ttl_s=30)
    expires = datetime.fromisoformat(reply["expires"]).timestamp()
    assert before + 29 < expires < before + 31
    facts = {"resource": "ram", "host": "pc2", "amount_mb": 200.0, "holder": UMRA.name, "state": "reserved"}
    assert facts.items() <= reply.items()
    (listed,) = bench.ask("list_leases", NEWCOMER)["leases"]
    assert 28 < listed.pop("expires_in_s") <= 30
    assert listed.items() <= reply.items()


def test_a_projection_counts_open_leases(bench: MetricsBench, clock: Clock) -> None:
    """Until one is released, or lapses."""
    bench.both_measured()

    def projected() -> float:
        return float(bench.ask("simulate_load", load_type="ram", value=1, host="pc2")["projected_ram_mb"])

    first = reserved(bench.ask("reserve_ram", amount_mb=200, host="pc2", ttl_s=600))
    reserved(bench.ask("reserve_ram", amount_mb=100, host="pc2", ttl_s=5))
    assert projected() == 601.0
    clock.let_pass(5)
    assert projected() == 501.0
    assert bench.ask("release_lease", lease_id=first)["message"] == "200 MB of RAM on pc2 are free again"
    assert projected() == 301.0


def test_two_requests_at_once_never_get_the_same_memory(bench: MetricsBench) -> None:
    """Drained together, of two callers: one has it, the other gets the reason."""
    bench.both_measured()
    request = {"amount_mb": 400, "host": "pc2"}
    first, second = bench.ask_together(("reserve_ram", UMRA, request), ("reserve_ram", NEWCOMER, request))
    reserved(first)
    refused(
        second, "limit_reached", "400 MB of RAM can't be reserved: pc2's RAM would be at 1100 of 1000 MB, over 90 %"
    )
    assert names(bench.ask("list_leases")["leases"]) == [first["lease_id"]]


def test_without_a_host_a_lease_goes_where_it_fits(bench: MetricsBench) -> None:
    """And the next one elsewhere, once the first host is full; then nowhere."""
    bench.both_measured()
    hosts = [bench.ask("reserve_ram", amount_mb=400).get("placement", {}).get("host") for _ in range(3)]
    assert hosts == ["mainpc", "pc2", None]
    refused(bench.ask("reserve_ram", amount_mb=400), "limit_reached", "mainpc's RAM would be at")


def test_what_is_committed_is_not_counted_twice(bench: MetricsBench) -> None:
    """Its holder has taken it, so it is in what is measured; before the next sample, and where less is measured, it
    counts by itself."""
    bench.both_measured()

    def projected() -> float:
        return float(bench.ask("simulate_load", load_type="ram", value=1, host="pc2")["projected_ram_mb"])

    lease = reserved(bench.ask("reserve_ram", amount_mb=400, host="pc2"))
    reply = bench.ask("commit_lease", lease_id=lease)
    assert (reply["state"], round(reply["expires_in_s"])) == ("committed", 86_400)
    assert projected() == 701.0
    bench.measured("pc2", sample(ram_used_mb=690.0))
    assert projected() == 1_091.0, "this sample may have been taken before the memory was"
    bench.measured("pc2", sample(ram_used_mb=700.0))
    assert projected() == 701.0
    bench.measured("pc2", sample(ram_used_mb=50.0))
    assert projected() == 401.0


def test_vram_is_leased_where_a_gpu_is_measured(bench: MetricsBench) -> None:
    """Up to 95 % of it; without a host on the one that has a GPU."""
    bench.both_measured(pc2=with_gpu(1_000, 10_000))
    assert bench.ask("reserve_vram", amount_mb=8_000)["host"] == "pc2"
    refused(bench.ask("reserve_vram", amount_mb=501), "limit_reached", "pc2's VRAM would be at 9501 of 10000 MB")
    reserved(bench.ask("reserve_vram", amount_mb=500, host="pc2"))


@pytest.mark.parametrize("fields", [{}, {"host": "pc2"}])
def test_vram_that_nobody_measures_is_not_leased(bench: MetricsBench, fields: dict[str, Any]) -> None:
    bench.both_measured()
    refused(bench.ask("reserve_vram", amount_mb=1, **fields), "not_found", "no GPU is measured on which 1 MB could be")
    assert bench.ask("list_leases")["leases"] == []


@pytest.mark.sdt_security
@pytest.mark.parametrize("action", ["commit_lease", "release_lease"])
@pytest.mark.parametrize("caller", [NEWCOMER, NOBODY])
def test_a_lease_is_its_holders(bench: MetricsBench, action: str, caller: Caller) -> None:
    """Whoever knows its id, which everybody can list."""
    bench.both_measured()
    lease = reserved(bench.ask("reserve_ram", amount_mb=1))
    refused(bench.ask(action, caller, lease_id=lease), "not_granted", "or an operator to change it")
    assert [lease["state"] for lease in bench.ask("list_leases")["leases"]] == ["reserved"]
    assert bench.ask(action, OPERATOR, lease_id=lease)["status"] == "success"


@pytest.mark.parametrize("action", ["commit_lease", "release_lease"])
def test_a_lease_that_is_not_open_is_not_found(bench: MetricsBench, action: str) -> None:
    refused(bench.ask(action, lease_id="0" * 32), "not_found", "it expired or was released, or never existed")


def test_a_retry_gets_the_same_lease(bench: MetricsBench) -> None:
    """An answer that was lost reserves nothing twice."""
    bench.both_measured()
    first, second = (bench.ask("reserve_ram", amount_mb=1, request_id="r1") for _ in range(2))
    assert first == second
    assert len(bench.ask("list_leases")["leases"]) == 1


def test_a_batch_that_is_lost_promises_nothing(bench: MetricsBench) -> None:
    """No lease exists that was never acknowledged, and none is gone or committed that somebody holds."""
    bench.both_measured()
    kept = [reserved(bench.ask("reserve_ram", amount_mb=1)) for _ in range(2)]
    replies = bench.ask_together(
        ("reserve_ram", UMRA, {"amount_mb": 1}),
        ("commit_lease", UMRA, {"lease_id": kept[0]}),
        ("release_lease", UMRA, {"lease_id": kept[1]}),
        ("doom", UMRA, {}),
    )
    assert {reply["code"] for reply in replies} == {"store_unavailable"}
    leases = bench.ask("list_leases")["leases"]
    assert (names(leases), {lease["state"] for lease in leases}) == (kept, {"reserved"})
    bench.restart()
    assert names(bench.ask("list_leases")["leases"]) == kept


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "missing required field `amount_mb`"),
        ({"amount_mb": 0}, "Expected `float` > 0.0 - at `$.amount_mb`"),
        ({"amount_mb": "1"}, "at `$.amount_mb`"),
        ({"amount_mb": 1, "ttl_s": 0}, "Expected `float` > 0.0 - at `$.ttl_s`"),
        ({"amount_mb": 1, "ttl_s": 86_401}, "Expected `float` <= 86400.0 - at `$.ttl_s`"),
    ],
)
@pytest.mark.parametrize("action", ["reserve_ram", "reserve_vram"])
def test_a_wrong_reservation_is_refused(
    bench: MetricsBench, action: str, fields: dict[str, Any], sentence: str
) -> None:
    refused(bench.ask(action, **fields), "malformed_request", sentence)


def test_a_reservation_on_an_unknown_host_is_not_found(bench: MetricsBench) -> None:
    refused(bench.ask("reserve_ram", amount_mb=1, host="pc9"), "not_found", "no host 'pc9' is known")
