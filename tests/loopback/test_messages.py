"""Messages received and sent many at a time: the same with pyzmq and compiled."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator

import psutil
import pytest
import zmq

from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.framing.messages import discard_rest, new_account, receive, send
from twinhost.secure_zmq.sockets import DONTWAIT, last_endpoint
from twinhost.worker import signals_blocked

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]
ALL = 1_000_000
WAITS_MS = 30
STORM_S, EVERY_S = 0.5, 0.000_02
LARGE = bytes(500_000)
FIRST = (b"1", b"2", b"3")

pytestmark = pytest.mark.usefixtures("received_by")


@pytest.fixture
def router(context: "Context") -> Socket:
    """A ROUTER that reports an unknown peer, as the server's does."""
    socket = context.socket(zmq.ROUTER)
    socket.router_mandatory = True
    socket.rcvtimeo = WAITS_MS
    socket.bind("inproc://router")  # a message has arrived as soon as it is sent
    socket.bind("tcp://127.0.0.1:*")
    return socket


@pytest.fixture
def peer(context: "Context", router: Socket) -> Socket:
    socket = context.socket(zmq.DEALER)
    socket.routing_id = b"peer"
    socket.rcvtimeo = int(1_000 * PATIENCE_S)
    socket.connect("inproc://router")
    return socket


@pytest.fixture
def remote(context: "Context", router: Socket) -> Socket:
    """A peer over TCP, whose frames have an address."""
    socket = context.socket(zmq.DEALER)
    socket.routing_id = b"remote"
    socket.connect(last_endpoint(router))
    return socket


def send_counted(router: Socket, messages: Iterable[tuple[list[bytes], bytes]], *, at_once: bool) -> list[int]:
    """Send messages that count for one connection's account."""
    account = new_account(new_account())
    return send(router, [(route, content, account) for route, content in messages], at_once=at_once)


def first_of(router: Socket) -> tuple[bytes, zmq.Frame]:
    """Return the message that comes next."""
    return wait_until(lambda: receive(router, 1, ALL, 0), PATIENCE_S, "a message")[0]


def test_what_has_arrived_is_received_in_order(router: Socket, peer: Socket) -> None:
    """As far as there is room; the rest by the next call."""
    for each in (*FIRST, b"4"):
        peer.send(each)
    assert [(name, frame.bytes) for name, frame in receive(router, 3, ALL, 0)] == [
        (b"peer", each) for each in (b"1", b"2", b"3")
    ]
    assert [frame.bytes for _, frame in receive(router, 3, ALL, DONTWAIT)] == [b"4"]
    assert receive(router, 3, ALL, DONTWAIT) == []


def test_the_rest_of_a_message_is_discarded_and_counted(router: Socket, peer: Socket) -> None:
    """However many frames it has; the next message begins where it ends."""
    for frames in (2, 10_000):
        peer.send_multipart([b"first"] * frames)
        peer.send(b"next")
        assert first_of(router)[1].more
        assert discard_rest(router) == (frames - 1, (frames - 1) * len(b"first"))
        assert first_of(router)[1].bytes == b"next"


def test_no_more_is_received_than_the_bytes_allow(router: Socket, peer: Socket) -> None:
    """The first message is received whatever its size."""
    peer.send(b"x" * 100)
    peer.send(b"y" * 10)
    peer.send(b"z" * 10)
    peer.send(b"last")
    assert [len(frame) for _, frame in receive(router, 9, 50, 0)] == [100]
    assert [len(frame) for _, frame in receive(router, 9, 11, 0)] == [10, 10]


def test_it_waits_for_the_first_message_alone(router: Socket, peer: Socket) -> None:
    began = time.monotonic()
    assert receive(router, 2, ALL, 0) == []
    assert time.monotonic() - began >= (WAITS_MS - 1) / 1_000  # libzmq counts whole ms, from when the last one began
    router.rcvtimeo = -1  # for ever
    peer.send(b"alone")
    assert [frame.bytes for _, frame in receive(router, 9, ALL, 0)] == [b"alone"]


