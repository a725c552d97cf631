"""Where a reply goes: to who asked, whoever has the routing-id or the descriptor of that connection by now."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
import zmq

from tests.identities import authorize, new_pair
from tests.loopback.agent import ANY_PORT, ServedAgent
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until
from twinhost.secure_zmq.bound_socket import ServerSocket, open_server_socket
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.dispatch import Dispatcher, More
from twinhost.secure_zmq.framing.inbound import DeferredReply, Inbound, Job
from twinhost.secure_zmq.framing.messages import AT_ONCE
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server import Server
from twinhost.secure_zmq.session import Session
from twinhost.secure_zmq.sessions import SecuredSessions

pytestmark = pytest.mark.usefixtures("received_by")

Context = zmq.Context[zmq.Socket[bytes]]


class Collector:
    """In the dispatcher's place: answers with the payload, and takes in what comes until the test has it answer."""

    max_payload_bytes = 65_536
    spent: Sequence[tuple[Caller | None, float]] = ()
    begun: Job | None = None

    def __init__(self) -> None:
        self.entered, self.gate, self.looking = threading.Event(), threading.Event(), threading.Event()
        self.looking.set()
        self.looks = 0  # for what has come

    def wait_for_looks(self) -> None:
        """Wait until libzmq has let an ended connection go, which takes it some: until then its routing-id is taken."""
        before = self.looks
        wait_until(lambda: self.looks > before + 50, PATIENCE_S, "it looks for messages")

    def answer(self, batch: Sequence[Inbound], more: More) -> list[bytes]:
        self.entered.set()
        inbounds = list(batch)
        until = time.monotonic() + PATIENCE_S
        while not self.gate.wait(0.001) and time.monotonic() < until:
            if self.looking.is_set():
                inbounds += more() or ()
                self.looks += 1
        return [bytes(inbound.payload) for inbound in inbounds]

    def take_deferred(self) -> dict[int, DeferredReply]:
        return {}


def connected(
    agent: ServedAgent, address: str, keys: KeyPair, context: Context, routing_id: bytes = b"known"
) -> "zmq.Socket[bytes]":
    """Return a DEALER of a key holder's that chose a routing-id, most often the one that the others choose too."""
    peer = context.socket(zmq.DEALER)
    peer.routing_id = routing_id
    peer.curve_serverkey = agent.public_key.z85
    peer.curve_secretkey, peer.curve_publickey = keys.secret_z85, keys.public.z85
    peer.rcvtimeo, peer.linger = int(PATIENCE_S * 1_000), 0
    peer.connect(address)
    return peer


@pytest.fixture
def collected(agent: ServedAgent) -> Iterator[tuple[str, ServerSocket, Collector]]:
    """A second socket of the agent's, its keys and peers the same, and what answers there."""
    assert agent.authenticator is not None
    assert agent.own_keys is not None
    bound = open_server_socket(agent.authenticator, agent.own_keys, ANY_PORT, 65_536)
    collector = Collector()
    server = Server(bound, cast(Dispatcher, collector), lambda: None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield bound.address, bound, collector
    collector.gate.set()
    server.stop()
    thread.join()


@pytest.fixture
def neighbour(agent: ServedAgent, home: Path) -> KeyPair:
    keys = new_pair("neighbour", "pc3")
    authorize(home, keys)
    agent.peers.reload()
    return keys


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "asking at once"])
def test_a_reply_never_reaches_a_later_owner_of_a_routing_id(
    agent: ServedAgent,
    collected: tuple[str, ServerSocket, Collector],
    neighbour: KeyPair,
    peer_keys: KeyPair,
    context: Context,
    silent: bool,
) -> None:
    """A peer may choose its routing-id: one that chose another's, and came when that one had gone, gets its own."""
    address, bound, collector = collected

    victim = connected(agent, address, peer_keys, context)
    victim.send(b"of the victim")
    assert collector.entered.wait(PATIENCE_S)
    victim.close()
    wait_until(lambda: bound.sessions.counts() == {}, PATIENCE_S, "the victim's end is noticed")
    collector.wait_for_looks()
    taker = connected(agent, address, neighbour, context)
    if not silent:
        taker.send(b"of the taker")
    wait_until(lambda: bound.handshakes.counts()["accepted"] == 2, PATIENCE_S, "the taker is let in")
    collector.wait_for_looks()  # and its connection is the one that the routing-id leads to
    collector.gate.set()
    if silent:
        time.sleep(0.1)  # what was to be sent is sent
        taker.send(b"of the taker")
    assert taker.recv() == b"of the taker"


