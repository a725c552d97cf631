"""The connection table, where libzmq's events come later than a connection's first message."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.secure_zmq.wall_clock import LeapingClock, StandingClock
from twinhost.secure_zmq import connections as table
from twinhost.secure_zmq.connections import Connection, Connections, SessionLimits
from twinhost.secure_zmq.descriptors import held, remote, remote_of
from twinhost.secure_zmq.monitor import EventKind, SocketEvent

KEY = "SHA256:of-a-key"
HOST = "127.0.0.1"
LOOK_S = 2.0  # between two looks for lost connections


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
    limits = SessionLimits(per_key=2, clock=LeapingClock())
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


@pytest.mark.parametrize("reported", [1, 2], ids=["the end alone", "the end and the next connection"])
def test_a_mark_survives_an_event_that_comes_late(accepted: socket.socket, reported: int) -> None:
    """The end of an earlier connection with the same descriptor is reported between the mark and the close."""
    connections = Connections(lambda _: True)
    fd = accepted.fileno()
    endpoint = f"tcp://{HOST}:{accepted.getsockname()[1]}"
    connections.observe(SocketEvent(EventKind.ACCEPTED, fd, endpoint))  # of the earlier one
    connections.mark_for_closing(fd, HOST, "it sent a message that is not a subscription")
    for kind in (EventKind.DISCONNECTED, EventKind.ACCEPTED)[:reported]:
        connections.observe(SocketEvent(kind, fd, endpoint))
    connections.close_refused()
    assert connections.closed_count == 1


@pytest.mark.parametrize("succeeded", [True, False])
def test_a_handshake_is_under_way_until_its_end_is_reported(accepted: socket.socket, succeeded: bool) -> None:
    """However late that is: else a peer that doesn't speak ZeroMQ is not recorded."""
    connections = Connections(lambda _: True)
    connections.observe(SocketEvent(EventKind.ACCEPTED, accepted.fileno(), f"tcp://{HOST}:1"))
    (connection,) = connections.pending()
    connections.end_handshake(connection, succeeded=succeeded)  # as the guard does that looks in between
    assert connections.unfinished_since(accepted.fileno()) == (None if succeeded else connection.began)
    connections.observe(SocketEvent(EventKind.DISCONNECTED, accepted.fileno(), f"tcp://{HOST}:1"))
    assert connections.unfinished_since(accepted.fileno()) is None


def test_a_connection_that_ended_just_now_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may be reported yet: only one that has ended at two looks, some time apart, is what libzmq keeps."""
    monkeypatch.setattr(table, "MAX_LOST", 1)
    clock = StandingClock()
    connections = Connections(lambda _: True, clock=clock)
    with closing(socket.create_server((HOST, 0))) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        client.close()  # with a reset
        event = SocketEvent(EventKind.ACCEPTED, server.fileno(), f"tcp://{HOST}:{listener.getsockname()[1]}")
    with server:
        connections.observe(event)
        assert [connections.too_many_lost() for _ in range(2)] == [False, False]
        connections.observe(event._replace(kind=EventKind.DISCONNECTED))
        connections.observe(event)
        clock.elapsed += LOOK_S
        assert not connections.too_many_lost()
        clock.elapsed += LOOK_S
        assert connections.too_many_lost()


def test_a_mark_does_not_pass_to_the_next_connection(accepted: socket.socket) -> None:
    """The one that was marked has ended, and another has its descriptor when the marked ones are closed."""
    connections = Connections(lambda _: True)
    fd = accepted.fileno()
    connections.mark_for_closing(fd, HOST, "it sent a message that is not a subscription")
    endpoint = f"tcp://{HOST}:{accepted.getsockname()[1]}"
    with closing(socket.create_server((HOST, 0))) as listener, socket.create_connection(listener.getsockname()):
        following, _ = listener.accept()
        with following:
            os.dup2(following.fileno(), fd)
            connections.observe(SocketEvent(EventKind.DISCONNECTED, fd, endpoint))
            connections.observe(SocketEvent(EventKind.ACCEPTED, fd, f"tcp://{HOST}:{listener.getsockname()[1]}"))
            connections.close_refused()
            assert connections.closed_count == 0


def through_a_duplicate(fd: int) -> tuple[str, int] | None:
    with held(fd) as connection:
        return None if connection is None else remote(connection)


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, HOST), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::ffff:127.0.0.1"), (socket.AF_UNIX, "")],
    ids=["IPv4", "IPv6", "mapped", "IPC"],
)
def test_a_remote_address_is_read_in_one_call(family: socket.AddressFamily, address: str, tmp_path: Path) -> None:
    """It is what Python's sockets say of a duplicate; and None once the connection has ended."""
    name: tuple[str, int] | str = (address, 0) if address else str(tmp_path / "socket")
    with socket.socket(family) as listener, socket.socket(family) as client:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(name)
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            bare = address.removeprefix("::ffff:")
            assert remote_of(server.fileno()) == ((bare, client.getsockname()[1]) if address else ("", 0))
            assert remote_of(server.fileno()) == through_a_duplicate(server.fileno())
            assert remote_of(listener.fileno()) is None
            if address:
                server.shutdown(socket.SHUT_RDWR)
                client.shutdown(socket.SHUT_RDWR)
                assert remote_of(server.fileno()) == through_a_duplicate(server.fileno())
        assert remote_of(server.fileno()) is None
    with closing(os.fdopen(os.open(os.devnull, os.O_RDONLY))) as file:
        assert remote_of(file.fileno()) is None


def test_what_came_and_was_not_taken_is_behind() -> None:
    """A little is forgotten with each request, as heartbeats are; without one, and beyond that, nothing is."""
    connection = Connection(1)
    assert connection.behind(600, 1_000) == 600
    connection.handled = 500
    assert connection.behind(1_100, 1_000) == 0
    assert connection.behind(1_700, 1_000) == 600
    assert connection.behind(1_700, 1_000) == 600
    connection.handled = 600
    assert connection.behind(9_100, 1_000) == 7_900
    connection.handled = 8_500
    assert connection.behind(9_100, 1_000) == 0
