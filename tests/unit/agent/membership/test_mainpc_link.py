"""The link to mainpc, against the real SystemDigitalTwin: it registers, stays, and comes back by itself."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.agent_processes import HEARTBEAT_S, SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.agent.membership.member import Description, MainpcLink
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress

STOP_S = 2.5  # a call's deadline, and what it takes to let the connection go

ELSEWHERE = {"agent_id": UMRA, "agent_type": "x", "host": "192.0.2.1", "port": 1, "metadata": {"location": "pc2"}}
PASSING = {"last_seen": "", "last_updated": "", "revision": 0, "registered_by": ""}

pytestmark = [pytest.mark.unified_memory_agent, pytest.mark.thorough]


def address_of_mainpc(hosts: Hosts, by: str = UMRA) -> ServerAddress:
    keys = load_certificates(hosts.folder(by))
    return SecuredAddress(hosts.config.agent(SDT).endpoint, keys.own_keys, keys.public_key())


@contextmanager
def linked(hosts: Hosts, server: ServerAddress | None = None, heartbeat_s: float = HEARTBEAT_S) -> Iterator[MainpcLink]:
    """Run pc2's link for the length of the block."""
    description = Description("memory", ["twins"], [SDT])
    address, agent = server or address_of_mainpc(hosts), hosts.config.agent(UMRA)
    link = MainpcLink(address, agent, heartbeat_s, 65_536, None, description=description)
    link.start()
    try:
        yield link
    finally:
        link.stop()


def in_touch(link: MainpcLink) -> None:
    wait_until(lambda: link.fault is None, PATIENCE_S, "the link is up")


def out_of_touch(link: MainpcLink, *causes: str) -> str:
    """Wait until the link reports one of the causes, and return what it says."""
    starts = tuple(f"{cause}: " for cause in causes)
    wait_until(lambda: (link.fault or "").startswith(starts), PATIENCE_S, f"the link reports {causes}")
    return link.fault or ""


def registered(hosts: Hosts) -> dict[str, Any]:
    """Return UMRA's registration as mainpc has it, `{}` where there is none."""
    with hosts.client(SDT) as client:
        agents = client.call("get_registered_agents")["agents"]
    return next((agent for agent in agents if agent["name"] == UMRA), {})


def test_it_registers_with_what_the_configuration_says(hosts: Hosts) -> None:
    """Address, ports, type, host: what another agent needs to find this one."""
    hosts.start(SDT).wait_until_ready()
    with linked(hosts) as link:
        in_touch(link)
        agent, umra = registered(hosts), hosts.config.agent(UMRA)
    assert (agent["host"], agent["port"], agent["health_check_port"]) == ("127.0.0.1", umra.zmq_port, umra.http_port)
    assert (agent["agent_type"], agent["location"], agent["status"]) == ("memory", "pc2", "HEALTHY")
    assert (agent["capabilities"], agent["dependencies"]) == (["twins"], [SDT])
    assert (agent["registered_by"], agent["revision"]) == (UMRA, 1)


def test_it_sends_heartbeats_and_registers_once(hosts: Hosts) -> None:
    """The last sign of life moves on; the registration stays the first."""
    hosts.start(SDT).wait_until_ready()
    with linked(hosts) as link:
        in_touch(link)
        first = registered(hosts)["last_seen"]
        wait_until(lambda: registered(hosts)["last_seen"] > first, PATIENCE_S, "a heartbeat")
        assert registered(hosts)["revision"] == 1


def test_links_that_start_at_one_moment_do_not_stay_in_step(hosts: Hosts) -> None:
    """The wait until a link's second heartbeat is its own, and at most the interval; every one after it is that."""
    hosts.start(SDT).wait_until_ready()
    address, agent = address_of_mainpc(hosts), hosts.config.agent(UMRA)
    first_waits = []
    with Client(address) as client:
        for _ in range(8):
            link = MainpcLink(address, agent, 5.0, 65_536, None)
            assert link._turn(client) == 0  # registered, and the first heartbeat follows at once
            first_waits.append(link._turn(client))
            assert [link._turn(client) for _ in range(3)] == [5.0] * 3
    assert all(0 <= wait <= 5.0 for wait in first_waits)
    assert len(set(first_waits)) == len(first_waits)


