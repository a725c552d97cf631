"""Who the agent takes a sender for: what the connection proved, whatever the sender claims."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import zmq

from secure_zmq.bound_socket import ServerSocket
from secure_zmq.client import Client
from secure_zmq.dispatch import Dispatcher, Owed
from secure_zmq.errors import NotAuthorized, NotGranted, PeerNotLive
from secure_zmq.inbound import Inbound
from secure_zmq.keys import KeyPair, load_certificate
from secure_zmq.peers import AuthorizedPeers
from secure_zmq.server import Server
from secure_zmq.sessions import SecuredSessions
from secure_zmq.sockets import open_server_socket
from tests.identities import authorize, new_pair
from tests.loopback.agent import ANY_PORT, ServedAgent, serving
from tests.loopback.raw_zmtp import CurveDealer, NullDealer
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until

WHO_AM_I = b'{"action": "who_am_i"}'
UNAUTHENTICATED: dict[str, Any] = {
    "status": "ok",
    "name": "unauthenticated",
    "host": "Unknown",
    "roles": [],
    "authenticated": False,
    "fingerprint": None,
}


def identity(keys: KeyPair) -> dict[str, Any]:
    """Return what the agent says of a holder of `keys`."""
    owner = keys.certificate.owner
    return {
        "status": "ok",
        "name": owner.name,
        "host": owner.host,
        "roles": sorted(owner.roles),
        "authenticated": True,
        "fingerprint": keys.public.fingerprint,
    }


@pytest.fixture
def operator_keys(home: Path) -> KeyPair:
    """An operator whose key the agent knows, and whom others would like to be."""
    keys = new_pair("operator", "operator", "operator")
    authorize(home, keys)
    return keys


def claims(keys: KeyPair) -> dict[str, str]:
    """Return the properties by which the agent knows a holder of `keys`."""
    name = keys.certificate.owner.name
    return {"User-Id": name, "Peer-Identity": f"{keys.public.fingerprint} {name}"}


def test_a_listed_key_is_served_under_its_owners_name(client: Client, peer_keys: KeyPair) -> None:
    """Name, host, and roles come from the key that the handshake proved."""
    reply = client.call("who_am_i")
    assert {name: reply[name] for name in identity(peer_keys)} == identity(peer_keys)


def test_every_peer_is_itself(operator_keys: KeyPair, agent: ServedAgent, client: Client, peer_keys: KeyPair) -> None:
    """Two sessions at the same time are two callers, request by request."""
    with Client(agent.secured(operator_keys)) as other:
        for _ in range(3):
            assert client.call("who_am_i")["fingerprint"] == peer_keys.public.fingerprint
            assert other.call("who_am_i")["fingerprint"] == operator_keys.public.fingerprint
    assert agent.server_socket.sessions.counts()[peer_keys.certificate.owner.name] == 1


def test_a_name_in_the_body_is_not_believed(client: Client, peer_keys: KeyPair) -> None:
    """`source_agent`, `caller`, or `User-Id` as a field is ignored, and opens no operator's action."""
    claim: dict[str, Any] = {
        "source_agent": "operator",
        "caller": "operator",
        "User-Id": "operator",
        "roles": ["operator"],
    }
    assert client.call("who_am_i", **claim)["name"] == peer_keys.certificate.owner.name
    with pytest.raises(NotGranted):
        client.call("reset", **claim)


def test_an_operator_is_granted_an_operators_action(operator_keys: KeyPair, agent: ServedAgent) -> None:
    """The role that stands in the listed key file counts."""
    with Client(agent.secured(operator_keys)) as client:
        assert client.call("reset")["status"] == "ok"


def test_an_unlisted_operator_is_none(agent: ServedAgent, stranger_keys: KeyPair, home: Path) -> None:
    """The role that a stranger's own file claims counts for nothing; the listed file's role does."""
    listed = new_pair("stranger", "elsewhere", "agent")
    authorize(home, listed)
    agent.peers.reload()
    with Client(agent.secured(stranger_keys)) as client, pytest.raises(NotAuthorized):
        client.call("reset")
    with Client(agent.secured(listed)) as client, pytest.raises(NotGranted):
        client.call("reset")


def test_spoofed_metadata_on_a_curve_link_is_not_believed(
    operator_keys: KeyPair, agent: ServedAgent, peer_keys: KeyPair
) -> None:
    """A peer with a good key that puts the operator's User-Id and fingerprint in its metadata stays who it is."""
    with closing(CurveDealer(agent.address, claims(operator_keys), peer_keys, agent.public_key)) as dealer:
        dealer.send(WHO_AM_I)
        assert json.loads(dealer.receive()) == identity(peer_keys)
        dealer.send(b'{"action": "reset"}')
        assert json.loads(dealer.receive())["code"] == "not_granted"


