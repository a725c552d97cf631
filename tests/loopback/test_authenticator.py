"""The ZAP handler: one per Context, running for as long as a socket relies on it, and never dead."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import zmq
from structlog.testing import capture_logs
from zmq.auth.thread import ThreadAuthenticator

from tests.loopback.agent import ANY_PORT, PAYLOAD_LIMIT, serving
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import open_server_socket, secure_unbound_server
from twinhost.secure_zmq.callers import Peer
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, NotAuthorized, ServerUnreachable, SocketMisuse, WrongServerKey
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome, Refusal
from twinhost.secure_zmq.sockets import ZAP_DOMAIN, ZAP_ENDPOINT

Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def peers(home: Path) -> AuthorizedPeers:
    return AuthorizedPeers([home])


@pytest.fixture
def authenticator(context: "Context", peers: AuthorizedPeers) -> Iterator[Authenticator]:
    handler = Authenticator(context, peers)
    yield handler
    context.destroy(linger=0)  # ends the handler, whatever the test left open


class FaultyPeers(AuthorizedPeers):
    """A list whose look-up at the handshake fails so many times."""

    def __init__(self, home: Path, faults: int) -> None:
        super().__init__([home])
        self.faults = faults

    def judge(self, raw_key: bytes) -> Peer | Refusal:
        if self.faults > 0:
            self.faults -= 1
            raise KeyError("a fault of the list")
        return super().judge(raw_key)


def ask(context: "Context", *frames: bytes) -> list[bytes]:
    """Ask the handler as libzmq does."""
    with context.socket(zmq.REQ) as socket:
        socket.rcvtimeo = int(PATIENCE_S * 1_000)
        socket.linger = 0
        socket.connect(ZAP_ENDPOINT)
        socket.send_multipart(frames)
        return socket.recv_multipart()


def question(
    key: bytes, domain: bytes = ZAP_DOMAIN, mechanism: bytes = b"CURVE", version: bytes = b"1.0"
) -> list[bytes]:
    return [version, b"1", domain, b"127.0.0.1", b"", mechanism, key]


def test_a_context_has_one_handler(context: "Context", authenticator: Authenticator, peers: AuthorizedPeers) -> None:
    """A second one, which would be the one that is never asked, is refused; the first goes on."""
    with pytest.raises(SocketMisuse, match="this Context has a ZAP handler already"):
        Authenticator(context, peers)
    assert authenticator.responsive


def test_pyzmqs_handler_counts_as_one(context: "Context", peers: AuthorizedPeers) -> None:
    """An agent that started pyzmq's authenticator on the same Context gets an error that says so."""
    other = ThreadAuthenticator(context)
    other.start()
    try:
        with pytest.raises(SocketMisuse, match="has a ZAP handler already"):
            Authenticator(context, peers)
    finally:
        other.stop()


def test_stopping_under_an_open_socket_is_refused(authenticator: Authenticator, server_keys: KeyPair) -> None:
    """Without its handler, the socket would let nobody in, or everybody; the order is: socket first."""
    server = open_server_socket(authenticator, server_keys, ANY_PORT, PAYLOAD_LIMIT)
    with pytest.raises(SocketMisuse, match="a server socket still relies on this ZAP handler"):
        authenticator.stop()
    assert authenticator.responsive
    server.close()
    authenticator.stop()
    assert not authenticator.responsive


def test_a_stopped_handler_guards_nothing(authenticator: Authenticator, server_keys: KeyPair) -> None:
    """A socket can't be opened under a handler that has ended."""
    authenticator.stop()
    with pytest.raises(SocketMisuse, match="is not running, so no peer would be authenticated"):
        open_server_socket(authenticator, server_keys, ANY_PORT, PAYLOAD_LIMIT)


def test_a_stopped_handler_makes_room_for_another(
    context: "Context", authenticator: Authenticator, peers: AuthorizedPeers
) -> None:
    """After a proper end, the Context can have a new one at once, again and again."""
    for _ in range(4):
        authenticator.stop()
        authenticator = Authenticator(context, peers)
        assert authenticator.responsive


def test_a_socket_of_another_context_is_refused(authenticator: Authenticator, server_keys: KeyPair) -> None:
    """The handler would never be asked about its peers; this is how the original system let everyone in."""
    other: Context = zmq.Context()
    socket = other.socket(zmq.ROUTER)
    with pytest.raises(SocketMisuse, match="belongs to another Context"):
        secure_unbound_server(socket, authenticator, server_keys)
    other.destroy(linger=0)


@pytest.mark.parametrize("kind", [zmq.ROUTER, zmq.REP, zmq.XPUB])
def test_a_bound_or_connected_socket_is_refused(
    context: "Context", authenticator: Authenticator, server_keys: KeyPair, kind: int
) -> None:
    """Options that are set now would be ignored, and the socket served in the open."""
    bound, connected, unbound = (context.socket(kind) for _ in range(3))
    port = bound.bind_to_random_port("tcp://127.0.0.1")
    connected.connect(f"tcp://127.0.0.1:{port}")
    unbound.bind("inproc://once")
    unbound.unbind("inproc://once")
    for socket in (bound, connected, unbound):
        with pytest.raises(SocketMisuse, match="bound or connected already"):
            secure_unbound_server(socket, authenticator, server_keys)


