"""An answer that comes from another thread: the loop goes on meanwhile, and everybody gets what is theirs."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.identities import authorize, new_pair
from tests.loopback.agent import PAYLOAD_LIMIT, ServedAgent
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.adversary.clients import open_session
from twinhost.adversary.zmtp import Disconnected, connect_to
from twinhost.secure_zmq.actions import Completed, InParts
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.dispatch import SLICE_S
from twinhost.secure_zmq.errors import InternalError, LimitReached, MessageTooLarge
from twinhost.secure_zmq.key_writer import write_revocation
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.wire import Reply

SENT_WITHIN_S = 0.5  # of its being there


def asked(agent: ServedAgent, name: str) -> None:
    wait_until(lambda: name in agent.asked, PATIENCE_S, f"{name} is asked for")


def test_the_loop_continues_while_an_answer_is_pending(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Another client is served meanwhile, and the answer is sent when it is there."""
    with ThreadPoolExecutor() as pool, Client(agent.secured(peer_keys)) as other:

        def call() -> object:
            with Client(agent.secured(peer_keys)) as client:
                return client.call("ask_another", name="a", deadline_s=PATIENCE_S)["answer"]

        answer = pool.submit(call)
        asked(agent, "a")
        assert other.call("echo", text="meanwhile")["text"] == "meanwhile"
        assert not answer.done()
        with at_most(SENT_WITHIN_S):
            agent.asked["a"].set_result({"status": "ok", "answer": 42})
            assert answer.result(PATIENCE_S) == 42


def test_a_stop_sends_what_can_be_completed_now(
    agent: ServedAgent, peer_keys: KeyPair, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    """As at its deadline: its caller would wait for its own."""
    agent.asked["slow"] = Completed(Future(), lambda part: {"status": "ok", "answer": part}, within_s=60.0)
    with connected(context, agent, peer_keys) as socket:
        socket.send(json.dumps({"action": "ask_another", "name": "slow", "request_id": "a"}).encode())
        wait_until(lambda: agent.server._deferred, PATIENCE_S, "the reply is deferred")
        agent.server.stop()
        assert json.loads(socket.recv())["answer"] is None


@contextmanager
def connected(
    context: "zmq.Context[zmq.Socket[bytes]]", agent: ServedAgent, keys: KeyPair
) -> Iterator["zmq.Socket[bytes]"]:
    """Connect a plain DEALER, which keeps what it has received when the connection ends."""
    with context.socket(zmq.DEALER) as socket:
        socket.curve_serverkey = agent.public_key.z85
        socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
        socket.rcvtimeo, socket.linger = int(PATIENCE_S * 1_000), 0
        socket.connect(agent.address)
        yield socket


def test_answers_go_to_those_who_asked(
    agent: ServedAgent, peer_keys: KeyPair, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    """Two on one connection, answered in the other order, beside one that is answered at once."""
    with connected(context, agent, peer_keys) as socket:
        for name in ("a", "b"):
            socket.send(json.dumps({"action": "ask_another", "name": name, "request_id": name}).encode())
        socket.send(json.dumps({"action": "echo", "text": "x", "request_id": "c"}).encode())
        assert json.loads(socket.recv())["request_id"] == "c"
        for name in ("b", "a"):
            asked(agent, name)
            agent.asked[name].set_result({"status": "ok", "answer": name})
            reply = json.loads(socket.recv())
            assert (reply["request_id"], reply["answer"]) == (name, name)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (LimitReached("too many wait"), LimitReached),
        (ZeroDivisionError("a fault of the program"), InternalError),
        (None, MessageTooLarge),
    ],
)
def test_a_pending_answer_may_be_an_error(
    agent: ServedAgent, peer_keys: KeyPair, fault: Exception | None, expected: type[Exception]
) -> None:
    """With its code; a fault of the program says nothing of itself, and one that is too large is not sent."""
    with ThreadPoolExecutor() as pool, Client(agent.secured(peer_keys)) as client:
        call = pool.submit(client.call, "ask_another", name="a", deadline_s=PATIENCE_S)
        asked(agent, "a")
        if fault is None:
            agent.asked["a"].set_result({"status": "ok", "text": "x" * PAYLOAD_LIMIT})
        else:
            agent.asked["a"].set_exception(fault)
        with pytest.raises(expected) as caught:
            call.result(PATIENCE_S)
        assert "a fault of the program" not in str(caught.value)


