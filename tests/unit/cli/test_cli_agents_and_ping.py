"""`agents` and `ping`: the registry as a table, and what a round trip takes."""

import json
import re
import time
from pathlib import Path
from typing import Any, Self

import pytest

from tests.identities import new_pair
from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import Cli
from tests.unit.system_digital_twin.twin import OPERATOR, Clock, Twin
from twinhost.cli.app import main
from twinhost.deployment import Settings
from twinhost.secure_zmq.certificates import REVOKED_FOLDER
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.framing.exchange import successful
from twinhost.secure_zmq.key_writer import replace_certificate, write_revocation
from twinhost.secure_zmq.wire import Reply


def test_agents_lists_who_is_registered_and_by_which_key(hosts: TwoHosts, cli: Cli) -> None:
    """Name, location, status, last sign of life, endpoint, and whose key registered it."""
    cli(hosts, "call", SDT, "register_agent", "agent_name=Guest", "status=DEGRADED", "location=attic")
    ran = cli(hosts, "agents")
    assert (ran.status, ran.err) == (0, "")
    title, header, guest, registrant, umra = ran.out.splitlines()
    assert title == "Registered agents (2)"
    assert header.split("  ")[0] == "name"
    guest, umra = (re.sub(r" \d+ s ago ", " AGO ", row) for row in (guest, umra))
    assert guest.split() == ["Guest", "attic", "DEGRADED", "AGO", "-"]
    assert registrant == "  by operator"
    assert umra.split() == [UMRA, "pc2", "HEALTHY", "AGO", f"127.0.0.1:{hosts.pc2.port}"]


def test_a_status_is_not_broken_in_80_columns(hosts: TwoHosts, cli: Cli) -> None:
    """Nor a name, an age, or an address, whoever registered the agent."""
    data = {"agent_id": "a-camera-at-the-front-door", "agent_type": "camera", "host": "192.168.100.101", "port": 50_001}
    cli(hosts, "call", SDT, "register_agent", f"registration_data={json.dumps(data)}")
    cli(hosts, "call", SDT, "heartbeat", "agent_name=a-camera-at-the-front-door", "stopping=true")
    out = cli(hosts, "agents").out
    assert max(map(len, out.split("\n"))) <= 80
    assert {"a-camera-at-the-front-door", "NO_RESPONSE", "192.168.100.101:50001", UMRA} <= set(out.split())


def test_agents_as_json_is_the_registry_whole(hosts: TwoHosts, cli: Cli) -> None:
    """Fields that the table leaves out are there."""
    document = json.loads(cli(hosts, "agents", "--json").out)
    assert document["status"] == "ok"
    (umra,) = document["agents"]
    assert (umra["name"], umra["agent_type"], umra["registered_by"]) == (UMRA, "memory", UMRA)


def test_agents_needs_mainpc(hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its answer there is no list, and no empty one either."""
    monkeypatch.setattr(exchange, "DEFAULT_DEADLINE_S", 1.0)
    hosts.write_config(1, hosts.pc2.port)
    ran = cli(hosts, "agents")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("error [server_unreachable]: ")


def test_an_agent_is_unregistered(hosts: TwoHosts, cli: Cli) -> None:
    """One that is not registered is a refusal; the group alone still lists."""
    cli(hosts, "call", SDT, "register_agent", "agent_name=Guest", "status=DEGRADED")
    ran = cli(hosts, "agents", "unregister", "Guest")
    assert (ran.status, ran.out, ran.err) == (0, "Guest is no longer registered\n", "")
    assert [agent["name"] for agent in json.loads(cli(hosts, "agents", "--json").out)["agents"]] == [UMRA]
    ran = cli(hosts, "agents", "unregister", "Guest", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "not_found")
    assert cli(hosts, "agents", "unregister").status == 2
    assert cli(hosts, "agents", "unregister", "Guest", "--silent-on", "pc2").status == 2


def test_the_silent_agents_of_a_location_are_unregistered(hosts: TwoHosts, cli: Cli) -> None:
    """And no other: neither elsewhere, nor one that is well, nor pc2's own."""
    for name, location in (("a", "pc2"), ("b", "pc2"), ("well", "pc2"), ("elsewhere", "attic")):
        cli(hosts, "call", SDT, "register_agent", f"agent_name={name}", "status=HEALTHY", f"location={location}")
    time.sleep(0.2)  # a heartbeat at the time of the registration is none
    for name, stopping in (("a", "true"), ("b", "true"), ("well", "false"), ("elsewhere", "true")):
        cli(hosts, "call", SDT, "heartbeat", f"agent_name={name}", f"stopping={stopping}")
    cli(hosts, "call", SDT, "heartbeat", f"agent_name={UMRA}", "stopping=true")
    ran = cli(hosts, "agents", "unregister", "--silent-on", "pc2")
    assert (ran.status, ran.out, ran.err) == (0, "2 agents are no longer registered\n", "")
    left = {agent["name"] for agent in json.loads(cli(hosts, "agents", "--json").out)["agents"]}
    assert left == {UMRA, "well", "elsewhere"}
    again = cli(hosts, "agents", "unregister", "--silent-on", "pc2", "--json")
    assert (again.status, json.loads(again.out)) == (0, {"status": "ok", "unregistered": []})


class InProcess:
    """A client of a twin without a socket, whose clock can be moved."""

    def __init__(self, twin: Twin) -> None:
        self._twin = twin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, action: str, **fields: Any) -> Reply:
        return successful(self._twin.ask(action, OPERATOR, **fields))


