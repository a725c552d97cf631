"""What is on the wire: nothing readable with SECURE_ZMQ=1; with 0 everything, so the capture is known to work."""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.containers.stack import IMAGE, ZMQ_PORTS, Stack
from tests.waiting import wait_until

SNIFFER = Path(__file__).with_name("sniffer.py")
CAPTURE = "/tmp/capture"
CURVE_GREETING = b"\x03\x01CURVE\x00"  # RFC 23: version 3.1, and the mechanism
NULL_GREETING = b"\x03\x01NULL\x00"
MARKER = "in-plain-sight"
REQUEST_BYTES = 64 * 1024

pytestmark = pytest.mark.sdt_security


class Capture:
    """The bytes that a sniffer has recorded so far."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def bytes(self) -> bytes:
        chunks, _ = self._container.get_archive(CAPTURE)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            member = archive.extractfile("capture")
            assert member is not None
            return member.read()


@contextmanager
def capture(engine: docker.DockerClient, stack: Stack, host: str) -> Iterator[Capture]:
    """Record a host's ZeroMQ port, from inside the host's own network namespace."""
    container = engine.containers.run(
        IMAGE,
        ["python", "/sniffer.py", str(ZMQ_PORTS[host]), CAPTURE],
        network_mode=f"container:{stack.container(host).id}",
        volumes={str(SNIFFER): {"bind": "/sniffer.py", "mode": "ro"}},
        user="0",
        cap_drop=["ALL"],
        cap_add=["NET_RAW"],
        detach=True,
    )
    try:
        wait_until(lambda: b"listening" in container.logs(), 10, "the sniffer listens")
        yield Capture(container)
    finally:
        container.remove(force=True)


def exchange(stack: Stack) -> None:
    """Send a large, recognisable request over the link, and have its content sent back."""
    text = MARKER * (REQUEST_BYTES // len(MARKER))
    for action in ("update_twin", "get_twin"):
        fields = [f'twin_data={{"note": "{text}"}}'] if action == "update_twin" else []
        done = stack.run("cli", "call", "UnifiedMemoryReasoningAgent", action, "user_id=captured", *fields)
        assert done.status == 0, done.err


def test_with_security_the_wire_holds_no_plaintext(engine: docker.DockerClient, stack: Stack) -> None:
    """The CURVE greeting and all the bytes are there, and nothing of the requests."""
    with capture(engine, stack, "pc2") as tap:
        exchange(stack)
        wait_until(lambda: len(tap.bytes()) >= 2 * REQUEST_BYTES, 10, "as many bytes as request and reply have")
        seen = tap.bytes()
    assert CURVE_GREETING in seen
    assert NULL_GREETING not in seen
    for word in (MARKER, "update_twin", "twin_data", "captured", "request_id"):
        assert word.encode() not in seen


def test_without_security_the_same_capture_holds_the_plaintext(engine: docker.DockerClient, open_stack: Stack) -> None:
    """With SECURE_ZMQ=0 anybody on the link reads along; this is what the test above would see if CURVE were off."""
    with capture(engine, open_stack, "pc2") as tap:
        exchange(open_stack)
        wait_until(lambda: len(tap.bytes()) >= 2 * REQUEST_BYTES, 10, "as many bytes as request and reply have")
        seen = tap.bytes()
    assert NULL_GREETING in seen
    for word in (MARKER, "update_twin", "twin_data", "captured", "request_id"):
        assert word.encode() in seen


def test_umras_registration_is_not_readable(engine: docker.DockerClient, stack: Stack) -> None:
    """What the agents say to each other by themselves, heartbeats, is encrypted too."""
    with capture(engine, stack, "mainpc") as tap:
        wait_until(lambda: len(tap.bytes()) > 500, 15, "a heartbeat on the wire")
        seen = tap.bytes()
    assert b"heartbeat" not in seen
    assert b"UnifiedMemoryReasoningAgent" not in seen
