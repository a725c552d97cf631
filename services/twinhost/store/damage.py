"""Find damage in a database before it is opened for use, and quarantine the damaged file.

Finding damage changes no byte of a database or of its log. A full-text index (FTS5) is derived from rows that are
stored elsewhere: if it alone is damaged, no stored data is. Quarantined files are moved, never deleted or overwritten:

<name>.sqlite3.damaged-<UTC time>     it could not be read
<name>.sqlite3.replaced-<UTC time>    it was in use until a backup was restored
<name>.sqlite3.acknowledged           the damaged ones that an operator has acknowledged, one per line
"""

import os
import re
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable
from twinhost.secure_zmq.key_writer import fsync_folder
from twinhost.store.files import PARTS, make_private, part

DAMAGED, REPLACED = "damaged", "replaced"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_FORMATS = (1, 2)  # of the header's bytes 18 and 19: with a rollback journal, with a write-ahead log
_MAX_FINDINGS = 3
_DAMAGED_INDEX = re.compile(r"malformed inverted index for FTS5 table main\.(.+)")
_STAMPED_NAME = r"(?P<name>{}\.{}-\d{{8}}T\d{{6}}Z(-\d+)?)(-wal|-shm)?"

# The write-ahead log's format: sqlite.org/walformat.html
_WAL_VERSION = 3_007_000  # of the log and its index, ever since SQLite 3.7.0
_INDEX_HEADER = struct.Struct("=III BBH II 2I 8s 2I")  # in the machine's byte order
_WAL_HEADER = struct.Struct(">8I")
_WAL_MAGIC = 0x377F0682  # its last bit says whether checksums read big-endian words
_FRAME = struct.Struct(">II 8s II")  # page, size of the database after a commit or 0, salts, checksum
_SALTS = slice(16, 24)  # of the log's header


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a database, or None if it is intact or doesn't exist.

    A file that this process can't read, or that another program has locked, does not count as damaged: opening it for
    use reports the problem. Nor does a database with the schema of a newer program.
    """
    return "; ".join(findings_of(path)) or None


def find_damage_of_rows(path: Path) -> str | None:
    """Return what is wrong with a database beyond its full-text indexes, which can be rebuilt from the rows."""
    findings = findings_of(path)
    return None if all(map(damaged_index, findings)) else "; ".join(findings)


def findings_of(path: Path) -> list[str]:
    """Return what is wrong with a database, one phrase per finding."""
    wal, shm = part(path, "-wal"), part(path, "-shm")
    index = read_wal_index(shm)
    try:
        header, size = _header(path)
        if size == 0:
            return ["the database is missing and its write-ahead log exists"] if _has_content(wal) else []
        if not header.startswith(_MAGIC) or size < _HEADER_BYTES or not {*header[18:20]} <= {*_FORMATS}:
            return ["its header can't be read: file is not a database"]
        with closing(connect_to_read(path)) as connection:
            rows = connection.execute(f"PRAGMA quick_check({_MAX_FINDINGS})").fetchall()
            findings = [" ".join(str(row).split()) for (row,) in rows if row != "ok"]
            if not all(map(damaged_index, findings)):
                return findings
            recovered = read_wal_index(shm)
            of_log = _find_wal_damage(wal, index, recovered.frames if recovered else 0)
            return [*findings, of_log] if of_log is not None else findings
    except sqlite3.Error as error:
        return [str(error)] if _is_damage(error) else []
    except OSError:
        return []


def damaged_index(finding: str) -> str | None:
    """Return the full-text index that a finding is about; None if it is about anything else."""
    match = _DAMAGED_INDEX.fullmatch(finding)
    return match[1] if match else None


def connect_to_read(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """Open a database that this connection can't change; closing it doesn't checkpoint the log.

    Args:
        path: the database.
        immutable: ignore its log, and touch no file next to it.

    Raises:
        sqlite3.Error: it can't be opened.
    """
    return sqlite3.connect(uri_to_read(path, immutable=immutable), uri=True, isolation_level=None)


def uri_to_read(path: Path, *, immutable: bool = False) -> str:
    """Return what `connect_to_read` opens, for an ATTACH."""
    mode = "mode=ro&immutable=1" if immutable else "mode=ro"
    return f"{path.absolute().as_uri()}?{mode}"


def require_undamaged(path: Path) -> None:
    """Check a database that must not be replaced by an empty one, before its agent starts.

    Raises:
        ConfigurationError: it is damaged; neither it nor its log was touched.
    """
    if (why := find_damage(path)) is not None:
        raise ConfigurationError(
            f"{path} is damaged ({why}) and was not changed; restore a backup, or move the file away to start empty"
        )


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _CORRUPT or "unsupported file format" in str(error)


def _header(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEADER_BYTES), path.stat().st_size
    except FileNotFoundError:
        return b"", 0


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A database that was moved away; its size includes its log and the log's index."""

    name: str
    size_bytes: int


