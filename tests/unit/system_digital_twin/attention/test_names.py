"""Which agent stands for its host, and how an agent's name stands in a command."""

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from tests.configuration import GRANTS_LINE, RECALL_LINE
from tests.unit.system_digital_twin.twin import Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.clocks import ClockReport
from twinhost.agent.troubles import Kind, Level
from twinhost.deployment import NO_RESPONSE, hosts_own
from twinhost.moments import SYSTEM_CLOCK
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.silence import Silence
from twinhost.system_digital_twin.attention.hosts import Hosts
from twinhost.system_digital_twin.attention.keys import Following, pending_revocations
from twinhost.system_digital_twin.attention.links import ENOUGH
from twinhost.system_digital_twin.attention.reports import HeardClock
from twinhost.system_digital_twin.attention.silence import SeenAgent, silent_agents, silent_hosts, unhealthy_agents

CONFIG = (
    "hosts: {mainpc: {address: 127.0.0.1}, pc2: {address: 127.0.0.1}, pc3: {address: 127.0.0.1}}\n"
    "agents:\n"
    "  Greeter: {host: pc2, key: greeter, ports: {zmq: 7001, http: 8001}}\n"
    "  SystemDigitalTwin: {host: mainpc, key: server, ports: {zmq: 7002, http: 8002, events: 7102}}\n"
    "  UnifiedMemoryReasoningAgent: {host: pc2, key: client, ports: {zmq: 7003, http: 8003}}\n"
    "  Camera: {host: pc3, key: camera, ports: {zmq: 7004, http: 8004}}\n"
    "limits: {max_payload_bytes: 65536, heartbeat_s: 5, registration_ttl_s: 15, stored_replies_s: 600,\n"
    "  stored_replies_per_caller: 1000, key_lifetime_days: 365, metrics_interval_s: 5}\n" + GRANTS_LINE + RECALL_LINE
)


def test_a_host_is_not_silent_because_another_agent_is(tmp_path: Path) -> None:
    """Of two agents on pc2, that of this project stands for the host, in whatever order they are written."""
    path = tmp_path / "network_config.yaml"
    path.write_text(CONFIG)
    assert hosts_own(load_network_config(path, {})) == {
        "SystemDigitalTwin": "mainpc",
        "UnifiedMemoryReasoningAgent": "pc2",
        "Camera": "pc3",
    }


def test_a_host_with_two_agents_is_named_once(tmp_path: Path) -> None:
    """For what is the host's; what an agent says of itself stands beside its name."""
    path = tmp_path / "network_config.yaml"
    path.write_text(CONFIG)
    config = load_network_config(path, {})
    settings = SimpleNamespace(config=config, agent=config.agent("SystemDigitalTwin"))
    foundation: Any = SimpleNamespace(
        settings=settings, keys=SimpleNamespace(peers=None), clock=SYSTEM_CLOCK, handshakes=Handshakes()
    )
    registry: Any = SimpleNamespace(find=lambda name: name, status=lambda _: "HEALTHY", has_stopped=lambda _: False)
    report = ClockReport(ahead_s=7_200.0, within_s=0.01)
    reports: Any = SimpleNamespace(clock=lambda _: HeardClock(report, 0.0), conditions=lambda _: ())
    hosts = Hosts(foundation, registry, reports, Mock())
    assert sorted(clock.host for clock in hosts.clocks()) == sorted(hosts.answering()) == ["pc2", "pc3"]
    assert sorted((agent.host.name, name) for agent, name, _ in hosts.conditions()) == [
        ("pc2", ""),
        ("pc2", "Greeter"),
        ("pc3", ""),
    ]

    registry.has_stopped = lambda _: True
    assert [*hosts.clocks()] == [], "its clock is not read any more"
    registry.status = lambda _: NO_RESPONSE
    assert [*hosts.answering()] == []


def test_keys_that_are_not_listed_yet_are_left_out() -> None:
    """Those of invitations and candidates end by themselves."""
    peers = [SimpleNamespace(name=name) for name in ("Camera", "candidate:Camera", "invitation:x")]
    hosts = hosts_of(Mock(), Mock(all=lambda: peers), Mock())
    assert [key.name for key in hosts.listed_keys()] == ["Camera"]


