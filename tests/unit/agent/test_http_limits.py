"""Strangers who hold connections to the HTTP port open take it from nobody."""

import contextlib
import http.client
import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import structlog

from tests.ports import free_ports
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.agent import http as http_limits
from twinhost.agent.health import Health
from twinhost.agent.http import HttpServer

pytestmark = pytest.mark.thorough

REACHABLE_S = 2.0
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def port() -> Iterator[int]:
    """A served health document."""
    (port,) = free_ports(1)
    server = HttpServer(port, Health("Agent", secure=True).document)
    server.start()
    wait_until(lambda: server.responsive, PATIENCE_S, "the server runs")
    yield port
    server.stop()


@pytest.fixture
def strangers() -> Iterator[ExitStack]:
    """The connections that a test holds open."""
    with ExitStack() as stack:
        yield stack


def connect(strangers: ExitStack, port: int) -> socket.socket:
    return strangers.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))


def assert_reachable(port: int) -> None:
    with at_most(REACHABLE_S):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REACHABLE_S)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


def ended(connections: list[socket.socket]) -> int:
    """Return how many of the connections the server has ended."""
    count = 0
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.settimeout(0)
            selector.register(connection, selectors.EVENT_READ)
        for key, _ in selector.select(0):
            assert isinstance(key.fileobj, socket.socket)
            try:
                while key.fileobj.recv(1 << 16):
                    pass
                count += 1
            except BlockingIOError:  # an answer, and then nothing yet
                pass
            except ConnectionResetError:
                count += 1
    return count


def status_of_answer(connection: socket.socket) -> int:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def dribble(connection: socket.socket, byte: bytes) -> None:
    with contextlib.suppress(OSError):  # the server has ended it
        connection.send(byte)


def test_idle_connections_keep_nobody_out_and_end(strangers: ExitStack, port: int) -> None:
    """300 that send nothing: the port answers within 2 s all along, and after 6 s the last of them is gone."""
    idle = []
    for opened in range(300):
        idle.append(connect(strangers, port))
        if opened % 50 == 49:
            assert_reachable(port)
    assert ended(idle) >= 300 - http_limits.MAX_CONNECTIONS
    open_until = time.monotonic() + 6
    while time.monotonic() < open_until:
        assert_reachable(port)
        time.sleep(0.25)
    assert ended(idle) == 300


@pytest.mark.parametrize("begun", [b"", REQUEST + b"X-Long: ", REQUEST + b"Content-Length: 1000\r\n\r\n"])
def test_dribbling_connections_keep_nobody_out_and_end(strangers: ExitStack, port: int, begun: bytes) -> None:
    """100 that send a byte a second, of a head or of a body that nobody reads."""
    dribbling = [connect(strangers, port) for _ in range(100)]
    for connection in dribbling:
        connection.settimeout(0)
        dribble(connection, begun)
    for second in range(7):
        for connection in dribbling:
            dribble(connection, b"GET /healthz"[second : second + 1])
        assert_reachable(port)
        time.sleep(1)
    assert ended(dribbling) == 100


def test_a_kept_connection_may_ask_again_but_not_slowly(strangers: ExitStack, port: int) -> None:
    """Answers keep a connection open beyond 5 s; a second head that dribbles in ends it."""
    connection = connect(strangers, port)
    for _ in range(3):
        connection.sendall(REQUEST + b"\r\n")
        assert status_of_answer(connection) == 200
        time.sleep(2)
    started = time.monotonic()
    connection.settimeout(0.5)
    while time.monotonic() < started + 6:
        dribble(connection, b"G")
        try:
            if not connection.recv(1 << 16):
                break
        except TimeoutError:
            continue
        except ConnectionResetError:
            break
    assert time.monotonic() - started < 4.5  # 5 s from the last answer, which was 2 s ago


def test_clients_that_do_not_read_their_answers_keep_nobody_out(strangers: ExitStack, port: int) -> None:
    """150 that ask on and on and read nothing: their connections end, though the answers can't be delivered."""
    deaf = []
    for _ in range(150):
        connection = strangers.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", port))
        connection.settimeout(0)
        deaf.append(connection)
    asked = (REQUEST + b"\r\n") * 500
    until = time.monotonic() + 8
    while time.monotonic() < until:
        for connection in deaf:
            dribble(connection, asked)
        assert_reachable(port)
        time.sleep(0.5)


def test_a_new_connection_replaces_the_longest_waiting(strangers: ExitStack, port: int) -> None:
    """Not of those that came later, nor of one that was just answered."""
    first, second = connect(strangers, port), connect(strangers, port)
    others = [connect(strangers, port) for _ in range(http_limits.MAX_CONNECTIONS - 2)]
    first.sendall(REQUEST + b"\r\n")
    assert status_of_answer(first) == 200
    connect(strangers, port)
    second.settimeout(REACHABLE_S)
    assert second.recv(1) == b""
    assert ended([first, *others]) == 0


def test_where_all_are_being_answered_the_first_loses_its_place(strangers: ExitStack) -> None:
    """The newcomer is answered with the others: 64 that ask without a pause are no barrier."""
    (port,) = free_ports(1)
    may_answer = threading.Event()
    started = threading.Semaphore(0)

    def document() -> dict[str, object]:
        started.release()
        may_answer.wait(PATIENCE_S)
        return {"status": "ok", "ready": True}

    server = HttpServer(port, document)
    server.start()
    strangers.callback(server.stop)
    strangers.callback(may_answer.set)
    asking = [connect(strangers, port) for _ in range(http_limits.MAX_CONNECTIONS)]
    for connection in asking:
        connection.sendall(REQUEST + b"\r\n")
    for _ in range(40):  # as many as Starlette answers at once; the others are in its queue
        assert started.acquire(timeout=PATIENCE_S)
    wait_until(lambda: asked_by(server) == len(asking), PATIENCE_S, "every request has been read")
    newcomer = connect(strangers, port)
    newcomer.sendall(REQUEST + b"\r\n")
    asking[0].settimeout(REACHABLE_S)
    assert asking[0].recv(1) == b""
    may_answer.set()
    for connection in [*asking[1:], newcomer]:
        connection.settimeout(PATIENCE_S)
        assert status_of_answer(connection) == 200


def asked_by(server: HttpServer) -> int:
    """Return how many of the connections have a request that is being answered, or waits for it."""
    connections = tuple(server._server.server_state.connections)
    return sum(getattr(connection, "cycle", None) is not None for connection in connections)


def test_without_descriptors_it_says_so_once_and_recovers(
    strangers: ExitStack, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever used up the process's descriptors does not fill its log through this port as well."""
    wait_until(lambda: answers(port), PATIENCE_S, "it serves")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    strangers.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
    with structlog.testing.capture_logs() as logged, socket.socket() as late:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        late.connect(("127.0.0.1", port))
        time.sleep(2.5)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        wait_until(lambda: late.send(b"G") and answers(port), PATIENCE_S, "it accepts again")
    assert [event["event"] for event in logged] == ["http_not_accepting"]
    assert caplog.records == []


def answers(port: int) -> bool:
    try:
        assert_reachable(port)
    except OSError:
        return False
    return True
