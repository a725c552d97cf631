"""A key that is live no longer: its next message is refused, its connections are closed, and nobody else notices."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import zmq
from structlog.testing import capture_logs

from tests.identities import authorize, new_pair
from tests.loopback.agent import ServedAgent, serving
from tests.loopback.bare_zmq import endpoint
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.adversary.clients import PlainClient, open_session
from twinhost.adversary.zmtp import connect_to
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.connections import Connections
from twinhost.secure_zmq.errors import NotAuthorized, PeerNotLive
from twinhost.secure_zmq.key_writer import write_revocation
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, KeyPair, Validity
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.sessions import origin

REVOKED_WITHIN_S = 1.0  # the promise, from the file's removal
WHO_AM_I = b'{"action": "who_am_i"}'
Revoke = Callable[[Path, KeyPair], None]


def remove(home: Path, keys: KeyPair) -> None:
    (home / f"{keys.certificate.owner.name}.key").unlink()


def revoke(home: Path, keys: KeyPair) -> None:
    write_revocation(keys.certificate, home / "revoked")


class Counting(threading.Thread):
    """A neighbour that adds one repeatedly, and counts the acknowledgements."""

    def __init__(self, agent: ServedAgent, keys: KeyPair) -> None:
        super().__init__(name="neighbour")
        self.done = 0
        self.connections = 0
        self._client = Client(agent.secured(keys))
        self._go_on = True

    def run(self) -> None:
        with self._client as client:
            while self._go_on:
                client.call("add", amount=1, deadline_s=PATIENCE_S)
                self.done += 1
                self.connections = client._link.diagnosis.generation

    def end(self) -> None:
        self._go_on = False
        self.join()


@contextmanager
def counting(agent: ServedAgent, keys: KeyPair) -> Iterator[Counting]:
    neighbour = Counting(agent, keys)
    neighbour.start()
    try:
        wait_until(lambda: neighbour.done > 20, PATIENCE_S, "the neighbour is served")
        yield neighbour
    finally:
        neighbour.end()


def is_closed(dealer: PlainClient, within_s: float) -> bool:
    """Return whether the server hangs up in time; what it says before, if anything, is not looked at."""
    return dealer.connection.read_to_end(within_s)[1]


@pytest.mark.parametrize("withdraw", [remove, revoke], ids=["removed", "revoked"])
def test_it_is_refused_and_closed_and_others_lose_nothing(
    neighbour_keys: KeyPair, watched_agent: ServedAgent, home: Path, peer_keys: KeyPair, withdraw: Revoke
) -> None:
    """Within a second of the file's change, also for connections that say nothing; and no handshake succeeds again."""
    with ExitStack() as stack:
        neighbour = stack.enter_context(counting(watched_agent, neighbour_keys))
        caller = stack.enter_context(Client(watched_agent.secured(peer_keys)))
        caller.call("add", amount=1_000_000)
        idle, silent, talking = (
            stack.enter_context(open_session(connect_to(watched_agent.address), peer_keys, watched_agent.public_key))
            for _ in range(3)
        )
        for dealer in (idle, talking):
            dealer.send(WHO_AM_I)
            dealer.receive()
        known = watched_agent.server_socket.sessions.connections.open
        wait_until(lambda: len(known()) == 5, PATIENCE_S, "all connections are known, the silent one too")
        withdrawn_at = time.monotonic()
        withdraw(home, peer_keys)
        assert is_closed(idle, REVOKED_WITHIN_S)
        assert is_closed(silent, REVOKED_WITHIN_S)
        assert is_closed(talking, REVOKED_WITHIN_S)
        assert time.monotonic() - withdrawn_at < REVOKED_WITHIN_S
        with pytest.raises((PeerNotLive, NotAuthorized)):
            caller.call("add", amount=1_000_000)
        with Client(watched_agent.secured(peer_keys)) as again, pytest.raises(NotAuthorized):
            again.call("who_am_i")
        before = neighbour.done
        wait_until(lambda: neighbour.done > before + 20, PATIENCE_S, "the neighbour is served on")
    assert neighbour.connections == 1
    assert watched_agent.executions.count(1) == neighbour.done
    assert watched_agent.executions.count(1_000_000) == 1


def test_a_key_that_expires_is_closed_where_it_idles(home: Path, server_keys: KeyPair) -> None:
    """Nothing changes on the disk and nobody says anything: the clock alone ends the session."""
    owner = new_pair("passing", "pc3").certificate.owner
    ends_in_s = 4
    passing = KeyPair.generate(owner, Validity(not_after=int(time.time()) - CLOCK_TOLERANCE_S + ends_in_s))
    authorize(home, passing)
    with serving(home, server_keys) as agent:
        with open_session(connect_to(agent.address), passing, agent.public_key) as idle:
            idle.send(WHO_AM_I)
            assert idle.receive()["name"] == "passing"
            assert is_closed(idle, ends_in_s + REVOKED_WITHIN_S)
        with Client(agent.secured(passing)) as again, pytest.raises(NotAuthorized):
            again.call("who_am_i")


