"""The loop: every kind of peer is served, and nothing that has come is lost when it stops."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.identities import authorize
from tests.loopback.agent import ServedAgent
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import Outcome

pytestmark = pytest.mark.usefixtures("received_by")

Context = zmq.Context[zmq.Socket[bytes]]
Connect = Callable[..., "zmq.Socket[bytes]"]
STOPS_WITHIN_S = 5.0  # the promise for SIGTERM
IN_FLIGHT = 200  # fewer than the 256 replies that a peer may leave unread; others may be dropped


@pytest.fixture
def connect(context: "Context", agent: ServedAgent, peer_keys: KeyPair) -> Connect:
    """Connect a socket of any type to the agent, as a foreign program with the peer's keys does."""

    def connect(kind: int, keys: KeyPair = peer_keys, routing_id: bytes = b"") -> "zmq.Socket[bytes]":
        socket = context.socket(kind)
        socket.curve_serverkey = agent.public_key.z85
        socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
        if routing_id:
            socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.rcvtimeo = socket.sndtimeo = int(PATIENCE_S * 1_000)
        socket.linger = 0
        socket.connect(agent.address)
        return socket

    return connect


def request(action: str, **fields: Any) -> bytes:
    return json.dumps({"action": action, **fields}).encode()


def test_a_req_peer_is_served(connect: Connect) -> None:
    """A plain REQ, whose envelope has an empty delimiter, gets its replies one after the other."""
    socket = connect(zmq.REQ)
    for text in ("one", "two"):
        socket.send(request("echo", text=text))
        assert json.loads(socket.recv()) == {"status": "ok", "text": text}


def test_a_req_that_numbers_its_requests_is_served(connect: Connect) -> None:
    """With ZMQ_REQ_RELAXED and ZMQ_REQ_CORRELATE it gives a request up, and takes only the reply to the next one."""
    socket = connect(zmq.REQ)
    socket.setsockopt(zmq.REQ_RELAXED, 1)
    socket.setsockopt(zmq.REQ_CORRELATE, 1)
    for text in ("given up", "wanted"):
        socket.send(request("echo", text=text))
    assert json.loads(socket.recv())["text"] == "wanted"


def test_a_dealer_peer_is_served(connect: Connect) -> None:
    """A DEALER without a delimiter gets a reply of one frame."""
    socket = connect(zmq.DEALER)
    socket.send(request("echo", text="one", request_id="1"))
    (frame,) = socket.recv_multipart()
    assert json.loads(frame) == {"status": "ok", "text": "one", "request_id": "1"}


def test_a_dealer_with_a_delimiter_is_served(connect: Connect) -> None:
    """A DEALER that imitates REQ gets its delimiter back."""
    socket = connect(zmq.DEALER)
    socket.send_multipart([b"", request("echo", text="one")])
    delimiter, frame = socket.recv_multipart()
    assert delimiter == b""
    assert json.loads(frame) == {"status": "ok", "text": "one"}


def name_of(connect: Connect, keys: KeyPair, routing_id: bytes) -> str:
    """Return the peer that the agent identifies for a holder of `keys` that has just taken over a routing-id."""

    def ask() -> (
        str | None
    ):  # the id is free a moment after its connection ended, and until then its next owner is mute
        with connect(zmq.DEALER, keys=keys, routing_id=routing_id) as socket:
            socket.rcvtimeo = 500
            socket.send(request("who_am_i"))
            with contextlib.suppress(zmq.Again):
                return str(json.loads(socket.recv())["name"])
        return None

    return str(wait_until(ask, PATIENCE_S, "served"))


@pytest.mark.parametrize("routing_id", [b"the same", b"\0same"])
def test_a_routing_id_is_no_identity(
    connect: Connect, agent: ServedAgent, home: Path, peer_keys: KeyPair, stranger_keys: KeyPair, routing_id: bytes
) -> None:
    """Whoever takes over the name of a connection that ended is who its own key says, also where the name begins as
    libzmq's own do."""
    authorize(home, stranger_keys)
    agent.peers.reload()

    for keys in (peer_keys, stranger_keys, peer_keys):
        assert name_of(connect, keys, routing_id) == keys.certificate.owner.name


