"""The actions on metrics: the contract's fields where an existing client reads them, and each host beside them."""

from datetime import datetime
from typing import Any

import pytest

from tests.unit.asked import refused
from tests.unit.system_digital_twin.metrics_bench import (
    INTERVAL_S,
    NEWCOMER,
    NOBODY,
    ON_PC2,
    OPERATOR,
    SDT,
    UMRA,
    Clock,
    MetricsBench,
    sample,
    with_gpu,
)
from twinhost.agent.host_metrics import MachineSample
from twinhost.secure_zmq.callers import Caller
from twinhost.system_digital_twin.metrics import vram_reports

REPORT: dict[str, Any] = {"cpu_percent": 42.5, "ram_used_mb": 100.0, "ram_total_mb": 512.0, "latency_ms": 1.25}
GPU = {"index": 0, "name": "x", "used_mb": 1, "total_mb": 2}
MACHINE: dict[str, Any] = {
    "cpus": 8,
    "load": [0.5, 0.25, 0.125],
    "swap_used_mb": 2,
    "swap_total_mb": 4,
    "disks": [{"name": "state", "used_mb": 5.5, "free_mb": 3, "total_mb": 9}],
    "network": {"received_bytes_per_s": 10.5, "sent_bytes_per_s": 0},
    "temperature_c": 54.5,
    "boot_id": "b00t",
    "virtual_machine": "Docker Desktop",
    "disk_faults": [{"disk": "vda2", "fault": "has 3 errors of its ext4 filesystem"}],
}
CONTAINER = {"cpu_percent": 1.5, "cpus": 0.5, "ram_used_mb": 80, "ram_limit_mb": 512, "network": None}
VRAM: dict[str, Any] = {
    "agent_name": UMRA.name,
    "total_vram_mb": 24_000,
    "total_vram_used_mb": 9_000.5,
    "loaded_models": {
        "a": {"device": "MainPC", "vram_usage_mb": 4_000},
        "b": {"device": "PC2", "vram_usage_mb": 1_000.5},
        "c": {"device": "MainPC", "vram_usage_mb": 4_000},
    },
}


def metrics(bench: MetricsBench) -> dict[str, Any]:
    found: dict[str, Any] = bench.ask("get_metrics")["metrics"]
    return found


def test_get_metrics_has_the_contracts_fields_for_each_host(bench: MetricsBench) -> None:
    """At the top those of mainpc, where a client of one host reads them; under `hosts` everybody's."""
    bench.measured("pc2", sample(cpu_percent=77.123, latency_ms=3.5))
    bench.measured("mainpc", with_gpu(1_024.0, 8_192.0))
    found = metrics(bench)
    assert {name: found[name] for name in ("cpu_usage", "ram_usage_mb", "vram_usage_mb", "network_latency_ms")} == {
        "cpu_usage": 10.0,
        "ram_usage_mb": 300.0,
        "vram_usage_mb": 1_024.0,
        "network_latency_ms": 3.5,
    }
    assert datetime.fromisoformat(found["timestamp"]).tzinfo is not None
    hosts = found["hosts"]
    assert list(hosts) == ["mainpc", "pc2"]
    assert hosts["mainpc"] == {name: found[name] for name in hosts["mainpc"]}
    assert (hosts["pc2"]["cpu_usage"], hosts["pc2"]["vram_usage_mb"], hosts["pc2"]["stale"]) == (77.12, None, False)
    assert hosts["mainpc"]["gpus"] == [
        {"index": 0, "name": "GPU", "used_mb": 1_024.0, "total_mb": 8_192.0, "utilisation_percent": None}
        | {"uuid": None, "temperature_c": None, "slowdown_c": None, "processes": []}
    ]


def test_what_is_not_measured_is_null(bench: MetricsBench, clock: Clock) -> None:
    """Before the first sample, without a GPU, and of a host that fell silent; the time is a time all the same."""
    found = metrics(bench)
    assert (found["cpu_usage"], found["ram_usage_mb"], found["stale"]) == (None, None, True)
    assert datetime.fromisoformat(found["timestamp"])
    bench.measured("mainpc")
    assert metrics(bench)["vram_usage_mb"] is None
    clock.let_pass(3 * INTERVAL_S + 1)
    found = metrics(bench)
    names = ("cpu_usage", "ram_usage_mb", "ram_total_mb", "vram_usage_mb", "network_latency_ms", "limited")
    assert [found[name] for name in names] == [None] * 6
    assert (found["stale"], found["gpus"]) == (True, [])