def test_it_looks_for_a_message_without_sleeping(router: Socket, peer: Socket) -> None:
    """For the time that it is given; then it waits as always."""
    sending = threading.Timer(0.1, peer.send, [b"late"])
    sending.start()
    assert [frame.bytes for _, frame in receive(router, 9, ALL, 0, int(1e6 * PATIENCE_S))] == [b"late"]
    sending.join()
    began = time.monotonic()
    assert receive(router, 9, ALL, 0, 100_000) == []
    assert time.monotonic() - began >= 0.1 + WAITS_MS / 1_000
    assert receive(router, 9, ALL, DONTWAIT, int(1e6 * PATIENCE_S)) == []
    assert time.monotonic() - began < PATIENCE_S


def test_a_message_of_several_frames_is_the_last(router: Socket, peer: Socket) -> None:
    """The caller receives the rest of it."""
    peer.send_multipart([b"", b"request"])
    peer.send(b"next")
    ((_, frame),) = receive(router, 9, ALL, 0)
    assert (frame.more, frame.bytes) == (True, b"")
    assert router.recv() == b"request"
    ((_, frame),) = receive(router, 9, ALL, 0)
    assert (frame.more, frame.bytes) == (False, b"next")


def test_a_frame_has_what_the_server_reads(router: Socket, remote: Socket) -> None:
    """Its bytes, a view of them that outlives it, and where it came from."""
    remote.send(b"\x81 large")
    name, frame = first_of(router)
    view = frame.buffer
    assert (name, frame.bytes, bytes(view), len(frame)) == (b"remote", b"\x81 large", b"\x81 large", 7)
    assert frame.get("Peer-Address") == frame.get(b"Peer-Address") == "127.0.0.1"
    assert isinstance(frame.get(zmq.SRCFD), int)
    for missing in ("Peer-Identity", b"Peer-Identity"):
        with pytest.raises(zmq.ZMQError, match="Invalid argument"):
            frame.get(missing)
    del frame
    assert bytes(view) == b"\x81 large"


def test_a_sequence_of_requests_is_the_last(router: Socket, peer: Socket) -> None:
    """It may hold many, for which the server has to have room."""
    for each in (b"", b"\x1e{}\x1e{}", b"next"):
        peer.send(each)
    assert [frame.bytes for _, frame in receive(router, 9, ALL, 0)] == [b"", b"\x1e{}\x1e{}"]
    assert [frame.bytes for _, frame in receive(router, 9, ALL, 0)] == [b"next"]


def test_a_closed_socket_is_an_error(router: Socket) -> None:
    router.close()
    with pytest.raises(zmq.ZMQError) as closed:
        receive(router, 1, ALL, 0)
    assert closed.value.errno == zmq.ENOTSOCK


@contextlib.contextmanager
def many_signals() -> Iterator[list[int]]:
    """Interrupt this thread every 20 us; libzmq may end a call early for a signal, also between two frames."""
    signals: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: signals.append(number))
    limit = signal.setitimer(signal.ITIMER_REAL, EVERY_S, EVERY_S)  # the test's own, by pytest-timeout
    try:
        yield signals
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0.05)  # another thread may be about to receive one, which is not for the handler before
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *limit)


def test_signals_lose_no_frame(router: Socket, peer: Socket) -> None:
    """Neither of the two frames of a message."""
    until, received_enough = time.monotonic() + STORM_S, threading.Event()

    def flood() -> None:
        while not received_enough.is_set():  # else a receive would wait: each signal begins its time limit again
            with contextlib.suppress(zmq.Again):  # as many as there is room for
                peer.send_multipart([b"request", b""], DONTWAIT)  # libzmq looks for signals at every hundredth frame
                for _ in range(500):
                    peer.send(b"request", DONTWAIT)
            time.sleep(0.002)

    thread = threading.Thread(target=flood)
    with signals_blocked():
        thread.start()
    try:
        with many_signals() as signals:
            while time.monotonic() < until:
                for name, frame in receive(router, 256, ALL, 0):
                    assert (name, frame.bytes) == (b"peer", b"request")
                    if frame.more:
                        assert router.recv() == b""
    finally:
        received_enough.set()
        thread.join()
    assert len(signals) > 100