def test_a_later_message_closes_the_connection(agent: ServedAgent, home: Path, peer_keys: KeyPair) -> None:
    """The second defence: a session that the first look missed is closed when it says something."""
    with open_session(connect_to(agent.address), peer_keys, agent.public_key) as dealer:
        dealer.send(WHO_AM_I)
        dealer.receive()
        agent.server_socket.sessions.connections._admitted.clear()
        remove(home, peer_keys)
        agent.peers.reload()
        wait_until(lambda: not agent.server._tick_requested, PATIENCE_S, "the first look")
        dealer.send(WHO_AM_I)
        assert dealer.receive()["code"] == "peer_not_live"
        assert is_closed(dealer, REVOKED_WITHIN_S)


def test_it_is_logged_with_its_reason(agent: ServedAgent, home: Path, peer_keys: KeyPair) -> None:
    with open_session(connect_to(agent.address), peer_keys, agent.public_key) as dealer:
        dealer.send(WHO_AM_I)
        dealer.receive()
        with capture_logs() as logged:
            remove(home, peer_keys)
            agent.peers.reload()
            assert is_closed(dealer, REVOKED_WITHIN_S)
            wait_until(lambda: agent.server_socket.sessions.connections.closed_count, PATIENCE_S, "it is counted")
            (line,) = wait_until(
                lambda: [entry for entry in logged if entry["event"] == "connection_closed"], PATIENCE_S, "a line"
            )
    assert (line["fingerprint"], line["address"]) == (peer_keys.public.fingerprint, "127.0.0.1")
    assert line["reason"] == "its key is no longer authorised"


def test_a_silent_neighbour_closed_by_mistake_loses_nothing(
    neighbour_keys: KeyPair,
    agent: ServedAgent,
    home: Path,
    peer_keys: KeyPair,
    context: "zmq.Context[zmq.Socket[bytes]]",
) -> None:
    """It has made its handshake and said nothing, so it goes with the withdrawn key; its first request is served.

    It repeats the request, as every client does: what connects within 0.1 s of the withdrawal may be closed once more.
    """
    neighbour = context.socket(zmq.DEALER)
    neighbour.curve_serverkey = agent.public_key.z85
    neighbour.curve_secretkey, neighbour.curve_publickey = neighbour_keys.secret_z85, neighbour_keys.public.z85
    neighbour.connect(agent.address)
    agent.counted(Outcome.ACCEPTED)
    wait_until(agent.server_socket.sessions.connections.open, PATIENCE_S, "its connection is known")
    with Client(agent.secured(peer_keys)) as client:
        client.call("who_am_i")
    remove(home, peer_keys)
    agent.peers.reload()
    agent.counted(Outcome.ACCEPTED, 3)  # it was closed, and is back

    def served() -> int:
        neighbour.send(WHO_AM_I)
        return neighbour.poll(1_000)

    wait_until(served, PATIENCE_S, "its request is served")
    assert json.loads(neighbour.recv())["name"] == "neighbour"


class Pair:
    """Two ends of a TCP connection that libzmq knows nothing of."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            self.there = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
            self.here, _ = listener.accept()

    def accepted(self, port: int | None = None) -> SocketEvent:
        return SocketEvent(EventKind.ACCEPTED, self.here.fileno(), f"tcp://127.0.0.1:{port or self.port}")

    @property
    def open(self) -> bool:
        self.there.settimeout(0.05)
        try:
            return self.there.recv(1) != b""
        except TimeoutError:
            return True
        except ConnectionError:
            return False

    def close(self) -> None:
        self.there.close()
        self.here.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def withdrawn(fingerprint: str) -> Connections:
    """Return connections on which this key was accepted and is live no longer."""
    connections = Connections(lambda _: None)
    connections.observe_handshake(Outcome.ACCEPTED, {"fingerprint": fingerprint})
    return connections


def test_a_number_that_was_reused_is_left_alone(pair: Pair) -> None:
    """The descriptor is somebody else's now: at another address, or on a port that is not ours."""
    connections = withdrawn("theirs")
    connections.observe(pair.accepted())
    connections.note_key(pair.here.fileno(), "192.0.2.1", "theirs")
    connections.close_refused()
    assert pair.open

    connections = withdrawn("theirs")
    connections.observe(pair.accepted(port=1))
    connections.note_key(pair.here.fileno(), "127.0.0.1", "theirs")
    connections.close_refused()
    assert pair.open

    connections = withdrawn("theirs")
    connections.observe(pair.accepted())
    connections.note_key(pair.here.fileno(), "127.0.0.1", "theirs")
    connections.close_refused()
    assert not pair.open
    assert connections.closed_count == 1


def test_a_connection_closed_twice_is_counted_once(pair: Pair) -> None:
    """It is closed again for each reason, until libzmq reports its end."""
    connections = withdrawn("theirs")
    connections.observe(pair.accepted())
    connections.note_key(pair.here.fileno(), "127.0.0.1", "theirs")
    for _ in range(3):
        connections.close_refused()
    assert connections.closed_count == 1