def test_metrics_of_type_history_are_the_course(bench: MetricsBench) -> None:
    """The same figures as arrays, mainpc's at the top."""
    bench.measured("mainpc", sample(cpu_percent=None))
    bench.measured("mainpc", sample(cpu_percent=20.0))
    found = bench.ask("get_metrics", metrics_type="history")["metrics"]
    assert (found["cpu_usage"], found["ram_usage_mb"]) == ([None, 20.0], [300.0, 300.0])
    assert found["hosts"]["mainpc"] == {name: found[name] for name in found["hosts"]["mainpc"]}
    assert found["hosts"]["pc2"]["timestamps"] == []
    refused(bench.ask("get_metrics", metrics_type="future"), "malformed_request", "at `$.metrics_type`")


def test_get_history_of_one_host_and_of_all(bench: MetricsBench) -> None:
    """With `host` that one alone; without one mainpc's at the top, and everybody's under `hosts`."""
    bench.measured("pc2", sample(cpu_percent=50.0, latency_ms=2.0))
    bench.measured("mainpc")
    history = bench.ask("get_history", host="pc2")["history"]
    assert datetime.fromisoformat(history.pop("timestamps")[0])
    assert history == {
        "host": "pc2",
        "cpu_usage": [50.0],
        "ram_usage_mb": [300.0],
        "vram_usage_mb": [None],
        "network_latency_ms": [2.0],
        "ram_total_mb": [1_000.0],
        "swap_usage_mb": [None],
        "state_disk_usage_mb": [None],
        "models_disk_usage_mb": [None],
        "container_cpu_usage": [None],
        "container_ram_usage_mb": [None],
    }
    history = bench.ask("get_history")["history"]
    assert (history["host"], history["cpu_usage"]) == ("mainpc", [10.0])
    assert history["hosts"]["pc2"]["cpu_usage"] == [50.0]
    refused(bench.ask("get_history", host="pc9"), "not_found", "there are: mainpc, pc2")


@pytest.mark.parametrize("resolution", ["minute", "hour"])
def test_get_history_reads_what_is_on_disk(bench: MetricsBench, clock: Clock, resolution: str) -> None:
    """Means under the contract's names, maxima beside them; after a restart too."""
    clock.set_wall_clock(3_600 - clock.time() % 3_600)
    for cpu in (20.0, 40.0):
        bench.measured("pc2", sample(cpu_percent=cpu))
    bench.restart()
    history = bench.ask("get_history", host="pc2", resolution=resolution)["history"]
    assert (history["cpu_usage"], history["cpu_usage_max"]) == ([30.0], [40.0])
    assert (history["vram_usage_mb"], history["vram_usage_mb_max"]) == ([None], [None])
    refused(bench.ask("get_history", host="pc9", resolution=resolution), "not_found", "no host 'pc9'")
    assert bench.ask("get_history", host="pc2")["history"]["cpu_usage"] == []


def test_a_report_is_that_of_the_callers_host(bench: MetricsBench) -> None:
    """The host is the key's; GPUs, machine, and container are returned as reported."""
    processes = [{"pid": 41, "name": "python", "used_mb": 1.0}]
    gpus = [
        {
            **GPU,
            "utilisation_percent": 7,
            "uuid": "GPU-1",
            "temperature_c": 64,
            "slowdown_c": 93,
            "processes": processes,
        }
    ]
    report = {**REPORT, "gpus": gpus, "machine": MACHINE, "container": CONTAINER, "vram_used_mb": 1, "vram_total_mb": 2}
    reply = bench.ask("report_metrics", **report, wall=5, request_id="r1")
    assert reply == {"status": "success", "message": "metrics of pc2 stored", "host": "pc2", "request_id": "r1"}
    found = metrics(bench)["hosts"]["pc2"]
    assert (found["cpu_usage"], found["network_latency_ms"], found["limited"]) == (42.5, 1.25, False)
    assert (found["gpus"], found["machine"], found["container"]) == (gpus, MACHINE, CONTAINER)
    assert (found["ram_available_mb"], found["same_machine"]) == (412.0, [])
    history = bench.ask("get_history", host="pc2", resolution="minute")["history"]
    assert [history[name] for name in ("state_disk_usage_mb", "container_ram_usage_mb", "swap_usage_mb_max")] == [
        [5.5],
        [80.0],
        [2.0],
    ]


