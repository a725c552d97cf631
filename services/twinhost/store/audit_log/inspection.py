"""Inspect the log while it is written: all of it at the start and hourly, and a file when another program changed it.

A file is verified by itself: the database has where it begins, and the next file, or the head, has where it ends. Every
few seconds the files' stamps are compared, so a change by another program is found soon. Reading and hashing take place
on a thread that pauses between a few lines, because it holds the interpreter while it hashes. It has the priority of
the other threads: one of a lower priority would hold the interpreter for longer.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from twinhost.store.audit_log.chain import Anchor, Head
from twinhost.store.audit_log.files import LogFiles, Stamp
from twinhost.store.audit_log.log import AuditLog, Contradiction, Written
from twinhost.store.audit_log.verify import ChainFindings, verify
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

INSPECT_EVERY_S = 3_600.0
LOOK_EVERY_S = 5.0  # at the stamps
_LINES, _PAUSE_S = 64, 0.005  # half a millisecond of work, and the pause after it
_SEQ = re.compile(r'\{"seq":([0-9]{1,18}),')


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file of the log that is not as it was written."""

    name: str
    findings: ChainFindings


@dataclass(slots=True)
class _Run:
    """One inspection, which its thread fills; `done` is set last."""

    written: Written
    settles: Contradiction | None  # if all files are as they were written
    stamps: dict[int, Stamp | None]  # of the files to read, before they are read
    broken: dict[int, BrokenFile] = field(default_factory=dict)
    done: bool = False


class Inspector:
    """Inspects a log; on the thread that owns the database."""

    def __init__(self, audit: AuditLog, monotonic: Callable[[], float]) -> None:
        self._audit, self._monotonic = audit, monotonic
        self._read: dict[int, Stamp | None] = {}  # the files, as they were when they were read
        self._broken: dict[int, BrokenFile] = {}
        self._touched = 0
        self._contradiction: Contradiction | None = None  # that the newest complete inspection knew of
        self._run: _Run | None = None
        self._worker: Worker | None = None
        self._look_at = self._inspect_at = monotonic()
        self.intact: bool | None = None  # None until the first inspection has ended

    @property
    def broken(self) -> list[BrokenFile]:
        """The files that are not as they were written, oldest first."""
        return [self._broken[first] for first in sorted(self._broken)]

    def on_tick(self) -> None:
        """Take the result of an inspection, or begin one that is due."""
        now = self._monotonic()
        if self._run is not None:
            if self._run.done:
                self._take(self._run)
                self._run = None
        elif now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._begin(now)

    def stop(self) -> None:
        """End an inspection that is under way."""
        if self._worker is not None:
            self._worker.stop()

    def _begin(self, now: float) -> None:
        written = self._audit.written()
        stamps = {anchor.seq: written.log.stamp(anchor.seq) for anchor in written.files}
        newest = max(stamps, default=0)
        expected = {**self._read, **({newest: written.stamp} if written.stamp is not None else {})}
        due = {first for first, stamp in stamps.items() if stamp not in (expected.get(first), self._read.get(first))}
        due |= stamps.keys() - self._read.keys()
        if written.touched != self._touched:
            self._touched = written.touched
            due |= {newest} & stamps.keys()
        contradiction = self._audit.contradiction
        if now >= self._inspect_at or contradiction != self._contradiction:
            self._contradiction = contradiction
            self._inspect_at = now + INSPECT_EVERY_S
            due = set(stamps)
        if not due:
            self.intact = not self._broken
            return
        settles = contradiction if due == stamps.keys() else None
        run = self._run = _Run(written, settles, {first: stamps[first] for first in sorted(due)})
        self._worker = Worker("audit-inspection", lambda: self._inspect(run))
        try:
            self._worker.start()
        except RuntimeError as error:  # no thread can be started now
            _log.error("audit_log_not_inspected", reason=str(error))
            self._run = self._worker = None

    def _inspect(self, run: _Run) -> None:
        """Read the files; on the thread."""
        assert self._worker is not None
        try:
            ends = [Head(anchor.seq - 1, anchor.prev) for anchor in run.written.files[1:]] + [run.written.head]
            for anchor, end in zip(run.written.files, ends, strict=True):
                if anchor.seq in run.stamps and (broken := _inspected(run.written.log, anchor, end, self._worker)):
                    run.broken[anchor.seq] = broken
                if self._worker.stopping:
                    return
        except Exception:  # noqa: BLE001 - boundary: the loop waits for the end, and the next one tries again
            _log.exception("audit_log_not_inspected")
            run.stamps.clear()
        finally:
            run.done = True

    def _take(self, run: _Run) -> None:
        kept = {anchor.seq for anchor in self._audit.written().files}  # others were dropped by the rotation meanwhile
        self._read = {first: stamp for first, stamp in (self._read | run.stamps).items() if first in kept}
        before = self._broken
        others = {first: broken for first, broken in before.items() if first not in run.stamps}
        self._broken = {first: broken for first, broken in (others | run.broken).items() if first in kept}
        for first, broken in self._broken.items():
            if before.get(first) != broken:
                _log.error("audit_log_tampered", file=broken.name, reason=broken.findings.summary())
        if run.stamps:
            self.intact = not self._broken
            if self.intact and run.settles is not None:
                self._audit.settle(run.settles)


def _inspected(log: LogFiles, anchor: Anchor, end: Head, worker: Worker) -> BrokenFile | None:
    findings = verify(_paced(_up_to(log.lines(anchor.seq), end.seq), worker), anchor, end)
    return None if findings.whole or worker.stopping else BrokenFile(log.path(anchor.seq).name, findings)


def _up_to(lines: Iterable[str], last: int) -> Iterator[str]:
    """Yield the lines up to one with this number; what follows was appended since, and may be half written."""
    for line in lines:
        number = _SEQ.match(line)
        if number is not None and int(number[1]) > last:
            return
        yield line
        if number is not None and int(number[1]) == last:
            return


def _paced(lines: Iterable[str], worker: Worker) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number % _LINES == 0 and worker.wait(_PAUSE_S):
            return
        yield line