def after_whom_one_leaves(
    agent: ServedAgent, collected: tuple[str, ServerSocket, Collector], keys: KeyPair, context: Context
) -> "zmq.Socket[bytes]":
    """Keep the loop busy for a peer, and have one leave before its request is read; return the first."""
    address, bound, collector = collected
    sessions = bound.sessions
    assert isinstance(sessions, SecuredSessions)

    busy = connected(agent, address, keys, context, b"busy")
    busy.send(b"first")
    assert collector.entered.wait(PATIENCE_S)
    collector.looking.clear()
    victim = connected(agent, address, keys, context)
    victim.send(b"of the victim")
    victim.close(linger=int(PATIENCE_S * 1_000))
    wait_until(lambda: sessions._ended, PATIENCE_S, "its end is noticed")
    return busy


def test_nothing_is_kept_of_who_had_gone_before(
    agent: ServedAgent, collected: tuple[str, ServerSocket, Collector], peer_keys: KeyPair, context: Context
) -> None:
    """Its session is not counted, and leaves no entry, of which a peer could make many."""
    _, bound, collector = collected
    sessions = bound.sessions
    assert isinstance(sessions, SecuredSessions)
    busy = after_whom_one_leaves(agent, collected, peer_keys, context)
    collector.looking.set()
    collector.wait_for_looks()
    assert sessions.counts() == {peer_keys.certificate.owner.name: 1}
    collector.gate.set()
    assert busy.recv() == b"first"
    wait_until(lambda: list(sessions._sessions) == [b"busy"], PATIENCE_S, "the other is forgotten")


@pytest.mark.parametrize("remote", [None, ("192.0.2.1", 1)], ids=["closed", "of another connection"])
def test_who_had_gone_before_its_request_was_read_gets_no_reply(
    agent: ServedAgent,
    collected: tuple[str, ServerSocket, Collector],
    neighbour: KeyPair,
    peer_keys: KeyPair,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    remote: tuple[str, int] | None,
) -> None:
    """Its end was noticed before there was a session that it ended; its descriptor may be another connection's."""
    address, bound, collector = collected
    sessions = bound.sessions
    busy = after_whom_one_leaves(agent, collected, peer_keys, context)
    with monkeypatch.context() as patched:
        patched.setattr(sessions.connections, "remote", lambda _: remote)
        collector.looking.set()
        collector.wait_for_looks()
    taker = connected(agent, address, neighbour, context)
    wait_until(lambda: bound.handshakes.counts()["accepted"] == 3, PATIENCE_S, "the taker is let in")
    collector.wait_for_looks()
    collector.gate.set()
    assert busy.recv() == b"first"
    time.sleep(0.1)  # what was to be sent is sent
    taker.send(b"of the taker")
    assert taker.recv() == b"of the taker"


