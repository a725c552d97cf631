"""What mainpc answers those who have seen its audit log: a comparison to each, and an alarm from witnesses alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.system_digital_twin.key_bench import KeyBench
from twinhost.secure_zmq.callers import Caller
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.system_digital_twin.trust.audit import AuditRestored, AuditSeen, AuditWitnesses, Restored

pytestmark = pytest.mark.sdt_security

REWRITTEN = AuditSeen(seq=1, hash="f" * 64)


@pytest.fixture
def witnesses(tmp_path: Path) -> Iterator[AuditWitnesses]:
    with KeyBench(tmp_path) as bench:
        bench.audit.record(AuditEvent.STARTED)
        bench.audit.flush()
        yield AuditWitnesses(bench.audit, ["witness"])


def caller(name: str) -> Caller:
    return Caller(name, "pc2", frozenset({"agent"}), "SHA256:x")


@pytest.mark.parametrize("name", ["witness", "another"])
def test_whoever_asks_is_answered(witnesses: AuditWitnesses, name: str) -> None:
    """The lack of a comparison is an alarm there; but only a witness raises one on mainpc."""
    answer = witnesses.answer(name, caller(name), REWRITTEN, AuditRestored(seq=1, time="2026", seen_to=9))
    assert answer["audit_compared"] == {"extends": False, "restore": None}
    restored = witnesses.restored()
    if name == "witness":
        assert (list(witnesses.faults), restored) == (["witness"], Restored(None, {"witness": (1, 9)}))
    else:
        assert (witnesses.fault, restored) == (None, None)


def test_nobody_asks_in_anothers_name(witnesses: AuditWitnesses) -> None:
    """An operator may send a heartbeat for an agent, which has seen nothing itself."""
    answer = witnesses.answer("witness", caller("operator"), REWRITTEN, None)
    assert ("audit_compared" in answer, witnesses.fault) == (False, None)