def hosts_of(registry: Any, peers: Any, security: Any, clock: Any = SYSTEM_CLOCK, heartbeat_s: float = 5.0) -> Hosts:
    limits = SimpleNamespace(config=SimpleNamespace(limits=SimpleNamespace(heartbeat_s=heartbeat_s)))
    foundation: Any = SimpleNamespace(
        settings=limits, keys=SimpleNamespace(peers=peers), clock=clock, handshakes=Handshakes()
    )
    return Hosts(foundation, registry, Mock(has_reported=lambda name: name != "of an older version"), security)


def test_who_can_apply_a_list_of_keys_is_followed() -> None:
    """Not a silent agent, one whose last key is revoked, and one of a version that says nothing."""
    names = ("well", "silent", "revoked", "of an older version")
    registry = Mock(
        all=lambda: [SimpleNamespace(name=name, location="pc2") for name in names],
        status=lambda record: NO_RESPONSE if record.name == "silent" else "HEALTHY",
        trust_revision=lambda _: None,
    )
    peers = Mock(keys_of=lambda name: [] if name == "revoked" else ["key"])
    assert [one.name for one in hosts_of(registry, peers, Mock()).following()] == ["well"]


def test_a_new_list_of_keys_has_three_heartbeats_to_be_applied(clock: Clock) -> None:
    security = Mock(trust_revision=lambda: "r1")
    hosts = hosts_of(Mock(), Mock(), security, clock)
    for revision in ("r1", "r2"):
        security.trust_revision = lambda revision=revision: revision
        assert hosts.keys_revision() is None
        clock.let_pass(14)
        assert hosts.keys_revision() is None
        clock.let_pass(2)
        assert hosts.keys_revision() == revision


def test_a_host_is_known_by_its_configured_address(tmp_path: Path) -> None:
    """Its link was open before it could connect."""
    path = tmp_path / "network_config.yaml"
    path.write_text(CONFIG)
    config = load_network_config(path, {})
    handshakes = Handshakes()
    settings = SimpleNamespace(config=config, agent=config.agent("SystemDigitalTwin"))
    foundation: Any = SimpleNamespace(
        settings=settings, keys=SimpleNamespace(peers=None), clock=SYSTEM_CLOCK, handshakes=handshakes
    )
    registry: Any = SimpleNamespace(find=lambda _: None)
    hosts = Hosts(foundation, registry, Mock(), Mock())
    for _ in range(ENOUGH):
        handshakes.refused(Outcome.BROKEN_OFF, address="127.0.0.1")
    handshakes.record()
    wait_until(lambda: {*hosts.of_another_kind()} == {"pc2", "pc3"}, PATIENCE_S, "its address is known")


def test_an_agent_that_never_sent_heartbeats_is_not_silent() -> None:
    """It registered by itself, on sockets of its own; one that did send them, is to send them, or stopped, is."""
    agent = SeenAgent("Camera", "NO_RESPONSE", 0.0, "pc3", host="pc3", sends_heartbeats=False, has_port=False)
    assert list(silent_hosts("mainpc", [agent])) == []
    (refused,) = silent_hosts("mainpc", [replace(agent, has_port=True)])
    (silent,) = silent_hosts("mainpc", [replace(agent, sends_heartbeats=True)])
    (stopped,) = silent_hosts("mainpc", [replace(agent, stopped=True)])
    assert [one.kind for one in (refused, silent, stopped)] == [Kind.HOST_SILENT, Kind.HOST_SILENT, Kind.HOST_STOPPED]


def test_a_name_in_a_command_is_one_word() -> None:
    """An agent chooses its name, and an operator copies the command."""
    name = "x; touch /tmp/owned #"
    (trouble,) = silent_agents([SeenAgent(name, "NO_RESPONSE", 0.0, "pc2")])
    assert shlex.split(trouble.remedies[0].command)[-1] == name
    (trouble,) = silent_agents([SeenAgent(each, "NO_RESPONSE", 0.0, name) for each in ("a", "b")])
    assert shlex.split(trouble.remedies[0].command)[-1] == name


