"""Each way to be refused: the typed error that says why, in time, and the cause in the server's counts."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from structlog.testing import capture_logs

from tests.identities import authorize, new_pair
from tests.loopback.agent import ServedAgent, serving
from tests.ports import vacant_address
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until
from twinhost.secure_zmq.client import Client, require_session
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    KeyMismatch,
    NotAuthorized,
    SecurityMismatch,
    ServerUnreachable,
    WrongServerKey,
)
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress

LONG_S = 30.0  # a deadline that a refusal must not need


@pytest.fixture
def mute_address() -> Iterator[str]:
    """A server that accepts TCP connections and never sends a byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def refusal(server: ServerAddress, deadline_s: float = LONG_S) -> ConnectionRefused:
    """Return the error that a first call ends with; it must come within the promised time."""
    with Client(server) as client, at_most(REFUSAL_S), pytest.raises(ConnectionRefused) as refused:
        client.call("who_am_i", deadline_s=deadline_s)
    return refused.value


def test_an_unlisted_key_is_refused(agent: ServedAgent, stranger_keys: KeyPair) -> None:
    """A key that lies in no folder: NotAuthorized, and the server's log has its fingerprint."""
    with capture_logs() as lines:
        error = refusal(agent.secured(stranger_keys))
    assert type(error) is NotAuthorized
    assert stranger_keys.public.fingerprint in str(error)
    assert agent.counted(Outcome.KEY_NOT_AUTHORIZED) == 1
    (line,) = [line for line in lines if line["event"] == "handshake_refused"]
    assert line["fingerprint"] == stranger_keys.public.fingerprint
    assert line["address"] == "127.0.0.1"


def wait_until_counted(agent: ServedAgent, *outcomes: Outcome) -> None:
    """Wait until the server counts one of these; which of the two sides notices a mismatch first is a race."""

    def counted() -> bool:
        counts = agent.server_socket.handshakes.counts()
        return any(counts[outcome.value] for outcome in outcomes)

    wait_until(counted, PATIENCE_S, f"the server counts one of {outcomes}")


def test_a_listed_name_does_not_help_an_unlisted_key(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """A stranger who calls itself like a peer is a stranger: the key counts."""
    owner = peer_keys.certificate.owner
    error = refusal(agent.secured(new_pair(owner.name, owner.host)))
    assert type(error) is NotAuthorized
    assert agent.counted(Outcome.ACCEPTED, at_least=0) == 0


def test_a_plain_client_is_refused(agent: ServedAgent) -> None:
    """A client without CURVE: SecurityMismatch, and nothing of its request was read."""
    error = refusal(agent.unencrypted())
    assert type(error) is SecurityMismatch
    assert "requires CURVE and this client is not encrypted" in str(error)
    wait_until_counted(agent, Outcome.BROKEN_OFF, Outcome.MECHANISM_MISMATCH)
    assert agent.server_socket.handshakes.counts()["accepted"] == 0


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (b"", Outcome.BROKEN_OFF),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00CURVE", Outcome.BROKEN_OFF),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + bytes(48), Outcome.MECHANISM_MISMATCH),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", Outcome.NOT_ZMTP),
    ],
    ids=["nothing", "half a greeting", "a plain client", "a browser"],
)
def test_a_handshake_that_failed_has_its_address(agent: ServedAgent, said: bytes, outcome: Outcome) -> None:
    """In the log and for listeners, as the audit log is; a peer that hangs up at once may be gone too soon."""
    port = int(agent.address.rpartition(":")[2])
    with capture_logs() as lines:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S, ("127.0.0.3", 0)) as client:
            guard = agent.server_socket.guard
            wait_until(lambda: guard.looks, PATIENCE_S, "the connection is noticed")
            client.sendall(said)
            if outcome is not Outcome.BROKEN_OFF:
                wait_until_counted(agent, outcome)
        wait_until_counted(agent, outcome)
        (line,) = wait_until(
            lambda: [line for line in lines if line["event"] == "handshake_refused"], PATIENCE_S, "it is logged"
        )
    assert line["address"] == "127.0.0.3"


