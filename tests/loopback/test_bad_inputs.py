"""Every bad input gets its error reply, and the next good request is served on the same connection."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.loopback.agent import PAYLOAD_LIMIT, ServedAgent
from tests.waiting import PATIENCE_S
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.keys import KeyPair

Context = zmq.Context[zmq.Socket[bytes]]
DEEP = 100_000  # levels
GOOD = b'{"action": "echo", "text": "good", "request_id": "good"}'


def padded(size: int) -> bytes:
    """Return a request of exactly so many bytes."""
    head, tail = b'{"action": "echo", "request_id": "big", "text": "', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


BAD_INPUTS: dict[str, tuple[list[bytes], str, str]] = {
    "not JSON": ([b"hello"], "malformed_request", "not JSON"),
    "a web request": ([b"GET / HTTP/1.1\r\n\r\n"], "malformed_request", "not JSON"),
    "not UTF-8": ([b'{"action": "echo", "text": "\xff\xfe"}'], "malformed_request", "UTF-8"),
    "empty": ([b""], "malformed_request", "not JSON"),
    "a list": ([b"[1, 2]"], "malformed_request", "names no action"),
    "no action": ([b'{"request_id": "1"}'], "malformed_request", "names no action"),
    "unknown action": ([b'{"action": "reboot"}'], "unknown_action", "there are: add, ask_another, echo, "),
    "wrong type": (
        [b'{"action": "echo", "text": 5}'],
        "malformed_request",
        "Expected `str`, got `int` - at `$.text`",
    ),
    "field missing": ([b'{"action": "echo"}'], "malformed_request", "missing required field `text`"),
    "too deep": (
        [b'{"action": "echo", "text": "x", "more": ' + b"[" * DEEP + b"]" * DEEP + b"}"],
        "malformed_request",
        "nested too deep",
    ),
    "too deep from the start": ([b'{"a":' * DEEP], "malformed_request", "nested too deep"),
    "one byte too large": ([padded(PAYLOAD_LIMIT + 1)], "message_too_large", f"{PAYLOAD_LIMIT + 1} bytes"),
    "twice too large": ([padded(2 * PAYLOAD_LIMIT)], "message_too_large", f"{2 * PAYLOAD_LIMIT} bytes"),
    "two frames": ([GOOD, GOOD], "malformed_request", "the message has 2 frames; send one JSON object in one frame"),
    "four bytes before a request": ([b"1234", GOOD], "malformed_request", "the message has 2 frames"),
    "four bytes before two requests": ([b"1234", GOOD, GOOD], "malformed_request", "the message has 3 frames"),
    "nine empty frames": ([b""] * 9, "malformed_request", "frames"),
    "100,000 frames": ([b"x"] * 100_000, "malformed_request", "the message has 100000 frames"),
}


@pytest.fixture(params=["secured", "open"])
def served(request: pytest.FixtureRequest) -> ServedAgent:
    """The agent over both kinds of link: neither may be brought down."""
    agent: ServedAgent = request.getfixturevalue("agent" if request.param == "secured" else "open_agent")
    return agent


@pytest.fixture
def dealer(context: "Context", served: ServedAgent, peer_keys: KeyPair) -> Iterator["zmq.Socket[bytes]"]:
    """A foreign program's socket to the agent."""
    socket = context.socket(zmq.DEALER)
    if served.own_keys is not None:
        socket.curve_serverkey = served.public_key.z85
        socket.curve_secretkey, socket.curve_publickey = peer_keys.secret_z85, peer_keys.public.z85
    socket.rcvtimeo = socket.sndtimeo = int(PATIENCE_S * 1_000)
    socket.linger = 0
    socket.connect(served.address)
    yield socket
    socket.close()


def exchange(socket: "zmq.Socket[bytes]", *frames: bytes) -> dict[str, Any]:
    """Send one message, and return the reply's JSON object, which is its last frame."""
    socket.send_multipart(frames)
    reply: dict[str, Any] = json.loads(socket.recv_multipart()[-1])
    return reply


@pytest.mark.parametrize(("frames", "code", "complaint"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_a_bad_input_gets_its_error_reply_and_the_next_is_served(
    dealer: "zmq.Socket[bytes]", frames: list[bytes], code: str, complaint: str
) -> None:
    """The reply names what is wrong; server and client stay in step."""
    for _ in range(2):
        reply = exchange(dealer, *frames)
        assert (reply["status"], reply["code"]) == ("error", code)
        assert complaint in reply["error"]
        assert exchange(dealer, GOOD) == {"status": "ok", "text": "good", "request_id": "good"}


@pytest.mark.parametrize("frames", [[b""], [b"", b"", b""], [b"", GOOD, GOOD], [b"", b"hello"]])
def test_a_bad_input_behind_a_delimiter_is_answered_behind_one(
    context: "Context", served: ServedAgent, peer_keys: KeyPair, dealer: "zmq.Socket[bytes]", frames: list[bytes]
) -> None:
    """A REQ peer that sends nonsense gets a reply that a REQ socket takes."""
    assert exchange(dealer, *frames)["code"] == "malformed_request"
    assert exchange(dealer, b"", GOOD)["text"] == "good"


def test_the_largest_request_is_served(dealer: "zmq.Socket[bytes]") -> None:
    """4 MiB, to the byte, come through."""
    assert len(exchange(dealer, padded(PAYLOAD_LIMIT))["text"]) > PAYLOAD_LIMIT - 100


def test_a_refused_request_keeps_its_id(dealer: "zmq.Socket[bytes]") -> None:
    """A pipelining client learns which of its requests was wrong, also where that was too large."""
    assert exchange(dealer, b'{"action": "echo", "text": 5, "request_id": "7"}')["request_id"] == "7"
    assert exchange(dealer, padded(PAYLOAD_LIMIT + 1))["request_id"] == "big"
    assert exchange(dealer, GOOD, b"more")["request_id"] == "good"


def test_an_oversized_message_ends_only_its_connection(
    dealer: "zmq.Socket[bytes]", served: ServedAgent, peer_keys: KeyPair
) -> None:
    """Over twice the limit, libzmq cuts the connection; another client's stays, and the sender may come back."""
    address = served.secured(peer_keys) if served.own_keys else served.unencrypted()
    with Client(address) as other:
        other.call("echo", text="before")
        generation = other._link.diagnosis.generation
        dealer.send(padded(2 * PAYLOAD_LIMIT + 100))
        assert other.call("echo", text="after")["text"] == "after"
        assert other._link.diagnosis.generation == generation
        dealer.rcvtimeo = 200
        with pytest.raises(zmq.Again):
            dealer.recv()
        dealer.rcvtimeo = int(PATIENCE_S * 1_000)
        assert exchange(dealer, GOOD)["text"] == "good"


def test_bad_inputs_execute_nothing(dealer: "zmq.Socket[bytes]", served: ServedAgent) -> None:
    """A change that is asked for in a refused message is not made."""
    for frames in ([b'{"action": "add", "amount": 1}', b"more"], [b'{"action": "add", "amount": "1"}']):
        assert exchange(dealer, *frames)["code"] == "malformed_request"
    assert served.executions == []