@pytest.mark.parametrize("at_once", [True, False])
def test_signals_send_no_reply_to_another_peer(router: Socket, peer: Socket, remote: Socket, at_once: bool) -> None:
    """A message of which only the first frame was sent would be completed by the next one's routing-id."""
    for each in (peer, remote):
        each.send(b"request")
        first_of(router)
    replies = [([name, b"", b""], name) for name in (b"peer", b"remote")] * 250  # libzmq looks for signals every ms
    with many_signals() as signals:
        for _ in range(20):
            signal.setitimer(signal.ITIMER_REAL, EVERY_S, EVERY_S)
            for _ in range(3):
                assert send_counted(router, replies, at_once=at_once) == []
            signal.setitimer(signal.ITIMER_REAL, 0)
            for name, socket in ((b"peer", peer), (b"remote", remote)):
                for _ in range(3 * 250):
                    assert socket.recv_multipart() == [b"", b"", name]
    assert len(signals) > 10


def test_a_message_that_was_sent_in_part_is_an_error() -> None:
    """As when the Context is terminated between two frames; the next frame would go to that message's peer."""
    for _ in range(20):  # it may be terminated between two messages
        context: Context = zmq.Context()
        terminating = threading.Timer(0.003, context.term)  # while messages are sent
        with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as peer:
            router.router_mandatory, peer.routing_id = True, b"peer"
            for each in (router, peer):
                each.set_hwm(0)
                each.linger = 0
            router.bind("inproc://router")
            peer.connect("inproc://router")
            terminating.start()
            try:
                while zmq.ETERM not in send_counted(router, [([b"peer", *[b""] * 100], b"")], at_once=True):
                    pass
                sent_in_part = False
            except zmq.ZMQError as error:
                sent_in_part = error.errno == zmq.ETERM
        terminating.join()
        if sent_in_part:
            return
    pytest.fail("no message was sent in part")


@pytest.mark.parametrize("at_once", [True, False])
def test_messages_are_sent_in_order_by_their_routes(
    router: Socket, peer: Socket, remote: Socket, at_once: bool
) -> None:
    """A route may have several frames; there may be more messages than are sent at once."""
    for each in (peer, remote):
        each.send(b"request")
        first_of(router)
    replies = [([b"peer", b"1", b""], b"first"), *(([b"remote"], bytes([number])) for number in range(200))]
    assert send_counted(router, replies, at_once=at_once) == []
    assert peer.recv_multipart() == [b"1", b"", b"first"]
    assert [remote.recv() for _ in range(200)] == [bytes([number]) for number in range(200)]
    assert send_counted(router, [], at_once=at_once) == []


@pytest.mark.parametrize("at_once", [True, False])
def test_who_cannot_be_sent_to_delays_nobody(router: Socket, peer: Socket, remote: Socket, at_once: bool) -> None:
    """A peer that is gone, or whose queue is full."""
    for each in (peer, remote):
        each.send(b"request")
        first_of(router)
    many = 3 * (router.sndhwm + remote.rcvhwm)
    replies = [([b"gone"], b""), *[([b"peer", b""], b"")] * many, ([b"remote"], b"1"), ([b"remote"], b"2")]
    failed = send_counted(router, replies, at_once=at_once)
    assert failed == [zmq.EHOSTUNREACH, *[zmq.EAGAIN] * (len(failed) - 1)]
    assert many / 3 < len(failed) <= many
    assert [remote.recv_multipart(), remote.recv_multipart()] == [[b"1"], [b"2"]]