@pytest.mark.parametrize("routing_id", [b"the same", b"\0same"])
def test_an_ended_sessions_routing_id_is_no_identity(
    connect: Connect, agent: ServedAgent, home: Path, peer_keys: KeyPair, stranger_keys: KeyPair, routing_id: bytes
) -> None:
    """An operator's message that is read after its connection ended leaves nothing behind for another to take up."""
    authorize(home, stranger_keys)
    agent.peers.reload()
    busy = connect(zmq.DEALER)
    busy.send(request("hold"))
    assert agent.entered.wait(PATIENCE_S)
    operator = connect(zmq.DEALER, keys=stranger_keys, routing_id=routing_id)
    operator.send(request("who_am_i"))
    operator.close(linger=int(PATIENCE_S * 1_000))
    wait_until(lambda: agent.server_socket.sessions._ended, PATIENCE_S, "its end is noticed")  # type: ignore[union-attr]
    agent.gate.set()
    busy.recv()
    busy.send(request("who_am_i"))
    busy.recv()
    assert name_of(connect, peer_keys, routing_id) == peer_keys.certificate.owner.name


def test_a_routing_id_can_not_be_stolen(
    connect: Connect, agent: ServedAgent, home: Path, stranger_keys: KeyPair
) -> None:
    """A second connection that claims the name of a live one gets none of its replies."""
    authorize(home, stranger_keys)
    agent.peers.reload()
    owner = connect(zmq.DEALER, routing_id=b"mine")
    owner.send(request("hold", request_id="1"))
    assert agent.entered.wait(PATIENCE_S)
    thief = connect(zmq.DEALER, keys=stranger_keys, routing_id=b"mine")
    agent.counted(Outcome.ACCEPTED, 2)
    thief.send(request("who_am_i"))
    agent.gate.set()
    assert json.loads(owner.recv())["request_id"] == "1"
    owner.send(request("echo", text="still mine"))
    assert json.loads(owner.recv())["text"] == "still mine"
    assert not thief.poll(50)


def test_a_pipelining_peer_matches_replies_by_their_ids(connect: Connect) -> None:
    """Many requests in flight on one connection, good and bad: each gets exactly one reply, under its own id."""
    socket = connect(zmq.DEALER)
    sent = {str(number): number for number in range(240)}
    for request_id, number in sent.items():
        if number % 3 == 0:
            socket.send(request("add", amount=1, request_id=request_id))
        elif number % 3 == 1:
            socket.send(request("echo", text=request_id, request_id=request_id))
        else:
            socket.send(request("echo", text=number, request_id=request_id))
    replies = {reply["request_id"]: reply for reply in (json.loads(socket.recv()) for _ in sent)}
    assert replies.keys() == sent.keys()
    for request_id, number in sent.items():
        expected = {0: ("ok", None), 1: ("ok", request_id), 2: ("error", None)}[number % 3]
        assert (replies[request_id]["status"], replies[request_id].get("text")) == expected
    assert not socket.poll(50)


def test_a_lock_step_peer_is_served_beside_a_pipelining_one(connect: Connect) -> None:
    """A REQ peer does not wait for all that a DEALER has in flight."""
    dealer, req = connect(zmq.DEALER), connect(zmq.REQ)
    totals = []
    for number in range(2_000 + IN_FLIGHT):
        if number < 2_000:
            dealer.send(request("add", amount=1, request_id=str(number)))
        if number % 200 == 0:
            req.send(request("echo", text="beside"))
            assert json.loads(req.recv())["text"] == "beside"
        if number >= IN_FLIGHT:
            totals.append(json.loads(dealer.recv())["total"])
    assert sorted(totals) == list(range(1, 2_001))


def test_a_peer_that_went_away_harms_nobody(agent: ServedAgent, connect: Connect, client: Client) -> None:
    """A reply that can't be delivered is dropped, and the next caller is served."""
    gone = connect(zmq.DEALER)
    gone.send(request("hold"))
    assert agent.entered.wait(PATIENCE_S)
    gone.close(linger=0)
    wait_until(lambda: agent.server_socket.sessions._ended, PATIENCE_S, "its end is noticed")  # type: ignore[union-attr]
    agent.gate.set()
    assert client.call("echo", text="next", deadline_s=PATIENCE_S)["text"] == "next"