def test_spoofed_metadata_on_an_open_link_is_not_believed(operator_keys: KeyPair, open_agent: ServedAgent) -> None:
    """Where nobody is authenticated, a claim in the metadata authenticates nobody."""
    with closing(NullDealer(open_agent.address, claims(operator_keys))) as dealer:
        dealer.send(WHO_AM_I)
        assert json.loads(dealer.receive()) == UNAUTHENTICATED
        dealer.send(b'{"action": "reset"}')
        assert json.loads(dealer.receive())["code"] == "not_granted"


def test_an_open_link_serves_everybody_as_unauthenticated(open_agent: ServedAgent) -> None:
    """Ordinary actions work, operator's actions are refused, and rows say who wrote them."""
    with Client(open_agent.unencrypted()) as client:
        reply = client.call("who_am_i")
        assert {name: reply[name] for name in UNAUTHENTICATED} == UNAUTHENTICATED
        assert client.call("add", amount=2)["total"] == 2
        with pytest.raises(NotGranted, match="reset is not granted to unauthenticated"):
            client.call("reset")
    assert open_agent.database.execute("SELECT written_by FROM sums").fetchall() == [("unauthenticated",)]


def test_libzmqs_own_metadata_option_can_not_claim_an_identity(
    agent: ServedAgent, context: "zmq.Context[zmq.Socket[bytes]]", peer_keys: KeyPair
) -> None:
    """An ordinary program may add `X-` properties alone, and they change nothing."""
    dealer = context.socket(zmq.DEALER)
    with pytest.raises(zmq.ZMQError):
        dealer.setsockopt(zmq.METADATA, b"User-Id:operator")
    dealer.setsockopt(zmq.METADATA, b"X-User-Id:operator")
    dealer.curve_serverkey = agent.public_key.z85
    dealer.curve_secretkey, dealer.curve_publickey = peer_keys.secret_z85, peer_keys.public.z85
    dealer.rcvtimeo = int(PATIENCE_S * 1_000)
    dealer.connect(agent.address)
    dealer.send(WHO_AM_I)
    assert json.loads(dealer.recv()) == identity(peer_keys)


@pytest.fixture
def watched_agent(home: Path, server_keys: KeyPair) -> Iterator[ServedAgent]:
    """An agent whose folder of keys is followed, as in the real ones."""
    peers = AuthorizedPeers([home])
    peers.watch()
    with serving(home, server_keys, peers=peers) as served:
        yield served


def test_a_removed_peers_live_session_is_refused_at_its_next_message(
    watched_agent: ServedAgent, home: Path, peer_keys: KeyPair
) -> None:
    """Deleting the key file is enough: the session that is up gets PeerNotLive within two seconds, and nothing done."""
    with Client(watched_agent.secured(peer_keys)) as client:
        client.call("add", amount=2)
        (home / f"{peer_keys.certificate.owner.name}.key").unlink()
        with at_most(REFUSAL_S):
            wait_until(lambda: not watched_agent.peers.all(), REFUSAL_S, "the removal is noticed")
            with pytest.raises(PeerNotLive, match="no longer authorised here"):
                client.call("add", amount=5)
    assert watched_agent.executions == [2]
    with Client(watched_agent.secured(peer_keys)) as client, at_most(REFUSAL_S), pytest.raises(NotAuthorized):
        client.call("add", amount=5)


def test_a_peer_whose_key_was_exchanged_is_refused(agent: ServedAgent, home: Path, peer_keys: KeyPair) -> None:
    """The name lives on under another key; the old key's session does not inherit it."""
    owner = peer_keys.certificate.owner
    with Client(agent.secured(peer_keys)) as client:
        client.call("who_am_i")
        (home / f"{owner.name}.key").unlink()
        authorize(home, new_pair(owner.name, owner.host))
        agent.peers.reload()
        with pytest.raises(PeerNotLive):
            client.call("who_am_i")


def test_a_changed_role_counts_from_the_next_message_on(operator_keys: KeyPair, agent: ServedAgent, home: Path) -> None:
    """An operator whose key file loses the role loses it in the live session too."""
    path = home / "operator.key"
    with Client(agent.secured(operator_keys)) as client:
        client.call("reset")
        path.write_text(path.read_text().replace('roles = "operator"', 'roles = "agent"'))
        assert load_certificate(path).owner.roles == {"agent"}
        agent.peers.reload()
        with pytest.raises(NotGranted):
            client.call("reset")


def test_a_session_that_ended_is_counted_no_more(agent: ServedAgent, client: Client, peer_keys: KeyPair) -> None:
    """An operator sees the sessions that are up."""
    name = peer_keys.certificate.owner.name
    client.call("who_am_i")
    counts = agent.server_socket.sessions.counts
    with Client(agent.secured(peer_keys)) as second:
        second.call("who_am_i")
        assert counts() == {name: 2}
    wait_until(lambda: counts() == {name: 1}, PATIENCE_S, "the session's end is noticed")