def test_a_fault_of_the_handler_lets_nobody_in_and_passes(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """An exception inside is a 300, which libzmq tries again; the thread lives, and the next try is served."""
    with serving(home, server_keys, peers=FaultyPeers(home, faults=1)) as agent, capture_logs() as lines:
        with Client(agent.secured(peer_keys)) as client:
            assert client.call("who_am_i", deadline_s=PATIENCE_S)["authenticated"]
        assert agent.counted(Outcome.HANDLER_FAULT) == 1
        assert agent.counted(Outcome.ACCEPTED) == 1
    assert [type(line["exc_info"]) for line in lines if line["event"] == "zap_handler_fault"] == [KeyError]


def test_a_lasting_zap_fault_is_among_the_clients_causes(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """To a client it is a server that stays mute, or hangs up where the answer is there before libzmq waits for it:
    which of the two is a race. Once it is mended, the same client gets in."""
    refusal = pytest.raises(
        (ServerUnreachable, WrongServerKey), match=r"ZAP handler|the other side ends every handshake"
    )
    peers = FaultyPeers(home, faults=1_000)
    with serving(home, server_keys, peers=peers) as agent, Client(agent.secured(peer_keys)) as client:
        with at_most(REFUSAL_S), refusal:
            client.call("who_am_i", deadline_s=1)
        agent.counted(Outcome.HANDLER_FAULT)
        assert agent.server_socket.handshakes.counts()["accepted"] == 0
        peers.faults = 0

        def authenticated() -> bool:
            with suppress(WrongServerKey):  # a handshake of before may be ended only now
                return bool(client.call("who_am_i", deadline_s=PATIENCE_S)["authenticated"])
            return False

        wait_until(authenticated, PATIENCE_S, "it gets in")


def test_a_listed_key_is_answered_with_its_name_and_fingerprint(
    context: "Context", authenticator: Authenticator, peer_keys: KeyPair
) -> None:
    """200, the peer's name as User-Id, and the fingerprint with the name as a property."""
    identity = f"{peer_keys.public.fingerprint} {peer_keys.certificate.owner.name}".encode()
    version, request_id, status, _, user_id, properties = ask(context, *question(peer_keys.public.raw))
    assert (version, request_id, status) == (b"1.0", b"1", b"200")
    assert user_id == peer_keys.certificate.owner.name.encode()
    assert properties == b"\rPeer-Identity" + len(identity).to_bytes(4, "big") + identity
    assert authenticator.handshakes.counts()["accepted"] == 1


def test_every_other_question_is_answered_with_400(
    context: "Context", authenticator: Authenticator, peer_keys: KeyPair, stranger_keys: KeyPair
) -> None:
    """Another key, domain, mechanism, version, or form of the question: nobody gets in, and no name is given."""
    listed = peer_keys.public.raw
    questions = [
        question(stranger_keys.public.raw),
        question(bytes(32)),
        question(b""),
        question(listed[:-1]),
        question(peer_keys.public.z85),
        question(listed, domain=b""),
        question(listed, domain=b"other"),
        question(listed, mechanism=b"PLAIN"),
        question(listed, mechanism=b"NULL")[:-1],
        question(listed, version=b"2.0"),
        [*question(listed), b"more"],
        [b"1.0"],
        [b""],
    ]
    for frames in questions:
        _, request_id, status, _, user_id, properties = ask(context, *frames)
        assert (status, user_id, properties) == (b"400", b"", b""), frames
        assert request_id == (b"1" if len(frames) > 1 else b"")
    counts = authenticator.handshakes.counts()
    assert (counts["key_not_authorized"], counts["accepted"]) == (len(questions), 0)
    assert authenticator.responsive


def test_a_handler_whose_context_ends_ends_too(context: "Context", authenticator: Authenticator) -> None:
    """Terminating the Context is not held up by the handler, and says so."""
    context.term()
    wait_until(lambda: not authenticator.responsive, PATIENCE_S, "the handler ends")
    authenticator.stop()


def test_many_handshakes_leave_the_handler_responsive(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """A crowd that comes and goes, half of it refused, is served to the last one."""
    with serving(home, server_keys) as agent:
        for number in range(10):
            keys = peer_keys if number % 2 else KeyPair.generate(peer_keys.certificate.owner)
            with closing(Client(agent.secured(keys))) as client:
                try:
                    assert client.call("who_am_i")["authenticated"]
                except ConnectionRefused as error:
                    assert type(error) is NotAuthorized  # noqa: PT017 - which of the two it is depends on the key
                    assert keys is not peer_keys
        assert agent.counted(Outcome.ACCEPTED, 5) == 5
        assert agent.counted(Outcome.KEY_NOT_AUTHORIZED, 5) == 5