def test_who_is_revoked_meanwhile_gets_no_answer(agent: ServedAgent, peer_keys: KeyPair, home: Path) -> None:
    """Not even where the answer is there at the same moment: its connection is closed first."""
    with open_session(connect_to(agent.address), peer_keys, agent.public_key) as dealer:
        dealer.send(b'{"action": "ask_another", "name": "a"}')
        asked(agent, "a")
        write_revocation(peer_keys.certificate, home / "revoked")
        agent.peers.reload()
        agent.asked["a"].set_result({"status": "ok", "answer": "secret"})
        with pytest.raises(Disconnected):
            print(dealer.receive())


def test_a_peer_that_reuses_a_routing_id_gets_no_answer(
    agent: ServedAgent, peer_keys: KeyPair, home: Path, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    """A peer may choose its routing-id, and another the same one when that connection has ended."""
    other = new_pair("neighbour", "pc3")
    authorize(home, other)
    agent.peers.reload()

    def connect(keys: KeyPair) -> "zmq.Socket[bytes]":
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, b"known")
        socket.curve_serverkey = agent.public_key.z85
        socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
        socket.rcvtimeo, socket.linger = int(PATIENCE_S * 1_000), 0
        socket.connect(agent.address)
        return socket

    victim = connect(peer_keys)
    victim.send(b'{"action": "ask_another", "name": "a"}')
    asked(agent, "a")
    victim.close()
    wait_until(lambda: agent.server_socket.sessions.counts() == {}, PATIENCE_S, "the connection has ended")

    def take_over() -> "zmq.Socket[bytes] | None":
        """The id is free a moment after its connection ended; what its next owner sends until then is lost."""
        taker = connect(other)
        taker.send(b'{"action": "echo", "text": "first"}')
        if taker.poll(500):
            return taker
        taker.close()
        return None

    taker = wait_until(take_over, PATIENCE_S, "served under the same routing-id")
    assert taker is not None
    assert json.loads(taker.recv())["text"] == "first"
    agent.asked["a"].set_result({"status": "ok", "answer": "for the victim alone"})
    taker.send(b'{"action": "echo", "text": "second"}')
    assert json.loads(taker.recv())["text"] == "second"
    taker.rcvtimeo = 300
    with pytest.raises(zmq.Again):
        print(taker.recv())


def test_answers_that_are_completed_in_parts_all_come(
    agent: ServedAgent, peer_keys: KeyPair, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    """Also those that wait behind one which has taken all the time of a turn."""

    def parts(name: str) -> InParts[Reply]:
        yield
        time.sleep(2 * SLICE_S)
        return {"status": "ok", "answer": name}

    names = [str(number) for number in range(8)]
    part: Future[None] = Future()
    for name in names:
        answer: Future[Any] = Completed(part, lambda _, name=name: parts(name), within_s=60.0)  # type: ignore[misc]
        agent.asked[name] = answer
    with ExitStack() as stack:
        sockets = [stack.enter_context(connected(context, agent, peer_keys)) for _ in range(4)]
        for name, socket in zip(names, 2 * sockets, strict=True):
            socket.send(json.dumps({"action": "ask_another", "name": name, "request_id": name}).encode())
        wait_until(lambda: len(agent.server._deferred) == len(names), PATIENCE_S, "all wait")
        part.set_result(None)
        replies = [json.loads(socket.recv()) for socket in 2 * sockets]
    assert sorted((reply.get("request_id"), reply.get("answer")) for reply in replies) == [(n, n) for n in names]
