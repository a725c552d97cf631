"""What the code relies on of libzmq to distinguish peers and events, pinned."""

import pytest
import zmq

from tests.loopback.bare_zmq import Clients, Context, curve_server, endpoint, zap_handler
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.link import BROKEN_OFF_BEFORE_VERDICT, Diagnosis
from twinhost.secure_zmq.monitor import EventKind, Monitor, SocketEvent

ZAP_ENFORCE_DOMAIN = 93
PATIENCE_MS = int(PATIENCE_S * 1_000)
ACCEPT = [b"200", b"OK", b"somebody", b"\x0fKey-Fingerprint\x00\x00\x00\x03abc"]
REFUSE = [b"400", b"no", b"", b""]


def test_the_handlers_answer_reaches_the_frame(
    context: "Context", clients: Clients, server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """User-Id and each metadata property of a 200 are on every message, beside the peer's address and descriptor."""
    questions: list[list[bytes]] = []

    def answer(frames: list[bytes]) -> list[bytes]:
        questions.append(frames)
        return ACCEPT

    zap_handler(context, answer)
    server = curve_server(context, server_keys, (zmq.ZAP_DOMAIN, b"twinhost"), (ZAP_ENFORCE_DOMAIN, 1))
    client = clients.curve(peer_keys, server, server_keys)
    client.send(b"again")
    for _ in range(2):
        assert server.poll(PATIENCE_MS)
        frame = server.recv(copy=False)
        assert (frame.get("User-Id"), frame.get("Key-Fingerprint")) == ("somebody", "abc")
        assert frame.get("Peer-Address") == "127.0.0.1"
        assert int(frame.get(zmq.SRCFD)) > 0
        with pytest.raises(zmq.ZMQError):
            frame.get("Not-There")
    assert questions == [[b"1.0", questions[0][1], b"twinhost", b"127.0.0.1", b"", b"CURVE", peer_keys.public.raw]]


def test_the_handler_is_asked_at_the_handshake_alone(
    context: "Context", clients: Clients, server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """A session goes on when the handler has changed its mind: each message must be checked by us."""
    answers = [ACCEPT]
    zap_handler(context, lambda _: answers[0])
    server = curve_server(context, server_keys, (zmq.ZAP_DOMAIN, b"twinhost"), (ZAP_ENFORCE_DOMAIN, 1))
    client = clients.curve(peer_keys, server, server_keys)
    assert server.poll(PATIENCE_MS)
    server.recv()
    answers[0] = REFUSE
    client.send(b"still here")
    assert server.poll(PATIENCE_MS)


def test_libzmqs_and_chosen_routing_ids_may_begin_with_zero(context: "Context", clients: Clients) -> None:
    """The zero proves nothing: what keeps a cached identity true is that the end of its connection drops it."""
    router = context.socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:*")
    routing_ids = []
    for routing_id in (None, b"\0chosen"):
        clients.plain(router, routing_id)
        assert router.poll(PATIENCE_MS)
        routing_ids.append(router.recv_multipart()[0])
    assert (routing_ids[0][:1], len(routing_ids[0])) == (b"\0", 5)
    assert routing_ids[1] == b"\0chosen"


def test_a_mute_peer_is_a_different_event_from_one_that_hangs_up(context: "Context", peer_keys: KeyPair) -> None:
    """However often libzmq's own handshake time-out strikes, it comes as EAGAIN, and is no verdict on the pin."""
    mute = context.socket(zmq.STREAM)
    mute.bind("tcp://127.0.0.1:*")
    events: list[SocketEvent] = []
    diagnosis = Diagnosis(endpoint(mute), "own", "pin", lambda _: "CURVE")

    def take(event: SocketEvent) -> None:
        events.append(event)
        diagnosis.feed(event)

    dealer = context.socket(zmq.DEALER)
    dealer.handshake_ivl, dealer.reconnect_ivl = 30, 10
    dealer.curve_secretkey, dealer.curve_publickey = peer_keys.secret_z85, peer_keys.public.z85
    dealer.curve_serverkey = peer_keys.public.z85
    monitor = Monitor(dealer, take)
    dealer.connect(endpoint(mute))
    enough = BROKEN_OFF_BEFORE_VERDICT + 2
    wait_until(lambda: sum(event.kind is EventKind.BROKEN_OFF for event in events) >= enough, PATIENCE_S, "time-outs")
    monitor.close()
    assert {event.value for event in events if event.kind is EventKind.BROKEN_OFF} == {zmq.EAGAIN}
    assert diagnosis.verdict() is None
