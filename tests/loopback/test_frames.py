"""Several requests in one frame, and MessagePack, on a real socket: answered as each would be alone."""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from tests.identities import authorize
from tests.loopback.agent import PAYLOAD_LIMIT, ServedAgent
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq import turns
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import PeerNotLive
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.framing.forms import (
    MAX_PARTS,
    MAX_REPLIES_BYTES,
    SEPARATOR,
    is_messagepack,
    replies_in,
    together,
)
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server import MAX_BATCH_BYTES
from twinhost.secure_zmq.server_address import SecuredAddress, open_connection
from twinhost.secure_zmq.wire import encode_request

pytestmark = pytest.mark.usefixtures("received_by")

SETTLED_S = 0.3

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


@contextmanager
def connected(context: Context, server: SecuredAddress) -> Iterator[Socket]:
    """A DEALER with an authorised key, which sends frames as they are."""
    connection = open_connection(server, context, lambda _: None, PAYLOAD_LIMIT)
    connection.socket.rcvtimeo = int(PATIENCE_S * 1_000)
    try:
        yield connection.socket
    finally:
        connection.close()


@pytest.fixture
def peer(context: Context, agent: ServedAgent, peer_keys: KeyPair) -> Iterator[Socket]:
    with connected(context, agent.secured(peer_keys)) as socket:
        yield socket


def request(action: str, number: object = None, **fields: Any) -> bytes:
    """Return a request whose id is a number, if one is given."""
    named = {} if number is None else {"request_id": str(number)}
    return json.dumps({"action": action, **named, **fields}).encode()


def received(peer: Socket, count: int) -> list[dict[str, Any]]:
    """Return so many replies; those of a frame come in several where the requests take more than 20 ms."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += documents(peer.recv())
    return found


def decoded(frame: bytes) -> Any:
    """Return a lone reply of either form."""
    return (msgspec.msgpack if is_messagepack(frame) else msgspec.json).decode(frame)


def documents(frame: bytes) -> list[dict[str, Any]]:
    return [json.loads(part) for part in replies_in(frame)]


def test_each_request_of_a_frame_is_answered_alone(agent: ServedAgent, peer: Socket) -> None:
    """Granted, refused, executed and counted one by one; the replies are in the order of the requests."""
    asked = (
        request("echo", 1, text="x"),
        request("add", 2, amount=3),
        request("reset", 3),
        b"no JSON",
        request("echo", 5, text=6),
        request("no_such", 6),
        b"\xef\xbb\xbf" + request("add", amount=5),  # a byte order mark
        b"\xff\xfe",
        "é".encode(),
        request("add", 7, amount=4),
        request("who_am_i", 8),
    )
    peer.send(together(asked))
    replies = received(peer, len(asked))
    codes = [reply.get("code") for reply in replies]
    malformed = "malformed_request"
    assert codes == [None, None, "not_granted", malformed, malformed, "unknown_action", *[malformed] * 3, None, None]
    ids = ["1", "2", "3", None, "5", "6", None, None, None, "7", "8"]
    assert [reply.get("request_id") for reply in replies] == ids
    assert agent.executions == [3, 4]
    assert agent.counters.requests == len(asked)
    assert agent.counters.errors == 7


def test_a_frame_with_one_request_is_answered_in_its_form(peer: Socket) -> None:
    """With the separator; a lone request without it, as before."""
    peer.send(together([request("who_am_i", 1)]))
    assert peer.recv().startswith(b"\x1e{")
    peer.send(request("who_am_i", 1))
    assert peer.recv().startswith(b"{")


def test_a_later_reply_comes_alone(agent: ServedAgent, peer: Socket) -> None:
    """The others of its frame don't wait for it."""
    peer.send(together([request("ask_another", 1, name="x"), request("who_am_i", 2)]))
    assert [reply["request_id"] for reply in documents(peer.recv())] == ["2"]
    agent.asked["x"].set_result({"status": "ok"})
    late = peer.recv()
    assert late.startswith(b"{")
    assert json.loads(late)["request_id"] == "1"


def test_a_repetition_may_have_another_form(agent: ServedAgent, peer: Socket) -> None:
    """In a frame with others, alone, and in MessagePack: it is the same request, and executed once."""
    again = msgspec.json.encode({"action": "add", "request_id": "once", "amount": 5})
    asking = msgspec.json.encode({"action": "add", "request_id": "once", "amount": 5, "accepts": ["json-seq"]})
    peer.send(asking)
    first = json.loads(peer.recv())
    assert first["accepts"] == ["json-seq", "messagepack"]
    peer.send(together([request("who_am_i", 1), again]))
    assert received(peer, 2)[1] == first
    peer.send(msgspec.msgpack.encode(msgspec.json.decode(again)))
    assert msgspec.msgpack.decode(peer.recv()) == first
    peer.send(msgspec.msgpack.encode({"action": "add", "request_id": "once", "amount": 6}))
    assert msgspec.msgpack.decode(peer.recv())["code"] == "request_id_reused"
    assert agent.executions == [5]