def test_an_older_hosts_report_is_accepted(bench: MetricsBench) -> None:
    """With `limited`, its figures are those of its container; fields that it does not send are null."""
    gpu = {**GPU, "utilisation_percent": 7}
    bench.ask("report_metrics", **REPORT, gpus=[gpu], limited=True, wall=5)
    found = metrics(bench)["hosts"]["pc2"]
    assert (found["ram_total_mb"], found["limited"], found["machine"], found["container"]) == (512, True, None, None)
    assert found["gpus"] == [{**gpu, "uuid": None, "temperature_c": None, "slowdown_c": None, "processes": []}]


def test_hosts_with_one_boot_id_are_one_machine(bench: MetricsBench, clock: Clock) -> None:
    """Each names the other, even while one is stale; another boot id is another machine."""
    one = sample(machine=MachineSample(boot_id="b00t"))
    bench.measured("pc2", one)
    assert metrics(bench)["hosts"]["pc2"]["same_machine"] == []
    clock.let_pass(3 * INTERVAL_S + 1)
    bench.measured("mainpc", one)
    found = metrics(bench)
    assert (found["same_machine"], found["hosts"]["pc2"]["same_machine"]) == (["pc2"], ["mainpc"])
    bench.measured("pc2", sample(machine=MachineSample(boot_id="other")))
    assert metrics(bench)["same_machine"] == []


def test_a_report_that_is_repeated_counts_once(bench: MetricsBench) -> None:
    for _ in range(2):
        bench.ask("report_metrics", **REPORT, request_id="r1")
    assert len(bench.metrics.samples("pc2")) == 1


def test_a_host_of_an_enrolled_key_is_taken_in(bench: MetricsBench) -> None:
    """It need not be in the configuration: an operator said so when the key was made."""
    assert bench.ask("report_metrics", NEWCOMER, **REPORT)["status"] == "success"
    assert metrics(bench)["hosts"]["pc3"]["cpu_usage"] == 42.5


@pytest.mark.sdt_security
@pytest.mark.parametrize(
    ("caller", "fields", "code", "sentence"),
    [
        (UMRA, {"host": "mainpc"}, "not_granted", "is for host pc2, not 'mainpc'"),
        (UMRA, {"host": "pc3"}, "not_granted", "is for host pc2, not 'pc3'"),
        (ON_PC2, {}, "not_granted", f"planner may not report the metrics of pc2, which {UMRA.name} measures"),
        (OPERATOR, {}, "not_granted", "an operator's key can't report"),
        (OPERATOR, {"host": "pc2"}, "not_granted", "an operator's key can't report"),
        (SDT, {}, "not_granted", "mainpc measures itself and accepts no reports"),
        (NOBODY, {}, "malformed_request", "missing required field `host`"),
        (NOBODY, {"host": "pc9"}, "not_found", "network_config.yaml has no host 'pc9'"),
        (NOBODY, {"host": "mainpc"}, "not_granted", "mainpc measures itself"),
    ],
)
def test_nobody_else_reports_a_hosts_metrics(
    bench: MetricsBench, caller: Caller, fields: dict[str, Any], code: str, sentence: str
) -> None:
    """Neither another host's agent nor another program on it, nor an operator; and nobody reports mainpc's figures."""
    refused(bench.ask("report_metrics", caller, **REPORT, **fields), code, sentence)
    assert [bench.metrics.last_received(host) for host in bench.metrics.hosts()] == [None, None]


