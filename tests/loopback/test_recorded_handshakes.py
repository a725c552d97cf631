"""A handshake is answered first and recorded then; nothing of its connection is answered before it is recorded."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import zmq
from structlog.testing import capture_logs

from tests.identities import authorize, new_pair
from tests.loopback.agent import ANY_PORT, PAYLOAD_LIMIT, ServedAgent
from tests.loopback.test_authenticator import ask, question
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.clients import PlainClient, open_session
from twinhost.adversary.zmtp import Disconnected, NoAnswer, connect_to
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import open_server_socket
from twinhost.secure_zmq.connections import SessionLimits
from twinhost.secure_zmq.handshakes import MAX_WAITING
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome

Context = zmq.Context[zmq.Socket[bytes]]
QUIET_S = 0.3  # without a reply, and none comes


class Recorder:
    """Listens to accepted handshakes as the audit log does; it can be slow, or fail for a key."""

    def __init__(self) -> None:
        self.recorded: list[str] = []  # peers
        self.failing: set[str] = set()
        self.may_record = threading.Event()
        self.may_record.set()

    def __call__(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        if outcome is not Outcome.ACCEPTED:
            return
        assert self.may_record.wait(PATIENCE_S)
        if fields["peer"] in self.failing:
            raise OSError("no space left on device")
        self.recorded.append(fields["peer"])


@pytest.fixture
def recorder(agent: ServedAgent) -> Recorder:
    recorder = Recorder()
    agent.server_socket.handshakes.listen(recorder)
    return recorder


def session(agent: ServedAgent, keys: KeyPair) -> PlainClient:
    return open_session(connect_to(agent.address), keys, agent.public_key)


@pytest.mark.sdt_security
def test_a_handshake_waits_for_no_record_and_a_reply_does(
    agent: ServedAgent, recorder: Recorder, peer_keys: KeyPair
) -> None:
    """The client has its session at once; its request is answered once the handshake is recorded."""
    recorder.may_record.clear()
    with session(agent, peer_keys) as client:
        client.send(b'{"action": "who_am_i"}')
        with pytest.raises(NoAnswer):
            client.receive(QUIET_S)
        assert recorder.recorded == []
        recorder.may_record.set()
        assert client.receive(PATIENCE_S)["status"] == "ok"
    assert recorder.recorded == [peer_keys.certificate.owner.name]
    assert agent.server_socket.handshakes.counts()["accepted"] == 1


@pytest.mark.sdt_security
def test_the_line_of_the_log_is_written_before_the_first_reply(
    agent: ServedAgent, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the loop, at the latest: whoever was answered is in the log of an agent that is killed then."""
    monkeypatch.setattr(type(agent.server_socket), "close_refused", lambda _: None)  # what a tick does
    with capture_logs() as lines, session(agent, peer_keys) as peer:
        assert peer.call("who_am_i")["status"] == "ok"
    accepted = [line["peer"] for line in lines if line["event"] == "handshake_accepted"]
    assert accepted == [peer_keys.certificate.owner.name]


@pytest.mark.sdt_security
def test_who_can_not_be_recorded_is_not_served(
    agent: ServedAgent, recorder: Recorder, home: Path, peer_keys: KeyPair
) -> None:
    """Its connection is closed, and it isn't counted as accepted; others are served, and so is it, once that works."""
    neighbour = new_pair("neighbour", "pc3")
    authorize(home, neighbour)
    agent.peers.reload()
    name = peer_keys.certificate.owner.name
    recorder.failing.add(name)
    with session(agent, peer_keys) as client:
        with contextlib.suppress(Disconnected):  # the connection may be closed before the refusal has left
            reply = client.call("add", amount=1)
            assert reply["code"] == "peer_not_live"
            assert "can't be recorded" in reply["error"]
            assert client.connection.read_to_end(PATIENCE_S)[1], "it is closed"
        assert agent.executions == []
    with session(agent, neighbour) as client:
        assert client.call("who_am_i")["status"] == "ok"
    assert agent.server_socket.handshakes.counts()["accepted"] == 1
    recorder.failing.clear()
    with session(agent, peer_keys) as client:
        assert client.call("who_am_i")["status"] == "ok"
    assert recorder.recorded == ["neighbour", name, name], "the failed record was made up for, once"
    assert agent.server_socket.handshakes.counts()["accepted"] == 3


