"""Sockets leave their module secured and limited, and the options really took."""

import asyncio
import os
import socket as socket_module
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.loopback.agent import ANY_PORT, ServedAgent
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import open_server_socket, open_unencrypted_server_socket
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.monitor import SocketEvent
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.server_address import SecuredAddress, open_connection
from twinhost.secure_zmq.sockets import client_context, secure_unconnected_client

PAYLOAD = 1_000_000
ZAP_ENFORCE_DOMAIN = 93

Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def authenticator(context: "Context", home: Path) -> Iterator[Authenticator]:
    handler = Authenticator(context, AuthorizedPeers([home]))
    yield handler
    context.destroy(linger=0)


def ignore(_: SocketEvent) -> None:
    """Take an event of a monitor that nobody waits for."""


def option(socket: "zmq.Socket[Any]", number: int) -> Any:
    value = socket.getsockopt(number)
    return value.rstrip(b"\0") if isinstance(value, bytes) else value


LIMITS = {
    zmq.MAXMSGSIZE: 2 * PAYLOAD + 33,
    zmq.CONNECT_TIMEOUT: 2_000,
    zmq.HANDSHAKE_IVL: 4_000,
    zmq.HEARTBEAT_IVL: 5_000,
    zmq.HEARTBEAT_TIMEOUT: 10_000,
    zmq.HEARTBEAT_TTL: 20_000,
    zmq.SNDHWM: 1_000,
    zmq.RCVHWM: 1_000,
    zmq.LINGER: 1_000,
    zmq.IPV6: 1,
    zmq.TCP_MAXRT: 10_000,
    zmq.TCP_KEEPALIVE: -1,  # as the system has it
}
# Clients send the heartbeats.
BOUND_LIMITS = (
    LIMITS
    | {zmq.HEARTBEAT_IVL: 0, zmq.TCP_MAXRT: 0, zmq.TCP_KEEPALIVE: 1, zmq.SNDHWM: 512}
    | {
        zmq.RCVHWM: 128,
        zmq.LINGER: 0,
    }
)


def limits_of(socket: "zmq.Socket[Any]") -> dict[int, Any]:
    return {number: option(socket, number) for number in LIMITS}


def test_a_server_socket_is_a_curve_server_with_zap(authenticator: Authenticator, server_keys: KeyPair) -> None:
    """Mechanism, role, domain, and the enforcement of the domain are on when it is bound."""
    server = open_server_socket(authenticator, server_keys, ANY_PORT, PAYLOAD)
    socket = server.socket
    assert option(socket, zmq.MECHANISM) == zmq.CURVE
    assert option(socket, zmq.CURVE_SERVER) == 1
    assert option(socket, zmq.ZAP_DOMAIN) == b"twinhost"
    assert option(socket, ZAP_ENFORCE_DOMAIN) == 1
    assert limits_of(socket) == BOUND_LIMITS
    assert server.address.startswith("tcp://")
    assert not server.address.endswith(("*", ":0"))
    server.close()


def test_a_client_socket_is_a_curve_client(context: "Context", server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """It can't speak in the open, and queues nothing for a server that is not there."""
    client = open_connection(
        SecuredAddress("tcp://127.0.0.1:1", peer_keys, server_keys.public), context, ignore, PAYLOAD
    )
    assert option(client.socket, zmq.MECHANISM) == zmq.CURVE
    assert option(client.socket, zmq.CURVE_SERVER) == 0
    assert option(client.socket, zmq.IMMEDIATE) == 1
    assert limits_of(client.socket) == LIMITS
    client.close()


def test_the_system_has_the_limit_of_tcp(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """What TCP can't deliver within 10 s is never delivered; libzmq sets it where the system has it."""
    connected: list[SocketEvent] = []
    server = agent.secured(peer_keys)
    client = open_connection(server, client_context(), connected.append, PAYLOAD)
    wait_until(lambda: connected, PATIENCE_S, "the client has connected")
    with socket_module.fromfd(connected[0].value, socket_module.AF_INET6, socket_module.SOCK_STREAM) as connection:
        assert connection.getsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_USER_TIMEOUT) == 10_000
    client.close()


def test_an_open_server_socket_has_the_same_limits(context: "Context") -> None:
    """SECURE_ZMQ=0 opens the link, and not the door to floods."""
    server = open_unencrypted_server_socket(context, ANY_PORT, PAYLOAD, Handshakes())
    assert option(server.socket, zmq.MECHANISM) == zmq.NULL
    assert limits_of(server.socket) == BOUND_LIMITS
    server.close()


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1", "tcp://no.such.host.invalid:1", "nonsense", "tcp://192.0.2.1:1"]
)
def test_an_address_that_can_not_be_bound_is_refused(
    authenticator: Authenticator, server_keys: KeyPair, address: str
) -> None:
    """One sentence, no half-open socket: the handler may stop afterwards."""
    with pytest.raises(SocketMisuse, match=f"{address} can't be bound"):
        open_server_socket(authenticator, server_keys, address, PAYLOAD)
    authenticator.stop()


def test_a_taken_port_is_refused(context: "Context", authenticator: Authenticator, server_keys: KeyPair) -> None:
    """A second agent on the same port says which port to free."""
    first = open_unencrypted_server_socket(context, ANY_PORT, PAYLOAD, Handshakes())
    with pytest.raises(SocketMisuse, match=r"in use.*free the port"):
        open_server_socket(authenticator, server_keys, first.address, PAYLOAD)
    first.close()


