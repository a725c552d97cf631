"""What is in flight: ids, frames, the window, the negotiation, and how long to look for a reply."""

import json
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import zmq

from twinhost.moments import Clock
from twinhost.secure_zmq import wire as wire_module
from twinhost.secure_zmq.errors import MalformedRequest, PeerNotLive, SocketMisuse
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.framing.exchange import (
    LOOK_S,
    LOOK_UNANSWERED,
    MAX_UNANSWERED,
    Asked,
    Exchange,
    new_request_id,
)
from twinhost.secure_zmq.framing.forms import (
    ACCEPTED,
    MAX_SENT_BYTES,
    MAX_SENT_PARTS,
    is_messagepack,
    requests_in,
    together,
)
from twinhost.secure_zmq.link import Link
from twinhost.secure_zmq.server_address import UnencryptedAddress

LIMIT = 1_000_000


class PassingClock(Clock):
    """Real time, or what a test has let pass since it stopped the clock."""

    stopped_at: float | None = None

    def monotonic(self) -> float:
        return super().monotonic() if self.stopped_at is None else self.stopped_at


class Wire:
    """In the connection's place: keeps the frames that are sent, as long as there is room."""

    def __init__(self) -> None:
        self.clock = PassingClock()
        self.exchange = Exchange(Link(UnencryptedAddress("tcp://127.0.0.1:1")), LIMIT, self.clock)
        self.frames: list[bytes] = []
        self.room = 1_000

    def send(self, frame: bytes, _: int) -> None:
        if len(self.frames) >= self.room:
            raise zmq.Again
        self.frames.append(frame)

    def ask(self, count: int, text: str = "", session: int = 1, action: str = "echo") -> list[Asked]:
        """Ask so many times, and send what may be sent."""
        asked = [self.exchange.ask(action, {"text": text}, new_request_id(), 5.0) for _ in range(count)]
        self.exchange.send(session, self.send)
        return asked

    def take_frames(self) -> list[list[dict[str, Any]]]:
        """Return the requests in each frame since the last call."""
        frames, self.frames = self.frames, []
        return [
            [json.loads(part) for part in (requests_in(frame, LIMIT) if frame[:1] == b"\x1e" else [frame])]
            for frame in frames
        ]

    def answer(self, asked: Asked, accepts: Any = None) -> None:
        reply = {"request_id": asked.request_id, **({} if accepts is None else {"accepts": accepts})}
        assert self.exchange.take(json.dumps(reply).encode()) == [asked]

    def negotiate(self, accepts: Sequence[str] = ACCEPTED, session: int = 1) -> None:
        """Have the server answer the first request of a session."""
        (first,) = self.ask(1, session=session)
        self.answer(first, accepts)
        self.exchange.forget(first)
        self.frames.clear()


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_ids_are_unique_in_every_process() -> None:
    """A number under random bits, which a fork draws again."""
    ids = [new_request_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert len({request_id[:24] for request_id in ids}) == 1
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, new_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode()
    assert len(theirs) == len(ids[0])
    assert theirs[:24] != ids[0][:24]


def test_until_the_server_has_said_what_it_reads_each_goes_alone(wire: Wire) -> None:
    """And asks it; afterwards they go together, and don't ask."""
    first, *_ = wire.ask(3)
    frames = wire.take_frames()
    assert [len(frame) for frame in frames] == [1, 1, 1]
    assert all(frame[0]["accepts"] == list(ACCEPTED) for frame in frames)
    wire.answer(first, ACCEPTED)
    assert first.reply == {"request_id": first.request_id}
    wire.ask(3)
    (frame,) = wire.take_frames()
    assert [request.get("accepts") for request in frame] == [None] * 3


@pytest.mark.parametrize("accepts", [None, [], ["messagepack"], ["a form of later versions"], 5])
def test_a_server_that_reads_no_sequences_gets_none(wire: Wire, accepts: Any) -> None:
    """Or that does not answer `accepts` at all, or not as an agent does."""
    (first,) = wire.ask(1)
    wire.answer(first, accepts)
    wire.take_frames()
    wire.ask(3)
    assert [len(frame) for frame in wire.take_frames()] == [1, 1, 1]


def test_every_session_is_asked_again(wire: Wire) -> None:
    """Another server, of an older version, may be at the address; what is in flight is sent again, alone."""
    wire.negotiate()
    again = wire.ask(2)
    (before,) = wire.take_frames()
    (new,) = wire.ask(1, session=2)
    frames = wire.take_frames()
    assert [frame[0]["request_id"] for frame in frames] == [asked.request_id for asked in (*again, new)]
    assert [frame[0] for frame in frames[:2]] == before


def test_a_repetition_alone_does_not_settle_the_servers_forms(wire: Wire) -> None:
    """It has no `accepts`, so its reply has none; the next request asks."""
    wire.negotiate()
    (again,) = wire.ask(1)
    wire.exchange.send(2, wire.send)
    wire.answer(again)
    (new,) = wire.ask(1, session=2)
    assert wire.take_frames()[-1][0]["accepts"] == list(ACCEPTED)
    wire.answer(new, ACCEPTED)
    wire.ask(2, session=2)
    assert [len(frame) for frame in wire.take_frames()] == [2]


def test_an_older_servers_remark_on_accepts_is_hidden(wire: Wire) -> None:
    """It lists the field as ignored; what else it ignored stays in the reply."""
    for ignored, shown in ((["accepts"], None), (["accepts", "x"], ["x"]), (["accepts", "traceparent"], None)):
        (asked,) = wire.ask(1)
        wire.exchange.take(json.dumps({"request_id": asked.request_id, "ignored_fields": ignored}).encode())
        assert asked.reply is not None
        assert asked.reply.get("ignored_fields") == shown
    wire.take_frames()
    wire.ask(2)
    assert [frame[0].get("accepts") for frame in wire.take_frames()] == [None, None]


def test_what_is_given_up_without_a_session_is_not_kept(wire: Wire) -> None:
    for _ in range(3):
        asked = wire.exchange.ask("echo", {"text": "x"}, new_request_id(), 5.0)
        wire.exchange.forget(asked)
    assert not wire.exchange._unsent


def test_replies_beside_one_that_could_not_be_read_count(wire: Wire) -> None:
    """All of a frame is taken, then the error is raised."""
    wire.negotiate()
    first, second = wire.ask(2)
    replies = [{"request_id": first.request_id}, {"status": "error", "error": "bad"}, {"request_id": second.request_id}]
    with pytest.raises(MalformedRequest, match="bad"):
        wire.exchange.take(together([json.dumps(reply).encode() for reply in replies]))
    assert first.reply is not None
    assert second.reply is not None


def test_a_refusal_of_the_previous_key_counts_in_any_place(wire: Wire) -> None:
    """What is answered before it has its reply; the refused request is repeated with the new key."""
    wire.negotiate()
    first, refused = wire.ask(2)
    replies = [{"request_id": first.request_id}, {"request_id": refused.request_id, "code": PeerNotLive.code}]
    assert wire.exchange.take(together([json.dumps(reply).encode() for reply in replies])) == [first]
    assert refused.reply is None


def test_a_reply_stays_due_after_its_call_was_given_up(wire: Wire) -> None:
    """So that a silent session is left, however short the deadlines are."""
    (asked,) = wire.ask(1)
    since = wire.exchange.due_since
    assert since is not None
    wire.exchange.forget(asked)
    wire.ask(1)
    assert wire.exchange.due_since == since
    wire.exchange.send(2, wire.send)
    assert wire.exchange.due_since != since


def test_a_client_of_a_parent_process_says_so(wire: Wire) -> None:
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            wire.ask(1)
        except SocketMisuse as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert "before a fork" in os.read(reading, 1_000).decode()


def test_every_large_request_is_messagepack(wire: Wire) -> None:
    """Once the server has said that it reads it, whatever the requests of that action were before."""
    large, small = "x" * 10_000, "x"
    wire.ask(1, large)
    wire.negotiate()
    for text in (large, small, large, large, small):
        wire.ask(1, text)
    wire.ask(1, large, action="other")
    assert [is_messagepack(frame) for frame in wire.frames] == [True, False, True, True, False, True]


def test_a_right_guess_encodes_a_request_once(monkeypatch: pytest.MonkeyPatch, wire: Wire) -> None:
    """A wrong one costs one encoding more; so does what MessagePack can't carry."""
    wire.negotiate()
    made: list[str] = []

    def counted(form: str, encode: Callable[..., bytes]) -> Callable[..., bytes]:
        return lambda *given: made.append(form) or encode(*given)  # type: ignore[func-returns-value]

    monkeypatch.setattr(wire_module, "_encoder", SimpleNamespace(encode=counted("JSON", msgspec.json.encode)))
    monkeypatch.setattr(wire_module, "_as_messagepack", counted("MessagePack", wire_module._as_messagepack))
    large, number = {"text": "x" * 10_000}, {"text": "x" * 10_000, "number": 2**70}
    for fields, forms in (
        ({}, ["JSON"]),
        (large, ["JSON", "MessagePack"]),
        (large, ["MessagePack"]),
        ({}, ["MessagePack", "JSON"]),
        ({}, ["JSON"]),
        (number, ["JSON", "MessagePack"]),
        (number, ["MessagePack", "JSON"]),
        ({"text": ["x" * 14] * 530}, ["MessagePack", "JSON"]),  # larger than 8 KiB in JSON alone
    ):
        made.clear()
        wire.exchange.ask("echo", fields, new_request_id(), 5.0)
        assert made == forms
    assert is_messagepack(list(wire.exchange.asked.values())[-1].payload)


def test_a_repetition_is_the_same_bytes_in_json(wire: Wire) -> None:
    """Where the new session has not said yet that it reads MessagePack."""
    wire.negotiate()
    text = "x" * 10_000
    (large,) = wire.ask(1, text)
    assert [is_messagepack(frame) for frame in wire.frames] == [True]
    wire.frames.clear()
    wire.exchange.send(2, wire.send)
    assert [is_messagepack(frame) for frame in wire.frames] == [False]
    assert json.loads(wire.frames[0]) == {"action": "echo", "request_id": large.request_id, "text": text}


def test_frames_keep_their_limits(wire: Wire) -> None:
    """64 requests and 64 KiB, whichever is less; a larger request is alone."""
    wire.negotiate()
    wire.ask(2 * MAX_SENT_PARTS + 1)
    assert [len(frame) for frame in wire.take_frames()] == [MAX_SENT_PARTS, MAX_SENT_PARTS, 1]
    wire.ask(20, "x" * 7_000)
    assert all(len(frame) <= MAX_SENT_BYTES for frame in wire.frames)
    assert sum(len(frame) for frame in wire.take_frames()) == 20
    wire.ask(1, "x" * MAX_SENT_BYTES)
    assert [len(frame) > MAX_SENT_BYTES for frame in wire.frames] == [True]


def test_no_more_is_unanswered_than_the_server_keeps_replies_for(wire: Wire) -> None:
    """The rest goes once half of that is answered."""
    wire.negotiate()
    asked = wire.ask(2 * MAX_UNANSWERED)
    assert sum(map(len, wire.take_frames())) == MAX_UNANSWERED
    for each in asked[: MAX_UNANSWERED // 2 - 1]:
        wire.answer(each)
    assert not wire.exchange.send(1, wire.send)
    wire.answer(asked[MAX_UNANSWERED // 2 - 1])
    assert wire.exchange.send(1, wire.send)
    assert sum(map(len, wire.take_frames())) == MAX_UNANSWERED // 2


def test_what_the_pipe_has_no_room_for_is_sent_later(wire: Wire) -> None:
    """Once, and in its order."""
    wire.negotiate()
    wire.room = 1
    asked = wire.ask(MAX_SENT_PARTS + 2)
    (first,) = wire.take_frames()
    assert wire.exchange.send(1, wire.send)
    (second,) = wire.take_frames()
    assert [request["request_id"] for request in first + second] == [each.request_id for each in asked]
    assert not wire.exchange.send(1, wire.send)


def test_what_is_forgotten_is_not_sent_and_not_answered(wire: Wire) -> None:
    wire.room = 0
    first, second = wire.ask(2)
    wire.exchange.forget(first)
    wire.room = 10
    wire.exchange.send(1, wire.send)
    assert [frame[0]["request_id"] for frame in wire.take_frames()] == [second.request_id]
    wire.exchange.forget(second)
    assert wire.exchange.unanswered == 0
    assert wire.exchange.take(json.dumps({"request_id": second.request_id}).encode()) == []
    assert wire.exchange.unanswered == 0


def test_what_an_earlier_session_answers_is_not_sent_again(wire: Wire) -> None:
    """Its reply was received already when the connection was lost."""
    wire.negotiate()
    (asked,) = wire.ask(1)
    wire.take_frames()
    wire.room = 0
    assert not wire.exchange.send(2, wire.send)
    wire.answer(asked)
    wire.exchange.forget(asked)
    wire.room = 10
    assert not wire.exchange.send(2, wire.send)
    assert wire.exchange.unanswered == 0


@pytest.mark.parametrize("request_id", [5, None, ["x"], {"x": 1}])
def test_a_reply_with_no_such_id_is_dropped(wire: Wire, request_id: object) -> None:
    """Whatever its type is."""
    wire.ask(1)
    assert wire.exchange.take(json.dumps({"request_id": request_id, "status": "ok"}).encode()) == []


def test_an_error_without_an_id_is_everybodys(wire: Wire) -> None:
    with pytest.raises(MalformedRequest, match="could not read a request: too bad"):
        wire.exchange.take(b'{"status": "error", "error": "too bad"}')


def looks(wire: Wire, text: str = "", after_s: float = 0.0) -> bool:
    """Ask once, have it answered after a while, and return whether the reply was looked for."""
    (asked,) = wire.ask(1, text)
    looked = wire.exchange.look_until > wire.clock.monotonic()
    wire.clock.stopped_at = wire.clock.monotonic() + after_s
    wire.answer(asked)
    wire.exchange.forget(asked)
    return looked


def test_a_reply_is_looked_for_where_replies_are_quick(monkeypatch: pytest.MonkeyPatch, wire: Wire) -> None:
    """Not after slow ones, until they are quick again; never with a large request, with many, or on one core."""
    monkeypatch.setattr(exchange, "_SEVERAL_CORES", True)
    wire.clock.stopped_at = 1.0
    wire.negotiate()

    assert looks(wire)
    assert not looks(wire, "x" * 9_000)
    many = wire.ask(LOOK_UNANSWERED)
    assert wire.exchange.look_until > wire.clock.monotonic()
    assert not looks(wire)
    for asked in many:
        wire.exchange.forget(asked)
    assert looks(wire, after_s=5 * LOOK_S)
    assert not looks(wire, after_s=5 * LOOK_S)
    tries = 0
    while not looks(wire, after_s=LOOK_S / 10):
        tries += 1
    assert 1 <= tries < 20
    monkeypatch.setattr(exchange, "_SEVERAL_CORES", False)
    assert not looks(wire)
