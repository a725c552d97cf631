"""Is the chain whole: a check that needs the lines, where they begin, and where they end."""

from collections.abc import Iterable
from dataclasses import dataclass

from twinhost.store.audit_log.chain import LINE, Anchor, Head, hash_fits

MAX_FINDINGS = 100
_MAX_GAPS = 1_000
_SHOWN = 40  # characters of what is no line


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: the line at which it shows, and a sentence."""

    seq: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What a verification came to.

    `starts_at` is the oldest line that is kept: what came before it was dropped as the log was
    rotated. `findings` has the first 100, `more` counts those after them.
    """

    lines: int
    starts_at: int
    head: Head
    findings: tuple[Finding, ...]
    more: int = 0

    @property
    def whole(self) -> bool:
        return not self.findings

    def summary(self) -> str:
        """Return the result in one sentence."""
        older = f"; lines 1 to {self.starts_at - 1} were dropped by rotation" if self.starts_at > 1 else ""
        if not self.whole:
            first, count = self.findings[0], len(self.findings) + self.more
            return f"the chain is broken in {count} places, first at line {first.seq}: {first.sentence}{older}"
        if not self.lines:
            return f"the log is empty, and so says the database{older}"
        return f"lines {self.starts_at} to {self.head.seq} are whole and end in the database's head{older}"


class Verifier:
    """Checks a chain line by line; holds no line."""

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self._due = anchor.seq
        self._prev = anchor.prev
        self._lines = 0
        self._gaps: list[range] = []
        self._findings: list[Finding] = []
        self._more = 0

    def feed(self, line: str) -> None:
        """Check the next line, without its end of line."""
        self._lines += 1
        match = LINE.fullmatch(line)
        if match is None:
            self._find(self._due, f"what stands {self._place()} is no line of this log: {line[:_SHOWN]!a}")
            return
        seq, prev, told = int(match["seq"]), match["prev"], match["hash"]
        if not hash_fits(line):
            self._changed(seq, told)
        elif seq < self._due:
            self._out_of_place(seq)
        elif seq > self._due and prev != self._prev:
            self._gap(seq)
            self._advance(seq, told)
        else:
            self._follow(seq, prev, told)

    def finish(self, head: Head) -> Findings:
        """Return what was found. `head` must be the log's at the moment when the last line was read."""
        last = self._due - 1
        if last < head.seq:
            self._find(last + 1, f"{_lines(last + 1, head.seq)} missing at the end: the head is line {head.seq}")
        elif last > head.seq:
            self._find(head.seq + 1, f"{_lines(head.seq + 1, last)} beyond the head, line {head.seq}: somebody added")
        elif self._prev != head.hash:
            self._find(last, f"line {last} is not the one that the database keeps as the head: it was written anew")
        return Findings(self._lines, self._anchor.seq, head, tuple(self._findings), self._more)

    def _follow(self, seq: int, prev: str, told: str) -> None:
        if seq != self._due:
            self._find(self._due, f"the line {self._place()} calls itself {seq}: its number was changed")
        elif prev != self._prev:
            self._find(seq, f"line {seq} does not follow from what stands before it: that was written anew")
        self._advance(self._due, told)

    def _changed(self, seq: int, told: str) -> None:
        if seq == self._due:
            self._find(seq, f"line {seq} was changed: its hash does not fit what it says")
            self._advance(seq, told)
        else:
            self._find(self._due, f"the line {self._place()} calls itself {seq} and its hash does not fit what it says")

    def _out_of_place(self, seq: int) -> None:
        moved = any(seq in gap for gap in self._gaps)
        what = "it was moved" if moved else "it is there twice, or was put in"
        self._find(seq, f"line {seq} stands {self._place()}: {what}")

    def _gap(self, seq: int) -> None:
        if len(self._gaps) < _MAX_GAPS:
            self._gaps.append(range(self._due, seq))
        self._find(self._due, f"{_lines(self._due, seq - 1)} missing: line {seq} stands {self._place()}")

    def _advance(self, seq: int, told: str) -> None:
        self._due, self._prev = seq + 1, told

    def _place(self) -> str:
        return f"after line {self._due - 1}" if self._due > self._anchor.seq else "at the beginning"

    def _find(self, seq: int, sentence: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(seq, sentence))
        else:
            self._more += 1


def verify(lines: Iterable[str], anchor: Anchor, head: Head) -> Findings:
    """Check a whole chain, reading it once.

    Args:
        lines: without their ends of line, in the order in which they stand in the files.
        anchor: where the log begins, as the database says.
        head: where it ends, as the database says; of the moment when the last line was read.
    """
    verifier = Verifier(anchor)
    for line in lines:
        verifier.feed(line)
    return verifier.finish(head)


def _lines(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"