def test_a_session_that_ends_at_once_is_no_refusal(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """However short it is: its key was judged."""
    for _ in range(50):
        require_session(agent.secured(peer_keys), PATIENCE_S)
    counts = agent.server_socket.handshakes.counts()
    assert {outcome for outcome, count in counts.items() if count} == {Outcome.ACCEPTED}


def test_a_wrong_server_pin_is_refused(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """The server is not the pinned one: WrongServerKey, which says `most likely` and names the other cause."""
    pin = new_pair("SystemDigitalTwin", "mainpc").public
    error = refusal(SecuredAddress(agent.address, peer_keys, pin))
    assert type(error) is WrongServerKey
    assert f"most likely its key is not the pinned {pin.fingerprint}" in str(error)
    assert "a failed ZAP handler there looks the same" in str(error)
    agent.counted(Outcome.WRONG_KEYS)


def test_a_curve_client_on_an_open_server_is_refused(open_agent: ServedAgent, peer_keys: KeyPair) -> None:
    """The client never goes on in the open: SecurityMismatch."""
    error = refusal(SecuredAddress(open_agent.address, peer_keys, new_pair().public))
    assert type(error) is SecurityMismatch
    assert "is not encrypted and this client uses CURVE" in str(error)
    wait_until_counted(open_agent, Outcome.BROKEN_OFF, Outcome.MECHANISM_MISMATCH)


def test_mismatched_halves_are_found_by_the_client_itself(peer_keys: KeyPair, stranger_keys: KeyPair) -> None:
    """Such a pair can't be made, so that no connection is ever tried with it."""
    with pytest.raises(KeyMismatch):
        KeyPair(peer_keys.certificate, stranger_keys.secret_z85)


def test_mismatched_halves_are_refused_by_the_server(
    agent: ServedAgent,
    context: "zmq.Context[zmq.Socket[bytes]]",
    server_keys: KeyPair,
    peer_keys: KeyPair,
    stranger_keys: KeyPair,
) -> None:
    """A foreign client that shows a listed public key without its secret half does not get in."""
    dealer = context.socket(zmq.DEALER)
    dealer.curve_serverkey = server_keys.public.z85
    dealer.curve_publickey = peer_keys.public.z85
    dealer.curve_secretkey = stranger_keys.secret_z85
    dealer.connect(agent.address)
    agent.counted(Outcome.WRONG_KEYS)
    assert agent.server_socket.handshakes.counts()["accepted"] == 0


def test_a_mute_server_is_unreachable_at_the_deadline(mute_address: str, peer_keys: KeyPair) -> None:
    """A TCP port that never speaks: ServerUnreachable at the timeout, and how far it came."""
    error = refusal(SecuredAddress(mute_address, peer_keys, new_pair().public), deadline_s=1.0)
    assert type(error) is ServerUnreachable
    assert "within 1 s: the TCP connection was made but no handshake followed" in str(error)


@pytest.mark.parametrize("secure", [True, False])
def test_nobody_there_is_unreachable_at_the_deadline(peer_keys: KeyPair, secure: bool) -> None:
    """A port at which nobody listens: ServerUnreachable at the timeout."""
    address = vacant_address()
    server: ServerAddress = UnencryptedAddress(address)
    if secure:
        server = SecuredAddress(address, peer_keys, new_pair().public)
    error = refusal(server, deadline_s=0.5)
    assert type(error) is ServerUnreachable
    assert "within 0.5 s: nothing answered at that address; check that the agent runs" in str(error)


@pytest.mark.parametrize(
    "words", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 64, b"SSH-2.0-OpenSSH_9.2\r\n", bytes(200)]
)
def test_something_that_speaks_no_zeromq_is_no_wrong_key(peer_keys: KeyPair, words: bytes) -> None:
    """A wrong port gives no reason to suspect the pin."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=say_to_all, args=(listener, words), daemon=True).start()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        error = refusal(SecuredAddress(address, peer_keys, new_pair().public), deadline_s=1.0)
    assert type(error) in (ServerUnreachable, SecurityMismatch)
    assert address in str(error)


@pytest.mark.parametrize("secure", [True, False])
def test_a_port_proxy_with_nobody_behind_it_is_no_wrong_key(peer_keys: KeyPair, secure: bool) -> None:
    """What accepts and hangs up at once may be an agent that is just starting: it is waited for until the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up_on_all, args=(listener,), daemon=True).start()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        server: ServerAddress = UnencryptedAddress(address)
        if secure:
            server = SecuredAddress(address, peer_keys, new_pair().public)
        error = refusal(server, deadline_s=1.5)
    assert type(error) is ServerUnreachable
    assert "the other side ends every handshake before it has sent a greeting (the agent is stopped" in str(error)
    assert "key" not in str(error)