def test_on_an_open_link_the_body_says_which_host(bench: MetricsBench) -> None:
    """As with a registration: nobody is authenticated there."""
    assert bench.ask("report_metrics", NOBODY, **REPORT, host="pc2")["host"] == "pc2"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"cpu_percent": 100.5}, "Expected `float` <= 100.0 - at `$.cpu_percent`"),
        ({"cpu_percent": -1}, "Expected `float` >= 0.0 - at `$.cpu_percent`"),
        ({"cpu_percent": "42"}, "at `$.cpu_percent`"),
        ({"machine": {"boot_id": ""}}, "at `$.machine.boot_id`"),
        ({"machine": {"disks": [{"name": "state"}]}}, "missing required field `used_mb` - at `$.machine.disks[0]`"),
        ({"machine": {"load": [1, 2]}}, "at `$.machine.load`"),
        ({"container": {"cpu_percent": 101}}, "at `$.container.cpu_percent`"),
        ({"gpus": [{**GPU, "processes": [{"pid": 1}] * 129}]}, "at `$.gpus[0].processes`"),
        ({"gpus": [{**GPU, "processes": [{"pid": 1}] * 65}] * 2}, "at most 128 processes on all GPUs"),
        ({"ram_used_mb": None}, "Expected `float`, got `null` - at `$.ram_used_mb`"),
        ({"ram_total_mb": 1e13}, "at `$.ram_total_mb`"),
        ({"latency_ms": -0.1}, "at `$.latency_ms`"),
        ({"gpus": [GPU] * 65}, "Expected `array` of length <= 64 - at `$.gpus`"),
        ({"gpus": [{"index": 0, "name": "x", "used_mb": 1}]}, "missing required field `total_mb` - at `$.gpus[0]`"),
    ],
)
def test_a_wrong_report_is_refused_with_its_path(bench: MetricsBench, wrong: dict[str, Any], sentence: str) -> None:
    refused(bench.ask("report_metrics", **(REPORT | wrong)), "malformed_request", sentence)
    assert bench.metrics.last_received("pc2") is None


@pytest.mark.parametrize("before", [0, 1])
def test_a_report_that_is_undone_leaves_nothing(bench: MetricsBench, before: int) -> None:
    """The batch that it shared is lost: no sample and no host exists that was never acknowledged."""
    for caller in (UMRA, NEWCOMER)[: 2 * before]:
        bench.ask("report_metrics", caller, **REPORT)
    known = {host: bench.metrics.samples(host) for host in bench.metrics.hosts()}
    report = {**REPORT, "cpu_percent": 1.0}
    replies = bench.ask_together(
        ("report_metrics", UMRA, report),
        ("report_metrics", NEWCOMER, report),
        ("report_metrics", UMRA, report),
        ("doom", UMRA, {}),
    )
    assert {reply["code"] for reply in replies} == {"store_unavailable"}
    assert {host: bench.metrics.samples(host) for host in bench.metrics.hosts()} == known


def test_models_are_summed_per_device(bench: MetricsBench) -> None:
    """Reported beside what the driver measures, and never instead of it; a restart keeps it."""
    reply = bench.ask("update_vram_metrics", payload=VRAM)
    assert (reply["status"], reply["message"]) == ("success", f"VRAM of {UMRA.name} stored")
    for _ in range(2):
        (report,) = metrics(bench)["vram_reports"]
        assert report["devices"] == {"MainPC": 8_000.0, "PC2": 1_000.5}
        assert (report["host"], report["models"], report["total_vram_used_mb"]) == ("pc2", 3, 9_000.5)
        assert metrics(bench)["hosts"]["pc2"]["vram_usage_mb"] is None
        bench.restart()


def test_a_newer_report_replaces_the_older(bench: MetricsBench) -> None:
    bench.ask("update_vram_metrics", payload=VRAM)
    bench.ask("update_vram_metrics", payload={**VRAM, "loaded_models": {}})
    (report,) = metrics(bench)["vram_reports"]
    assert (report["devices"], report["models"]) == ({}, 0)


def test_reports_are_bounded_and_the_oldest_goes(bench: MetricsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vram_reports, "MAX_REPORTS", 2)
    for name in ("c", "a", "b"):
        bench.ask("update_vram_metrics", OPERATOR, payload={**VRAM, "agent_name": name})
    for _ in range(2):
        assert [report["agent_name"] for report in metrics(bench)["vram_reports"]] == ["a", "b"]
        bench.restart()


@pytest.mark.sdt_security
@pytest.mark.parametrize(
    ("caller", "name"), [(UMRA, "Another"), (UMRA, SDT.name), (OPERATOR, SDT.name), (NOBODY, SDT.name)]
)
def test_no_agent_reports_another_agents_vram(bench: MetricsBench, caller: Caller, name: str) -> None:
    """An operator may, but not as the twin."""
    reply = bench.ask("update_vram_metrics", caller, payload={**VRAM, "agent_name": name})
    refused(reply, "not_granted", "may act for" if name == SDT.name else "may not act for")
    assert metrics(bench)["vram_reports"] == []


