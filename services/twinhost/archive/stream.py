"""An archive's bytes: a POSIX tar that `tar -t` can list, of which no byte is left to chance.

Every header follows from the manifest, so whoever reads expects it to the byte: there is no way to say link, device,
or another path. The last member is the SHA-256 of all that stands before it, so that an archive which was cut off, or
lost a bit anywhere, is known as such.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from twinhost.secure_zmq.errors import MalformedRequest

MANIFEST, DIGEST = "manifest.json", "sha256"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024  # of 70,000 files
PIECE_BYTES = 256 * 1024
_MODE = 0o600  # of these two
_END = bytes(2 * tarfile.BLOCKSIZE)
_AGAIN = "take it, or copy it, again"


class Writer:
    """Writes one archive; `finish` makes it whole."""

    def __init__(self, write: Callable[[bytes], object], moment_s: int) -> None:
        self._write = write
        self._moment_s = moment_s
        self._digest = hashlib.sha256()

    def add(self, name: str, mode: int, size: int, pieces: Iterable[bytes]) -> None:
        """Write one member, whose pieces have `size` bytes together."""
        self._put(_header(name, mode, size, self._moment_s))
        written = 0
        for piece in pieces:
            self._put(piece)
            written += len(piece)
        if written != size:
            raise MalformedRequest(f"{name} changed while it was written; back up again")
        self._put(_padding(size))

    def finish(self) -> None:
        """Write the digest and the end."""
        content = self._digest.hexdigest().encode()
        self.add(DIGEST, _MODE, len(content), [content])
        self._put(_END)

    def _put(self, content: bytes) -> None:
        self._digest.update(content)
        self._write(content)


class Reader:
    """Reads one archive in its order."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._moment_s = 0
        self._digest = hashlib.sha256()
        self._position = 0

    def manifest(self) -> bytes:
        """Return the first member.

        Raises:
            MalformedRequest: this is no archive, or it is cut off.
        """
        header = self._take(tarfile.BLOCKSIZE, "its first member")
        try:
            told = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            self._moment_s = int(told.mtime)
            expected = _header(MANIFEST, _MODE, told.size, self._moment_s)
        except (tarfile.HeaderError, ValueError):
            expected = b""
        if header != expected or told.size > MAX_MANIFEST_BYTES:
            raise MalformedRequest("this is no archive of mainpc, which begins with its manifest; name another file")
        return b"".join(self._content(MANIFEST, told.size))

    def member(self, name: str, mode: int, size: int) -> Iterator[bytes]:
        """Return the pieces of the next member, which must be this one.

        Raises:
            MalformedRequest: it is another, or the archive is cut off.
        """
        if self._take(tarfile.BLOCKSIZE, name) != _header(name, mode, size, self._moment_s):
            raise MalformedRequest(f"the archive has something else in the place of {name}; {_AGAIN}")
        return self._content(name, size)

    def finish(self) -> None:
        """Read the end.

        Raises:
            MalformedRequest: there is another, or what was read is not what was written.
        """
        digest = self._digest.hexdigest().encode()
        if b"".join(self.member(DIGEST, _MODE, len(digest))) != digest:
            raise MalformedRequest(f"the archive's digest is not that of its bytes: some of them changed; {_AGAIN}")
        if self._take(len(_END), "its end") != _END or self._stream.read(1):
            raise MalformedRequest(f"the archive goes on after its end; {_AGAIN}")

    def _content(self, name: str, size: int) -> Iterator[bytes]:
        left = size
        while left:
            piece = self._take(min(left, PIECE_BYTES), name)
            left -= len(piece)
            yield piece
        if any(self._take(-size % tarfile.BLOCKSIZE, name)):
            raise MalformedRequest(f"the archive has something between {name} and what follows; {_AGAIN}")

    def _take(self, length: int, within: str) -> bytes:
        pieces: list[bytes] = []
        left = length
        while left:
            piece = self._stream.read(left)
            if not piece:
                raise MalformedRequest(f"the archive is cut off after {self._position} bytes, in {within}; {_AGAIN}")
            pieces.append(piece)
            left -= len(piece)
            self._position += len(piece)
        content = b"".join(pieces)
        self._digest.update(content)
        return content


def _header(name: str, mode: int, size: int, moment_s: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.mtime = mode, size, moment_s
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise MalformedRequest(f"{name} with {size} bytes is beyond what an archive can hold ({error})") from None


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
