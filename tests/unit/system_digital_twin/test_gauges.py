"""The metrics that alert rules ask of mainpc's agent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.configuration import SHIPPED
from tests.unit.system_digital_twin.twin import SDT, TTL_S, UMRA, Clock, Twin
from twinhost.agent.clocks import ClockReport
from twinhost.agent.telemetry import Telemetry
from twinhost.secure_zmq.callers import Caller
from twinhost.system_digital_twin.attention.reports import Reports
from twinhost.system_digital_twin.gauges import AGENT_STATES, agent_states, clocks_ahead, system_metrics
from twinhost.system_digital_twin.registry.actions import Heartbeat


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.stand_still()
    return clock


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Twin]:
    twin = Twin(tmp_path / "db", clock)
    yield twin
    twin.close()


def register(twin: Twin, name: str, status: str = "HEALTHY") -> Caller:
    caller = Caller(name, "pc2", frozenset({"agent"}), f"SHA256:{name}")
    twin.ask("register_agent", caller, agent_name=name, status=status)
    return caller


def test_each_agent_is_counted_in_one_state(twin: Twin, clock: Clock) -> None:
    for name, status in (("well", "HEALTHY"), ("ill", "ERROR"), ("gone", "HEALTHY"), ("off", "HEALTHY")):
        register(twin, name, status)
    register(twin, "script")  # which sends no heartbeats
    clock.let_pass(1)
    for name in ("gone", "off"):
        twin.registry.heartbeat(name, None, stopping=name == "off")
    clock.let_pass(TTL_S)
    for name in ("well", "ill"):
        twin.registry.heartbeat(name, None)
    clock.let_pass(1)
    assert agent_states(twin.registry) == dict.fromkeys(AGENT_STATES, 1)
    twin.registry.heartbeat("gone", None)
    assert agent_states(twin.registry)["ok"] == 2


def test_the_clock_of_a_host_that_answers_is_shown(twin: Twin, clock: Clock) -> None:
    reports = Reports(lambda: SHIPPED.agents, clock)
    register(twin, UMRA.name)
    ahead = Heartbeat(agent_name=UMRA.name, clock=ClockReport(ahead_s=-7_200.0, within_s=0.1))
    assert clocks_ahead(twin.registry, reports, SHIPPED) == {}
    reports.take(ahead)
    assert clocks_ahead(twin.registry, reports, SHIPPED) == {"pc2": -7_200.0}
    clock.let_pass(TTL_S + 1)
    assert clocks_ahead(twin.registry, reports, SHIPPED) == {}  # it is silent, which is told


def test_what_was_gathered_is_exported_as_a_whole() -> None:
    telemetry = Telemetry(SDT.name)
    gathered = telemetry.gathered()
    assert b"twinhost_agents" not in telemetry.render()
    agents = {**dict.fromkeys(AGENT_STATES, 0), "silent": 298}
    gathered.gather(system_metrics({**agents}, 0, 0, {}, {}, audit_intact=None))
    assert b"twinhost_audit_intact" not in telemetry.render(), "before the first inspection"
    gathered.gather(system_metrics(agents, 3, 1, {"pc2": 0.5}, {"vram": 2}, audit_intact=True))
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(telemetry.render().decode())
        for sample in family.samples
    }
    expected = {
        ("twinhost_agents", "silent"): 298,
        ("twinhost_agents", "ok"): 0,
        ("twinhost_severe_errors",): 3,
        ("twinhost_agents_behind_on_keys",): 1,
        ("twinhost_clock_ahead_seconds", "pc2"): 0.5,
        ("twinhost_leases_waiting", "ram"): 0,
        ("twinhost_leases_waiting", "vram"): 2,
        ("twinhost_audit_intact",): 1,
    }
    assert {name: found[name] for name in expected} == expected
