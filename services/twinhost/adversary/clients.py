"""Hand-made clients: DEALERs that send what libzmq never would."""

import ctypes
import os
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from twinhost.adversary.zmtp import (
    COMMAND,
    ERROR,
    MORE,
    PING,
    PONG,
    READY,
    TIMEOUT_S,
    WELCOME,
    NoAnswer,
    RawConnection,
    encode_frame,
    metadata,
)
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.framing.forms import replies_in
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, PublicKey, decode_z85_key
from twinhost.secure_zmq.wire import decode_reply

_INNER_MORE, _INNER_COMMAND = 0x01, 0x02
_BOX_OVERHEAD_BYTES = 16
_TOO_MANY = "500"  # the status that an agent's ZAP handler gives
_NOBODY = KeyOwner("intruder", "nowhere", frozenset({"agent"}))


class NoLibsodium(TwinhostError):
    """This build of pyzmq has no libsodium that can be loaded here."""


class DamagedBox(Exception):
    """A box does not open with these keys: it was made for somebody else, or changed."""


class Refused(Exception):
    """The agent answered the handshake with an error, or with something unexpected."""


class TooManySessions(Refused):
    """The agent accepts this key, and has too many connections for the moment."""


def new_pair() -> KeyPair:
    """Return a key pair that no agent knows."""
    return KeyPair.generate(_NOBODY)


def secret_of(keys: KeyPair) -> bytes:
    """Return a pair's secret as 32 bytes."""
    return decode_z85_key(keys.secret_z85, "the secret key")


