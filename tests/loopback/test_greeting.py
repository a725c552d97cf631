"""A server's greeting, which names its mechanism in the clear."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.loopback.agent import ServedAgent
from tests.waiting import at_most
from twinhost.secure_zmq.server_address import mechanism_of

NULL_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)


@contextlib.contextmanager
def answering(words: bytes, *, hang_up: bool) -> Iterator[str]:
    """Listen, and say the same to everybody."""
    connections: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                connections[-1].sendall(words)
                if hang_up:
                    connections[-1].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    for connection in connections:
        connection.close()


def test_a_secured_agent_greets_with_curve(agent: ServedAgent) -> None:
    """The answer needs no key."""
    assert mechanism_of(agent.address) == "CURVE"


def test_an_open_agent_greets_with_null(open_agent: ServedAgent) -> None:
    """This distinguishes an open server from a wrong pin."""
    assert mechanism_of(open_agent.address) == "NULL"


@pytest.mark.parametrize(
    ("words", "hang_up"),
    [
        (b"", True),
        (b"", False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 64, False),
        (NULL_GREETING[:63], True),
        (bytes(64), False),
        (b"\xff" + bytes(63), False),
    ],
)
def test_what_does_not_greet_has_no_mechanism(words: bytes, hang_up: bool) -> None:
    """Something else, or half a greeting, is None, and soon."""
    with answering(words, hang_up=hang_up) as address, at_most(1.5):
        assert mechanism_of(address) is None


def test_a_greeting_in_pieces_is_read(open_agent: ServedAgent) -> None:
    """The first 64 bytes count, however many more come."""
    with answering(NULL_GREETING + b"more", hang_up=False) as address:
        assert mechanism_of(address) == "NULL"


@pytest.mark.parametrize("address", ["inproc://x", "ipc:///tmp/x", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:1"])
def test_an_address_without_a_server_has_no_mechanism(address: str) -> None:
    """Nothing raises, whatever the address."""
    assert mechanism_of(address) is None
