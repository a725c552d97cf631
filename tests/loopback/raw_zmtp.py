"""A peer that speaks ZMTP 3.0 by hand (RFC 23, 25, 26), and so may claim in its metadata what libzmq never would.

The cryptography is libsodium's, out of pyzmq's own wheel.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85

from twinhost.secure_zmq.keys import KeyPair, PublicKey

_COMMAND, _LARGE = 0x04, 0x02
_GREETING_BYTES = 64


class Box:
    """`crypto_box`: the authenticated encryption that CURVE is made of."""

    def __init__(self) -> None:
        (library,) = (Path(zmq.__file__).parent.parent / "pyzmq.libs").glob("libsodium-*.so*")
        self._sodium = ctypes.CDLL(str(library))

    def seal(self, plain: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
        box = ctypes.create_string_buffer(len(plain) + 16)
        assert self._sodium.crypto_box_easy(box, plain, ctypes.c_ulonglong(len(plain)), nonce, public, secret) == 0
        return box.raw

    def open(self, box: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
        plain = ctypes.create_string_buffer(len(box) - 16)
        assert self._sodium.crypto_box_open_easy(plain, box, ctypes.c_ulonglong(len(box)), nonce, public, secret) == 0
        return plain.raw


def metadata(properties: Mapping[str, str]) -> bytes:
    """Return properties as a READY or an INITIATE command carries them."""
    return b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value.encode()
        for name, value in properties.items()
    )


class NullDealer:
    """A DEALER on an open link, with metadata of its own choice."""

    mechanism = b"NULL"

    def __init__(self, address: str, properties: Mapping[str, str]) -> None:
        self._socket = socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=10)
        self._socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + self.mechanism.ljust(20, b"\0") + bytes(32))
        self._receive_exactly(_GREETING_BYTES)
        self._shake_hands({"Socket-Type": "DEALER", "Identity": "", **properties})

    def _shake_hands(self, properties: Mapping[str, str]) -> None:
        self.send_frame(b"\x05READY" + metadata(properties), _COMMAND)
        assert self.receive_frame().startswith(b"\x05READY")

    def send(self, payload: bytes) -> None:
        """Send one message of one frame."""
        self.send_frame(payload)

    def receive(self) -> bytes:
        """Return the next message, which must have one frame."""
        return self.receive_frame()

    def send_frame(self, body: bytes, flags: int = 0) -> None:
        if len(body) < 256:
            self._socket.sendall(bytes([flags, len(body)]) + body)
        else:
            self._socket.sendall(bytes([flags | _LARGE]) + struct.pack(">Q", len(body)) + body)

    def receive_frame(self) -> bytes:
        """Return the next frame's body; heartbeats do not come within a test."""
        (flags,) = self._receive_exactly(1)
        form = ">Q" if flags & _LARGE else ">B"
        (length,) = struct.unpack(form, self._receive_exactly(struct.calcsize(form)))
        return self._receive_exactly(length)

    def close(self) -> None:
        self._socket.close()

    def _receive_exactly(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            part = self._socket.recv(length - len(content))
            if not part:
                raise ConnectionResetError("the server hung up")
            content += part
        return content


class CurveDealer(NullDealer):
    """A DEALER on a CURVE link that holds a good key, and claims what it likes beside it."""

    mechanism = b"CURVE"

    def __init__(self, address: str, properties: Mapping[str, str], keys: KeyPair, server: PublicKey) -> None:
        self._box = Box()
        self._long_term = keys.public.raw, z85.decode(keys.secret_z85)
        self._server = server.raw
        public, secret = zmq.curve_keypair()
        self._transient = z85.decode(public), z85.decode(secret)
        self._count = 0
        super().__init__(address, properties)

    def _shake_hands(self, properties: Mapping[str, str]) -> None:
        public, secret = self._transient
        number = self._number()
        hello = self._box.seal(bytes(64), b"CurveZMQHELLO---" + number, self._server, secret)
        self.send_frame(b"\x05HELLO\x01\x00" + bytes(72) + public + number + hello, _COMMAND)
        welcome = self.receive_frame()
        assert welcome[:8] == b"\x07WELCOME"
        opened = self._box.open(welcome[24:], b"WELCOME-" + welcome[8:24], self._server, secret)
        self._server_transient, cookie = opened[:32], opened[32:]
        vouch_nonce = os.urandom(16)
        vouch = self._box.seal(
            public + self._server, b"VOUCH---" + vouch_nonce, self._server_transient, self._long_term[1]
        )
        number = self._number()
        initiate = self._box.seal(
            self._long_term[0] + vouch_nonce + vouch + metadata(properties),
            b"CurveZMQINITIATE" + number,
            self._server_transient,
            secret,
        )
        self.send_frame(b"\x08INITIATE" + cookie + number + initiate, _COMMAND)
        answer = self.receive_frame()
        if not answer.startswith(b"\x05READY"):
            raise ConnectionRefusedError(repr(answer[:16]))

    def send(self, payload: bytes) -> None:
        """Send one message of one frame."""
        number = self._number()
        box = self._box.seal(b"\0" + payload, b"CurveZMQMESSAGEC" + number, self._server_transient, self._transient[1])
        self.send_frame(b"\x07MESSAGE" + number + box)

    def receive(self) -> bytes:
        """Return the next message, which must have one frame."""
        frame = self.receive_frame()
        assert frame[:8] == b"\x07MESSAGE"
        nonce = b"CurveZMQMESSAGES" + frame[8:16]
        return self._box.open(frame[16:], nonce, self._server_transient, self._transient[1])[1:]

    def _number(self) -> bytes:
        self._count += 1
        return struct.pack(">Q", self._count)