def test_a_stopped_agent_behind_a_port_forward_is_no_wrong_key(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """The forward goes on accepting: the calls of a client that is open already say that nothing answers there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with Client(SecuredAddress(address, peer_keys, server_keys.public)) as client:
            with serving(home, server_keys) as agent:
                port = int(agent.address.rpartition(":")[2])
                threading.Thread(target=forward_all, args=(listener, port), daemon=True).start()
                client.call("who_am_i")
            for deadline_s in (0.2, 1.5, 1.5):
                with pytest.raises(ServerUnreachable) as unreachable:
                    client.call("who_am_i", deadline_s=deadline_s)
                assert "key" not in str(unreachable.value)
    assert "before it has sent a greeting (the agent is stopped, or starting, behind a port" in str(unreachable.value)


def forward_all(listener: socket.socket, port: int) -> None:
    """Connect whoever comes to another port; where nothing listens there, hang up."""
    with contextlib.suppress(OSError):
        while True:
            inside = listener.accept()[0]
            try:
                outside = socket.create_connection(("127.0.0.1", port))
            except ConnectionRefusedError:
                inside.close()
                continue
            for ends in ((inside, outside), (outside, inside)):
                threading.Thread(target=copy_bytes, args=ends, daemon=True).start()


def copy_bytes(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65_536):
            target.sendall(content)
        target.shutdown(socket.SHUT_RDWR)


def hang_up_on_all(listener: socket.socket) -> None:
    """Accept and close, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def say_to_all(listener: socket.socket, words: bytes) -> None:
    """Say the same to everybody who connects, until the listener is closed."""
    connections = []
    with contextlib.suppress(OSError):
        while True:
            connections.append(listener.accept()[0])
            connections[-1].sendall(words)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("refused_first", ["stranger", "wrong pin"])
def test_a_refusal_does_not_harm_the_next_caller(
    agent: ServedAgent, client: Client, peer_keys: KeyPair, stranger_keys: KeyPair, refused_first: str
) -> None:
    """Somebody's refusal is that one's alone."""
    if refused_first == "stranger":
        refusal(agent.secured(stranger_keys))
    else:
        refusal(SecuredAddress(agent.address, peer_keys, stranger_keys.public))
    assert client.call("who_am_i")["name"] == peer_keys.certificate.owner.name


def test_a_refused_client_gets_in_once_it_is_authorized(agent: ServedAgent, home: Path, stranger_keys: KeyPair) -> None:
    """After the public key was added, the same client object comes through: a dead socket is rebuilt."""
    with Client(agent.secured(stranger_keys)) as client:
        with pytest.raises(NotAuthorized):
            client.call("who_am_i")
        authorize(home, stranger_keys)
        agent.peers.reload()
        assert client.call("who_am_i")["name"] == "stranger"
