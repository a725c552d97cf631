"""`twinhost.testing`: what an author's test gets is real, quick, and gone afterwards."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.ports import free_ports
from twinhost.agent import MIGRATION, Action, Assembly, Caller, Description, Foundation, Membership, Reply, Request
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError, ConnectionRefused, NotAuthorized, NotGranted, PeerNotLive
from twinhost.secure_zmq.server_address import UnencryptedAddress
from twinhost.testing import Stack, wait_until

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
READY_WITHIN_S = 0.5
REFUSED = (NotAuthorized, PeerNotLive)  # the second one on a connection that was open, until it is closed
TRIES = 10  # other tests run beside this one


class Shout(Request, tag="shout"):
    """Say a text loudly."""

    text: str


def shouting(foundation: Foundation) -> Assembly:
    """Build an agent with one action."""
    member = Membership(foundation, Description("crier"))

    def shout(request: Shout, caller: Caller) -> Reply:
        return {"status": "ok", "text": f"{caller.name}: {request.text.upper()}"}

    actions: list[Action[Any]] = [Action(Shout, shout)]
    return Assembly(actions, "ok", on_tick=member.on_tick, companions=member.companions)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


def test_both_agents_are_ready_within_half_a_second() -> None:
    """At least one of ten starts, each with keys, state, and ports of its own; and nothing is left."""
    threads, took = threading.active_count(), []
    for _ in range(TRIES):
        started = time.monotonic()
        with Stack() as stack:
            took.append(time.monotonic() - started)
        assert not stack.folder.exists()
        if took[-1] < READY_WITHIN_S:
            break
    assert took[-1] < READY_WITHIN_S, took
    wait_until(lambda: threading.active_count() <= threads, "the threads end")


def test_a_revoked_key_is_refused_at_once(stack: Stack) -> None:
    """On a connection that is open, and on a new one; a key of another name is served."""
    stack.enrol("ana")
    stack.enrol("ben")
    for agent in (SDT, UMRA):
        with stack.client(agent, by="ana") as ana:
            assert ana.call("ping")["status"] == "ok"
    with stack.client(UMRA, by="ana") as ana:
        ana.call("ping")
        stack.revoke("ana")
        with pytest.raises(REFUSED):
            ana.call("ping")
    for agent in (SDT, UMRA):
        with stack.client(agent, by="ana") as ana, pytest.raises(NotAuthorized):
            ana.call("ping")
        with stack.client(agent, by="ben") as ben:
            assert ben.call("ping")["status"] == "ok"


def test_an_expired_key_is_refused_at_once(stack: Stack) -> None:
    stack.enrol("carla")
    with stack.client(SDT, by="carla") as carla, stack.client(UMRA, by="carla") as also:
        for client in (carla, also):
            assert client.call("ping")["status"] == "ok"
        stack.expire("carla")
        for client in (carla, also):
            with pytest.raises(REFUSED, match="expired"):
                client.call("ping")


def test_a_cut_breaks_connections_and_clients_reconnect(stack: Stack) -> None:
    """The agent counts another handshake of the client that was connected."""

    def accepted() -> int:
        with stack.client(SDT) as operator:
            return int(operator.call("get_peers")["handshakes"]["accepted"])

    with stack.client(UMRA) as client:
        client.call("ping")
        with stack.client(UMRA) as other:
            before = int(other.call("get_peers")["handshakes"]["accepted"])
        assert stack.cut(UMRA) >= 1
        client.call("ping")
        assert int(client.call("get_peers")["handshakes"]["accepted"]) > before
    assert accepted() > 0


def test_a_restarted_agent_has_its_state(stack: Stack) -> None:
    with stack.client(UMRA) as memory:
        memory.call("update_twin", user_id="dina", twin_data={"language": "fil"})
        uptime = memory.call("health")["uptime_s"]
        stack.restart(UMRA)
        assert memory.call("get_twin", user_id="dina")["twin"] == {"language": "fil"}
        assert memory.call("health")["uptime_s"] < uptime + 1


def test_an_authors_agent_joins_with_its_own_key_and_grants() -> None:
    """A role that has no grant is refused; the name can't be taken twice."""
    with Stack() as stack:
        stack.enrol("ana")
        stack.enrol("guest", role="guest")
        stack.add("Crier", [MIGRATION], shouting, {"agent": ["shout"]})
        with stack.client("Crier", by="ana") as ana:
            assert ana.call("shout", text="hello")["text"] == "ana: HELLO"
        with stack.client("Crier", by="guest") as guest, pytest.raises(NotGranted):
            guest.call("shout", text="hello")
        with stack.client(SDT, by="Crier") as crier:
            assert crier.call("ping")["status"] == "ok"
        with pytest.raises(ConfigurationError, match="Crier"):
            stack.add("Crier", [MIGRATION], shouting)


