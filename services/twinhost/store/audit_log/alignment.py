"""After a crash: how much of what was to be written does the file hold already."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alignment:
    """`written` lines are in the file; `complete` ends the torn one after them; `contradiction` is None if all fits."""

    written: int
    complete: bytes
    contradiction: str | None = None


def align(tail: bytes, lines: Sequence[bytes], before: str, *, from_start: bool) -> Alignment:
    """Compare a file's end with the lines of which any beginning may be in it, torn at any byte.

    Args:
        tail: the file's last bytes: as many as the lines have, and one line more; or all of it.
        lines: what was to be appended, without ends of line.
        before: the hash of the line before the first of them.
        from_start: the first of them is also the first of the file.
    """
    mark = b'"hash":"' + before.encode() + b'"}\n'
    found = -1 if from_start else tail.find(mark)  # the first: a line that somebody doubled is a contradiction
    if not from_start and found < 0:
        return _contradicted(tail, tail, lines, "the line before what is to be written is not where it was")
    rest = tail if from_start else tail[found + len(mark) :]
    whole = b"".join(line + b"\n" for line in lines)
    if not whole.startswith(rest):
        return _contradicted(tail, rest, lines, "something stands at its end that was not written here")
    written = rest.count(b"\n")
    torn = len(rest) - (rest.rfind(b"\n") + 1)
    return Alignment(written + bool(torn), lines[written][torn:] + b"\n" if torn else b"")


def _contradicted(tail: bytes, rest: bytes, lines: Sequence[bytes], why: str) -> Alignment:
    """Go on after whatever stands there: it is evidence, and the next line needs a line of its own."""
    present = set(rest.split(b"\n"))
    written = 0
    while written < len(lines) and lines[written] in present:
        written += 1
    return Alignment(written, b"\n" if tail and not tail.endswith(b"\n") else b"", why)
