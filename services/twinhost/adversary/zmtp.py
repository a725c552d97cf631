"""ZMTP 3.0 without libzmq (RFC 23): greetings, frames, and a TCP connection on which every wait has a deadline."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

MORE, LARGE, COMMAND = 0x01, 0x02, 0x04
GREETING_BYTES = 64
READY, WELCOME, ERROR = b"\x05READY", b"\x07WELCOME", b"\x05ERROR"
PING, PONG = b"\x04PING", b"\x04PONG"
TIMEOUT_S = 5.0  # for an answer, and for the end of a connection
_POLL_S = 0.001
_MAX_ANSWER_BYTES = 1 << 26  # an agent has no reason to send more


class Disconnected(Exception):
    """The agent closed the connection."""


class NoAnswer(Exception):
    """The agent sent nothing in time, or accepted no more bytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was on the wire."""

    flags: int
    body: bytes

    @property
    def command(self) -> bool:
        return bool(self.flags & COMMAND)


def greeting(mechanism: bytes) -> bytes:
    """Return a client's greeting for NULL or CURVE."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


def encode_frame(body: bytes, flags: int = 0) -> bytes:
    """Return a frame's bytes."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return frame_header(len(body), flags) + body


def frame_header(length: int, flags: int = 0) -> bytes:
    """Return the header of a large frame; the body that it announces need not follow."""
    return bytes([flags | LARGE]) + struct.pack(">Q", length)


def metadata(properties: Mapping[str, bytes]) -> bytes:
    """Return properties as READY and INITIATE carry them."""
    return b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value for name, value in properties.items()
    )


def split_frames(stream: bytes) -> Iterator[Frame]:
    """Return the complete frames at the beginning of a stream that had its greeting removed."""
    while (size := whole_frame(stream)) is not None:
        yield _decoded(stream[:size])
        stream = stream[size:]


def whole_frame(stream: bytes) -> int | None:
    """Return how many bytes the first frame takes; None while it is incomplete."""
    if len(stream) < 2:
        return None
    if not stream[0] & LARGE:
        size = 2 + stream[1]
    elif len(stream) < 9:
        return None
    else:
        size = 9 + int(struct.unpack(">Q", stream[1:9])[0])
    return size if len(stream) >= size else None


def _decoded(frame: bytes) -> Frame:
    return Frame(frame[0], frame[9:] if frame[0] & LARGE else frame[2:])


class RawConnection:
    """A TCP connection to an agent, closed at the end of a `with`; its methods raise Disconnected and NoAnswer."""

    def __init__(self, host: str, port: int) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout=TIMEOUT_S)
        except (BrokenPipeError, ConnectionResetError) as error:  # it was accepted, and ended before this was noticed
            raise Disconnected(str(error)) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """End the connection with a TCP reset, as a killed process does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        self._socket.close()

    def send(self, content: bytes, within_s: float = TIMEOUT_S) -> None:
        self._socket.settimeout(within_s)
        try:
            self._socket.sendall(content)
        except TimeoutError:
            raise NoAnswer(f"it accepted no more bytes for {within_s:g} s") from None
        except OSError as error:
            raise Disconnected(str(error)) from None

    def greet(self, mechanism: bytes, within_s: float = TIMEOUT_S) -> bytes:
        """Exchange greetings; return the agent's."""
        self.send(greeting(mechanism))
        return self.read(GREETING_BYTES, within_s)

    def read(self, count: int, within_s: float = TIMEOUT_S) -> bytes:
        deadline = time.monotonic() + within_s
        while len(self._received) < count:
            self._receive(deadline)
        content = bytes(self._received[:count])
        del self._received[:count]
        return content

    def read_frame(self, within_s: float = TIMEOUT_S) -> Frame:
        deadline = time.monotonic() + within_s
        while (size := whole_frame(bytes(self._received))) is None:
            self._receive(deadline)
        return _decoded(self.read(size))

    def ended(self) -> bool:
        """Return whether the agent has disconnected by now; what it sent before is kept."""
        return self.read_to_end(_POLL_S)[1]

    def read_to_end(self, within_s: float = TIMEOUT_S) -> tuple[bytes, bool]:
        """Return everything that arrives, and whether the agent disconnected in time."""
        deadline = time.monotonic() + within_s
        try:
            while len(self._received) < _MAX_ANSWER_BYTES:
                self._receive(deadline)
        except (Disconnected, NoAnswer) as end:
            return bytes(self._received), isinstance(end, Disconnected)
        return bytes(self._received), False

    def _receive(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise NoAnswer("it sent nothing in time")
        self._socket.settimeout(left_s)
        try:
            part = self._socket.recv(65_536)
        except TimeoutError:
            raise NoAnswer("it sent nothing in time") from None
        except OSError as error:
            raise Disconnected(str(error)) from None
        if not part:
            raise Disconnected("it closed the connection")
        self._received += part


def connect_to(endpoint: str) -> RawConnection:
    """Return a connection to an endpoint, `tcp://host:port`."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    return RawConnection(parts.hostname, parts.port)


class Listener:
    """Accepts TCP connections on loopback until the end of its `with`, and serves each on a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="listener", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), name="listener", daemon=True).start()