def test_a_descriptor_counts_once(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Who had gone before its request was read may have a session with the descriptor of who came then."""
    sessions = agent.server_socket.sessions
    assert isinstance(sessions, SecuredSessions)
    with Client(agent.secured(peer_keys)) as client:
        client.call("who_am_i")
        (session,) = sessions._sessions.values()
        sessions._sessions[b"gone"] = session
        assert sessions.counts() == {peer_keys.certificate.owner.name: 1}
    wait_until(lambda: not sessions._sessions, PATIENCE_S, "both end with the descriptor's connection")


def test_a_connection_with_a_reused_descriptor_is_answered(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """The end of the older one may be reported late: it is not attributed to the peer that has its descriptor now."""
    sessions = agent.server_socket.sessions
    assert isinstance(sessions, SecuredSessions)
    replies: list[dict[str, Any]] = []
    with Client(agent.secured(peer_keys)) as client:
        asking = threading.Thread(target=lambda: replies.append(client.call("hold", deadline_s=PATIENCE_S)))
        asking.start()
        assert agent.entered.wait(PATIENCE_S)
        (session,) = sessions._sessions.values()
        sessions.disconnected(session.fd)  # as the monitor does
        with at_most(REFUSAL_S):
            agent.gate.set()
            asking.join()
        assert replies[0]["status"] == "ok"
        assert sessions.counts() == {peer_keys.certificate.owner.name: 1}


@pytest.mark.parametrize("again", [False, True], ids=["one connection", "it came back"])
def test_two_requests_get_both_replies_despite_end_events(
    agent: ServedAgent,
    collected: tuple[str, ServerSocket, Collector],
    peer_keys: KeyPair,
    context: Context,
    again: bool,
) -> None:
    """A late event of an older connection on its descriptor, or of its own that broke: it is the same peer."""
    address, bound, collector = collected
    assert isinstance(bound.sessions, SecuredSessions)

    peer = connected(agent, address, peer_keys, context)
    peer.send(b"one")
    assert collector.entered.wait(PATIENCE_S)
    if again:
        peer.close()
        wait_until(lambda: bound.sessions.counts() == {}, PATIENCE_S, "its end is noticed")
        collector.wait_for_looks()
        peer = connected(agent, address, peer_keys, context)
    else:
        (session,) = bound.sessions._sessions.values()
        bound.sessions.disconnected(session.fd)  # as the monitor does
    peer.send(b"two")
    wait_until(lambda: bound.sessions.counts() != {}, PATIENCE_S, "it is taken in")
    collector.gate.set()
    assert [peer.recv(), peer.recv()] == [b"one", b"two"]


@pytest.mark.parametrize(("peers", "sent"), [(1, 1), (2, AT_ONCE)], ids=["of one peer", "of two peers"])
def test_a_batch_does_not_go_on_to_a_later_owner(
    agent: ServedAgent,
    collected: tuple[str, ServerSocket, Collector],
    neighbour: KeyPair,
    peer_keys: KeyPair,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    peers: int,
    sent: int,
) -> None:
    """While a batch's replies are sent, a routing-id may change hands; then the rest of its replies is dropped."""
    address, bound, collector = collected
    sessions = bound.sessions
    assert isinstance(sessions, SecuredSessions)

    victim = connected(agent, address, peer_keys, context)
    for _ in range(sent + 1):
        victim.send(b"of the victim")
    assert collector.entered.wait(PATIENCE_S)
    other = connected(agent, address, peer_keys, context, b"other")
    collector.wait_for_looks()  # all are in one batch
    if peers == 2:
        other.send(b"of the other")
        collector.wait_for_looks()

    takers: list[zmq.Socket[bytes]] = []
    leads_to, judged = sessions.leads_to, count(1)

    def take_in(what: Callable[[], object], description: str) -> None:
        """Wait, and have libzmq take in which connections began and ended, on the loop's thread."""
        wait_until(what, PATIENCE_S, description)
        for _ in range(50):
            bound.socket.get(zmq.EVENTS)
            time.sleep(0.001)

    def hand_over(routing_id: bytes, session: Session | None) -> bool:
        if next(judged) == sent + 1:
            victim.close()
            take_in(lambda: sessions._ended, "the victim's end is noticed")
            takers.append(connected(agent, address, neighbour, context))
            take_in(lambda: bound.handshakes.counts()["accepted"] == 3, "the taker is let in")
        return leads_to(routing_id, session)

    monkeypatch.setattr(sessions, "leads_to", hand_over)
    collector.gate.set()
    wait_until(lambda: len(takers) == 1, PATIENCE_S, "the taker is let in")
    if peers == 2:
        assert other.recv() == b"of the other"
    else:
        time.sleep(0.1)  # what was to be sent is sent
    takers[0].send(b"of the taker")
    assert takers[0].recv() == b"of the taker"