def test_a_number_that_is_no_connection_is_left_alone(tmp_path: Path) -> None:
    connections = withdrawn("theirs")
    with (tmp_path / "file").open("w") as file:
        connections.observe(SocketEvent(EventKind.ACCEPTED, file.fileno(), "tcp://127.0.0.1:7120"))
        before = psutil.Process().num_fds()
        connections.close_refused()
        assert psutil.Process().num_fds() == before
        file.write("still open")
    assert connections.closed_count == 0


def test_a_message_before_its_monitor_event_keeps_its_name(pair: Pair) -> None:
    """The first message may be read before ACCEPTED: the event must not make a known neighbour a silent one."""
    connections = withdrawn("theirs")
    connections.note_key(pair.here.fileno(), "127.0.0.1", "mine")
    connections.observe(pair.accepted())
    connections.close_refused()
    assert pair.open


@pytest.mark.parametrize("looks", [1, 3])
def test_a_late_monitor_event_closes_the_connection(pair: Pair, looks: int) -> None:
    """However many looks, which events cause, follow the first one at once."""
    connections = withdrawn("theirs")
    for _ in range(looks):
        connections.close_refused()
    connections.observe(pair.accepted())
    assert connections.unsettled
    connections.close_refused()
    assert not pair.open


def test_a_key_that_is_valid_again_closes_nothing(pair: Pair) -> None:
    """As one whose file was removed and put back within a moment."""
    valid: list[str] = []
    connections = Connections(lambda fingerprint: fingerprint if valid else None)
    connections.observe_handshake(Outcome.ACCEPTED, {"fingerprint": "theirs"})
    connections.close_refused()
    valid.append("theirs")
    connections.observe(pair.accepted())
    connections.close_refused()
    assert pair.open


def test_late_events_are_awaited_for_a_moment_alone(pair: Pair) -> None:
    """Then an idle loop may sleep again, and new connections are no longer suspected."""
    connections = withdrawn("theirs")
    connections.close_refused()
    time.sleep(0.15)
    connections.close_refused()
    assert not connections.unsettled
    connections.observe(pair.accepted())
    connections.close_refused()
    assert pair.open


CLAIMS = {"Peer-Address": b"192.0.2.1", "__fd": b"1"}


@pytest.mark.parametrize("secured", [True, False], ids=["curve", "open"])
def test_a_peer_can_not_claim_a_descriptor_or_an_address(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch, secured: bool
) -> None:
    """libzmq sets `__fd` and `Peer-Address` first, and what a peer says of itself does not replace them."""
    seen: list[tuple[int, str]] = []
    with serving(home, server_keys if secured else None) as agent:
        caller_of = agent.server_socket.sessions.caller_of

        def spy(routing_id: bytes, frame: zmq.Frame, now: float) -> object:
            seen.append(origin(frame))
            return caller_of(routing_id, frame, now)

        monkeypatch.setattr(agent.server, "_sessions", _Spied(spy))
        keys, pin = (peer_keys, agent.public_key) if secured else (None, None)
        with open_session(connect_to(agent.address), keys, pin, CLAIMS) as dealer:
            dealer.send(WHO_AM_I)
            assert dealer.receive()["status"] == "ok"
    ((fd, address),) = seen
    assert fd > 1
    assert address == "::ffff:127.0.0.1"


class _Spied:
    def __init__(self, caller_of: Callable[[bytes, zmq.Frame, float], object]) -> None:
        self.caller_of = caller_of

    def session_of(self, _: bytes) -> None:
        return None

    def leads_to(self, _: bytes, __: None) -> bool:
        return True


def test_libzmq_reports_no_descriptor_with_a_handshake(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """HANDSHAKE_SUCCEEDED carries 0 and the server's own endpoint: it identifies no silent peer."""
    server = context.socket(zmq.ROUTER)
    monitor = server.get_monitor_socket(zmq.Event.HANDSHAKE_SUCCEEDED)
    server.bind("tcp://127.0.0.1:*")
    with open_session(connect_to(endpoint(server))):
        assert monitor.poll(int(PATIENCE_S * 1_000))
        header, local = monitor.recv_multipart()
    assert int.from_bytes(header[2:], "little") == 0
    assert local.decode() == endpoint(server)
    server.disable_monitor()


def test_the_loop_closes_without_traffic(agent: ServedAgent, home: Path, peer_keys: KeyPair) -> None:
    """An idle server closes an idle connection within its tick."""
    with open_session(connect_to(agent.address), peer_keys, agent.public_key) as dealer:
        dealer.send(WHO_AM_I)
        dealer.receive()
        remove(home, peer_keys)
        agent.peers.reload()
        with at_most(REVOKED_WITHIN_S):
            assert is_closed(dealer, REVOKED_WITHIN_S)
