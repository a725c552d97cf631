"""How many requests the loop takes in before it answers: few that only read, and before a commit all there are."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, pairwise
from typing import Any, cast

import pytest
import zmq

from tests.loopback.agent import ANY_PORT
from tests.waiting import PATIENCE_S
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.framing import messages
from twinhost.secure_zmq.framing.forms import together
from twinhost.secure_zmq.framing.inbound import Deferred, Inbound
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.server import MAX_BATCH, MAX_READS, MAX_READS_OF_MANY, Server
from twinhost.secure_zmq.sockets import DONTWAIT, open_unencrypted_server_socket

Context = zmq.Context[zmq.Socket[bytes]]
MANY = MAX_BATCH + 100  # fewer than the replies that a server keeps for a peer


class Answerer:
    """In the dispatcher's place: answers with the payload, and notes how many came at once, and before a commit."""

    max_payload_bytes = 1 << 20

    def __init__(self, *, commits: bool) -> None:
        self.first: list[int] = []
        self.all: list[int] = []
        self._commits = commits

    def answer(self, batch: Sequence[Inbound], more: Callable[[], Sequence[Inbound]]) -> list[bytes]:
        inbounds = list(batch)
        self.first.append(len(inbounds))
        until = time.monotonic() + 1.0  # for the rest to come
        while self._commits and time.monotonic() < until and len(inbounds) < MAX_BATCH:
            inbounds += more()
        assert not (self._commits and len(inbounds) >= MAX_BATCH and more()), "there is room for no more"
        self.all.append(len(inbounds))
        return [bytes(inbound.payload) for inbound in inbounds]

    def take_deferred(self) -> dict[int, Deferred]:
        return {}


@pytest.fixture
def asked(context: Context, received_by: str) -> Iterator[Callable[..., list[bytes]]]:
    """Ask a server that answers only once all of it has been sent; return the replies in their order."""
    ends: list[Callable[[], None]] = []

    def ask(answerer: Answerer, asked: list[bytes], peers: int = 1) -> list[bytes]:
        bound = open_unencrypted_server_socket(context, ANY_PORT, 1 << 20, Handshakes())
        server = Server(bound, cast(Dispatcher, answerer), lambda: None)
        in_turn: list[zmq.Socket[bytes]] = [context.socket(zmq.DEALER) for _ in range(peers)]
        for peer in in_turn:
            peer.sndhwm = peer.rcvhwm = peer.linger = 0
            peer.rcvtimeo = int(PATIENCE_S * 1_000)
            peer.connect(bound.address)
        for peer, message in zip(cycle(in_turn), asked, strict=False):
            peer.send(message)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        ends.extend([*(peer.close for peer in in_turn), thread.join, server.stop])
        return [peer.recv() for peer, _ in zip(cycle(in_turn), asked, strict=False)]

    yield ask
    while ends:
        ends.pop()()


def numbered(count: int, size: int = 0) -> list[bytes]:
    return [b"%d" % number + bytes(size) for number in range(count)]


@pytest.mark.parametrize(("peers", "least", "most"), [(1, 2, MAX_READS), (3, MAX_READS + 1, MAX_READS_OF_MANY)])
def test_what_only_reads_comes_in_small_batches(asked: Callable[..., Any], peers: int, least: int, most: int) -> None:
    """The first is answered alone, and never are more than a few taken in before any is answered."""
    answerer = Answerer(commits=False)
    assert asked(answerer, numbered(MANY), peers) == numbered(MANY)
    assert answerer.first[0] == 1
    assert least <= max(answerer.first) <= most
    assert sum(answerer.first) == MANY


def test_a_commit_is_shared_by_a_bounded_batch(asked: Callable[..., Any]) -> None:
    """Asked for more, the loop hands over what is there, in its order."""
    answerer = Answerer(commits=True)
    assert asked(answerer, numbered(MANY)) == numbered(MANY)
    assert answerer.all[0] == MAX_BATCH
    assert max(answerer.all) <= MAX_BATCH


def test_large_requests_share_nothing_beyond_their_bytes(asked: Callable[..., Any]) -> None:
    """A batch is full with the request that brings it to 256 KiB."""
    answerer = Answerer(commits=True)
    large = numbered(6, 200 * 1024)
    assert asked(answerer, large) == large
    assert max(answerer.all) == 2


@pytest.mark.parametrize(("commits", "most"), [(False, MAX_READS), (True, MAX_BATCH)])
def test_requests_of_a_frame_count_each(asked: Callable[..., Any], commits: bool, most: int) -> None:
    """A batch has room for so many requests; only the frame that fills it may go beyond."""
    answerer = Answerer(commits=commits)
    frames = [together(numbered(10))] * 60
    assert asked(answerer, frames) == frames
    assert most <= max(answerer.all) < most + 10


def test_requests_that_come_alone_are_received_alone(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pyzmq no second receive is tried for a peer that waits for each reply: it would fail."""
    monkeypatch.setattr(messages, "compiled", None)
    bound = open_unencrypted_server_socket(context, ANY_PORT, 1 << 20, Handshakes())
    server = Server(bound, cast(Dispatcher, Answerer(commits=False)), lambda: None)
    received: list[tuple[int, bool]] = []
    receive = bound.socket.recv

    def noting(flags: int = 0, copy: bool = True) -> Any:
        received.append((flags, copy))
        return receive(flags, copy=copy)

    monkeypatch.setattr(bound.socket, "recv", noting)
    thread = threading.Thread(target=server.serve_forever)
    with context.socket(zmq.DEALER) as peer:
        peer.linger, peer.rcvtimeo = 0, int(PATIENCE_S * 1_000)
        peer.connect(bound.address)
        thread.start()
        for message in numbered(10):
            peer.send(message)
            assert peer.recv() == message
    server.stop()
    thread.join()
    after_a_request = [after for before, after in pairwise(received) if before == (0, False)]
    assert (DONTWAIT, True) not in after_a_request