@pytest.mark.parametrize("received_by", ["compiled"], indirect=True)
def test_no_frame_is_sent_of_a_message_that_is_wrong(router: Socket, peer: Socket) -> None:
    """The next message would be taken as the rest of it."""
    peer.send(b"request")
    first_of(router)
    other = ([b"another peer"], b"")
    for wrong in (([b"peer", "text"], b""), ([b"peer"] + [b""] * 125, b""), ([b"peer"], "text"), ([], b"")):
        with pytest.raises((TypeError, ValueError)):
            send_counted(router, [([b"peer"], b""), wrong, other], at_once=True)  # type: ignore[list-item]
    assert send_counted(router, [([b"peer"] + [b""] * 124, b"reply"), other], at_once=True) == [zmq.EHOSTUNREACH]
    assert peer.recv_multipart() == [b""] * 124 + [b"reply"]


def test_nothing_is_leaked(router: Socket, remote: Socket) -> None:
    """Neither a reference to an object, nor the memory of a frame."""
    remote.send(b"first")
    address, process = first_of(router)[1].get("Peer-Address"), psutil.Process()
    references, memory = sys.getrefcount(address), process.memory_info().rss
    for _ in range(300):
        remote.send(b"x" * 500_000)
        _, frame = first_of(router)
        assert frame.get("Peer-Address") == address
        assert len(frame.buffer) == 500_000
    assert sys.getrefcount(address) <= references
    assert process.memory_info().rss - memory < 50_000_000  # of 150 MB


@pytest.mark.parametrize(
    ("route", "content"),
    [
        ([b"gone", LARGE], LARGE),
        ([b"peer", LARGE], "text"),
        ([b"peer", LARGE, "text"], b""),
    ],
    ids=["not sent", "of a wrong type", "with a route of a wrong type"],
)
@pytest.mark.parametrize("received_by", ["compiled"], indirect=True)
def test_what_is_not_sent_is_freed(router: Socket, route: list[bytes], content: bytes) -> None:
    """The memory of a frame that was made, and then not sent."""
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(300):
        with contextlib.suppress(TypeError):
            send_counted(router, [(route, content)], at_once=True)
    assert process.memory_info().rss - before < 50_000_000  # of 150 MB


def test_what_libzmq_holds_is_counted(router: Socket, remote: Socket, peer: Socket) -> None:
    """Of each connection, and of all of an owner; until libzmq has let go of it and of the one after it."""
    owner = new_account()
    one, other = new_account(owner), new_account(owner)
    for each in (remote, peer):
        each.send(b"request")
        first_of(router)
    assert send(router, [([b"peer"], LARGE, one)] * 3 + [([b"remote"], LARGE, other)], at_once=False) == []
    assert 3 * len(LARGE) <= one.unsent < 3 * len(LARGE) + 2_000
    assert one.of_owner == owner.unsent == one.unsent + other.unsent
    assert [len(peer.recv()) for _ in range(3)] == [len(LARGE)] * 3
    assert len(remote.recv()) == len(LARGE)
    wait_until(lambda: max(one.unsent, other.unsent) < 1.01 * len(LARGE), PATIENCE_S, "the last one counts")
    for account in (one, other):
        account.drained()
    assert owner.unsent == 0


def test_what_an_ended_connection_left_is_not_counted(router: Socket, remote: Socket) -> None:
    """Neither what was queued, nor the last one."""
    owner = new_account()
    account = new_account(owner)
    remote.rcvhwm = 1
    remote.send(b"request")
    first_of(router)
    send(router, [([b"remote"], LARGE, account)] * 200, at_once=False)
    assert owner.unsent > 50 * len(LARGE)
    remote.close(0)
    wait_until(lambda: router.poll(1) or owner.unsent < 1.01 * len(LARGE), PATIENCE_S, "the queue is freed")
    del account
    assert owner.unsent == 0
