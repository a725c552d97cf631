"""The calls to a `/v1/embeddings`: a real server on loopback, what it may answer, and the circuit breaker."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.speed.tls import make_certificates
from tests.embedding_service import DIMENSIONS, EmbeddingService
from twinhost.moments import Clock
from twinhost.network_config.model import Embeddings
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.unified_memory_reasoning.search.embedding import (
    FIRST_OPEN_S,
    MOST_OPEN_S,
    OPENS_AFTER,
    Breaker,
    EmbeddingFailed,
    Service,
)


class SteppedClock(Clock):
    """A clock that stands still between the steps of a test."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def service() -> Iterator[EmbeddingService]:
    with EmbeddingService() as service:
        yield service


def answering(status: int, content: bytes, headers: dict[str, str] | None = None) -> HTTPServer:
    """Serve one answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def embed(url: str, *texts: str, is_query: bool = False, within_s: float = 10.0, **settings: Any) -> list[list[float]]:
    vectors = Service(Embeddings(url, "m", **settings)).embed(texts, is_query=is_query, within_s=within_s)
    return [list(vector) for vector in vectors]


def test_each_text_gets_its_vector(service: EmbeddingService, tmp_path: Path) -> None:
    """The prefixes, the model, and the API key are sent."""
    (tmp_path / "key").write_text("secret\n")
    settings: dict[str, Any] = {"query_prefix": "q: ", "text_prefix": "t: ", "api_key_file": tmp_path / "key"}
    vectors = embed(service.url, "one", "two", **settings)
    assert [len(vector) for vector in vectors] == [DIMENSIONS, DIMENSIONS]
    assert vectors[0] != vectors[1]
    embed(service.url, "who", is_query=True, **settings)
    assert [body["input"] for body in service.asked] == [["t: one", "t: two"], ["q: who"]]
    assert service.asked[0]["model"] == "m"
    assert service.headers_of[0]["Authorization"] == "Bearer secret"


def test_a_slow_service_costs_the_deadline_and_no_more(service: EmbeddingService) -> None:
    service.delay_s = 30.0
    began = time.monotonic()
    with pytest.raises(EmbeddingFailed, match=r"did not answer within 0\.3 s"):
        embed(service.url, "x", within_s=0.3)
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize(
    ("at_once", "dripped"),
    [
        (b"", b"HTTP/1.1 200 O" + b"K" * 60_000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 60_000),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" " * 60_000),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b" " * 60_000),
    ],
)
def test_a_service_that_sends_single_bytes_costs_one_deadline(
    at_once: bytes, dripped: bytes, encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.wfile.write(at_once)
            with suppress(OSError):
                for byte in dripped:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if encrypted:
        files = make_certificates(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate("server"), files.key("server"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        monkeypatch.setenv("SSL_CERT_FILE", files.authority)
    threading.Thread(target=server.handle_request, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(EmbeddingFailed, match=r"did not answer within 0\.5 s"):
        embed(f"http{'s' * encrypted}://127.0.0.1:{server.server_port}/", "a", within_s=0.5)
    assert time.monotonic() - began < 3.0


def test_vectors_are_taken_by_their_index() -> None:
    server = answering(200, b'{"data": [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}]}')
    assert embed(f"http://127.0.0.1:{server.server_port}/", "a", "b") == [[1.0, 0.0], [0.0, 1.0]]
    server.shutdown()


@pytest.mark.parametrize(
    ("status", "content", "sentence", "refused"),
    [
        (200, b"<html>", "another form", False),
        (200, b'{"data": [{"embedding": ["1"]}]}', "another form", False),
        (200, b'{"data": [{"embedding": [NaN]}]}', "another form", False),
        (200, b'{"x": ' + b"[" * 100_000, "another form", False),
        (200, b'{"data": [], "x": "\xff"}', "another form|0 vectors", False),
        (200, b'{"data": []}', "0 vectors for 1 texts", False),
        (200, b'{"data": [{"embedding": []}]}', "1 vectors for 1 texts", False),
        (200, b'{"data": [{"embedding": [1]}, {"embedding": [1]}]}', "2 vectors for 1 texts", False),
        (200, b'{"data": [{"embedding": [0, 0]}]}', "without a direction", False),
        (200, b'{"data": [{"embedding": [1, 1e300]}]}', "too long to compare", False),
        (200, b'{"data": [{"embedding": [0, 1e-300]}]}', "without a direction", False),
        (200, b"x" * (8 * 1024 * 1024 + 1), "sent more than", False),
        (503, b"loading", "answered 503", False),
        (400, b"too long", "answered 400", True),
    ],
)
def test_an_answer_that_is_none_is_refused(status: int, content: bytes, sentence: str, refused: bool) -> None:
    server = answering(status, content)
    with pytest.raises(EmbeddingFailed, match=sentence) as failure:
        embed(f"http://127.0.0.1:{server.server_port}/", "a")
    assert failure.value.refused is refused
    server.shutdown()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 401 secret\r\nX: secret\r\n\r\nno such key: secret",
        b'HTTP/1.1 200 OK\r\n\r\n{"secret": secret}',
        b'HTTP/1.1 200 OK\r\n\r\n{"data": "secret"}',
        b"secret HTTP\r\n\r\n",
        b"HTTP/1.1 secret OK\r\n\r\n",
        b"HTTP/secret 200 OK\r\n\r\n",
        b"",
    ],
)
def test_what_a_service_says_of_a_failure_is_told_to_nobody(reply: bytes) -> None:
    """It may repeat a text or the key, and the reason of a failure is in the replies to other callers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    with pytest.raises(EmbeddingFailed, match="embedding service") as failure:
        embed(f"http://127.0.0.1:{server.server_port}/", "secret")
    assert "secret" not in str(failure.value)


def test_no_redirect_is_followed(service: EmbeddingService) -> None:
    """It could send the texts to another host."""
    server = answering(307, b"", {"Location": service.url})
    with pytest.raises(EmbeddingFailed, match="answered 307"):
        embed(f"http://127.0.0.1:{server.server_port}/", "a")
    assert not service.asked
    server.shutdown()


def test_https_needs_a_certificate_that_is_trusted(
    service: EmbeddingService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate("server"), files.key("server"))
    service.socket = context.wrap_socket(service.socket, server_side=True)
    url = service.url.replace("http:", "https:")
    with pytest.raises(EmbeddingFailed, match="CERTIFICATE_VERIFY_FAILED"):
        embed(url, "a")
    assert not service.asked
    monkeypatch.setenv("SSL_CERT_FILE", files.authority)
    assert len(embed(url, "a")) == 1


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two\nlines", b"x" * 5_000, "\u00e9".encode()])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="api_key_file names"):
        Service(Embeddings("https://h/", "m", api_key_file=file))


def test_the_breaker_opens_after_three_failures_in_a_row() -> None:
    """It lets one trial through after a while, waits longer after each further failure, and closes on success."""
    clock = SteppedClock()
    breaker = Breaker(clock)
    for _ in range(OPENS_AFTER):
        assert breaker.allows()
        breaker.failed()
    assert (breaker.state, breaker.allows()) == ("open", False)
    clock.now = FIRST_OPEN_S
    assert breaker.state == "half-open"
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.failed()
    clock.now += 1.9 * FIRST_OPEN_S
    assert not breaker.allows()
    clock.now += MOST_OPEN_S
    assert breaker.allows()
    breaker.succeeded()
    assert (breaker.state, breaker.allows()) == ("closed", True)


def test_a_success_between_keeps_the_breaker_closed() -> None:
    breaker = Breaker()
    for _ in range(OPENS_AFTER):
        breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"
