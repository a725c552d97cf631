"""/healthz and /readyz on a real port: read-only, honest about the status, and gone after the end."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from agent_runtime.health import Health
from agent_runtime.http import HttpServer
from secure_zmq.errors import SocketMisuse
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, at_most


class Served:
    """A health document on an HTTP port; a test sets what is wrong."""

    def __init__(self) -> None:
        self.essential: str | None = None
        self.other: str | None = None
        health = Health("Agent", secure=True)
        health.add("store", lambda: self.essential, essential=True)
        health.add("link", lambda: self.other, essential=False)
        (self.port,) = free_ports(1)
        self.server = HttpServer(self.port, health.document)
        self.server.start()

    def ask(self, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers, and body."""
        connection = http.client.HTTPConnection(host, self.port, timeout=PATIENCE_S)
        connection.request(method, path)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def status(self, path: str) -> tuple[int, Any]:
        """Return the status and the document's own."""
        status, _, content = self.ask(path)
        return status, json.loads(content)["status"]


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.stop()


def test_an_agent_that_is_well_is_healthy_and_ready(served: Served) -> None:
    """200 and the document, as JSON, on both paths."""
    for path in ("/healthz", "/readyz"):
        status, headers, content = served.ask(path)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(content)["agent"] == "Agent"


def test_a_degraded_agent_is_healthy_and_not_ready(served: Served) -> None:
    """It must not be restarted, nor be sent work."""
    served.other = "nobody there"
    assert (served.status("/healthz"), served.status("/readyz")) == ((200, "degraded"), (503, "degraded"))
    served.other = None
    assert served.status("/readyz") == (200, "ok")


def test_an_agent_with_an_error_is_neither(served: Served) -> None:
    """503 on both paths, with the document that says why."""
    served.essential = "disk is full"
    for path in ("/healthz", "/readyz"):
        status, _, content = served.ask(path)
        assert (status, json.loads(content)["checks"]["store"]["detail"]) == (503, "disk is full")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_written(served: Served, method: str, path: str) -> None:
    """405 for whatever is not a look."""
    assert served.ask(path, method)[0] == 405


@pytest.mark.parametrize(
    "path", ["/", "/health", "/healthz/x", "/docs", "/openapi.json", "/../etc/passwd", "//healthz"]
)
def test_there_is_nothing_else(served: Served, path: str) -> None:
    """404 for every other path."""
    assert served.ask(path)[0] == 404


def test_a_head_request_has_the_status_and_no_body(served: Served) -> None:
    """As a load balancer asks."""
    served.essential = "disk is full"
    status, _, content = served.ask("/healthz", "HEAD")
    assert (status, content) == (503, b"")


def test_the_answer_does_not_name_its_software(served: Served) -> None:
    """No `Server` header to look vulnerabilities up by."""
    assert "server" not in served.ask("/healthz")[1]


def test_ipv6_is_served_too(served: Served) -> None:
    """The port is bound for both families."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    assert served.ask("/healthz", host="::1")[0] == 200


def test_a_taken_port_is_one_sentence(served: Served) -> None:
    """The second server fails before anything is served, and the first goes on."""
    with pytest.raises(
        SocketMisuse, match=rf"HTTP port {served.port} can't be bound \(Address already in use"
    ) as refusal:
        HttpServer(served.port, dict)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith("free it or change network_config.yaml")
    assert served.ask("/healthz")[0] == 200


def test_the_port_is_bound_before_it_is_served() -> None:
    """A start that can't succeed is found out in the constructor, where nothing runs yet."""
    (port,) = free_ports(1)
    server = HttpServer(port, dict)
    assert not server.responsive
    with pytest.raises(SocketMisuse):
        HttpServer(port, dict)
    server.stop()
    HttpServer(port, dict).stop()


def test_after_the_end_the_port_is_free(served: Served) -> None:
    """Nobody listens any more, and the server says so to who watches it."""
    assert served.server.responsive
    served.server.stop()
    assert not served.server.responsive
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port))


def test_a_client_that_never_finishes_does_not_delay_the_end(served: Served) -> None:
    """Half a request, and one that stays connected: the end comes all the same, within 3 s."""
    with ExitStack() as stack:
        for sent in (b"", b"GET /healthz HTTP/1.1\r\nHost: ", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            client.sendall(sent)
        with at_most(3):
            served.server.stop()
        assert not served.server.responsive


def test_others_that_hold_connections_keep_nobody_out(served: Served) -> None:
    """200 while 128 others are open, and after."""
    with ExitStack() as stack:
        for _ in range(128):
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
        assert served.ask("/healthz")[0] == 200
    assert served.ask("/healthz")[0] == 200
