"""Who the agent takes a sender for: what the connection proved, whatever the sender claims."""

import json
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.identities import authorize, new_pair
from tests.loopback.agent import ServedAgent
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, wait_until
from twinhost.adversary.clients import open_session
from twinhost.adversary.zmtp import connect_to
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, NotGranted, PeerNotLive
from twinhost.secure_zmq.keys import KeyPair, load_certificate

pytestmark = pytest.mark.usefixtures("received_by")

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
    """An operator whose key the agent knows, and which others try to impersonate."""
    keys = new_pair("operator", "operator", "operator")
    authorize(home, keys)
    return keys


def claims(keys: KeyPair) -> dict[str, bytes]:
    """Return the properties by which the agent knows a holder of `keys`."""
    name = keys.certificate.owner.name
    return {"User-Id": name.encode(), "Peer-Identity": f"{keys.public.fingerprint} {name}".encode()}


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
    """The role in the listed key file counts."""
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
    with open_session(connect_to(agent.address), peer_keys, agent.public_key, claims(operator_keys)) as dealer:
        dealer.send(WHO_AM_I)
        assert dealer.receive() == identity(peer_keys)
        dealer.send(b'{"action": "reset"}')
        assert dealer.receive()["code"] == "not_granted"


def test_spoofed_metadata_on_an_open_link_is_not_believed(operator_keys: KeyPair, open_agent: ServedAgent) -> None:
    """Where nobody is authenticated, a claim in the metadata authenticates nobody."""
    with open_session(connect_to(open_agent.address), properties=claims(operator_keys)) as dealer:
        dealer.send(WHO_AM_I)
        assert dealer.receive() == UNAUTHENTICATED
        dealer.send(b'{"action": "reset"}')
        assert dealer.receive()["code"] == "not_granted"


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


def test_a_removed_peers_session_is_refused_at_once(watched_agent: ServedAgent, home: Path, peer_keys: KeyPair) -> None:
    """Deleting the key file is enough: the session that is up ends within two seconds, and gets nothing done."""
    with Client(watched_agent.secured(peer_keys)) as client:
        client.call("add", amount=2)
        (home / f"{peer_keys.certificate.owner.name}.key").unlink()
        with at_most(REFUSAL_S):
            wait_until(lambda: not watched_agent.peers.all(), REFUSAL_S, "the removal is noticed")
            with pytest.raises((PeerNotLive, NotAuthorized), match="authorised"):
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
        with pytest.raises((PeerNotLive, NotAuthorized)):
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