def test_unanswered_links_do_not_retry_at_one_moment(hosts: Hosts) -> None:
    """The wait after a call that failed is each link's own, from half a second to a second."""
    address, agent = address_of_mainpc(hosts, by=SDT), hosts.config.agent(UMRA)
    hosts.start(SDT).wait_until_ready()
    with Client(address) as client:  # a key that mainpc refuses to register this agent with
        waits = [MainpcLink(address, agent, 5.0, 65_536, None)._turn(client) for _ in range(8)]
    assert all(0.5 <= wait <= 1.0 for wait in waits)
    assert len(set(waits)) == len(waits)


def test_a_long_pause_between_heartbeats_does_not_delay_the_end(hosts: Hosts) -> None:
    """An agent that is stopping does not wait for the next heartbeat."""
    hosts.start(SDT).wait_until_ready()
    with linked(hosts, heartbeat_s=3_600) as link:
        in_touch(link)
        with at_most(STOP_S):
            link.stop()
        assert not link.responsive


def test_removed_at_mainpc_it_registers_again(hosts: Hosts) -> None:
    """An operator's `unregister`, or a registry that was lost, is mended with the next heartbeat."""
    hosts.start(SDT).wait_until_ready()
    with linked(hosts) as link:
        in_touch(link)
        with hosts.client(SDT) as operator:
            operator.call("unregister", agent_name=UMRA)
        wait_until(lambda: registered(hosts), PATIENCE_S, "the agent is registered again")
        assert link.fault is None


@pytest.mark.parametrize("by", [UMRA, "operator"])
def test_changed_at_mainpc_it_registers_again(hosts: Hosts, by: str) -> None:
    """Whoever registered another address in its name; a registration that says nothing new changes nothing."""
    hosts.start(SDT).wait_until_ready()
    with linked(hosts) as link, hosts.client(SDT, by) as other:
        in_touch(link)
        other.call("register_agent", agent_name=UMRA, status="HEALTHY")
        first = registered(hosts)
        other.call("register_agent", registration_data=ELSEWHERE)
        wait_until(lambda: registered(hosts)["port"] != 1, PATIENCE_S, "the agent is registered again")
        assert {**registered(hosts), **PASSING} == {**first, **PASSING}
        assert registered(hosts)["revision"] == 4
        other.call("unregister", agent_name=UMRA)
        other.call("register_agent", agent_name=UMRA, status="HEALTHY")
        wait_until(lambda: registered(hosts)["port"] == first["port"], PATIENCE_S, "it is whole again")


def test_before_the_first_turn_it_is_not_in_touch(hosts: Hosts) -> None:
    """Health does not say `ok` of what was not tried yet."""
    link = MainpcLink(address_of_mainpc(hosts), hosts.config.agent(UMRA), HEARTBEAT_S, 65_536, None)
    assert (link.fault, link.responsive) == ("not registered yet", False)


def test_mainpc_that_is_not_there_yet_is_waited_for(hosts: Hosts) -> None:
    """The cause is reported meanwhile, and the link comes up by itself when mainpc does."""
    with linked(hosts) as link:
        assert f"no reply to register_agent from {hosts.config.agent(SDT).endpoint}" in out_of_touch(
            link, "ServerUnreachable"
        )
        hosts.start(SDT).wait_until_ready()
        in_touch(link)
        assert registered(hosts)["revision"] == 1


def test_mainpc_that_was_killed_is_come_back_to(hosts: Hosts) -> None:
    """Both kinds of return: with its registry, and with none."""
    mainpc = hosts.start(SDT).wait_until_ready()
    with linked(hosts) as link:
        in_touch(link)
        for registry_is_lost in (False, True):
            mainpc.kill()
            out_of_touch(link, "ServerUnreachable")
            if registry_is_lost:
                folder = hosts.database(SDT).parent
                shutil.rmtree(folder)
                folder.mkdir()
            mainpc = hosts.start(SDT).wait_until_ready()
            in_touch(link)
            wait_until(lambda: registered(hosts).get("revision") == 1, PATIENCE_S, "mainpc has the agent")


