"""Every bad input gets its error reply from the real agents, and the next good request is served."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.containers.stack import KEY_STEMS, Stack
from twinhost.secure_zmq.server_address import SecuredAddress, open_connection

REPLY_TIMEOUT_MS = 10_000
LIMIT_BYTES = 4 * 1024 * 1024

BAD: dict[str, tuple[list[bytes], str]] = {
    "not JSON": ([b"{action: ping"], "malformed_request"),
    "not UTF-8": ([b'{"action": "ping", "note": "\xff\xfe"}'], "malformed_request"),
    "empty": ([b""], "malformed_request"),
    "a list": ([b'["ping"]'], "malformed_request"),
    "no action": ([b'{"request_id": "1"}'], "malformed_request"),
    "too deep": ([b'{"action": "ping", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"], "malformed_request"),
    "too large": ([b'{"action": "ping", "x": "' + b"x" * LIMIT_BYTES + b'"}'], "message_too_large"),
    "unknown action": ([b'{"action": "fly"}'], "unknown_action"),
    "action of a wrong type": ([b'{"action": 7}'], "malformed_request"),
    "request_id of a wrong type": ([b'{"action": "ping", "request_id": 7}'], "malformed_request"),
    "two frames": ([b'{"action": "ping"}', b"more"], "malformed_request"),
    "many frames": ([b'{"action": "ping"}', *[b"x"] * 10_000], "malformed_request"),
}
WRONG_TYPES = {
    "mainpc": (b'{"action": "heartbeat", "agent_name": 7}', "$.agent_name"),
    "pc2": (b'{"action": "update_twin", "twin_data": "text"}', "$.twin_data"),
}


@pytest.fixture(params=["mainpc", "pc2"])
def raw(request: pytest.FixtureRequest, stack: Stack) -> Iterator[tuple[str, "zmq.Socket[bytes]"]]:
    """An authenticated DEALER without the client's manners, and the host it is connected to."""
    keys = stack.keys("operator")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pin = keys.public_key(KEY_STEMS[request.param])
    server = SecuredAddress(stack.zmq_address(request.param), keys.own_keys, pin)
    connection = open_connection(server, context, lambda _: None, 2 * LIMIT_BYTES)
    connection.socket.rcvtimeo = connection.socket.sndtimeo = REPLY_TIMEOUT_MS
    yield request.param, connection.socket
    connection.close()
    context.term()


def ask(socket: "zmq.Socket[bytes]", *frames: bytes) -> dict[str, Any]:
    """Send frames as one message and return the reply."""
    socket.send_multipart(list(frames))
    reply: dict[str, Any] = json.loads(socket.recv())
    return reply


def assert_still_served(socket: "zmq.Socket[bytes]") -> None:
    """The next good request, on the same connection, is answered in step."""
    reply = ask(socket, b'{"action": "ping", "request_id": "next"}')
    assert (reply["status"], reply["request_id"]) == ("ok", "next")


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_its_error_reply(raw: tuple[str, "zmq.Socket[bytes]"], kind: str) -> None:
    """One sentence, the code that says what was wrong, and the server stays in step."""
    host, socket = raw
    frames, code = BAD[kind]
    reply = ask(socket, *frames)
    assert (reply["status"], reply["code"]) == ("error", code)
    assert reply["error"]
    if host == "pc2":
        assert reply["reason"] == reply["error"]
    assert_still_served(socket)


def test_a_field_of_a_wrong_type_is_named_by_its_path(raw: tuple[str, "zmq.Socket[bytes]"]) -> None:
    """The sentence says which field, and what it should be."""
    host, socket = raw
    payload, path = WRONG_TYPES[host]
    reply = ask(socket, payload)
    assert reply["code"] == "malformed_request"
    assert path in reply["error"]
    assert_still_served(socket)


def test_a_reused_request_id_is_an_error(raw: tuple[str, "zmq.Socket[bytes]"]) -> None:
    """A known id with another body is neither executed nor answered as the first."""
    host, socket = raw
    bodies = {
        "mainpc": '{{"action": "register_agent", "agent_name": "Reuse", "status": "{}", "request_id": "reused"}}',
        "pc2": '{{"action": "update_twin", "user_id": "reuse", "twin_data": {{"n": "{}"}}, "request_id": "reused"}}',
    }
    assert ask(socket, bodies[host].format("HEALTHY").encode())["status"] in ("success", "ok")
    assert ask(socket, bodies[host].format("other").encode())["code"] == "request_id_reused"
    assert_still_served(socket)
