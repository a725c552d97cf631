"""Damage of a write-ahead log that SQLite passes over in silence: it takes the first bad frame for the log's end.

What was committed after that frame would be gone without a word. Two witnesses tell otherwise: the index of
the log (`-shm`), which outlives a killed process, knows how many frames were committed; and a frame that follows
a later commit was written only after that commit was on disk. See sqlite.org/walformat.html.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_VERSION = 3_007_000  # of both formats, ever since SQLite 3.7.0
_INDEX_HEADER = struct.Struct("=III BBH II 2I 8s 2I")  # in the byte order of the machine
_WAL_HEADER = struct.Struct(">8I")
_MAGIC = 0x377F0682  # its last bit says whether checksums read big-endian words
_FRAME = struct.Struct(">II 8s II")  # page, size of the database after a commit or 0, salts, checksum
_SALTS = slice(16, 24)  # of the log's header


@dataclass(frozen=True, slots=True)
class WalIndex:
    """What the index says of its log: how many frames are committed, and which generation of the log it means."""

    frames: int
    in_database: int  # of these frames: copied into the database already
    salts: bytes


def read_wal_index(shm: Path) -> WalIndex | None:
    """Return what the index of a log says; None where there is none, or it is not whole."""
    try:
        with shm.open("rb") as stream:
            content = stream.read(2 * _INDEX_HEADER.size + 4)
    except OSError:
        return None
    size = _INDEX_HEADER.size
    if len(content) < 2 * size + 4 or content[:size] != content[size : 2 * size]:
        return None
    version, _, _, initialised, _, _, frames, _, _, _, salts, _, _ = _INDEX_HEADER.unpack(content[:size])
    if version != _VERSION or not initialised:
        return None
    return WalIndex(frames, struct.unpack_from("=I", content, 2 * size)[0], salts)


def find_wal_damage(wal: Path, before: WalIndex | None, recovered_frames: int) -> str | None:
    """Return what is wrong with a log, or None.

    Args:
        wal: the log; it may be missing.
        before: its index, read before SQLite opened it, which makes the index anew.
        recovered_frames: how many committed frames SQLite then found in it.
    """
    size = wal.stat().st_size if wal.exists() else 0
    if size == 0 and before is not None and before.frames > before.in_database:
        return f"its write-ahead log is gone, with {before.frames - before.in_database} committed frames"
    if size <= _WAL_HEADER.size + _FRAME.size:
        return None  # nothing of it can have been synced
    with wal.open("rb") as log:
        return _find_in(log, before, recovered_frames)


def _find_in(log: BinaryIO, before: WalIndex | None, recovered_frames: int) -> str | None:
    header = log.read(_WAL_HEADER.size)
    if not _header_is_whole(header):
        return "the header of its write-ahead log can't be read"
    if before is not None and before.salts == header[_SALTS] and before.frames > recovered_frames:
        return f"its write-ahead log breaks off after {recovered_frames} of {before.frames} committed frames"
    commit = _commit_that_was_built_on(log, header, recovered_frames)
    if commit is not None:
        return f"its write-ahead log is broken between frame {recovered_frames} and the commit in frame {commit}"
    return None


def _header_is_whole(header: bytes) -> bool:
    magic, version, page_size, *_, first, second = _WAL_HEADER.unpack(header)
    sane = magic & ~1 == _MAGIC and version == _VERSION and page_size >= 512 and page_size & (page_size - 1) == 0
    return sane and _checksum(header[:24], (0, 0), magic) == (first, second)


def _commit_that_was_built_on(log: BinaryIO, header: bytes, recovered_frames: int) -> int | None:
    """Return the number of a lost commit to which a next frame was added, which says that it was on disk."""
    magic, _, page_size = _WAL_HEADER.unpack(header)[:3]
    seed: tuple[int, int] | None = None  # the checksum at a lost commit
    for number, frame in _frames(log, page_size, recovered_frames):
        _, commits, salts, first, second = _FRAME.unpack(frame[: _FRAME.size])
        if salts != header[_SALTS]:
            seed = None
            continue
        if seed is not None and _checksum(frame[:8] + frame[_FRAME.size :], seed, magic) == (first, second):
            return number - 1
        seed = (first, second) if commits else None
    return None


def _frames(log: BinaryIO, page_size: int, after: int) -> Iterator[tuple[int, bytes]]:
    """Return each whole frame after a number, with its number; they begin with 1."""
    size = _FRAME.size + page_size
    log.seek(_WAL_HEADER.size + after * size)
    number = after
    while len(frame := log.read(size)) == size:
        number += 1
        yield number, frame


def _checksum(content: bytes, seed: tuple[int, int], magic: int) -> tuple[int, int]:
    words = struct.unpack(f"{'>' if magic & 1 else '<'}{len(content) // 4}I", content)
    first, second = seed
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & 0xFFFFFFFF
        second = (second + words[index + 1] + first) & 0xFFFFFFFF
    return first, second
