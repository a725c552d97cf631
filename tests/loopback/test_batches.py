"""How many requests the loop takes in before it answers: few that only read, and before a commit all there are."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import pairwise
from random import Random
from typing import Any, cast

import pytest
import zmq

from tests.loopback.agent import ANY_PORT
from tests.waiting import PATIENCE_S
from twinhost.secure_zmq.bound_socket import open_unencrypted_server_socket
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.dispatch import Dispatcher, More
from twinhost.secure_zmq.framing import messages
from twinhost.secure_zmq.framing.forms import SEPARATOR, replies_in, together
from twinhost.secure_zmq.framing.inbound import DeferredReply, Inbound, Job
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.server import MAX_BATCH, MAX_READS, MAX_READS_OF_MANY, Server
from twinhost.secure_zmq.sockets import DONTWAIT

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]
MANY = MAX_BATCH + 100  # fewer than the replies that a server keeps for a peer
ARRIVAL_S = 0.3  # for all that was sent to arrive: a server as fast as the connection finds few requests at a time


class Answerer:
    """In the dispatcher's place: answers with the payload, and notes how many came at once, and before a commit."""

    max_payload_bytes = 1 << 20
    spent: Sequence[tuple[Caller | None, float]] = ()
    begun: Job | None = None

    def __init__(self, *, commits: bool) -> None:
        self.first: list[int] = []
        self.all: list[int] = []
        self._commits = commits

    def answer(self, batch: Sequence[Inbound], more: More) -> list[bytes]:
        inbounds = list(batch)
        self.first.append(len(inbounds))
        if len(self.first) == 1 and not self._commits:
            time.sleep(ARRIVAL_S)
        until = time.monotonic() + 1.0  # for the rest to come
        while self._commits and time.monotonic() < until and len(inbounds) < MAX_BATCH:
            inbounds += more() or []
        assert not (self._commits and len(inbounds) >= MAX_BATCH and more()), "there is room for no more"
        self.all.append(len(inbounds))
        return [bytes(inbound.payload) for inbound in inbounds]

    def take_deferred(self) -> dict[int, DeferredReply]:
        return {}


class PartAnswerer(Answerer):
    """Answers a part of each batch, and what begins with `later` after the rest of that part."""

    def __init__(self, seed: int) -> None:
        super().__init__(commits=False)
        self._random = Random(seed)
        self._deferred: dict[int, DeferredReply] = {}

    def answer(self, batch: Sequence[Inbound], more: More) -> list[bytes]:
        replies = super().answer(batch[: self._random.randint(1, len(batch))], more)
        for place, reply in enumerate(replies):
            if reply.startswith(b"later"):
                answer: Future[Any] = Future()
                answer.set_result(reply)
                self._deferred[place] = DeferredReply(cast(Job, None), answer, 0.0)
                replies[place] = b""
        return replies

    def take_deferred(self) -> dict[int, DeferredReply]:
        deferred, self._deferred = self._deferred, {}
        return deferred

    def settle(self, deferred: DeferredReply) -> bytes:
        return cast(bytes, deferred.answer.result())


@pytest.fixture
def sent(context: Context, received_by: str) -> Iterator[Callable[..., list[Socket]]]:
    """Start a server only once all of what each peer asks has been sent; return the peers."""
    ends: list[Callable[[], None]] = []

    def send(answerer: Answerer, *of_peers: list[bytes]) -> list[Socket]:
        bound = open_unencrypted_server_socket(context, ANY_PORT, 1 << 20, Handshakes())
        server = Server(bound, cast(Dispatcher, answerer), lambda: None)
        peers = [context.socket(zmq.DEALER) for _ in of_peers]
        for peer, asked in zip(peers, of_peers, strict=True):
            peer.sndhwm = peer.rcvhwm = peer.linger = 0
            peer.rcvtimeo = int(PATIENCE_S * 1_000)
            peer.connect(bound.address)
            for message in asked:
                peer.send(message)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        ends.extend([*(peer.close for peer in peers), thread.join, server.stop])
        return peers

    yield send
    while ends:
        ends.pop()()


@pytest.fixture
def asked(sent: Callable[..., list[Socket]]) -> Callable[..., list[bytes]]:
    """Ask a server as one peer; return the replies in their order."""

    def ask(answerer: Answerer, asked: list[bytes]) -> list[bytes]:
        (peer,) = sent(answerer, asked)
        return [peer.recv() for _ in asked]

    return ask


def numbered(count: int, size: int = 0) -> list[bytes]:
    return [b"%d" % number + bytes(size) for number in range(count)]


@pytest.mark.parametrize(("peers", "least", "most"), [(1, 2, MAX_READS), (3, MAX_READS + 1, MAX_READS_OF_MANY)])
def test_what_only_reads_comes_in_small_batches(sent: Callable[..., Any], peers: int, least: int, most: int) -> None:
    """The first is answered alone, and never are more than a few taken in before any is answered."""
    answerer = Answerer(commits=False)
    for number, peer in enumerate(sent(answerer, *(numbered(MANY)[number::peers] for number in range(peers)))):
        assert [peer.recv() for _ in numbered(MANY)[number::peers]] == numbered(MANY)[number::peers]
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


@pytest.mark.parametrize("seed", range(3))
def test_replies_of_a_mixed_batch_go_to_who_asked(sent: Callable[..., list[Socket]], seed: int) -> None:
    """In the order of each peer's requests, those of a frame together, and those that come later alone."""
    random, frames = Random(seed), list[list[list[bytes]]]()
    for owner in range(3):
        frames.append([])
        for number in range(60):
            parts = random.choice([1, 1, 1, 2, 5])
            kinds = (random.choice([b"", b"", b"later "]) for _ in range(parts))
            frames[-1].append([kind + b"%d %d %d" % (owner, number, part) for part, kind in enumerate(kinds)])
    peers = sent(PartAnswerer(seed), *([together(each) if each[1:] else each[0] for each in of] for of in frames))
    for peer, asked in zip(peers, frames, strict=True):
        expected, came = [part for parts in asked for part in parts], list[list[bytes]]()
        alone = [part for parts in asked for part in parts if len(parts) == 1 or part.startswith(b"later")]
        while sum(map(len, came)) < len(expected):
            reply = peer.recv()
            came.append(replies_in(reply))
            assert reply in alone or (reply[:1] == SEPARATOR and any(set(came[-1]) <= set(parts) for parts in asked))
        flat = [part for parts in came for part in parts]
        assert sorted(flat) == sorted(expected)
        assert [part for part in flat if part[:1] != b"l"] == [part for part in expected if part[:1] != b"l"]
        assert any(parts[1:] for parts in came)


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