def test_a_client_of_nonsense_is_refused(context: "Context", server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """An address that is no endpoint is an error at once."""
    with pytest.raises(SocketMisuse, match="nonsense is not an endpoint"):
        open_connection(SecuredAddress("nonsense", peer_keys, server_keys.public), context, ignore, PAYLOAD)


def test_all_clients_of_a_process_share_one_context(open_agent: ServedAgent) -> None:
    """Blocking or asyncio; those of a fork have another one, since libzmq's threads do not exist there."""
    server = open_agent.unencrypted()

    async def of_asyncio() -> "Context":
        async with AsyncClient(server) as client:
            await client.call("who_am_i", deadline_s=PATIENCE_S)
            assert client._connection is not None
            return client._connection.socket.context

    def of_both() -> set["Context"]:
        with Client(server) as client:
            client.call("who_am_i", deadline_s=PATIENCE_S)
            assert client._connection is not None
            return {client._connection.socket.context, asyncio.run(of_asyncio())}

    (ours,) = of_both()
    if (child := os.fork()) == 0:
        try:
            (theirs,) = of_both()
            os._exit(0 if theirs is not ours else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_connected_socket_is_not_made_a_client(context: "Context", server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """It would go on in the open."""
    socket = context.socket(zmq.DEALER)
    socket.connect("tcp://127.0.0.1:1")
    with pytest.raises(SocketMisuse, match="bound or connected already"):
        secure_unconnected_client(socket, peer_keys, server_keys.public)


def test_a_server_socket_is_not_made_a_client(context: "Context", server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """A socket has one role; the last setting is checked."""
    socket = context.socket(zmq.DEALER)
    socket.curve_server = True
    secure_unconnected_client(socket, peer_keys, server_keys.public)
    assert option(socket, zmq.CURVE_SERVER) == 0


class Deaf(zmq.Socket[bytes]):
    """A socket that takes some options without doing anything about them."""

    ignored: frozenset[int] = frozenset()

    def setsockopt(self, option: int, optval: int | bytes) -> None:
        if option not in self.ignored:
            super().setsockopt(option, optval)

    set = setsockopt  # type: ignore[assignment]  # its two bases disagree about the name of an argument


@pytest.mark.parametrize("ignored", [zmq.ZAP_DOMAIN, ZAP_ENFORCE_DOMAIN])
def test_a_server_option_that_did_not_take_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    context: "Context",
    authenticator: Authenticator,
    server_keys: KeyPair,
    ignored: int,
) -> None:
    """Without its domain, or the enforcement, libzmq may skip the handler; such a socket is not bound."""
    monkeypatch.setattr(Deaf, "ignored", frozenset({ignored}))
    monkeypatch.setattr(context, "_socket_class", Deaf)
    with pytest.raises(SocketMisuse, match="did not apply CURVE with ZAP"):
        open_server_socket(authenticator, server_keys, ANY_PORT, PAYLOAD)
    authenticator.stop()


def test_a_connection_without_an_answer_is_retried(
    context: "Context", server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """From a new port, over the current route: the system alone would use the old route for two minutes.

    That it happens after 2 s is an option of libzmq, which `LIMITS` requires.
    """
    with socket_module.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket_module.create_connection(address):  # fills the backlog: Linux drops further connection attempts
            url = f"tcp://127.0.0.1:{address[1]}"
            client = open_connection(SecuredAddress(url, peer_keys, server_keys.public), context, ignore, PAYLOAD)
            first = wait_until(lambda: connecting_to(address[1]), PATIENCE_S, "the client connects")
            wait_until(lambda: connecting_to(address[1]) - first, PATIENCE_S, "it connects again")
            client.close()


def connecting_to(port: int) -> set[int]:
    """Return the local ports of unanswered TCP connections to a port (proc(5), net/tcp6)."""
    rows = [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    unanswered = [(row[1], row[2]) for row in rows if row[3] == "02"]  # SYN_SENT
    return {int(own.split(":")[1], 16) for own, other in unanswered if int(other.split(":")[1], 16) == port}


_SLOW_SUBSCRIBER = """
import time
import zmq
from twinhost.secure_zmq import sockets

sockets._HEARTBEAT_INTERVAL_MS = 50
context = zmq.Context()
feed, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
feed.sndhwm = 0
port = feed.bind_to_random_port("tcp://127.0.0.1")
sockets.limit_socket(subscriber, 65_536)
subscriber.subscribe(b"")
subscriber.connect(f"tcp://127.0.0.1:{port}")
time.sleep(0.3)
for _ in range(20_000):
    feed.send(bytes(1_000))
time.sleep(0.3)
feed.close(0)
time.sleep(0.5)
print(subscriber.heartbeat_ivl, subscriber.tcp_keepalive)
"""


def test_a_subscriber_that_is_too_slow_is_not_aborted() -> None:
    """With heartbeats libzmq aborts it (`!_io_error`): it queues less than it has to read, and is closed."""
    ran = subprocess.run(
        [sys.executable, "-c", _SLOW_SUBSCRIBER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (ran.returncode, ran.stdout.split()) == (0, ["0", "1"]), ran