def quarantine(path: Path, word: str, moment: float | None = None) -> Path:
    """Move a database and its log to another name in the same folder; return its new path.

    Args:
        path: the database; some of its files may be missing.
        word: DAMAGED or REPLACED.
        moment: for the new name, in seconds since the epoch; now if None.

    Raises:
        ConfigurationError: it can't be moved.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))
    suffixes = [suffix for suffix in PARTS if part(path, suffix).exists()]
    target, number = part(path, f".{word}-{stamp}"), 1
    while any(part(target, suffix).exists() for suffix in suffixes):
        number += 1
        target = part(path, f".{word}-{stamp}-{number}")
    try:
        make_private(path)
        for suffix in suffixes:
            part(path, suffix).rename(part(target, suffix))
        fsync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be moved to {target.name} ({error.strerror}); check the permissions and the free space of "
            "its volume"
        ) from None
    return target


def quarantined(path: Path, word: str) -> list[Quarantined]:
    """Return the databases that were moved away from a path, oldest first; `word` is DAMAGED or REPLACED."""
    pattern = re.compile(_STAMPED_NAME.format(re.escape(path.name), word))
    sizes: dict[str, int] = {}
    for entry in sorted(os.scandir(path.parent), key=lambda entry: entry.name):
        if match := pattern.fullmatch(entry.name):
            sizes[match["name"]] = sizes.get(match["name"], 0) + entry.stat().st_size
    return [Quarantined(name, size) for name, size in sizes.items()]


def unacknowledged(path: Path) -> list[Quarantined]:
    """Return the unacknowledged damaged databases, oldest first."""
    try:
        known = set(part(path, ".acknowledged").read_text().split("\n"))
    except FileNotFoundError:
        known = set()
    return [database for database in quarantined(path, DAMAGED) if database.name not in known]


def acknowledge(path: Path) -> list[Quarantined]:
    """Record that an operator has acknowledged every damaged database; return those that were new.

    Raises:
        StoreUnavailable: that can't be written.
    """
    new = unacknowledged(path)
    if new:
        note = part(path, ".acknowledged")
        draft = note.with_name(f"{note.name}.new")
        try:
            draft.write_text("\n".join(database.name for database in quarantined(path, DAMAGED)))
            draft.replace(note)
            fsync_folder(path.parent)
        except OSError as error:
            raise StoreUnavailable(f"{note} can't be written ({error.strerror}); free space on its volume") from None
    return new


def damage_warning(path: Path) -> str | None:
    """Return a sentence about the unacknowledged damaged databases; None if there are none."""
    waiting = unacknowledged(path)
    if not waiting:
        return None
    size = sum(database.size_bytes for database in quarantined(path, DAMAGED))
    return (
        f"the database was damaged: it was quarantined as {waiting[-1].name} and an empty one was created; "
        f"damaged databases take {size} bytes; restore a backup: ./twinhost memory restore - --yes < FILE, "
        "or acknowledge the loss: ./twinhost call UnifiedMemoryReasoningAgent acknowledge_damage"
    )


# SQLite treats the first bad frame of a write-ahead log as the log's end, so what was committed after it would be lost
# silently. Two things reveal it: the log's index (`-shm`), which outlives a killed process, has the number of committed
# frames; and a frame that follows a later commit was written only after that commit was on disk.


@dataclass(frozen=True, slots=True)
class WalIndex:
    """What the index says of its log: how many frames are committed, and to which generation of the log they belong."""

    frames: int
    in_database: int  # of these frames: copied into the database already
    salts: bytes


def read_wal_index(shm: Path) -> WalIndex | None:
    """Return what the index of a log says; None if there is none, or it is incomplete."""
    try:
        with shm.open("rb") as stream:
            content = stream.read(2 * _INDEX_HEADER.size + 4)
    except OSError:
        return None
    size = _INDEX_HEADER.size
    if len(content) < 2 * size + 4 or content[:size] != content[size : 2 * size]:
        return None
    version, _, _, initialised, _, _, frames, _, _, _, salts, _, _ = _INDEX_HEADER.unpack(content[:size])
    if version != _WAL_VERSION or not initialised:
        return None
    return WalIndex(frames, struct.unpack_from("=I", content, 2 * size)[0], salts)


def _find_wal_damage(wal: Path, before: WalIndex | None, recovered_frames: int) -> str | None:
    """Return what is wrong with a log, or None.

    Args:
        wal: the log; it may be missing.
        before: its index, read before SQLite opened the database, which rewrites the index.
        recovered_frames: how many committed frames SQLite then found in it.
    """
    size = wal.stat().st_size if wal.exists() else 0
    if size == 0 and before is not None and before.frames > before.in_database:
        return f"its write-ahead log is missing, with {before.frames - before.in_database} committed frames"
    if size <= _WAL_HEADER.size + _FRAME.size:
        return None  # it can't contain a synced commit
    with wal.open("rb") as log:
        return _find_damage_in(log, before, recovered_frames)


def _find_damage_in(log: BinaryIO, before: WalIndex | None, recovered_frames: int) -> str | None:
    header = log.read(_WAL_HEADER.size)
    if not _wal_header_is_intact(header):
        return "the header of its write-ahead log can't be read"
    if before is not None and before.salts == header[_SALTS] and before.frames > recovered_frames:
        return f"its write-ahead log ends after {recovered_frames} of {before.frames} committed frames"
    commit = _lost_commit(log, header, recovered_frames)
    if commit is not None:
        return f"its write-ahead log is broken between frame {recovered_frames} and the commit in frame {commit}"
    return None


def _wal_header_is_intact(header: bytes) -> bool:
    magic, version, page_size, *_, first, second = _WAL_HEADER.unpack(header)
    sane = (
        magic & ~1 == _WAL_MAGIC and version == _WAL_VERSION and page_size >= 512 and page_size & (page_size - 1) == 0
    )
    return sane and _checksum(header[:24], (0, 0), magic) == (first, second)


def _lost_commit(log: BinaryIO, header: bytes, recovered_frames: int) -> int | None:
    """Return the number of a lost commit that another frame follows, which shows that it was on disk."""
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