class Collector:
    """In the dispatcher's place: answers with the payload, and takes in what comes until the test has it answer."""

    def __init__(self) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        self.looks = 0  # for what has come

    def wait_for_looks(self) -> None:
        """Wait until libzmq has let an ended connection go, which takes it some: until then its routing-id is taken."""
        before = self.looks
        wait_until(lambda: self.looks > before + 50, PATIENCE_S, "it looks for messages")

    def answer(self, batch: Sequence[Inbound], more: Callable[[], Sequence[Inbound]]) -> list[bytes]:
        self.entered.set()
        inbounds = list(batch)
        until = time.monotonic() + PATIENCE_S
        while not self.gate.wait(0.001) and time.monotonic() < until:
            inbounds += more()
            self.looks += 1
        return [inbound.payload for inbound in inbounds]

    def take_owed(self) -> dict[int, Owed]:
        return {}


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


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "asking at once"])
def test_a_reply_is_nobody_elses_who_took_over_the_routing_id(
    agent: ServedAgent,
    collected: tuple[str, ServerSocket, Collector],
    home: Path,
    peer_keys: KeyPair,
    context: "zmq.Context[zmq.Socket[bytes]]",
    silent: bool,
) -> None:
    """A peer may choose its routing-id: one that chose another's, and came when that one had gone, gets its own."""
    address, bound, collector = collected
    neighbour = new_pair("neighbour", "pc3")
    authorize(home, neighbour)
    agent.peers.reload()

    def connected(keys: KeyPair) -> "zmq.Socket[bytes]":
        peer = context.socket(zmq.DEALER)
        peer.routing_id = b"known"
        peer.curve_serverkey = agent.public_key.z85
        peer.curve_secretkey, peer.curve_publickey = keys.secret_z85, keys.public.z85
        peer.rcvtimeo, peer.linger = int(PATIENCE_S * 1_000), 0
        peer.connect(address)
        return peer

    victim = connected(peer_keys)
    victim.send(b"of the victim")
    assert collector.entered.wait(PATIENCE_S)
    victim.close()
    wait_until(lambda: bound.sessions.counts() == {}, PATIENCE_S, "the victim's end is noticed")
    collector.wait_for_looks()
    taker = connected(neighbour)
    if not silent:
        taker.send(b"of the taker")
    wait_until(lambda: bound.handshakes.counts()["accepted"] == 2, PATIENCE_S, "the taker is let in")
    collector.wait_for_looks()  # and its connection is the one that the routing-id leads to
    collector.gate.set()
    if silent:
        time.sleep(0.1)  # what was to be sent is sent
        taker.send(b"of the taker")
    assert taker.recv() == b"of the taker"


def test_a_newer_connection_with_the_descriptor_of_an_older_one_is_answered(
    agent: ServedAgent, peer_keys: KeyPair
) -> None:
    """The end of the older one may be heard of late: it is not taken for that of who has its descriptor now."""
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
def test_who_asks_twice_gets_both_replies_whatever_is_heard_of_ends(
    agent: ServedAgent,
    collected: tuple[str, ServerSocket, Collector],
    peer_keys: KeyPair,
    context: "zmq.Context[zmq.Socket[bytes]]",
    again: bool,
) -> None:
    """Late word of an older connection on its descriptor, or one of its own that broke: it is the same peer."""
    address, bound, collector = collected
    assert isinstance(bound.sessions, SecuredSessions)

    def connected() -> "zmq.Socket[bytes]":
        peer = context.socket(zmq.DEALER)
        peer.routing_id = b"known"
        peer.curve_serverkey = agent.public_key.z85
        peer.curve_secretkey, peer.curve_publickey = peer_keys.secret_z85, peer_keys.public.z85
        peer.rcvtimeo, peer.linger = int(PATIENCE_S * 1_000), 0
        peer.connect(address)
        return peer

    peer = connected()
    peer.send(b"one")
    assert collector.entered.wait(PATIENCE_S)
    if again:
        peer.close()
        wait_until(lambda: bound.sessions.counts() == {}, PATIENCE_S, "its end is noticed")
        collector.wait_for_looks()
        peer = connected()
    else:
        (session,) = bound.sessions._sessions.values()
        bound.sessions.disconnected(session.fd)  # as the monitor does
    peer.send(b"two")
    wait_until(lambda: bound.sessions.counts() != {}, PATIENCE_S, "it is taken in")
    collector.gate.set()
    assert [peer.recv(), peer.recv()] == [b"one", b"two"]
