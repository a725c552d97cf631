"""mainpc's agent, without a socket: what its hosts measure and report comes onto the list, each in its time."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.configuration import SHIPPED
from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.metrics_bench import sample
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA, Clock
from twinhost.agent.backups import DAY_S
from twinhost.agent.host_metrics import DiskSample, MachineSample
from twinhost.agent.host_sampler import SamplerThread
from twinhost.agent.troubles import AttentionItem
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.silence import Silence
from twinhost.system_digital_twin.attention.links import ENOUGH
from twinhost.system_digital_twin.attention.machines import Machines

REPORT = {"agent_name": UMRA.name, "total_vram_mb": 8_000, "loaded_models": {}}


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Twin]:
    with Twin(environment_of(tmp_path, "mainpc"), clock) as twin:
        yield twin


class Hosts:
    """Both hosts, which answer, and are measured as a test says."""

    def __init__(self, twin: Twin, clock: Clock) -> None:
        self.twin, self._clock = twin, clock
        (sampler,) = twin.assembly.companions
        assert isinstance(sampler, SamplerThread)
        self._sampler = sampler
        twin.call("register_agent", UMRA, agent_name=UMRA.name, status="HEALTHY")

    def pass_seconds(self, seconds: int, **pc2: Any) -> None:
        """Let time pass, with heartbeats, and a sample of each host every 5 s; `pc2` is what that host says."""
        for second in range(seconds):
            if second % 5 == 0:
                self.twin.call("heartbeat", UMRA, agent_name=UMRA.name, status="HEALTHY")
                self._sampler._take(sample())  # its thread does not run
                self._sampler._taken_at = self._clock.monotonic()
                if pc2:
                    self.twin.measured(UMRA, **pc2)
            self.twin.turn()
            self._clock.let_pass(1)

    def pass_minutes(self, minutes: int, used_mb: Callable[[int], float]) -> None:
        """Let minutes pass, with one sample in each."""
        for minute in range(minutes):
            self.pass_seconds(1, ram_used_mb=used_mb(minute))
            self._clock.let_pass(59)
        self.pass_seconds(1, ram_used_mb=used_mb(minutes - 1))

    def items(self) -> dict[str, AttentionItem]:
        self.twin.turn()
        reply = self.twin.call("get_attention", OPERATOR)
        return {item["id"]: item for item in reply["items"] if item["kind"] != "disk_nearly_full"}  # this machine's


@pytest.fixture
def hosts(twin: Twin, clock: Clock) -> Hosts:
    return Hosts(twin, clock)


def test_hosts_that_are_well_have_no_trouble(hosts: Hosts) -> None:
    """Not at the start either, before the first sample."""
    for _ in range(30):
        hosts.pass_seconds(1, ram_used_mb=300)
        assert hosts.items() == {}


def test_full_vram_and_a_hot_card_are_told_at_once(hosts: Hosts) -> None:
    gpu = {"index": 0, "name": "H100", "used_mb": 81_838, "total_mb": 81_920, "temperature_c": 91}
    hosts.pass_seconds(1, gpus=[gpu], vram_used_mb=81_838, vram_total_mb=81_920)
    items = hosts.items()
    assert set(items) == {"vram_full:pc2/gpu0", "gpu_hot:pc2/gpu0"}
    assert items["gpu_hot:pc2/gpu0"]["what"] == "pc2's GPU 0 (H100) is hot: 91 °C"
    hosts.pass_seconds(15, gpus=[{**gpu, "used_mb": 1_000, "temperature_c": 60}])
    assert hosts.items() == {}


def test_vram_that_agents_report_is_judged(hosts: Hosts) -> None:
    """Where no driver measures it, with who reports it."""
    payload = {**REPORT, "total_vram_used_mb": 7_992, "device_totals_mb": {"cuda:0": 8_000}}
    hosts.twin.call("update_vram_metrics", UMRA, payload=payload)
    hosts.pass_seconds(1, ram_used_mb=300)
    (item,) = hosts.items().values()
    assert item["what"] == "pc2's VRAM is full: 99.9 % of 7.8 GB on GPU 0 in use"
    assert item["cause"] == f"reported by {UMRA.name}; no driver measures it"
    gpu = {"index": 0, "uuid": "GPU-1f", "name": "H100", "used_mb": 81_838, "total_mb": 81_920}
    hosts.pass_seconds(1, gpus=[gpu], vram_used_mb=81_838, vram_total_mb=81_920)
    (item,) = hosts.items().values()
    assert item["what"] == "pc2's VRAM is full: 99.9 % of 80.0 GB on GPU 0 (H100) in use", "a driver knows better"


def test_nothing_is_forecast_in_the_first_hour(hosts: Hosts) -> None:
    """A start takes memory faster than anything that follows."""
    hosts.pass_minutes(55, lambda minute: 100 + 15 * minute)
    assert hosts.items() == {}


def test_what_fills_is_told_until_space_is_freed(hosts: Hosts) -> None:
    """And not again for the hour in which the growth before it is seen."""
    hosts.pass_minutes(65, lambda minute: 440 + 5 * minute)
    (item,) = hosts.items().values()
    assert (item["id"], item["level"]) == ("filling:pc2/ram", "attention")
    assert item["what"].startswith("pc2's RAM will be full in about 4")
    assert (item["cause"] or "").startswith("it grew by 300 MB an hour, over the last 6")
    hosts.pass_seconds(60, ram_used_mb=300)
    hosts.pass_seconds(15, ram_used_mb=300)
    for _ in range(60):
        assert hosts.items() == {}
        hosts.pass_minutes(1, lambda _: 300)


def test_ram_must_be_full_for_a_minute(hosts: Hosts) -> None:
    hosts.pass_seconds(50, ram_used_mb=950)
    assert hosts.items() == {}
    hosts.pass_seconds(15, ram_used_mb=950)
    assert set(hosts.items()) == {"ram_full:pc2"}
    hosts.pass_seconds(15, ram_used_mb=500)
    assert hosts.items() == {}


def test_a_host_that_answers_unmeasured_is_told(hosts: Hosts, clock: Clock) -> None:
    """After as long as a sample may take, and not while the host is silent."""
    hosts.pass_seconds(12)
    assert hosts.items() == {}
    hosts.pass_seconds(5)
    assert set(hosts.items()) == {"metrics_missing:pc2"}
    hosts.pass_seconds(15, ram_used_mb=300)
    assert hosts.items() == {}
    for _ in range(40):
        hosts.twin.turn()
        clock.let_pass(1)
    assert hosts.items()["host_silent:pc2"]["explains"] == []


@pytest.mark.parametrize("fault", [None, "disk I/O error"])
def test_a_disk_that_has_room_may_fail_all_the_same(fault: str | None) -> None:
    """Then mainpc stores no heartbeat, so others are silent because of it. What was measured before is older."""
    volume = SimpleNamespace(size=10**11, free=10**10, reserve=10**8, nothing_left=False)
    foundation: Any = SimpleNamespace(
        disk=SimpleNamespace(volume=volume),
        database=SimpleNamespace(fault=fault),
        settings=SimpleNamespace(config=SHIPPED, place="mainpc"),
    )
    unused: Any = None
    measured = sample(machine=MachineSample(disks=(DiskSample(name="state", used_mb=1, free_mb=9, total_mb=10),)))
    metrics: Any = SimpleNamespace(hosts=lambda: ["mainpc"], machine_of=lambda _: None, current=lambda _: measured)
    (seen,) = Machines(foundation, unused, metrics, unused, unused).volumes()
    assert seen.writes_fail is (fault is not None)


def test_what_an_agent_says_of_itself_is_told(hosts: Hosts, clock: Clock) -> None:
    """Its status, what it warns of, and which audit log it has seen; each once."""
    hosts.pass_seconds(7, ram_used_mb=300)
    said = {"conditions": [{"name": "outbox", "what": "4 dropped"}], "audit_seen": {"seq": 9, "hash": "0" * 64}}
    for _ in range(2):
        hosts.twin.call("heartbeat", UMRA, agent_name=UMRA.name, status="DEGRADED", **said)
        clock.let_pass(1)
    assert set(hosts.items()) == {"agents_unhealthy", "warning:pc2/outbox", f"audit_contradicted:{UMRA.name}"}
    for _ in range(40):
        hosts.twin.turn()
        clock.let_pass(1)
    items = hosts.items()
    assert not {"agents_unhealthy", "warning:pc2/outbox"} & {*items}, "it is silent, and says nothing"
    assert {"name": "said last", "value": "4 dropped"} in items["host_silent:pc2"]["evidence"]


def test_what_connections_showed_stays_known(hosts: Hosts, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """During one silence: a connection that was closed has none to look at afterwards."""
    hosts.pass_seconds(7, ram_used_mb=300)
    shown = {UMRA.name: Silence.ENDED}
    monkeypatch.setattr(hosts.twin.keys.peers, "silences", lambda _: shown)
    for second in range(60):
        hosts.twin.turn()
        clock.let_pass(1)
        if second == 40:
            shown = {}
    assert "its connections were closed" in str(hosts.items()["host_silent:pc2"]["cause"])


def test_a_host_that_never_reported_is_told(twin: Twin) -> None:
    twin.turn()
    (silent,) = (one for one in twin.call("get_attention", OPERATOR)["items"] if one["kind"] == "host_silent")
    assert (silent["what"], silent["level"]) == ("pc2 has not reported yet", "attention")


def test_a_host_that_answers_has_no_other_link(hosts: Hosts, twin: Twin) -> None:
    """Somebody on the same machine may try the port without CURVE."""
    twin.handshakes.accepted(UMRA.name, "SHA256:x", "192.0.2.2")
    for _ in range(ENOUGH):
        twin.handshakes.refused(Outcome.BROKEN_OFF, address="192.0.2.2")
    twin.handshakes.record()
    hosts.pass_seconds(2, ram_used_mb=300)
    assert hosts.items() == {}


def test_a_week_without_a_backup_is_told(hosts: Hosts, clock: Clock) -> None:
    """From the first start on."""
    clock.let_pass(7 * DAY_S - 60)
    assert "backup_old:mainpc" not in hosts.items()
    clock.let_pass(120)
    assert "backup_old:mainpc" in hosts.items()


def test_a_disk_that_fails_is_told(hosts: Hosts) -> None:
    faults = [{"disk": "vda2", "fault": "has 3 errors of its ext4 filesystem"}]
    hosts.pass_seconds(1, machine={"disk_faults": faults})
    assert set(hosts.items()) == {"disk_failing:pc2/vda2"}


def test_the_disk_of_a_host_is_judged_by_its_reserve(hosts: Hosts) -> None:
    disk = {"name": "state", "used_mb": 9_800, "free_mb": 200, "total_mb": 10_000}
    hosts.pass_seconds(1, machine={"disks": [disk], "boot_id": "another"})
    item = hosts.items()["disk_full:pc2"]
    assert (item["level"], item["what"]) == ("broken", "pc2's disk is full: 200 MB of 9.8 GB free")


def test_a_request_that_waits_long_is_told_with_who_holds_it(hosts: Hosts, twin: Twin) -> None:
    hosts.pass_seconds(1, ram_used_mb=300)
    twin.call("reserve_ram", OPERATOR, amount_mb=500, host="pc2", ttl_s=600)
    body = {"action": "reserve_ram", "amount_mb": 300, "host": "pc2", "wait_s": 600}
    twin._dispatcher.answer([Inbound(json.dumps(body).encode(), UMRA)])
    (waits,) = twin._dispatcher.take_deferred().values()
    hosts.pass_seconds(58, ram_used_mb=300)
    assert hosts.items() == {}
    hosts.pass_seconds(4, ram_used_mb=300)
    (item,) = hosts.items().values()
    assert (item["id"], item["host"]) == ("leases_wait", "pc2")
    assert item["what"] == f"{UMRA.name} has waited 1 min for 300 MB of RAM on pc2"
    assert item["cause"] == "leased there: operator 500 MB"
    waits.answer.cancel()
    hosts.pass_seconds(15, ram_used_mb=300)
    assert hosts.items() == {}
