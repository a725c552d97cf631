"""The log's files: `audit-<number of the first line>.jsonl`, appended to and never changed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.store.audit_log.chain import MAX_LINE_BYTES

FILE_NAME = r"audit-([0-9]{12})\.jsonl"
_NAME = re.compile(FILE_NAME)
_SEQ = re.compile(rb'\{"seq":([0-9]{1,18}),')
_POSITION = re.compile(r"([0-9]{1,18}):([0-9]{1,18})")
_READ_BYTES = 65_536
_MAX_PAGE_BYTES = 1 << 20  # of lines; well under a payload's 4 MiB
_LONGEST = MAX_LINE_BYTES * 2  # of what is read as one line: more is no line of this log


@dataclass(frozen=True, slots=True)
class Slice:
    """Raw lines without their ends, and where the next one stands: `FILE:BYTE`."""

    lines: tuple[str, ...]
    position: str


class Files:
    """One folder of them. A file is named by the number of its first line.

    Every method may raise OSError; who owns the log turns it into a fault.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make_folder(self) -> None:
        """Make the folder where it is missing; it is durable when this returns."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(self._folder.parent)

    def path(self, first: int) -> Path:
        return self._folder / f"audit-{first:012}.jsonl"

    def firsts(self) -> list[int]:
        """Return the files that are there, the oldest first."""
        names = (_NAME.fullmatch(entry.name) for entry in self._folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def size(self, first: int) -> int:
        """Return a file's bytes; 0 where it is not there yet."""
        try:
            return self.path(first).stat().st_size
        except FileNotFoundError:
            return 0

    def tail(self, first: int, length: int) -> bytes:
        """Return a file's last bytes; none where it is not there yet."""
        try:
            with self.path(first).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - length))
                return file.read()
        except FileNotFoundError:
            return b""

    def append(self, first: int, data: bytes) -> None:
        """Append to a file, or make it; both are durable when this returns."""
        new = not self.path(first).exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with _opened(self.path(first), flags) as descriptor:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        if new:
            _sync_folder(self._folder)

    def drop(self, first: int) -> None:
        self.path(first).unlink(missing_ok=True)

    def line(self, seq: int) -> str | None:
        """Return the line of a number, found by halving; None where it is not in its place."""
        reached = [first for first in self.firsts() if first <= seq]
        if not reached:
            return None
        with self.path(reached[-1]).open("rb") as file:
            low, high = 0, os.fstat(file.fileno()).st_size  # between them the line begins
            while low < high:
                middle = (low + high) // 2
                file.seek(max(0, middle - 1))
                if middle:
                    file.readline(_LONGEST)  # to the end of the line in which the middle lies
                begins = file.tell()
                if begins >= high:
                    high = middle
                    continue
                line = file.readline(_LONGEST)
                number = _SEQ.match(line)
                if number is None:
                    return None
                if int(number[1]) == seq:
                    return line.rstrip(b"\n").decode("ascii", "replace")
                low, high = (file.tell(), high) if int(number[1]) < seq else (low, middle)
        return None

    def after(self, seq: int, limit: int) -> Slice:
        """Return the lines from the first one on whose number is greater than `seq`."""
        firsts = self.firsts()
        reached = [first for first in firsts if first <= seq + 1]
        file = reached[-1] if reached else (firsts[0] if firsts else 1)
        offset = 0
        for line, end in self._lines(file, 0):
            number = _SEQ.match(line)
            if number and int(number[1]) > seq:
                break
            offset = end
        return self._slice(file, offset, limit)

    def at(self, position: str, limit: int) -> Slice:
        """Return the lines that stand from `position` on, whatever they say.

        Raises:
            MalformedRequest: it is no position that a Slice had.
        """
        parts = _POSITION.fullmatch(position)
        if parts is None:
            raise MalformedRequest("position is not one that a page of the audit log came with; start with after_seq")
        return self._slice(int(parts[1]), int(parts[2]), limit)

    def _slice(self, file: int, offset: int, limit: int) -> Slice:
        lines: list[str] = []
        size = 0
        for number in [first for first in self.firsts() if first >= file]:
            file, offset = number, offset if number == file else 0
            for line, end in self._lines(file, offset):
                if len(lines) >= limit or size >= _MAX_PAGE_BYTES:
                    return Slice(tuple(lines), f"{file}:{offset}")
                lines.append(line.decode("ascii", "replace"))
                size += len(line)
                offset = end
        return Slice(tuple(lines), f"{file}:{offset}")

    def _lines(self, first: int, offset: int) -> Iterator[tuple[bytes, int]]:
        """Give every line and where it ends; of one that is too long its beginning."""
        try:
            with self.path(first).open("rb") as file:
                file.seek(offset)
                held = b""
                while piece := file.read(_READ_BYTES):
                    *whole, rest = piece.split(b"\n")
                    for line in whole:
                        offset += len(line) + 1
                        yield (held + line)[:_LONGEST], offset
                        held = b""
                    offset += len(rest)
                    held = (held + rest)[:_LONGEST]
                if held:
                    yield held, offset
        except FileNotFoundError:
            return


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    with _opened(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) as descriptor:
        os.fsync(descriptor)
