"""Verify the hash chain of a log, and compare a log with the heads that witnesses have seen.

A witness stores heads: the number and the hash of the newest line at some moments. By the hash chain, the newest head
covers every line before it. A log that was restored from a backup has lost lines that a witness has seen; its line
`restored` explains that, but only for heads that were seen before the restore.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from twinhost.store.audit_log.chain import LINE, Anchor, AuditEvent, Head, hash_fits

MAX_FINDINGS = 100
_MAX_GAPS = 1_000
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_SHOWN = 40  # characters of a text that is not a line


@dataclass(frozen=True, slots=True)
class ChainFinding:
    """One problem: the line at which it was found, and a sentence."""

    seq: int
    sentence: str


@dataclass(frozen=True, slots=True)
class ChainFindings:
    """The result of a verification.

    `starts_at` is the oldest line that is kept: rotation dropped those before it. `findings` has the first 100, `more`
    counts the others.
    """

    lines: int
    starts_at: int
    head: Head
    findings: tuple[ChainFinding, ...]
    more: int = 0

    @property
    def whole(self) -> bool:
        return not self.findings

    def summary(self) -> str:
        """Return the result in one sentence."""
        older = f"; lines 1 to {self.starts_at - 1} were dropped by rotation" if self.starts_at > 1 else ""
        if not self.whole:
            first, count = self.findings[0], len(self.findings) + self.more
            places = f"{count} place{'s' if count > 1 else ''}"
            return f"the chain is broken in {places}, first at line {first.seq}: {first.sentence}{older}"
        if not self.lines:
            return f"the log is empty, as recorded in the database{older}"
        return f"lines {self.starts_at} to {self.head.seq} are intact and end with the head in the database{older}"


class Verifier:
    """Verifies a chain line by line, without storing the lines."""

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self._expected = anchor.seq
        self._prev = anchor.prev
        self._lines = 0
        self._gaps: list[range] = []
        self._findings: list[ChainFinding] = []
        self._more = 0

    def feed(self, line: str) -> None:
        """Check the next line, without its end of line."""
        self._lines += 1
        match = LINE.fullmatch(line)
        if match is None:
            self._find(self._expected, f"the text {self._place()} is not a line of this log: {line[:_SHOWN]!a}")
            return
        seq, prev, own = int(match["seq"]), match["prev"], match["hash"]
        if not hash_fits(line):
            self._changed(seq, own)
        elif seq < self._expected:
            self._out_of_place(seq)
        elif seq > self._expected and prev != self._prev:
            self._gap(seq)
            self._advance(seq, own)
        else:
            self._follow(seq, prev, own)

    def finish(self, head: Head) -> ChainFindings:
        """Return the result. `head` must be the log's head at the moment when the last line was read."""
        last = self._expected - 1
        if last < head.seq:
            self._find(last + 1, f"{_lines(last + 1, head.seq)} missing at the end: the head is line {head.seq}")
        elif last > head.seq:
            self._find(head.seq + 1, f"{_lines(head.seq + 1, last)} beyond the head, line {head.seq}: lines were added")
        elif self._prev != head.hash:
            self._find(last, f"line {last} is not the head in the database: it was rewritten")
        return ChainFindings(self._lines, self._anchor.seq, head, tuple(self._findings), self._more)

    def _follow(self, seq: int, prev: str, own: str) -> None:
        if seq != self._expected:
            self._find(self._expected, f"the line {self._place()} has the number {seq}: its number was changed")
        elif prev != self._prev:
            self._find(seq, f"line {seq} does not follow from the line before it: that line was rewritten")
        self._advance(self._expected, own)

    def _changed(self, seq: int, own: str) -> None:
        if seq == self._expected:
            self._find(seq, f"the hash of line {seq} does not match its content")
            self._advance(seq, own)
        else:
            self._find(
                self._expected, f"the line {self._place()} has the number {seq} and its hash does not match its content"
            )

    def _out_of_place(self, seq: int) -> None:
        moved = any(seq in gap for gap in self._gaps)
        what = "it was moved" if moved else "it is a duplicate, or was inserted"
        self._find(seq, f"line {seq} is {self._place()}: {what}")

    def _gap(self, seq: int) -> None:
        if len(self._gaps) < _MAX_GAPS:
            self._gaps.append(range(self._expected, seq))
        self._find(self._expected, f"{_lines(self._expected, seq - 1)} missing: line {seq} is {self._place()}")

    def _advance(self, seq: int, own: str) -> None:
        self._expected, self._prev = seq + 1, own

    def _place(self) -> str:
        return f"after line {self._expected - 1}" if self._expected > self._anchor.seq else "at the beginning"

    def _find(self, seq: int, sentence: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(ChainFinding(seq, sentence))
        else:
            self._more += 1


def verify(lines: Iterable[str], anchor: Anchor, head: Head) -> ChainFindings:
    """Verify a whole chain, reading it once.

    Args:
        lines: without their ends of line, in the order of the files.
        anchor: where the log begins, from the database.
        head: where it ends, from the database; as of the moment when the last line was read.
    """
    verifier = Verifier(anchor)
    for line in lines:
        verifier.feed(line)
    return verifier.finish(head)


def _lines(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"


@dataclass(frozen=True, slots=True)
class Restore:
    """A line `restored`: its number, hash and time, and the line that the backup ended with."""

    seq: int
    hash: str
    time: str
    backup: Head


@dataclass(frozen=True, slots=True)
class Seen:
    """A head that a witness has seen, and the hash of the newest line `restored` up to it, if there was one."""

    seq: int
    hash: str
    restored: str | None = None


class _Record(msgspec.Struct):
    event: str
    time: str


def restore_of(line: str) -> Restore | None:
    """Return the restore that a line records; None if it is not an intact line `restored`."""
    if f'"event":"{AuditEvent.RESTORED.value}"' not in line:
        return None
    match = LINE.fullmatch(line)
    if match is None or not hash_fits(line):
        return None
    try:
        record = msgspec.json.decode(line, type=_Record)
    except msgspec.MsgspecError:
        return None
    if record.event != AuditEvent.RESTORED or not _TIME.fullmatch(record.time):  # the text is in another field
        return None
    seq = int(match["seq"])
    return Restore(seq, match["hash"], record.time, Head(seq - 1, match["prev"]))


def newest_restore(restores: Iterable[Restore], seq: int) -> Restore | None:
    """Return the newest restore up to a line."""
    return max((restore for restore in restores if restore.seq <= seq), key=lambda restore: restore.seq, default=None)


def explained_by(seen: Seen, restores: Iterable[Restore]) -> Restore | None:
    """Return the restore that explains why the log lacks a line that was seen; None if no restore does."""
    newest = newest_restore(restores, seen.seq)
    return None if newest is None or newest.hash == seen.restored else newest


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a log compares with the heads of a witness.

    `missing` is the oldest line that was seen, is not in the log, and is not explained by a restore; `agrees_to` the
    newest line before it that is in the log, 0 for none; `replaced` the missing lines that restores explain.
    """

    agrees_to: int
    missing: Seen | None
    replaced: tuple[tuple[Seen, Restore], ...]


def compare(heads: Sequence[Seen], hash_of: Callable[[int], str | None], restores: Sequence[Restore]) -> Comparison:
    """Compare a log with the heads of a witness.

    Args:
        heads: what the witness had seen before the log was read.
        hash_of: the hash of the log's line with this number; None if it has none.
        restores: the restores recorded in the log.
    """
    present = [seen for seen in heads if hash_of(seen.seq) == seen.hash]
    absent = [(seen, explained_by(seen, restores)) for seen in heads if seen not in present]
    missing = min((seen for seen, restore in absent if restore is None), key=lambda seen: seen.seq, default=None)
    return Comparison(
        max((seen.seq for seen in present if missing is None or seen.seq < missing.seq), default=0),
        missing,
        tuple((seen, restore) for seen, restore in absent if restore is not None),
    )