def test_silent_agents_are_named_as_evidence() -> None:
    """Those that were heard longest ago first, and how many more."""
    (trouble,) = silent_agents([SeenAgent(f"a{age}", "NO_RESPONSE", 1_000.0 - age, "pc2") for age in range(30)])
    assert trouble.evidence[0] == ("a29", "last heard 1970-01-01T00:16:11.000+00:00")
    assert (len(trouble.evidence), trouble.evidence[-1]) == (21, ("further agents", "10"))


def test_only_hosts_of_the_stack_have_commands_of_compose() -> None:
    """Of another host it is not known how its agent is started; an agent chooses its location."""
    agent = SeenAgent("Camera", "NO_RESPONSE", 0.0, "pc3", host="pc3")
    (silent,) = silent_hosts("mainpc", [agent])
    assert [(remedy.command, remedy.why) for remedy in silent.remedies] == [
        ("", "start the agent on pc3"),
        ("", "the log of the agent on pc3 shows why it ended, or what it can't reach"),
    ]
    (known,) = silent_hosts("mainpc", [replace(agent, host="pc2")])
    assert [remedy.command for remedy in known.remedies] == [
        "docker compose up -d pc2",
        "docker compose logs pc2",
        "./twinhost doctor",
    ]
    (late,) = pending_revocations([Following("Camera", "x; touch /tmp/owned #", None)], "r")
    assert [remedy.command for remedy in late.remedies] == ["", "./twinhost keys list"]


def test_a_silent_host_explains_what_follows_there() -> None:
    """And a host that has never registered is one that needs attention."""
    (silent,) = silent_hosts(
        "mainpc", [SeenAgent("Camera", "NO_RESPONSE", 0.0, "pc3", host="pc3", said=("it is full",))]
    )
    assert set(silent.explains) == {"agents_silent:pc3", "metrics_missing:pc3", "filling:pc3/*"}
    assert (silent.level, silent.evidence[1]) == (Level.BROKEN, ("said last", "it is full"))
    (new,) = silent_hosts("mainpc", [SeenAgent("Camera", "unknown", None, "pc3", host="pc3")])
    assert (new.level, new.what) == (Level.ATTENTION, "pc3 has not reported yet")


def test_agents_are_silent_that_were_there() -> None:
    """Not a script that registered and never came again, nor one that said that it stops."""
    gone = SeenAgent("gone", "NO_RESPONSE", 7.0, "pc2")
    script, stopped = replace(gone, name="script", sends_heartbeats=False), replace(gone, name="off", stopped=True)
    (trouble,) = silent_agents([gone, replace(gone, name="too", last_seen=5.0), script, stopped])
    assert (trouble.members, trouble.since) == (("gone", "too"), 5.0)


def test_who_is_not_healthy_is_named_with_its_status() -> None:
    """Silence is another trouble, and an agent that has never registered has no status."""
    seen = [
        ("a", "HEALTHY", 1.0),
        ("b", "ok", 1.0),
        ("c", "NO_RESPONSE", 1.0),
        ("d", "ERROR", 1.0),
        ("e", "unknown", None),
    ]
    (trouble,) = unhealthy_agents(SeenAgent(name, status, last, "pc2") for name, status, last in seen)
    assert (trouble.what, trouble.members) == ("not healthy: d (ERROR)", ("d (ERROR)",))


def test_silent_agents_have_a_cause() -> None:
    silent = [SeenAgent(name, "NO_RESPONSE", 0.0, "pc2") for name in ("a", "b")]
    (one,), (two,) = silent_agents(silent[:1]), silent_agents(silent)
    assert one.cause == "it sends no heartbeats any more: ended, or cut off from mainpc"
    assert two.cause == "they send no heartbeats any more: ended, or cut off from mainpc"
    ended = [replace(agent, silence=Silence.ENDED) for agent in silent]
    (all_ended,) = silent_agents(ended)
    assert str(all_ended.cause).endswith(": their connections were closed, so they or their container ended")
    (some,) = silent_agents([*ended, replace(silent[0], name="c", silence=Silence.CUT)])
    assert some.cause == two.cause, "not the same of each"