@pytest.mark.parametrize("missing", list(VRAM))
def test_every_field_of_a_vram_report_is_needed(bench: MetricsBench, missing: str) -> None:
    payload = {name: value for name, value in VRAM.items() if name != missing}
    reply = bench.ask("update_vram_metrics", payload=payload)
    refused(reply, "malformed_request", f"missing required field `{missing}` - at `$.payload`")


def test_a_vram_report_that_is_undone_leaves_nothing(bench: MetricsBench) -> None:
    bench.ask_together(("update_vram_metrics", UMRA, {"payload": VRAM}), ("doom", UMRA, {}))
    assert metrics(bench)["vram_reports"] == []


def test_a_late_sample_is_in_the_history_and_not_current(bench: MetricsBench, clock: Clock) -> None:
    """Reported twice it counts once, whichever request it comes in; the answer says so."""
    late = {**REPORT, "wall": 1_000.5, "late_by_s": 90.0}
    assert bench.ask("report_metrics", **late)["message"] == "metrics of pc2 stored"
    assert bench.ask("report_metrics", **late)["message"] == "metrics of pc2 were stored before"
    assert bench.ask("report_metrics", **{**REPORT, "wall": 1_000.5})["message"] == "metrics of pc2 were stored before"
    assert metrics(bench)["hosts"]["pc2"]["stale"]
    course = bench.ask("get_history", host="pc2")["history"]
    assert course["cpu_usage"] == [42.5]
    age_s = clock.time() - datetime.fromisoformat(course["timestamps"][0]).timestamp()
    assert 89 < age_s < 92
    minutes = bench.ask("get_history", host="pc2", resolution="minute")["history"]
    assert minutes["cpu_usage"] == [42.5]
    bench.ask("report_metrics", **{**REPORT, "cpu_percent": 7.0, "wall": 1_095.5})
    assert metrics(bench)["hosts"]["pc2"]["cpu_usage"] == 7.0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"late_by_s": 5.0}, "missing required field `wall`: a late sample says when it was measured"),
        ({"wall": -1}, "at `$.wall`"),
        ({"wall": "now"}, "Expected `float | null`, got `str` - at `$.wall`"),
        ({"wall": 1, "late_by_s": -0.1}, "at `$.late_by_s`"),
        ({"wall": 1, "late_by_s": 1e11}, "Expected `float` <= 4000000000.0 - at `$.late_by_s`"),
        ({"wall": 1e12}, "at `$.wall`"),
    ],
)
def test_a_moment_that_is_none_is_refused(bench: MetricsBench, fields: dict[str, Any], sentence: str) -> None:
    refused(bench.ask("report_metrics", **{**REPORT, **fields}), "malformed_request", sentence)
    assert bench.rows("metrics_minute") == bench.rows("taken_once") == []


def test_a_sample_older_than_the_epoch_is_dated_to_it(bench: MetricsBench) -> None:
    """Its host's clock was set wrong; every read of the metrics goes on."""
    bench.ask("report_metrics", **REPORT)
    assert bench.ask("report_metrics", **{**REPORT, "wall": 1.0, "late_by_s": 4e9})["status"] == "success"
    bench.metrics.ingest_once("pc2", sample(wall=2.0), 1e12)
    course = bench.ask("get_history", host="pc2")["history"]
    assert course["timestamps"][:2] == ["1970-01-01T00:00:00.000+00:00"] * 2
    for reply in (
        bench.ask("get_history"),
        bench.ask("get_history", resolution="minute"),
        bench.ask("get_metrics", metrics_type="history"),
        bench.ask("get_metrics"),
    ):
        assert reply["status"] == "success"


def test_a_batch_rolled_back_has_reported_nothing(bench: MetricsBench) -> None:
    """Reported again, its samples count."""
    late = {**REPORT, "wall": 1_000.5, "late_by_s": 90.0}
    replies = bench.ask_together(("report_metrics", UMRA, late), ("doom", UMRA, {}))
    assert [reply.get("code") for reply in replies] == ["store_unavailable"] * 2
    assert bench.rows("metrics_minute") == bench.rows("taken_once") == []
    assert bench.ask("report_metrics", **late)["message"] == "metrics of pc2 stored"
