"""The connection table, where libzmq's events come later than a connection's first message."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from twinhost.secure_zmq.authenticator import SessionLimits
from twinhost.secure_zmq.connections import Connections
from twinhost.secure_zmq.monitor import EventKind, SocketEvent

KEY = "SHA256:of-a-key"
HOST = "127.0.0.1"


@pytest.fixture
def accepted() -> Iterator[socket.socket]:
    """The server's end of a TCP connection on loopback."""
    with closing(socket.create_server((HOST, 0))) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            yield server


@pytest.mark.parametrize("proven", [True, False], ids=["by a live key", "doomed"])
def test_a_connection_reported_late_is_counted_and_released(accepted: socket.socket, proven: bool) -> None:
    """Its message came before libzmq's event; at its end the key has as many connections as before."""
    limits = SessionLimits(per_key=2)
    connections = Connections(lambda _: None, limits)
    fd = accepted.fileno()
    endpoint = f"tcp://{HOST}:{accepted.getsockname()[1]}"
    for _ in range(5):
        assert limits.admit(KEY, HOST)
        if proven:
            connections.note_key(fd, HOST, KEY)
        else:
            connections.mark_for_closing(fd, HOST, "its first message is no subscription")
        connections.observe(SocketEvent(EventKind.ACCEPTED, fd, endpoint))
        assert limits.count(KEY) == 1
        connections.observe(SocketEvent(EventKind.DISCONNECTED, fd, endpoint))
        assert limits.count(KEY) == 0
