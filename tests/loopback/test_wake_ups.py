"""Threads sleep until something happens: they are woken at once, and hardly ever without a reason."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.identities import new_pair
from tests.loopback.agent import ANY_PORT, ServedAgent, serving
from tests.loopback.agent_processes import AgentProcess, Hosts
from tests.waiting import PATIENCE_S, soon, wait_until
from twinhost.adversary.clients import open_session
from twinhost.adversary.zmtp import Disconnected, connect_to
from twinhost.secure_zmq import authenticator as authenticator_module
from twinhost.secure_zmq import feed as feed_module
from twinhost.secure_zmq import server as server_module
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import open_feed_socket
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.client import Client, Subscriber
from twinhost.secure_zmq.errors import NotAuthorized
from twinhost.secure_zmq.feed import Feed
from twinhost.secure_zmq.framing import messages
from twinhost.secure_zmq.framing.messages import LOOK_US, Pace, Received
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.server_address import SecuredAddress

AT_ONCE_S = 0.5  # without a wake-up it takes minutes here
NEVER_S = 600.0
MOST_WAKE_UPS_PER_S = 25.0  # of all threads of an agent: 15 to 18 were counted, and 42 and 56 with polls


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing happen only because time passes."""
    for module in (server_module, feed_module):
        monkeypatch.setattr(module, "_TICK_S", NEVER_S)
        monkeypatch.setattr(module, "_IDLE_TICK_S", NEVER_S)


@pytest.fixture
def resting(agent: ServedAgent, peer_keys: KeyPair) -> ServedAgent:
    """An agent that has answered, and waits."""
    with Client(agent.secured(peer_keys)) as client:
        client.call("who_am_i")
    time.sleep(0.1)
    return agent


@pytest.mark.sdt_security
def test_a_revocation_closes_idle_connections_at_once(agent: ServedAgent, home: Path, peer_keys: KeyPair) -> None:
    """It need not wait for the loop's next tick."""
    with open_session(connect_to(agent.address), peer_keys, agent.public_key) as dealer:
        dealer.send(b'{"action": "who_am_i"}')
        dealer.receive()
        time.sleep(0.1)  # the loop waits
        (home / f"{peer_keys.certificate.owner.name}.key").unlink()
        with soon(AT_ONCE_S):
            agent.peers.reload()
            with pytest.raises(Disconnected):
                print(dealer.receive())


