"""Clients by hand: DEALERs that claim, leave out, and damage what libzmq never would."""

import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Self

import msgspec

from twinhost.adversary.boxes import DamagedBox, Sodium
from twinhost.adversary.zmtp import (
    COMMAND,
    ERROR,
    MORE,
    PATIENCE_S,
    PING,
    PONG,
    READY,
    WELCOME,
    Line,
    encode_frame,
    metadata,
)
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, PublicKey
from twinhost.secure_zmq.zcert import decode_z85_key

_INNER_MORE, _INNER_COMMAND = 0x01, 0x02
_NOBODY = KeyOwner("intruder", "nowhere", frozenset({"agent"}))


class Refused(Exception):
    """The agent answered the handshake with an error, or with something else than it should."""


def new_pair() -> KeyPair:
    """Return a pair that nobody has seen before."""
    return KeyPair.generate(_NOBODY)


def secret_of(keys: KeyPair) -> bytes:
    """Return a pair's secret as 32 bytes."""
    return decode_z85_key(keys.secret_z85, "the secret key")


class PlainClient:
    """NULL: no key, no encryption."""

    mechanism = b"NULL"

    def __init__(self, line: Line, properties: Mapping[str, bytes] | None = None) -> None:
        self._line = line
        self._properties = {"Socket-Type": b"DEALER", "Identity": b"", **(properties or {})}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    @property
    def line(self) -> Line:
        return self._line

    def shake_hands(self) -> None:
        """Make a session; raises Refused, HungUp, or Silent."""
        self._line.greet(self.mechanism)
        self._line.send(encode_frame(READY + metadata(self._properties), COMMAND))
        answer = self._line.read_frame().body
        if not answer.startswith(READY):
            raise Refused(f"it answered {answer[:16]!r}")

    def send(self, payload: bytes) -> None:
        """Send a message of one frame."""
        self._line.send(self.encode(payload))

    def send_parts(self, parts: Iterable[bytes]) -> None:
        """Send one message of many frames."""
        frames = list(parts)
        encoded = [self.encode(frame, more=number < len(frames)) for number, frame in enumerate(frames, start=1)]
        self._line.send(b"".join(encoded), within_s=4 * PATIENCE_S)

    def call(self, action: str, within_s: float = PATIENCE_S, **fields: Any) -> dict[str, Any]:
        """Ask for an action and return the reply, whatever it says; raises HungUp or Silent."""
        self.send(msgspec.json.encode({"action": action, **fields}))
        return self.receive(within_s)

    def receive(self, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Return the next message as the object that it must be; heartbeats are passed over."""
        while True:
            message = self._message(within_s)
            if message is not None:
                return msgspec.json.decode(message, type=dict[str, Any])

    def answers_ping(self, within_s: float = PATIENCE_S) -> None:
        """Wait until the agent's ZeroMQ has answered to a sign of life; raises HungUp or Silent."""
        context = os.urandom(8)
        self._line.send(self.encode(PING + bytes(2) + context, command=True))
        while self._read(within_s) != (True, PONG + context):
            pass

    def encode(self, payload: bytes, *, more: bool = False, command: bool = False) -> bytes:
        """Return a frame of a message, or a command, as it goes on the wire."""
        return encode_frame(payload, (MORE if more else 0) | (COMMAND if command else 0))

    def _message(self, within_s: float) -> bytes | None:
        command, content = self._read(within_s)
        return None if command else content

    def _read(self, within_s: float) -> tuple[bool, bytes]:
        """Return whether what comes next is a command, and what it says."""
        frame = self._line.read_frame(within_s)
        return frame.command, frame.body


class CurveClient(PlainClient):
    """CURVE (RFC 26) with any key, any pin, and any secret for the vouch."""

    mechanism = b"CURVE"

    def __init__(
        self,
        line: Line,
        keys: KeyPair,
        pin: PublicKey,
        properties: Mapping[str, bytes] | None = None,
        vouch_secret: bytes | None = None,
    ) -> None:
        """Hold a key, without a session yet; `vouch_secret` stands in for that of `keys`."""
        super().__init__(line, properties)
        self._sodium = Sodium()
        self._public, self._secret = keys.public.raw, vouch_secret or secret_of(keys)
        self._server = pin.raw
        transient = new_pair()
        self._transient, self._transient_secret = transient.public.raw, secret_of(transient)
        self._server_transient = b""
        self._count = 0

    def shake_hands(self) -> None:
        self._line.greet(self.mechanism)
        self.introduce(self.meet())

    def introduce(self, cookie: bytes) -> None:
        """Say INITIATE, and wait for READY; raises Refused, HungUp, or Silent."""
        self._line.send(encode_frame(self._initiate(cookie), COMMAND))
        answer = self._line.read_frame().body
        if answer.startswith(ERROR):
            raise Refused(f"it answered ERROR {answer[7:].decode(errors='replace')}")
        if not answer.startswith(READY):
            raise Refused(f"it answered {answer[:16]!r}")

    def meet(self) -> bytes:
        """Say HELLO and return the cookie that came with WELCOME, as far as it could be opened."""
        number = self._number()
        box = self._sodium.seal(bytes(64), b"CurveZMQHELLO---" + number, self._server, self._transient_secret)
        self._line.send(encode_frame(b"\x05HELLO\x01\x00" + bytes(72) + self._transient + number + box, COMMAND))
        welcome = self._line.read_frame().body
        if not welcome.startswith(WELCOME):
            raise Refused(f"it answered {welcome[:16]!r}")
        opened = self._open(welcome[24:], b"WELCOME-" + welcome[8:24], self._server)
        self._server_transient = opened[:32]
        return opened[32:]

    def encode(self, payload: bytes, *, more: bool = False, command: bool = False) -> bytes:
        number = self._number()
        plain = bytes([(_INNER_MORE if more else 0) | (_INNER_COMMAND if command else 0)]) + payload
        nonce = b"CurveZMQMESSAGEC" + number
        box = self._sodium.seal(plain, nonce, self._server_transient, self._transient_secret)
        return encode_frame(b"\x07MESSAGE" + number + box)

    def _read(self, within_s: float) -> tuple[bool, bytes]:
        body = self._line.read_frame(within_s).body
        plain = self._open(body[16:], b"CurveZMQMESSAGES" + body[8:16], self._server_transient)
        return bool(plain[0] & _INNER_COMMAND), plain[1:]

    def _initiate(self, cookie: bytes) -> bytes:
        vouch_nonce = os.urandom(16)
        vouch = self._sodium.seal(
            self._transient + self._server, b"VOUCH---" + vouch_nonce, self._server_transient, self._secret
        )
        number = self._number()
        claims = self._public + vouch_nonce + vouch + metadata(self._properties)
        box = self._sodium.seal(claims, b"CurveZMQINITIATE" + number, self._server_transient, self._transient_secret)
        return b"\x08INITIATE" + cookie + number + box

    def _open(self, box: bytes, nonce: bytes, public: bytes) -> bytes:
        try:
            return self._sodium.open(box, nonce, public, self._transient_secret)
        except DamagedBox:
            raise Refused("what it said was not sealed with the key that is pinned") from None

    def _number(self) -> bytes:
        self._count += 1
        return struct.pack(">Q", self._count)
