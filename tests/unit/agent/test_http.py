"""/healthz and /readyz on a real port: read-only, honest about the status, and gone after the end."""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn

from tests.ports import free_ports
from tests.waiting import PATIENCE_S, at_most
from twinhost.agent.health import Health
from twinhost.agent.http import HttpServer, _QuietServer, http_hosts
from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse


class Served:
    """A health document on an HTTP port; a test sets what is wrong."""

    def __init__(self) -> None:
        self.essential: str | None = None
        self.other: str | None = None
        health = Health("Agent", secure=True)
        health.add("store", lambda: self.essential, essential=True)
        health.add("link", lambda: self.other, essential=False)
        (self.port,) = free_ports(1)
        self.server = HttpServer(self.port, health.document, hosts=http_hosts(["mainpc", "FD00::0:1"], {}))
        self.server.start()

    def ask(
        self, path: str, method: str = "GET", host: str = "127.0.0.1", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers, and body; `host` is connected to, `Host` in the headers is another name for it."""
        connection = http.client.HTTPConnection(host, self.port, timeout=PATIENCE_S)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def status(self, path: str) -> tuple[int, Any]:
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


ALLOWED = [
    "localhost",
    "localhost:18120",
    "LOCALHOST.",
    "127.0.0.1",
    "127.9.8.7:1",
    "[::1]:8120",
    "[0:0::1]",
    "[::ffff:127.0.0.1]",
    "mainpc",
    "MainPC.:8120",
    "[fd00::1]:8120",
    "[FD00:0:0::1]",
]
REFUSED = [
    "evil.example",
    "evil.example:8120",
    "localhost.evil.example",
    "mainpc.evil.example",
    "xlocalhost",
    "127.0.0.1.evil.example",
    "192.0.2.7",
    "[2001:db8::1]:8120",
    "2130706433",
    "",
    ":8120",
    "localhost:80:80",
    "localhost:evil",
    "evil@localhost",
    "localhost@evil.example",
    "[::1",
    "[::1]evil",
    "[localhost]",
    "[]",
    "::1",
    "localhost evil.example",
    "fd00::1",
]


@pytest.mark.parametrize("name", ALLOWED)
def test_hosts_that_are_configured_are_answered(served: Served, name: str) -> None:
    """Loopback names and addresses, and those of the configuration, in any spelling and with any port."""
    assert served.ask("/healthz", Host=name)[0] == 200


@pytest.mark.parametrize("name", REFUSED)
def test_no_other_host_is_answered(served: Served, name: str) -> None:
    """DNS rebinding: 421 on every path, with the way out, and nothing of what the path shows."""
    for path in ("/healthz", "/readyz", "/metrics", "/nothing"):
        status, headers, content = served.ask(path, Host=name)
        assert (status, headers["content-type"]) == (421, "text/plain; charset=utf-8")
        assert b"TWINHOST_HTTP_HOSTS" in content
        assert content.count(b"\n") == 1


def test_a_request_without_a_host_is_refused(served: Served) -> None:
    """HTTP/1.0 allows it and no browser does it; HTTP/1.1 and two of them are malformed."""
    for head, status in (
        ("HTTP/1.0\r\n", b" 421 "),
        ("HTTP/1.1\r\n", b" 400 "),
        ("HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", b" 400 "),
    ):
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_S) as line:
            line.sendall(f"GET /healthz {head}\r\n".encode())
            assert status in line.recv(65_536).partition(b"\r\n")[0]


def test_the_address_that_was_connected_to_is_a_host(served: Served) -> None:
    """As on a container's own address: whoever asks for an address was led there by no name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has only loopback addresses")
        own = probe.getsockname()[0]
    assert served.ask("/healthz", host=own)[0] == 200
    assert served.ask("/healthz", Host=own)[0] == 421


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 200), ("same-origin", 200), ("none", 200)]
)
def test_a_page_of_another_site_gets_nothing(served: Served, site: str, status: int) -> None:
    """A browser says where a request comes from."""
    assert served.ask("/metrics", Sec_Fetch_Site=site)[0] == status


def test_no_response_is_for_another_origin(served: Served) -> None:
    """Whatever the status, no page of another origin may embed it."""
    answers = [
        served.ask("/healthz"),
        served.ask("/metrics"),
        served.ask("/nothing"),
        served.ask("/healthz", "POST"),
        served.ask("/healthz", Host="evil.example"),
        served.ask("/healthz", Sec_Fetch_Site="cross-site"),
    ]
    assert [status for status, *_ in answers] == [200, 200, 404, 405, 421, 403]
    assert {headers.get("cross-origin-resource-policy") for _, headers, _ in answers} == {"same-origin"}


def test_further_hosts_come_from_the_environment() -> None:
    """Names and addresses, separated by commas or spaces, in their normal form."""
    listed = {"TWINHOST_HTTP_HOSTS": " Twin.Example., 192.0.2.7 [2001:DB8::0:1]"}
    assert http_hosts(["mainpc"], listed) == {"mainpc", "twin.example", "192.0.2.7", "2001:db8::1"}


@pytest.mark.parametrize("entry", ["*", "http://twin", "twin:8120", "*.example", "1.2.3", "-x", "tw/in"])
def test_a_further_host_that_is_none_stops_the_start(entry: str) -> None:
    """One sentence that names the variable and the entry."""
    with pytest.raises(ConfigurationError, match="TWINHOST_HTTP_HOSTS") as refusal:
        http_hosts([], {"TWINHOST_HTTP_HOSTS": f"mainpc,{entry}"})
    assert repr(entry) in str(refusal.value)


def test_a_taken_port_is_one_sentence(served: Served) -> None:
    """The second server fails before anything is served, and the first goes on."""
    with pytest.raises(
        SocketMisuse, match=rf"HTTP port {served.port} can't be bound \(Address already in use"
    ) as refusal:
        HttpServer(served.port, dict)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith("or change network_config.yaml")
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


class EndedAtOnce(_QuietServer):
    """A server that another thread ends as soon as its loop is known."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "_loop":
            self.end()


def test_a_server_may_be_ended_while_it_starts() -> None:
    """The loop does not wait then."""
    server = EndedAtOnce(uvicorn.Config(lambda: None))
    asyncio.run(asyncio.wait_for(server.main_loop(), PATIENCE_S))
    assert server.should_exit