def test_an_invalid_configuration_is_not_written(stack: Stack) -> None:
    before = stack.config
    with pytest.raises(ConfigurationError, match="limits"):
        stack.configure(lambda document: document.pop("limits"))
    assert stack.config == before


def test_security_turned_off_is_open_and_says_so() -> None:
    """A client that proves a key is refused by an open agent: neither end falls back."""
    with Stack() as secure, Stack(secure=False) as stack:
        with stack.client(UMRA) as client:
            assert client.call("health")["secure"] is False
        with secure.client(UMRA) as client:
            assert client.call("health")["secure"] is True
        endpoint = secure.config.agent(UMRA).endpoint
        with Client(UnencryptedAddress(endpoint)) as plain, pytest.raises(ConnectionRefused):
            plain.call("ping", deadline_s=1.0)


def test_a_fault_in_an_agents_thread_fails_the_test() -> None:
    """What ended its loop is raised where it is stopped."""

    def broken(_: Foundation) -> Assembly:
        def on_tick() -> None:
            if added.is_set():
                raise ZeroDivisionError

        return Assembly([], "ok", on_tick=on_tick)

    added = threading.Event()
    with Stack() as stack:
        stack.add("Broken", [], broken)
        added.set()
        wait_until(lambda: not stack.running("Broken"), "it ends")
        with pytest.raises(ZeroDivisionError):
            stack.stop("Broken")


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    """pytest imports it in every run: neither an agent nor a command is loaded with it."""
    code = "import sys, twinhost.testing.plugin; print(*sorted(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "twinhost.testing" in loaded
    others = ("yaml", "msgspec", "sqlite3", "twinhost.agent", "twinhost.testing.stack", "twinhost.system_digital_twin")
    assert not set(others).intersection(loaded)


def test_a_program_gets_its_settings_from_the_environment(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from twinhost import connect

    stack.enrol("erik")
    for name, value in stack.environment("erik").items():
        monkeypatch.setenv(name, value)
    with connect(SDT) as client:
        assert client.call("ping")["status"] == "ok"


def test_nothing_listens_beyond_loopback() -> None:
    """Not even for a moment: an open stack would serve everybody in the network."""
    with Stack(secure=False) as stack:
        config = stack.config
        ports = {
            port for agent in config.agents.values() for port in (agent.zmq_port, agent.http_port, agent.events_port)
        }
        listening = [each for each in psutil.Process().net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        found = {
            each.laddr.port: each.laddr.ip.removeprefix("::ffff:") for each in listening if each.laddr.port in ports
        }
        assert found == dict.fromkeys(ports - {None}, "127.0.0.1")


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor that of an agent which is not running."""
    ports = free_ports(7)
    monkeypatch.setattr("twinhost.testing.stack._PORTS", ports)
    monkeypatch.setattr("twinhost.testing.stack._PORT_SHARES", 1)
    with Stack() as stack:
        stack.stop(UMRA)
        stack.add("Crier", [MIGRATION], shouting, {})
        given = [each for agent in stack.config.agents.values() for each in (agent.zmq_port, agent.http_port)]
        assert sorted([*given, stack.config.agent(SDT).events_port or 0]) == sorted(ports)


def test_a_checkout_with_more_agents_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An author's checkout has the agent in its configuration by now, and may name a service that gets every text."""
    document = yaml.safe_load(DEFAULT_PATH.read_text())
    document["hosts"]["crier"] = {"address": "crier"}
    document["agents"]["Crier"] = {"host": "crier", "key": "crier", "ports": {"zmq": 7330, "http": 8330}}
    document["grants"]["agent"].append("shout")
    document["recall"] |= {"embeddings": {"url": "http://127.0.0.1:9/v1/embeddings", "model": "none"}}
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setattr("twinhost.testing.stack._CONFIG", path)
    with Stack() as stack:
        stack.add("Crier", [MIGRATION], shouting, {"agent": ["shout"]})
        assert stack.config.recall.embeddings is None
        with stack.client("Crier", by=UMRA) as client:
            assert client.call("shout", text="hello")["text"] == f"{UMRA}: HELLO"