def test_a_requested_tick_comes_at_once(resting: ServedAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for this agent's own changed key."""
    ticks: list[float] = []
    monkeypatch.setattr(resting.server, "_on_tick", lambda: ticks.append(time.monotonic()))
    with soon(AT_ONCE_S):
        resting.server.request_tick()
        wait_until(lambda: ticks, PATIENCE_S, "the tick")


@pytest.mark.sdt_security
def test_a_refused_handshake_is_followed_by_a_tick(
    resting: ServedAgent, stranger_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which writes it to the audit log; soon, but not one for each of many."""
    ticks: list[float] = []
    monkeypatch.setattr(resting.server, "_on_tick", lambda: ticks.append(time.monotonic()))
    resting.server.request_tick()
    wait_until(lambda: ticks, PATIENCE_S, "the loop is idle after this tick")
    time.sleep(0.1)
    monkeypatch.setattr(server_module, "_TICK_S", 0.3)
    for _ in range(3):
        with Client(resting.secured(stranger_keys)) as client, pytest.raises(NotAuthorized):
            client.call("who_am_i")
    wait_until(lambda: len(ticks) > 1, PATIENCE_S, "a tick")
    assert ticks[1] - ticks[0] > 0.25


def test_a_change_of_the_servers_key_comes_at_once(resting: ServedAgent) -> None:
    with soon(AT_ONCE_S):
        resting.server.request_rekey(new_pair("SystemDigitalTwin", "mainpc")).result(PATIENCE_S)


def test_messages_that_come_soon_are_looked_for() -> None:
    """A few short waits make it likely, and one pause or many longer waits unlikely."""
    pace = Pace()
    shorter_s, longer_s = 0.5e-6 * LOOK_US, 2e-6 * LOOK_US

    def looks_after(*waited_s: float) -> bool:
        for wait_s in waited_s:
            pace.note(wait_s)
        return pace.look_us == LOOK_US

    assert not looks_after()
    assert not looks_after(*[shorter_s] * 5)
    assert looks_after(*[shorter_s] * 5)
    assert not looks_after(60.0)
    assert looks_after(*[shorter_s] * 5)
    assert not looks_after(*[longer_s, shorter_s] * 5)
    assert pace.look_us == 0


def test_a_loop_notes_how_soon_messages_come(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looks for the next one; not so for the first."""
    looked: list[int] = []
    receive = messages.receive

    def noting(socket: "zmq.Socket[bytes]", most: int, max_bytes: int, flags: int, look_us: int) -> Received:
        looked.append(look_us)
        return receive(socket, most, max_bytes, flags)

    monkeypatch.setattr(messages, "LOOK_US", 1_000_000)
    monkeypatch.setattr(server_module, "receive", noting)
    with serving(home, server_keys) as agent, Client(agent.secured(peer_keys)) as client:
        for _ in range(10):
            client.call("who_am_i")
    assert looked[0] == 0
    assert 1_000_000 in looked


def test_a_stop_ends_a_resting_loop_at_once(resting: ServedAgent) -> None:
    with soon(AT_ONCE_S):
        resting.server.stop()
        resting._thread.join(PATIENCE_S)


def test_an_answer_of_another_thread_wakes_the_loop(agent: ServedAgent, peer_keys: KeyPair, home: Path) -> None:
    """There is no poll for it."""
    with open_session(connect_to(agent.address), peer_keys, agent.public_key) as dealer:
        dealer.send(b'{"action": "ask_another", "name": "a"}')
        wait_until(lambda: "a" in agent.asked, PATIENCE_S, "the request arrives")
        time.sleep(0.1)  # the loop waits
        with soon(AT_ONCE_S):
            agent.asked["a"].set_result({"status": "ok", "answer": 1})
            assert dealer.receive()["answer"] == 1


def test_a_stop_ends_a_resting_zap_handler_at_once(
    context: "zmq.Context[zmq.Socket[bytes]]", home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for handshakes without a time limit, and counts as responsive meanwhile."""
    monkeypatch.setattr(authenticator_module, "_STALLED_AFTER_S", 0.05)
    handler = Authenticator(context, AuthorizedPeers([home]))
    wait_until(lambda: handler._heartbeat._beat_at == math.inf, PATIENCE_S, "it rests")
    time.sleep(0.1)
    assert handler.responsive
    with soon(AT_ONCE_S):
        handler.stop()
    assert not handler.alive
    context.term()


class Fed:
    """A feed whose grants a test withdraws, and a subscriber."""

    def __init__(self, home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.peers = AuthorizedPeers([home])
        self.authenticator = Authenticator(self.context, self.peers)
        self.granted = True
        self.feed = Feed(open_feed_socket(self.authenticator, server_keys, ANY_PORT, 1_000), self._may)
        self.feed.start()
        self.subscriber = Subscriber(SecuredAddress(self.feed.address, peer_keys, server_keys.public), [b"EVENT:"])
        self.subscriber.start()
        wait_until(lambda: self.feed.subscriptions, PATIENCE_S, "the subscription")
        time.sleep(0.1)  # both wait

    def _may(self, _: Caller, __: bytes) -> bool:
        return self.granted

    def end(self) -> None:
        self.subscriber.stop()
        self.feed.stop()
        self.context.term()


@pytest.fixture
def fed(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> Iterator[Fed]:
    fed = Fed(home, server_keys, peer_keys)
    yield fed
    fed.end()


def closed_one(fed: Fed) -> bool:
    return fed.feed._sessions.connections.closed_count > 0


@pytest.mark.sdt_security
def test_a_revoked_subscribers_connection_is_closed_at_once(fed: Fed, home: Path, peer_keys: KeyPair) -> None:
    (home / f"{peer_keys.certificate.owner.name}.key").unlink()
    with soon(AT_ONCE_S):
        fed.peers.reload()
        wait_until(lambda: closed_one(fed), PATIENCE_S, "the connection is closed")


@pytest.mark.sdt_security
def test_a_withdrawn_grant_closes_its_subscription_at_once(fed: Fed) -> None:
    fed.granted = False
    with soon(AT_ONCE_S):
        fed.feed.request_review()
        wait_until(lambda: closed_one(fed), PATIENCE_S, "the connection is closed")


def test_an_event_wakes_the_feed_and_its_subscriber(fed: Fed) -> None:
    with soon(AT_ONCE_S):
        fed.feed.publish(b"EVENT:", b"{}")
        assert fed.subscriber.get(PATIENCE_S) is not None


def test_a_stop_ends_a_resting_subscriber_at_once(fed: Fed) -> None:
    with soon(AT_ONCE_S):
        fed.subscriber.stop()


def wake_ups(agent: AgentProcess) -> int:
    """Return how often the agent's threads have gone to sleep."""
    counts = 0
    for status in Path(f"/proc/{agent.pid}/task").glob("*/status"):
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches")]
        counts += int(line.split()[1])
    return counts


@pytest.mark.thorough
def test_idle_agents_hardly_wake_up(tmp_path: Path) -> None:
    """Two that are connected, with the intervals of the shipped configuration."""
    with Hosts(tmp_path, heartbeat_s=5.0) as hosts:
        agents = hosts.start_both()
        time.sleep(8.0)  # the start is over
        before, seconds = [wake_ups(agent) for agent in agents], 10.0
        time.sleep(seconds)
        for agent, count in zip(agents, before, strict=True):
            assert (wake_ups(agent) - count) / seconds < MOST_WAKE_UPS_PER_S