@pytest.mark.parametrize("accepts", [{}, {"accepts": ["json-seq"]}], ids=["plain", "with accepts"])
def test_a_repetition_may_have_another_spelling(agent: ServedAgent, peer: Socket, accepts: dict[str, Any]) -> None:
    """The first has the white space and escapes of Python's `json.dumps`; others have none, or are MessagePack."""
    fields = {"action": "add", "request_id": "once", "amount": 5, "note": ["é", {"x": 1.5}]}
    peer.send(json.dumps({**fields, **accepts}).encode())
    first = json.loads(peer.recv())
    for attempt in (fields, {**fields, "accepts": ["json-seq"]}, {**fields, "traceparent": "x"}):
        for again in (json.dumps(attempt).encode(), msgspec.json.encode(attempt), msgspec.msgpack.encode(attempt)):
            peer.send(again)
            assert decoded(peer.recv()) == first
    peer.send(json.dumps({**fields, "note": ["e", {"x": 1.5}]}).encode())
    assert json.loads(peer.recv())["code"] == "request_id_reused"
    assert agent.executions == [5]


def test_who_does_not_ask_is_not_told_of_other_forms(peer: Socket) -> None:
    peer.send(request("who_am_i", 1))
    assert "accepts" not in json.loads(peer.recv())


@pytest.mark.parametrize(
    "frame",
    [together([request("add", amount=1)] * (MAX_PARTS + 1)), b"\x1e", together([request("add", amount=1), b"\x81"])],
    ids=["too many", "none", "mixed forms"],
)
def test_a_frame_that_is_refused_is_refused_whole(agent: ServedAgent, peer: Socket, frame: bytes) -> None:
    """With one error, nothing of it executed; the next frame is served."""
    peer.send(frame)
    (refused,) = documents(peer.recv())
    assert refused["code"] == "malformed_request"
    peer.send(together([request("add", amount=2)] * MAX_PARTS))
    assert [reply["total"] for reply in received(peer, MAX_PARTS)] == list(range(2, 2 * MAX_PARTS + 2, 2))
    assert agent.executions == [2] * MAX_PARTS


@pytest.mark.sdt_security
@pytest.mark.parametrize("value", [dict, list], ids=["map", "array"])
def test_a_text_in_messagepack_is_never_taken_for_a_request(agent: ServedAgent, peer: Socket, value: type) -> None:
    """Somebody's text may hold 0x1E and a request, which would be the caller's if the frame were cut there."""
    text = "\x1e" + request("add", amount=7).decode() + "\x1e"
    carried = msgspec.msgpack.encode({"action": "echo", "text": text} if value is dict else [text])
    peer.send(together([request("who_am_i", 1), carried, request("who_am_i", 2)]))
    (refused,) = documents(peer.recv())
    assert refused["code"] == "malformed_request"
    assert "send MessagePack in its own frame" in refused["error"]
    peer.send(request("who_am_i", 3))
    assert json.loads(peer.recv())["request_id"] == "3"
    assert agent.executions == []


def test_many_replies_come_in_several_frames(peer: Socket) -> None:
    """Of 64 KiB at most, as long as each reply is smaller."""
    size = MAX_REPLIES_BYTES // 3
    peer.send(together([request("large", number, reply_bytes=size) for number in range(7)]))
    frames = [peer.recv() for _ in range(4)]
    assert all(len(frame) <= MAX_REPLIES_BYTES for frame in frames)
    assert [reply["request_id"] for frame in frames for reply in documents(frame)] == [str(n) for n in range(7)]


