"""What goes over the wire in good sessions, NULL and CURVE, with the request port and with the feed."""

from typing import Any

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from twinhost.adversary.clients import open_session
from twinhost.adversary.tampering import Relay
from twinhost.adversary.zmtp import connect_to
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress, ServerAddress, UnencryptedAddress

_CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ping", {}),
    ("get_all_agents", {}),
    ("register_agent", {"agent_name": "recorded", "status": "HEALTHY"}),
    ("get_agent_endpoint", {"agent_name": SDT}),
    ("simulate_load", {"load_type": "cpu", "value": 10}),
)


def record(hosts: Hosts) -> list[bytes]:
    """Return what a client said, from its greeting on, in several sessions with mainpc."""
    agent = hosts.config.agent(SDT)
    return [_requests(hosts, calls) for calls in (_CALLS[:1], _CALLS)] + [_feed(hosts, agent.events_port or 0)]


def _requests(hosts: Hosts, calls: tuple[tuple[str, dict[str, Any]], ...]) -> bytes:
    agent = hosts.config.agent(SDT)
    with Relay("127.0.0.1", agent.zmq_port) as relay, Client(_by_way_of(hosts, relay)) as client:
        for action, fields in calls:
            client.call(action, **{**fields, **_own_name(hosts, action)})
        return bytes(relay.conversations[0].up)


def _own_name(hosts: Hosts, action: str) -> dict[str, str]:
    return {"agent_name": UMRA} if hosts.secure and action == "register_agent" else {}


def _feed(hosts: Hosts, port: int) -> bytes:
    with Relay("127.0.0.1", port) as relay:
        server = hosts.address(SDT, UMRA)
        keys, pin = (server.own_keys, server.server_key) if isinstance(server, SecuredAddress) else (None, None)
        with open_session(connect_to(relay.address), keys, pin, {"Socket-Type": b"SUB"}) as client:
            client.send(b"\x01EVENT:")
            client.answers_ping()
        return bytes(relay.conversations[0].up)


def _by_way_of(hosts: Hosts, relay: Relay) -> ServerAddress:
    server = hosts.address(SDT, UMRA)
    if isinstance(server, SecuredAddress):
        return SecuredAddress(relay.address, server.own_keys, server.server_key)
    assert not isinstance(server, FollowedAddress)
    return UnencryptedAddress(relay.address)
