"""The detectors about the audit log, and the restore that is shown until somebody explains it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from tests.unit.system_digital_twin.key_bench import KeyBench
from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.conditions import Condition, troubles_of
from twinhost.agent.troubles import Kind, Level, Trouble, by_cause
from twinhost.moments import iso_time
from twinhost.secure_zmq.callers import Caller
from twinhost.store.audit_log.chain import AuditEvent, Head
from twinhost.store.audit_log.inspection import BrokenFile, Inspector
from twinhost.store.audit_log.log import Contradiction
from twinhost.store.audit_log.verify import ChainFinding, ChainFindings
from twinhost.system_digital_twin.attention.audit import changed_log, contradicting_witnesses, restored_log
from twinhost.system_digital_twin.trust.audit import (
    RECENT_S,
    WITNESS_WITHIN_S,
    AuditRestored,
    AuditSeen,
    AuditWitnesses,
    Restored,
)

pytestmark = pytest.mark.sdt_security

FOLDER = Path("/var/lib/twinhost/audit")
NAME = "audit-000000000001.jsonl"
HOSTS = {"Memory": "pc2"}
MEMORY = Caller("Memory", "pc2", frozenset({"agent"}), "SHA256:x")


def broken(*lines: int) -> BrokenFile:
    findings = tuple(ChainFinding(line, f"line {line} was changed") for line in lines)
    return BrokenFile(NAME, ChainFindings(9, 1, Head(9, "0" * 64), findings))


@dataclass
class Inspected:
    """What the inspection of a log has found; `intact` is None until it has ended."""

    broken: Sequence[BrokenFile] = ()
    intact: bool | None = None


def changed(
    inspected: Inspected, contradiction: Contradiction | None = None, before: Trouble | None = None
) -> list[Trouble]:
    return list(changed_log("mainpc", FOLDER, cast(Inspector, inspected), contradiction, before))


def condition(name: str, what: str) -> Condition:
    return Condition(name=name, what=what, level="degraded")


def test_a_changed_log_names_file_line_and_command() -> None:
    (trouble,) = changed(Inspected([broken(4, 7)], intact=False))
    assert (trouble.id, trouble.level) == ("audit_tampered:mainpc", Level.BROKEN)
    assert trouble.what == "mainpc's audit log was changed: line 4 was changed, and 1 more faults"
    assert trouble.cause == f"{FOLDER}/{NAME} is not as it was written, from line 4 on"
    assert trouble.remedies[0].command == "./twinhost audit verify"
    assert trouble.members == (f"{NAME}:4", f"{NAME}:7")
    assert changed(Inspected(intact=True)) == []


def test_a_change_that_was_reverted_stays_until_acknowledged() -> None:
    """It says so, with the command; nothing of it is claimed before all of the log has been read."""
    (trouble,) = changed(Inspected([broken(4)], intact=False))
    assert changed(Inspected(), before=trouble) == []
    (reverted,) = changed(Inspected(intact=True), before=trouble)
    assert (reverted.id, reverted.level, reverted.members) == (trouble.id, Level.ATTENTION, trouble.members)
    assert reverted.what == "mainpc's audit log was changed, and is intact again"
    assert str(reverted.cause).startswith(trouble.what)
    assert reverted.remedies[0].command == "./twinhost attention acknowledge audit_tampered:mainpc"
    assert changed(Inspected(intact=True), before=reverted) == [reverted]
    assert changed(Inspected(intact=True), before=None) == [], "it was acknowledged"
    (again,) = changed(Inspected([broken(4)], intact=False), before=reverted)
    assert again == trouble


def test_a_file_that_was_changed_between_two_writes_is_named() -> None:
    """Until all of the log has been read; then it is as any other change that was reverted."""
    contradiction = Contradiction(NAME, "its size changed between two writes")
    (trouble,) = changed(Inspected(intact=True), contradiction)
    assert (trouble.level, trouble.what) == (
        Level.BROKEN,
        "mainpc's audit log was changed: its size changed between two writes",
    )
    (reverted,) = changed(Inspected(intact=True), None, trouble)
    assert reverted.level is Level.ATTENTION


def test_a_changed_log_explains_what_witnesses_say() -> None:
    found = [
        *changed(Inspected([broken(4)], intact=False)),
        *contradicting_witnesses("mainpc", {"Memory": "the audit log no longer has line 4"}, HOSTS),
        *troubles_of("mainpc", [condition("audit_log", "the audit log's file contradicts the database")]),
        *troubles_of("pc2", [condition("audit_witness", "mainpc's audit log no longer has line 4")]),
    ]
    ((root, explained),) = by_cause(found)
    assert root.id == "audit_tampered:mainpc"
    assert {trouble.id for trouble in explained} == {
        "audit_contradicted:Memory",
        "check_failed:mainpc/audit_log",
        "check_failed:pc2/audit_witness",
    }


def test_a_restore_explains_the_warning_of_the_witness() -> None:
    warning = Trouble(kind=Kind.WARNING, subject="pc2/audit_restored", what="pc2: the log was restored")
    (trouble,) = restored_log("mainpc", Restored("2026-11-27T01:02:03.004Z", {"Memory": (4, 19)}), HOSTS)
    assert trouble.what == (
        "mainpc's state was replaced by a backup, and its audit log lacks lines 4 to 19 that Memory has seen"
    )
    assert (trouble.since, len(trouble.members)) == (1_795_741_323.004, 1), "what another one misses is news"
    ((root, explained),) = by_cause([trouble, warning])
    assert (root, len(explained)) == (trouble, 1)


class Bench:
    """A log that was restored, and its witness."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.keys = KeyBench(folder, self.clock)
        audit = self.keys.audit
        audit.record(AuditEvent.STARTED)
        audit.record(AuditEvent.RESTORED, moment=iso_time(self.clock.time()))
        audit.close()
        self.start()

    def start(self) -> None:
        self.keys.reopen()
        self.witnesses = AuditWitnesses(self.keys.audit, ["Memory"])

    def beats(self, seen: AuditSeen | None, restored: AuditRestored | None = None) -> None:
        self.witnesses.answer("Memory", MEMORY, seen, restored)

    @property
    def is_shown(self) -> bool:
        return self.witnesses.restored() is not None


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_restore_is_shown_for_a_day_without_a_witness(bench: Bench) -> None:
    assert not bench.is_shown, "a witness may still explain it"
    bench.clock.let_pass(WITNESS_WITHIN_S + 1)
    assert bench.is_shown
    bench.clock.let_pass(RECENT_S)
    assert not bench.is_shown


def test_a_restore_is_shown_until_the_witness_has_it_explained(bench: Bench) -> None:
    (line,) = bench.keys.audit.restores()
    before, after = AuditSeen(seq=1, hash="0" * 64), AuditSeen(seq=line.seq, hash=line.hash, restored=line.hash)
    missing = AuditRestored(seq=line.seq, time=line.time, seen_to=9)
    bench.beats(before)
    assert bench.is_shown
    bench.beats(after, missing)
    assert bench.witnesses.restored() == Restored(line.time, {"Memory": (line.seq, 9)})
    bench.beats(after)
    assert not bench.is_shown
    bench.start()
    bench.beats(after)
    bench.clock.let_pass(WITNESS_WITHIN_S + 1)
    assert not bench.is_shown
    bench.beats(after, missing)
    bench.clock.let_pass(2 * RECENT_S)
    assert bench.is_shown, "however long nobody explains it"