@pytest.mark.sdt_security
def test_a_key_revoked_after_its_handshake_is_refused(
    agent: ServedAgent, recorder: Recorder, home: Path, peer_keys: KeyPair
) -> None:
    """ZAP accepted it; its first message comes when it is listed no longer: refused, or the connection is closed."""
    with session(agent, peer_keys) as client:
        (home / f"{peer_keys.certificate.owner.name}.key").unlink()
        agent.peers.reload()
        try:
            refusal = client.call("add", amount=1)["code"]
        except Disconnected:
            refusal = "closed"
        assert refusal in ("peer_not_live", "closed")
        assert agent.executions == []


@pytest.fixture
def authenticator(context: Context, home: Path) -> Iterator[Authenticator]:
    """A handler that is asked as libzmq does, and allows a key any number of sessions."""
    handler = Authenticator(context, AuthorizedPeers([home]), limits=SessionLimits(10 * MAX_WAITING))
    yield handler
    context.destroy(linger=0)


@pytest.mark.sdt_security
def test_what_waits_for_a_record_is_bounded(context: Context, authenticator: Authenticator, peer_keys: KeyPair) -> None:
    """Beyond the bound every key is refused with "try again", and counted; what was accepted is recorded at last."""
    handshakes, recorder = authenticator.handshakes, Recorder()
    handshakes.listen(recorder)
    recorder.failing.add(peer_keys.certificate.owner.name)
    statuses = [ask(context, *question(peer_keys.public.raw))[2] for _ in range(MAX_WAITING + 5)]
    assert statuses == [b"200"] * MAX_WAITING + [b"300"] * 5
    assert len(handshakes.waiting) == MAX_WAITING
    assert (handshakes.counts()["accepted"], handshakes.counts()["handler_fault"]) == (0, 5)
    recorder.failing.clear()
    handshakes.record()
    assert (len(handshakes.waiting), handshakes.counts()["accepted"]) == (0, MAX_WAITING)
    assert ask(context, *question(peer_keys.public.raw))[2] == b"200"


@pytest.mark.sdt_security
def test_a_stranger_leaves_nothing_that_waits(context: Context, authenticator: Authenticator) -> None:
    """A refused key is recorded before the answer, so that no number of them fills a queue or a cache."""
    for number in range(3 * MAX_WAITING):
        assert ask(context, *question(new_pair().public.raw))[2] == b"400"
        assert not authenticator.handshakes.waiting
        assert authenticator.handshakes.counts()["key_not_authorized"] == number + 1
    assert len(authenticator.peers._snapshot.by_fingerprint) == 1


@pytest.mark.sdt_security
def test_a_key_revoked_before_its_record_is_closed(
    context: Context, authenticator: Authenticator, server_keys: KeyPair
) -> None:
    """A silent connection, whose key was accepted, revoked, and recorded only then."""
    bound = open_server_socket(authenticator, server_keys, ANY_PORT, PAYLOAD_LIMIT)
    with contextlib.closing(connect_to(bound.address)) as silent:
        wait_until(bound.sessions.connections.open, PATIENCE_S, "it is known")
        authenticator.handshakes.accepted("gone", new_pair().public.fingerprint, "127.0.0.1")
        bound.close_refused()
        assert bound.sessions.connections.closed_count == 1
        assert silent.read_to_end(PATIENCE_S)[1]
    bound.close()


def test_only_events_that_are_used_wake_a_servers_monitor(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Not the end of a handshake: the thread would run while the client waits for its first reply."""
    seen: list[EventKind] = []
    monitor = agent.server_socket.monitor
    on_event = monitor._on_event

    def spy(event: SocketEvent) -> None:
        seen.append(event.kind)
        on_event(event)

    monitor._on_event = spy
    with session(agent, peer_keys) as client:
        assert client.call("who_am_i")["status"] == "ok"
    wait_until(lambda: EventKind.DISCONNECTED in seen, PATIENCE_S, "its end is reported")
    assert seen == [EventKind.ACCEPTED, EventKind.DISCONNECTED]