def test_a_large_frame_is_answered(peer: Socket) -> None:
    """A frame is read whole, even if it has more than the bytes that end a batch."""
    text = "x" * (MAX_BATCH_BYTES // 4)
    peer.send(together([request("echo", number, text=text) for number in range(8)]))
    found = [reply["request_id"] for reply in received(peer, 8)]
    assert found == [str(number) for number in range(8)]


def executed(agent: ServedAgent) -> int:
    """Return how many slow requests were executed, once no more are: one takes a millisecond."""
    before = -1
    while (now := agent.worked) != before:
        before = now
        time.sleep(SETTLED_S)
    return now


def held(count: int) -> list[bytes]:
    """Return so many slow requests, the first of which waits for the agent's gate."""
    return [request("hold", 0), *(request("work", number) for number in range(1, count))]


def worked_at_holds(agent: ServedAgent) -> list[int]:
    """Return a list that gets the number of slow requests executed before each `hold`, as the agent's loop knows it."""
    worked: list[int] = []
    agent.before_hold_returns = lambda: worked.append(agent.worked)
    return worked


@pytest.mark.parametrize("changes", [False, True], ids=["reads", "with a change"])
def test_slow_requests_of_one_frame_do_not_keep_the_others(
    context: Context, agent: ServedAgent, peer_keys: KeyPair, peer: Socket, changes: bool
) -> None:
    """Another connection's request, sent after a frame of 256 slow ones, is answered long before the last of them."""
    slow = held(MAX_PARTS)
    if changes:
        slow[1] = request("add", 1, amount=1)
    worked = worked_at_holds(agent)
    with connected(context, agent.secured(peer_keys)) as other:
        other.send(request("who_am_i", 0))
        other.recv()
        peer.send(together(slow))
        assert agent.entered.wait(PATIENCE_S)
        other.send(request("hold", 1))
        time.sleep(SETTLED_S)  # it has arrived
        agent.gate.set()
        other.recv()
    assert worked[1] < MAX_PARTS // 2
    found = [reply["request_id"] for reply in received(peer, MAX_PARTS)]
    assert found == [str(number) for number in range(MAX_PARTS)]


def test_requests_of_one_connection_keep_their_order(agent: ServedAgent, peer: Socket) -> None:
    """Those that arrive while earlier ones wait, alone or in a frame, are executed after them."""
    peer.send(together([request("work", number) for number in range(64)]))
    wait_until(lambda: agent.worked > 0, PATIENCE_S, "the frame is being answered")
    for number in range(64, 80):
        peer.send(request("add", number, amount=1))
    for begin in range(80, 144, 32):
        peer.send(together([request("work", number) for number in range(begin, begin + 32)]))
    found = [reply["request_id"] for reply in received(peer, 144)]
    assert found == [str(number) for number in range(144)]


def test_a_key_revoked_in_the_middle_of_a_frame_gets_no_more(
    home: Path, agent: ServedAgent, peer_keys: KeyPair, peer: Socket
) -> None:
    """Those of its requests that have not begun are refused, although the frame came before."""
    peer.send(together(held(MAX_PARTS)))
    assert agent.entered.wait(PATIENCE_S)
    (home / f"{peer_keys.certificate.owner.name}.key").unlink()
    agent.peers.reload()
    agent.gate.set()
    assert executed(agent) < MAX_PARTS // 2


def test_a_role_that_is_taken_in_the_middle_of_a_frame_is_gone(
    home: Path, agent: ServedAgent, peer_keys: KeyPair, peer: Socket
) -> None:
    """The rest of the frame is judged by the roles of its moment."""
    owner = replace(peer_keys.certificate.owner, roles=frozenset({"nobody"}))
    lowered = KeyPair(replace(peer_keys.certificate, owner=owner), peer_keys.secret_z85)
    peer.send(together(held(MAX_PARTS)))
    assert agent.entered.wait(PATIENCE_S)
    (home / f"{owner.name}.key").unlink()
    authorize(home, lowered)
    agent.peers.reload()
    agent.gate.set()
    wait_until(lambda: 1 + agent.worked + agent.counters.errors == MAX_PARTS, PATIENCE_S, "all of it is answered")
    assert agent.worked < MAX_PARTS // 2


def test_a_flood_of_slow_frames_does_not_stop_the_others(
    context: Context, agent: ServedAgent, peer_keys: KeyPair, peer: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too much is refused, not executed, and may be repeated; another connection is served meanwhile."""
    monkeypatch.setattr(turns, "BESIDE_PAYLOAD", 16_384)  # so that 1,000 of them fill the budget
    frames, each = 40, 128
    worked = worked_at_holds(agent)
    with connected(context, agent.secured(peer_keys)) as other:
        other.send(request("who_am_i", 0))
        other.recv()
        peer.send(together(held(each)))
        for frame in range(1, frames):
            peer.send(together([request("work", f"{frame}-{number}") for number in range(each)]))
        assert agent.entered.wait(PATIENCE_S)
        for number in range(3):
            other.send(request("hold", number))
        time.sleep(SETTLED_S)  # they have arrived
        agent.gate.set()
        for _ in range(3):
            other.recv()
    assert worked[3] < 2 * each
    codes = [reply.get("code") for reply in received(peer, frames * each)]
    assert set(codes) == {None, "over_budget"}
    assert codes.count(None) == 1 + agent.worked


def test_requests_of_a_peer_that_has_gone_are_not_executed(
    context: Context, agent: ServedAgent, peer_keys: KeyPair
) -> None:
    """Nobody would read their replies."""
    with connected(context, agent.secured(peer_keys)) as leaving:
        leaving.send(together(held(MAX_PARTS)))
        assert agent.entered.wait(PATIENCE_S)
    wait_until(lambda: not agent.server_socket.sessions.counts(), PATIENCE_S, "its end is noticed")
    agent.gate.set()
    assert executed(agent) < MAX_PARTS // 2


def test_a_frame_over_the_limit_is_refused_whole(agent: ServedAgent, peer: Socket) -> None:
    """Although each of its requests is within it."""
    text = "x" * (PAYLOAD_LIMIT * 2 // 3)
    peer.send(together([request("echo", number, text=text) for number in range(2)]))
    assert json.loads(peer.recv())["code"] == "message_too_large"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (SEPARATOR * PAYLOAD_LIMIT, "malformed_request"),
        (together([b"x" * PAYLOAD_LIMIT]), "message_too_large"),
    ],
    ids=["separators alone", "too large"],
)
def test_nothing_of_a_refused_frame_is_kept(peer: Socket, frame: bytes, code: str) -> None:
    """One peer that sends such frames forever does not fill the agent's memory."""
    process = psutil.Process()
    for number in range(32):
        peer.send(frame)
        assert json.loads(peer.recv())["code"] == code
        if number == 1:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 50_000_000  # of 240 MB, or more


def test_nothing_of_a_message_of_a_revoked_key_is_kept(
    home: Path, agent: ServedAgent, peer_keys: KeyPair, peer: Socket
) -> None:
    """What had arrived by then is refused, and forgotten with its refusal."""
    late = 8
    peer.send(request("hold"))
    assert agent.entered.wait(PATIENCE_S)
    for _ in range(late):
        peer.send(request("who_am_i"))
    time.sleep(SETTLED_S)  # they have arrived
    (home / f"{peer_keys.certificate.owner.name}.key").unlink()
    agent.peers.reload()
    agent.gate.set()
    wait_until(lambda: agent.counters.errors == late, PATIENCE_S, "all of them are refused")
    wait_until(lambda: not any(type(kept) is PeerNotLive for kept in gc.get_objects()), PATIENCE_S, "none is kept")


def test_stopping_answers_a_frame_to_its_end(agent: ServedAgent, peer: Socket) -> None:
    """As it answers all that has arrived."""
    peer.send(together([request("work", number) for number in range(MAX_PARTS // 2)]))
    wait_until(lambda: agent.worked > 0, PATIENCE_S, "the frame is being answered")
    agent.server.stop()
    received(peer, MAX_PARTS // 2)


@pytest.mark.parametrize("form", [msgspec.json.encode, msgspec.msgpack.encode], ids=["JSON", "MessagePack"])
def test_a_reply_has_the_form_of_its_request(peer: Socket, form: Callable[[Any], bytes]) -> None:
    """Also where it is an error, and where it comes later."""
    decode = msgspec.json.decode if form is msgspec.json.encode else msgspec.msgpack.decode
    peer.send(form({"action": "echo", "request_id": "1", "text": "x" * 9_000}))
    assert decode(peer.recv()) == {"status": "ok", "text": "x" * 9_000, "request_id": "1"}
    for refused in ({"action": "reset"}, {"action": "no_such"}, {"action": "echo", "text": 5}):
        peer.send(form({**refused, "request_id": "2"}))
        reply = decode(peer.recv())
        assert (reply["status"], reply["request_id"]) == ("error", "2")


def test_bytes_that_are_no_request_get_an_error_in_json(peer: Socket) -> None:
    """As older clients expect it."""
    for frame in (b"\xff\xfe", b"\x80\x81", b"\xc3\xa9 text", b"\x93\x01\x02\x03"):
        peer.send(frame)
        assert json.loads(peer.recv())["code"] == "malformed_request"


def test_the_client_sends_large_requests_as_messagepack(
    monkeypatch: pytest.MonkeyPatch, agent: ServedAgent, peer_keys: KeyPair
) -> None:
    """Once it knows that the server reads it; the reply is the same, and a change that is repeated is executed once."""
    text = "x" * 100_000
    sent: list[bytes] = []

    def encode(*given: Any) -> bytes:
        sent.append(encode_request(*given))
        return sent[-1]

    monkeypatch.setattr(exchange, "encode_request", encode)
    with Client(agent.secured(peer_keys)) as client:
        replies = [client.call("echo", request_id="1", text=text, deadline_s=PATIENCE_S) for _ in range(3)]
        assert replies == [{"status": "ok", "text": text, "request_id": "1"}] * 3
        for _ in range(2):
            assert client.call("add", amount=1, request_id="2", note=text, deadline_s=PATIENCE_S)["total"] == 1
    assert [is_messagepack(payload) for payload in sent] == [False, True, True, True, True]
    assert agent.executions == [1]
