"""ZMTP 3.0 by hand (RFC 23): greetings, frames, and a TCP connection that bounds every wait."""

import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

MORE, LARGE, COMMAND = 0x01, 0x02, 0x04
GREETING_BYTES = 64
READY, WELCOME, ERROR = b"\x05READY", b"\x07WELCOME", b"\x05ERROR"
PING, PONG = b"\x04PING", b"\x04PONG"
PATIENCE_S = 5.0  # for an answer, and for the end of a connection
_A_LOOK_S = 0.001
_MOST_BYTES = 1 << 26  # of an answer; an agent has no reason to say more


class HungUp(Exception):
    """The agent ended the connection."""


class Silent(Exception):
    """The agent said nothing in time."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it stood on the wire."""

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
    """Return the beginning of a large frame of any length, which need not follow."""
    return bytes([flags | LARGE]) + struct.pack(">Q", length)


def metadata(properties: Mapping[str, bytes]) -> bytes:
    """Return properties as READY and INITIATE carry them."""
    return b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value for name, value in properties.items()
    )


def split_frames(stream: bytes) -> Iterator[Frame]:
    """Return the whole frames that stand at the beginning of a stream, its greeting taken off."""
    while (size := whole_frame(stream)) is not None:
        body_at = 9 if stream[0] & LARGE else 2
        yield Frame(stream[0], stream[body_at:size])
        stream = stream[size:]


def whole_frame(stream: bytes) -> int | None:
    """Return how many bytes the first frame takes; None where it is not whole yet."""
    if len(stream) < 2:
        return None
    if not stream[0] & LARGE:
        size = 2 + stream[1]
    elif len(stream) < 9:
        return None
    else:
        size = 9 + int(struct.unpack(">Q", stream[1:9])[0])
    return size if len(stream) >= size else None


class Line:
    """A TCP connection to an agent; closes at the end of a `with`."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """End the connection as a process that is killed does: the agent hears a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        self._socket.close()

    def send(self, content: bytes, within_s: float = PATIENCE_S) -> None:
        """Write all of it.

        Raises:
            HungUp: the agent ended the connection.
            Silent: it takes no more.
        """
        self._socket.settimeout(within_s)
        try:
            self._socket.sendall(content)
        except TimeoutError:
            raise Silent(f"it took no more bytes for {within_s:g} s") from None
        except OSError as error:
            raise HungUp(str(error)) from None

    def greet(self, mechanism: bytes, within_s: float = PATIENCE_S) -> bytes:
        """Exchange greetings; return the agent's."""
        self.send(greeting(mechanism))
        return self.read(GREETING_BYTES, within_s)

    def read(self, count: int, within_s: float = PATIENCE_S) -> bytes:
        """Return so many bytes; raises HungUp or Silent."""
        deadline = time.monotonic() + within_s
        while len(self._received) < count:
            self._receive(deadline)
        content = bytes(self._received[:count])
        del self._received[:count]
        return content

    def read_frame(self, within_s: float = PATIENCE_S) -> Frame:
        """Return the next frame; raises HungUp or Silent."""
        deadline = time.monotonic() + within_s
        while (size := whole_frame(bytes(self._received))) is None:
            self._receive(deadline)
        (frame,) = split_frames(self.read(size))
        return frame

    def ended(self) -> bool:
        """Return whether the agent has hung up by now; what it said before is kept."""
        deadline = time.monotonic() + _A_LOOK_S
        try:
            while True:
                self._receive(deadline)
        except (HungUp, Silent) as end:
            return isinstance(end, HungUp)

    def read_to_end(self, within_s: float = PATIENCE_S) -> tuple[bytes, bool]:
        """Return all that still comes, and whether the agent hung up within the time."""
        deadline = time.monotonic() + within_s
        try:
            while len(self._received) < _MOST_BYTES:
                self._receive(deadline)
        except (HungUp, Silent) as end:
            return bytes(self._received), isinstance(end, HungUp)
        return bytes(self._received), False

    def _receive(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise Silent("it said nothing in time")
        self._socket.settimeout(left_s)
        try:
            part = self._socket.recv(65_536)
        except TimeoutError:
            raise Silent("it said nothing in time") from None
        except OSError as error:
            raise HungUp(str(error)) from None
        if not part:
            raise HungUp("it ended the connection")
        self._received += part