class Sodium:
    """`crypto_box`, on which CURVE is built: pyzmq's own libsodium, which is loaded already."""

    def __init__(self) -> None:
        """Find the library, or raise NoLibsodium."""
        self._library = ctypes.CDLL(_loaded_libsodium())
        self._shared: dict[tuple[bytes, bytes], bytes] = {}

    def seal(self, plain: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
        """Return the box for the owner of `public`."""
        box = ctypes.create_string_buffer(len(plain) + _BOX_OVERHEAD_BYTES)
        shared = self._shared_key(public, secret)
        self._library.crypto_box_easy_afternm(box, plain, ctypes.c_ulonglong(len(plain)), nonce, shared)
        return box.raw

    def open(self, box: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
        """Return the content of a box, or raise DamagedBox."""
        plain = ctypes.create_string_buffer(max(0, len(box) - _BOX_OVERHEAD_BYTES))
        length = ctypes.c_ulonglong(len(box))
        shared = self._shared_key(public, secret)
        opened = self._library.crypto_box_open_easy_afternm
        if len(box) < _BOX_OVERHEAD_BYTES or opened(plain, box, length, nonce, shared):
            raise DamagedBox
        return plain.raw

    def _shared_key(self, public: bytes, secret: bytes) -> bytes:
        """Cached, because it takes longer than any box."""
        shared = self._shared.get((public, secret))
        if shared is None:
            made = ctypes.create_string_buffer(32)
            if self._library.crypto_box_beforenm(made, public, secret):  # a key of small order
                raise DamagedBox
            shared = self._shared[public, secret] = made.raw
        return shared


def _loaded_libsodium() -> str:
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        mapped = []
    paths = (line.rpartition(" ")[2] for line in mapped)
    if (path := next((path for path in paths if "libsodium" in path), None)) is None:
        raise NoLibsodium(
            "pyzmq has no libsodium of its own here; run the image, which has it: ./twinhost doctor --intruder"
        )
    return path


class PlainClient:
    """NULL: no key, no encryption. Waits end with Disconnected or NoAnswer."""

    mechanism = b"NULL"

    def __init__(self, connection: RawConnection, properties: Mapping[str, bytes] | None = None) -> None:
        self.connection = connection
        self._properties = {"Socket-Type": b"DEALER", "Identity": b"", **(properties or {})}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def handshake(self) -> None:
        """Establish a session, or raise Refused."""
        self.connection.greet(self.mechanism)
        self.connection.send(encode_frame(READY + metadata(self._properties), COMMAND))
        answer = self.connection.read_frame().body
        if not answer.startswith(READY):
            raise Refused(f"it answered {answer[:16]!r}")

    def send(self, payload: bytes) -> None:
        """Send a message of one frame."""
        self.connection.send(self.encode(payload))

    def send_parts(self, parts: Iterable[bytes]) -> None:
        """Send one message of many frames."""
        frames = list(parts)
        encoded = [self.encode(frame, more=number < len(frames)) for number, frame in enumerate(frames, start=1)]
        self.connection.send(b"".join(encoded), within_s=4 * TIMEOUT_S)

    def call(self, action: str, within_s: float = TIMEOUT_S, **fields: Any) -> dict[str, Any]:
        """Send a request and return the reply, an error reply too."""
        self.send(msgspec.json.encode({"action": action, **fields}))
        return self.receive(within_s)

    def receive(self, within_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the next message as a JSON object; heartbeats are skipped."""
        return msgspec.json.decode(self._message(within_s), type=dict[str, Any])

    def receive_all(self, count: int, within_s: float) -> list[dict[str, Any]]:
        """Return so many replies, in however many messages they come; fewer where no further one comes in time."""
        replies: list[dict[str, Any]] = []
        until = time.monotonic() + within_s
        while len(replies) < count:
            try:
                message = self._message(max(0.0, until - time.monotonic()))
            except NoAnswer:
                if not replies:
                    raise
                break
            replies += map(decode_reply, replies_in(message))
        return replies

    def _message(self, within_s: float) -> bytes:
        command = True
        while command:
            command, content = self._read(within_s)
        return content

    def answers_ping(self, within_s: float = TIMEOUT_S) -> None:
        """Wait until the agent's ZeroMQ has answered a ZMTP PING."""
        context = os.urandom(8)
        self.connection.send(self.encode(PING + bytes(2) + context, command=True))
        while self._read(within_s) != (True, PONG + context):
            pass

    def encode(self, payload: bytes, *, more: bool = False, command: bool = False) -> bytes:
        """Return a frame of a message, or a command, as it goes on the wire."""
        return encode_frame(payload, (MORE if more else 0) | (COMMAND if command else 0))

    def _read(self, within_s: float) -> tuple[bool, bytes]:
        """Return whether the next frame is a command, and its content."""
        frame = self.connection.read_frame(within_s)
        return frame.command, frame.body


class CurveClient(PlainClient):
    """CURVE (RFC 26) with any key, any pin, and any secret for the vouch."""

    mechanism = b"CURVE"

    def __init__(
        self,
        connection: RawConnection,
        keys: KeyPair,
        pin: PublicKey,
        properties: Mapping[str, bytes] | None = None,
        vouch_secret: bytes | None = None,
    ) -> None:
        """Hold a key, without a session yet; `vouch_secret` replaces the secret of `keys`."""
        super().__init__(connection, properties)
        self._sodium = Sodium()
        self._public, self._secret = keys.public.raw, vouch_secret or secret_of(keys)
        self._server = pin.raw
        transient = new_pair()
        self._transient, self._transient_secret = transient.public.raw, secret_of(transient)
        self._server_transient = b""
        self._count = 0

    def handshake(self) -> None:
        self.connection.greet(self.mechanism)
        self.initiate(self.hello())

    def hello(self) -> bytes:
        """Send HELLO and return the cookie from WELCOME, or raise Refused."""
        number = self._number()
        box = self._sodium.seal(bytes(64), b"CurveZMQHELLO---" + number, self._server, self._transient_secret)
        self.connection.send(encode_frame(b"\x05HELLO\x01\x00" + bytes(72) + self._transient + number + box, COMMAND))
        welcome = self.connection.read_frame().body
        if not welcome.startswith(WELCOME):
            raise Refused(f"it answered {welcome[:16]!r}")
        opened = self._open(welcome[24:], b"WELCOME-" + welcome[8:24], self._server)
        self._server_transient = opened[:32]
        return opened[32:]

    def initiate(self, cookie: bytes) -> None:
        """Send INITIATE and wait for READY, or raise Refused."""
        vouch_nonce = os.urandom(16)
        vouch = self._sodium.seal(
            self._transient + self._server, b"VOUCH---" + vouch_nonce, self._server_transient, self._secret
        )
        number = self._number()
        claims = self._public + vouch_nonce + vouch + metadata(self._properties)
        box = self._sodium.seal(claims, b"CurveZMQINITIATE" + number, self._server_transient, self._transient_secret)
        self.connection.send(encode_frame(b"\x08INITIATE" + cookie + number + box, COMMAND))
        answer = self.connection.read_frame().body
        if answer.startswith(ERROR):
            status = answer[7:].decode(errors="replace")
            raise (TooManySessions if status == _TOO_MANY else Refused)(f"it answered ERROR {status}")
        if not answer.startswith(READY):
            raise Refused(f"it answered {answer[:16]!r}")

    def encode(self, payload: bytes, *, more: bool = False, command: bool = False) -> bytes:
        return self.sealed(bytes([(_INNER_MORE if more else 0) | (_INNER_COMMAND if command else 0)]) + payload)

    def sealed(self, plain: bytes) -> bytes:
        """Return a MESSAGE frame with any content, the inner flags included."""
        number = self._number()
        box = self._sodium.seal(plain, b"CurveZMQMESSAGEC" + number, self._server_transient, self._transient_secret)
        return encode_frame(b"\x07MESSAGE" + number + box)

    def _read(self, within_s: float) -> tuple[bool, bytes]:
        body = self.connection.read_frame(within_s).body
        plain = self._open(body[16:], b"CurveZMQMESSAGES" + body[8:16], self._server_transient)
        return bool(plain[0] & _INNER_COMMAND), plain[1:]

    def _open(self, box: bytes, nonce: bytes, public: bytes) -> bytes:
        try:
            return self._sodium.open(box, nonce, public, self._transient_secret)
        except DamagedBox:
            raise Refused("its answer was not sealed with the pinned key") from None

    def _number(self) -> bytes:
        self._count += 1
        return struct.pack(">Q", self._count)


def open_session(
    connection: RawConnection,
    keys: KeyPair | None = None,
    pin: PublicKey | None = None,
    properties: Mapping[str, bytes] | None = None,
) -> PlainClient:
    """Return a client that completed its handshake: CURVE with a key and a pin, NULL without."""
    client = PlainClient(connection, properties)
    if keys is not None and pin is not None:
        client = CurveClient(connection, keys, pin, properties)
    try:
        client.handshake()
    except BaseException:
        connection.close()
        raise
    return client
