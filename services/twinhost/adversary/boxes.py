"""`crypto_box`, of which CURVE is made: libsodium's own, as it came with pyzmq and is loaded already."""

import ctypes
from pathlib import Path

import twinhost.secure_zmq.keys  # noqa: F401 - it loads libzmq, and libsodium with it
from twinhost.secure_zmq.errors import TwinhostError

_OVERHEAD_BYTES = 16


class NoLibsodium(TwinhostError):
    """This build of pyzmq has its libsodium where it can't be used."""


class DamagedBox(Exception):
    """It was not sealed for us by whom we think."""


class Sodium:
    """Seals and opens boxes."""

    def __init__(self) -> None:
        """Find the library.

        Raises:
            NoLibsodium: it is not there.
        """
        self._library = ctypes.CDLL(_loaded_library())
        self._shared: dict[tuple[bytes, bytes], bytes] = {}

    def seal(self, plain: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
        """Return the box for the holder of `public`'s secret."""
        box = ctypes.create_string_buffer(len(plain) + _OVERHEAD_BYTES)
        shared = self._shared_key(public, secret)
        self._library.crypto_box_easy_afternm(box, plain, ctypes.c_ulonglong(len(plain)), nonce, shared)
        return box.raw

    def open(self, box: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
        """Return what is in a box.

        Raises:
            DamagedBox: it does not open.
        """
        plain = ctypes.create_string_buffer(max(0, len(box) - _OVERHEAD_BYTES))
        length = ctypes.c_ulonglong(len(box))
        shared = self._shared_key(public, secret)
        if len(box) < _OVERHEAD_BYTES or self._library.crypto_box_open_easy_afternm(plain, box, length, nonce, shared):
            raise DamagedBox
        return plain.raw

    def _shared_key(self, public: bytes, secret: bytes) -> bytes:
        """Return what a pair of keys has in common; worked out once, as it takes longer than any box."""
        shared = self._shared.get((public, secret))
        if shared is None:
            made = ctypes.create_string_buffer(32)
            if self._library.crypto_box_beforenm(made, public, secret):  # a key of small order
                raise DamagedBox
            shared = self._shared[public, secret] = made.raw
        return shared


def _loaded_library() -> str:
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        mapped = []
    for line in mapped:
        path = line.rpartition(" ")[2]
        if "libsodium" in path:
            return path
    raise NoLibsodium("libsodium is not loaded beside pyzmq on this machine")
