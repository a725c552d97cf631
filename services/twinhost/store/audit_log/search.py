"""Search the log's files, newest line first, while the log is written; on any thread.

A search reads so many bytes at most, and its end is where the next one continues: so none takes long, however long the
log is. Lines are shown as they lie in the files, with whether their hash fits; what is no line is shown as well, since
it is what a reader looks for.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from twinhost.store.audit_log.chain import LINE, MAX_LINE_BYTES, RESERVED, AuditEvent, hash_fits, iso
from twinhost.store.audit_log.files import LogFiles

MAX_SEARCHED_BYTES = 4 << 20
_READ_BYTES, _PAUSE_S = 65_536, 0.001  # a quarter of a millisecond of work, and the pause after it for other threads
_LONGEST = MAX_LINE_BYTES * 2  # of which more is shown of what is no line
_POSITION = re.compile(r"([0-9]{1,18}):([0-9]{1,18})")
_TIME = re.compile(rb'\{"seq":[0-9]{1,18},"time":"([^"]{1,40})"')


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a line must have; None: anything. `who` is a part of the value of any field, such as a name or an address.

    Times are in seconds since the epoch: `since` or later, and before `until`.
    """

    event: AuditEvent | None = None
    who: str | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A line: its fields, None if it is no line; where it begins; and whether its hash fits its content."""

    position: str
    text: str
    fields: Mapping[str, Any] | None
    intact: bool


@dataclass(frozen=True, slots=True)
class Result:
    """Lines, newest first; `next_before` continues, None at the oldest; `reached` is the time of the last one read."""

    lines: tuple[Found, ...]
    next_before: str | None
    reached: str | None


def newest(log: LogFiles, wanted: Wanted, limit: int, before: str | None = None) -> Result:
    """Return the newest lines that match, before a position that an earlier result had.

    Raises:
        ValueError: no result can have had this position.
        OSError: a file can't be read.
    """
    at = None if before is None else _POSITION.fullmatch(before)
    if before is not None and at is None:
        raise ValueError("Expected a position from an earlier answer")
    files = [first for first in log.firsts() if at is None or first <= int(at[1])]
    test, lines, left = _Test(wanted), list[Found](), MAX_SEARCHED_BYTES
    reached = _Reached(before)
    for first in reversed(files):
        end = int(at[2]) if at is not None and first == int(at[1]) else log.size(first)
        for piece in _pieces_before(log, first, end):
            for start, line in piece.lines():
                if len(lines) == limit:
                    return reached.after(lines)
                reached = _Reached(f"{first}:{start}", line)
                if test.matches(line):
                    lines.append(_found(reached.position or "", line))
            left -= piece.size
            if left <= 0 and piece.begins < end and (piece.begins or first != files[0]):
                return _Reached(f"{first}:{piece.begins}", reached.line).after(lines)
    return _Reached(None, reached.line).after(lines)


@dataclass(frozen=True, slots=True)
class _Reached:
    """The last line that was read, and where the next search ends."""

    position: str | None
    line: bytes = b""

    def after(self, lines: list[Found]) -> Result:
        found = _TIME.match(self.line)
        return Result(tuple(lines), self.position, None if found is None else found[1].decode("ascii", "replace"))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Whole lines that begin at `begins` in a file, of which the last may be cut; `size` bytes were read for them."""

    begins: int
    text: bytes
    size: int

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield where each line begins, and the line without its end, newest first."""
        lines = self.text.split(b"\n")[:-1]
        starts = accumulate((len(line) + 1 for line in lines), initial=self.begins)
        return reversed(list(zip(starts, lines, strict=False)))


def _pieces_before(log: LogFiles, first: int, end: int) -> Iterator[_Piece]:
    """Yield what a file has before a byte, newest first; not the beginning of a line that is being written."""
    try:
        with log.path(first).open("rb") as file:
            rest, ends, reached = b"", False, end  # of the line that begins before; whether one has ended; yielded to
            while end > 0:
                start = max(0, end - _READ_BYTES)
                file.seek(start)
                read = file.read(end - start)
                text = read + rest
                if not ends:
                    text = text[: text.rfind(b"\n") + 1]
                    ends = bool(text)
                cut = text.find(b"\n", 0, -1) + 1 if start else 0
                if not ends or not start or cut:
                    reached = start + cut
                    yield _Piece(reached, text[cut:], len(read))
                    rest = text[:cut]
                else:  # one line, or less
                    yield _Piece(reached, b"", len(read))
                    rest = text if len(text) <= _LONGEST else text[:_LONGEST] + b"\n"
                end = start
                time.sleep(_PAUSE_S)
    except FileNotFoundError:  # the rotation has dropped it
        return


class _Test:
    """Whether a line matches; what can be told from its bytes is, since most lines don't."""

    def __init__(self, wanted: Wanted) -> None:
        self._event = b"" if wanted.event is None else f'"event":"{wanted.event.value}"'.encode()
        self._who = None if wanted.who is None else wanted.who.lower()
        self._who_bytes = b"" if self._who is None else json.dumps(self._who)[1:-1].encode()
        self._since = None if wanted.since is None else iso(wanted.since).encode()
        self._until = None if wanted.until is None else iso(wanted.until).encode()

    def matches(self, line: bytes) -> bool:
        if self._event not in line or (self._who_bytes and self._who_bytes not in line.lower()):
            return False
        if self._since is not None or self._until is not None:
            found = _TIME.match(line)
            if found is None or not (self._since or b"") <= found[1] < (self._until or b"~"):
                return False
        return self._who is None or self._names(line, self._who)

    @staticmethod
    def _names(line: bytes, who: str) -> bool:
        fields = _fields(line.decode("ascii", "replace"))
        values = [] if fields is None else [value for name, value in fields.items() if name not in RESERVED]
        return any(who in str(part).lower() for value in values for part in (value if type(value) is list else [value]))


def _found(position: str, line: bytes) -> Found:
    text = line[:_LONGEST].decode("ascii", "replace")
    return Found(position, text, _fields(text), LINE.fullmatch(text) is not None and hash_fits(text))


def _fields(text: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return None