@pytest.mark.sdt_security
def test_a_key_that_is_not_authorised_yet_is_retried(hosts: Hosts) -> None:
    """`NotAuthorized` is the cause until the key is put in place; no restart is needed."""
    key_file = hosts.folder(SDT) / "client.key"
    content = key_file.read_bytes()
    key_file.unlink()
    hosts.start(SDT).wait_until_ready()
    with linked(hosts) as link:
        assert "refused this key (SHA256:" in out_of_touch(link, "NotAuthorized")
        key_file.write_bytes(content)
        in_touch(link)


@pytest.mark.sdt_security
def test_a_key_that_is_taken_away_is_reported(hosts: Hosts) -> None:
    """The live session ends with a cause, that of the last message or that of the next handshake, and comes back."""
    key_file = hosts.folder(SDT) / "client.key"
    content = key_file.read_bytes()
    hosts.start(SDT).wait_until_ready()
    with linked(hosts) as link:
        in_touch(link)
        key_file.unlink()
        assert "authorise" in out_of_touch(link, "PeerNotLive", "NotAuthorized")
        key_file.write_bytes(content)
        in_touch(link)


@pytest.mark.sdt_security
def test_somebody_else_at_mainpcs_address_is_not_talked_to(hosts: Hosts) -> None:
    """A server with another key than the pinned one is reported as such, and gets no registration."""
    hosts.start(SDT).wait_until_ready()
    keys = load_certificates(hosts.folder(UMRA))
    wrong_pin = SecuredAddress(hosts.config.agent(SDT).endpoint, keys.own_keys, keys.public_key("operator"))
    with linked(hosts, wrong_pin) as link:
        assert "most likely its key is not the pinned SHA256:" in out_of_touch(link, "WrongServerKey")
        assert registered(hosts) == {}


@pytest.mark.sdt_security
def test_an_agents_key_registers_no_other_agent(hosts: Hosts) -> None:
    """With the operator's key it could; with another agent's, mainpc refuses and the link reports it."""
    hosts.start(SDT).wait_until_ready()
    with linked(hosts, address_of_mainpc(hosts, by=SDT)) as link:
        assert f"{SDT} may not act for '{UMRA}'" in out_of_touch(link, "NotGranted")
        assert registered(hosts) == {}


def test_a_mainpc_whose_store_fails_is_reported_and_come_back_to(hosts: Hosts) -> None:
    """A refusal of mainpc is a fault of the link for as long as it lasts."""
    mainpc = hosts.start(SDT).wait_until_ready()
    with linked(hosts) as link:
        in_touch(link)
        mainpc.forbid_files_to_grow()
        out_of_touch(link, "StoreUnavailable")
        mainpc.allow_files_to_grow()
        in_touch(link)


@pytest.mark.parametrize("mainpc", ["absent", "mute", "not ZeroMQ"])
def test_it_stops_within_its_deadline(hosts: Hosts, mainpc: str) -> None:
    """Whatever mainpc does, or does not: the thread ends."""
    with closing(socket.socket()) as listener:
        if mainpc != "absent":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the test before may have used this port
            listener.bind(("127.0.0.1", hosts.config.agent(SDT).zmq_port))
            listener.listen()
        with linked(hosts) as link:
            if mainpc == "not ZeroMQ":
                connection, _ = listener.accept()
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
                connection.close()
            assert link.responsive
            with at_most(STOP_S):
                link.stop()
            assert not link.responsive


def test_an_open_link_registers_too(tmp_path: Path) -> None:
    """With SECURE_ZMQ=0 on both hosts nobody is authenticated, and mainpc's record says so."""
    with Hosts(tmp_path, secure=False) as hosts:
        hosts.start(SDT).wait_until_ready()
        with linked(hosts, UnencryptedAddress(hosts.config.agent(SDT).endpoint)) as link:
            in_touch(link)
            assert (registered(hosts)["registered_by"], registered(hosts)["location"]) == ("unauthenticated", "pc2")