def test_what_has_come_is_answered_when_the_loop_stops(agent: ServedAgent, connect: Connect) -> None:
    """A request that waits in the socket when the stop comes is answered before the socket closes."""
    socket = connect(zmq.DEALER)
    socket.send(request("hold", request_id="held"))
    assert agent.entered.wait(PATIENCE_S)
    socket.send(request("add", amount=2, request_id="waiting"))
    arrived: list[int] = []

    def stop_when_the_next_has_come() -> None:  # on the server's thread, which owns the socket
        arrived.append(agent.server_socket.socket.poll(int(PATIENCE_S * 1_000)))
        agent.server.stop()

    agent.before_hold_returns = stop_when_the_next_has_come
    agent.gate.set()
    assert {json.loads(socket.recv())["request_id"] for _ in range(2)} == {"held", "waiting"}
    assert arrived == [zmq.POLLIN]
    assert agent.executions == [2]


def test_a_stop_is_soon_also_under_a_flood(agent: ServedAgent, connect: Connect) -> None:
    """Peers that never pause can't keep the loop alive: it ends within the five seconds that SIGTERM gives it."""
    go_on = threading.Event()
    go_on.set()

    def flood() -> None:
        socket = connect(zmq.DEALER)
        socket.sndtimeo = 20
        while go_on.is_set():
            with contextlib.suppress(zmq.Again):
                while socket.poll(0):
                    socket.recv()
                socket.send(request("work"))

    floods = [threading.Thread(target=flood, daemon=True) for _ in range(2)]
    for thread in floods:
        thread.start()
    wait_until(lambda: agent.server._dispatcher.counters.requests > 200, PATIENCE_S, "the flood runs")
    try:
        with at_most(STOPS_WITHIN_S):
            agent.server.stop()
            agent._thread.join(STOPS_WITHIN_S)
        assert not agent._thread.is_alive()
    finally:
        go_on.clear()
        for thread in floods:
            thread.join()


def test_the_loop_says_that_it_turns(agent: ServedAgent) -> None:
    """Health reads this: an idle loop turns, and its heartbeat is never old."""
    assert agent.server.responsive
    heartbeat = agent.server._heartbeat
    first = heartbeat._beat_at
    wait_until(lambda: heartbeat._beat_at > first, PATIENCE_S, "the loop turns")
    wait_until(lambda: time.monotonic() - heartbeat._beat_at < 1, PATIENCE_S, "it has turned just now")


def test_the_longest_iteration_is_reported_once(agent: ServedAgent, client: Client) -> None:
    """How long the loop was busy with others' requests at most; the next answer is about what came since."""
    holder = threading.Thread(target=client.call, args=("hold",))
    holder.start()
    assert agent.entered.wait(PATIENCE_S)
    time.sleep(0.3)
    agent.gate.set()
    holder.join(PATIENCE_S)
    wait_until(lambda: agent.server.take_longest_turn_s() >= 0.3, PATIENCE_S, "the turn is over")  # after its reply
    assert agent.server.take_longest_turn_s() < 0.3


class Lost(Exception):
    """In place of the end of a process that may not answer any more."""


@pytest.mark.parametrize("action", ["who_am_i", "total", "add", "ask_another", "no_such_action"])
def test_no_reply_leaves_once_it_may_not(home: Path, server_keys: KeyPair, peer_keys: KeyPair, action: str) -> None:
    """Neither to a read, nor to a change, nor a deferred one, nor an error."""
    lost = threading.Event()

    def require_held() -> None:
        if lost.is_set():
            raise Lost

    agent = ServedAgent(home, server_keys, require_held=require_held)
    fields: dict[str, dict[str, Any]] = {"add": {"amount": 1}, "ask_another": {"name": "it"}}
    with Client(agent.secured(peer_keys)) as client, ThreadPoolExecutor(1) as thread:
        assert client.call("who_am_i")["name"] == peer_keys.certificate.owner.name
        if action != "ask_another":
            lost.set()
        called = thread.submit(client.call, action, deadline_s=1.0, **fields.get(action, {}))
        if action == "ask_another":
            wait_until(lambda: agent.asked, PATIENCE_S, "it is asked")
            lost.set()
            agent.asked["it"].set_result({"status": "ok"})
        with pytest.raises(ConnectionRefused):
            called.result()
    agent.server.stop()
    assert isinstance(agent.join(), Lost)