def test_who_never_sends_heartbeats_stays_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its silence says nothing: it may be at work."""
    clock = Clock()
    with Twin(tmp_path / "twin.sqlite3", clock) as twin:
        for name in ("planner", "script"):
            twin.ask("register_agent", OPERATOR, agent_name=name, status="HEALTHY", location="pc2")
        clock.let_pass(1)
        twin.ask("heartbeat", OPERATOR, agent_name="planner")
        clock.let_pass(60)
        monkeypatch.setenv("SECURE_ZMQ", "0")
        monkeypatch.setattr(Settings, "client", lambda *_: InProcess(twin))
        assert main(["agents", "unregister", "--silent-on", "pc2"]) == 0
        assert capsys.readouterr().out == "1 agent is no longer registered\n"
        assert twin.ask("get_all_agents", OPERATOR)["agents"].keys() == {"script"}


def test_ping_measures_both_agents(hosts: TwoHosts, cli: Cli) -> None:
    """As many round trips as were asked for, and what they took."""
    document = json.loads(cli(hosts, "ping", "--count", "7", "--json").out)
    assert (document["status"], document["link"]) == ("ok", "encrypted")
    assert document["agents"].keys() == {SDT, UMRA}
    for times in document["agents"].values():
        assert times["count"] == 7
        assert 0 < times["min_ms"] <= times["median_ms"] <= times["max_ms"]
        assert times["connect_ms"] > times["min_ms"]


def test_ping_shows_a_table(hosts: TwoHosts, cli: Cli) -> None:
    """One agent alone, if it is named; and under which name it was asked."""
    ran = cli(hosts, "ping", "pc2")
    assert (ran.status, ran.err) == (0, "")
    link, _, title, _, row = ran.out.splitlines()
    assert (link, title) == ("Authenticated with CURVE as operator", "Round trips in milliseconds")
    assert row.split()[:3] == [UMRA, "pc2", "5"]
    assert all(float(cell) > 0 for cell in row.split()[3:])


def test_ping_names_the_agent_that_did_not_answer(hosts: TwoHosts, cli: Cli) -> None:
    """The other one's times are there all the same."""
    replace_certificate(new_pair(UMRA, "pc2").certificate, hosts.folders["operator"] / "client.key")
    ran = cli(hosts, "ping", "--json")
    assert ran.status == 1
    document = json.loads(ran.out)
    assert (document["status"], document["code"]) == ("error", "wrong_server_key")
    assert document["agents"][SDT]["count"] == 5
    assert document["agents"][UMRA]["code"] == "wrong_server_key"
    assert ran.err.startswith(f"error [wrong_server_key]: {UMRA}: ")


def test_ping_with_a_revoked_key_claims_no_authentication(hosts: TwoHosts, cli: Cli) -> None:
    """Every agent refuses it, so it is not authenticated; with one agent that answers it is."""
    shown = []
    for agent, stem in ((hosts.mainpc, "server"), (hosts.pc2, "client")):
        write_revocation(hosts.pairs["operator"].certificate, hosts.folders[stem] / REVOKED_FOLDER)
        agent.reload_peers()
        ran = cli(hosts, "ping")
        shown.append(ran.out.splitlines()[0])
        assert (ran.status, "[not_authorized]" in ran.err) == (1, True), ran.err
    assert shown == ["Authenticated with CURVE as operator", "No agent answered operator"]


def test_ping_says_that_the_link_is_open(open_hosts: TwoHosts, cli: Cli) -> None:
    """Round trips that nobody was authenticated for don't pass for others."""
    ran = cli(open_hosts, "ping", "mainpc")
    assert ran.status == 0
    assert ran.out.startswith("LINK OPEN SECURE_ZMQ=0: nothing is encrypted and nobody is authenticated\n")
    assert json.loads(cli(open_hosts, "ping", "--json").out)["link"] == "open"


def test_ping_refuses_a_count_out_of_bounds(hosts: TwoHosts, cli: Cli) -> None:
    """From 1 to 10,000."""
    assert [cli(hosts, "ping", "--count", count).status for count in ("0", "10001", "many")] == [2, 2, 2]
