"""The heads that a host keeps of mainpc's audit log: what a heartbeat's reply makes of them, and what is on disk."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.membership.audit_witness import MAX_HEADS, AuditWitness, SeenHead
from twinhost.secure_zmq.errors import StoreUnavailable

pytestmark = pytest.mark.unified_memory_agent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "heads.json"


def head(seq: int, restored: str | None = None) -> dict[str, Any]:
    return {"seq": seq, "hash": f"{seq:064x}", "restored": restored}


def beat(witness: AuditWitness, **reply: Any) -> SeenHead | None:
    """Let a heartbeat come and go; return what it asked about."""
    asked, _ = witness.question()
    witness.take(asked, {"status": "success", **reply})
    return asked


def grow(witness: AuditWitness, *seqs: int) -> None:
    for seq in seqs:
        beat(witness, audit_head=head(seq), audit_compared={"extends": True, "restore": None})


def kept(witness: AuditWitness) -> list[int]:
    return [each["seq"] for each in witness.document()["heads"]]


def test_heads_are_on_disk_for_their_owner_alone(path: Path) -> None:
    """The next process goes on from them."""
    grow(AuditWitness(path), 3, 7, 9)
    assert path.stat().st_mode & 0o777 == 0o600
    again = AuditWitness(path)
    assert (kept(again), again.fault) == ([3, 7, 9], None)
    assert again.question()[1] == {"audit_seen": head(9)}


def test_a_head_that_did_not_change_is_not_written_again(path: Path) -> None:
    """A heartbeat comes every 5 s, and most bring nothing."""
    witness = AuditWitness(path)
    grow(witness, 3)
    before = path.stat().st_ino
    grow(witness, 3)
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    "reply",
    [{}, {"audit_head": None}, {"audit_head": head(12)}, {"audit_head": 7}, {"audit_compared": {"extends": "yes"}}],
    ids=["an older mainpc", "no head", "nothing compared", "malformed head", "malformed comparison"],
)
def test_a_reply_that_compares_nothing_is_an_alarm(path: Path, reply: dict[str, Any]) -> None:
    """No head that nobody has compared is kept, and the alarm lasts until the kept one is found again."""
    witness = AuditWitness(path)
    grow(witness, 3, 7)
    beat(witness, **reply)
    assert "does not say whether its audit log still has line 7" in str(witness.fault)
    assert (kept(witness), witness.warnings()) == ([3, 7], [])
    grow(witness, 7)
    assert witness.fault is None


def test_a_hundred_silent_replies_raise_an_alarm(path: Path) -> None:
    """A changed mainpc leaves the comparison out, and has an older head; a restart of the witness changes nothing."""
    grow(AuditWitness(path), 3, 7)
    witness = AuditWitness(path)
    for _ in range(100):
        beat(witness, audit_head=head(5))
    assert witness.fault is not None
    beat(again := AuditWitness(path), audit_head=head(5))
    assert again.fault is not None


@pytest.mark.parametrize("newest", [head(5), {**head(7), "hash": "f" * 64}], ids=["older", "another of that number"])
def test_a_head_that_contradicts_its_comparison_is_an_alarm(path: Path, newest: dict[str, Any]) -> None:
    """A log that still has line 7 can't end before it."""
    witness = AuditWitness(path)
    grow(witness, 3, 7)
    beat(witness, audit_head=newest, audit_compared={"extends": True, "restore": None})
    assert f"ends with another line {newest['seq']}" in str(witness.fault)
    assert kept(witness) == [3, 7]


def test_a_mainpc_that_is_asked_nothing_owes_no_comparison(path: Path) -> None:
    """The first head of a new witness, and after an operator accepted another log."""
    witness = AuditWitness(path)
    beat(witness, audit_head=head(12))
    assert (kept(witness), witness.fault) == ([12], None)


@pytest.mark.parametrize(
    "reply", [{}, {"audit_head": None}, {"audit_head": head(0)}], ids=["an older mainpc", "no head", "an empty log"]
)
def test_a_mainpc_that_sends_no_head_is_an_alarm(path: Path, reply: dict[str, Any]) -> None:
    """To a new witness, and to one whose alarm an operator ended; a new log may not be on disk at first."""
    clock = Clock()
    witness = AuditWitness(path, clock)

    def silent() -> None:
        beat(witness, **reply)
        assert witness.fault is None
        clock.let_pass(11)
        beat(witness, **reply)
        assert "does not say with which line its audit log ends" in str(witness.fault)

    silent()
    assert (witness.question(), witness.accept("operator")) == ((None, {}), [])
    grow(witness, 3)
    assert (witness.fault, kept(witness)) == (None, [3])
    beat(witness, **reply)
    assert len(witness.accept("operator")) == 1
    silent()


@pytest.mark.thorough
def test_old_heads_are_kept_wider_apart(path: Path) -> None:
    """The first and the newest stay; the file stays small."""
    witness = AuditWitness(path)
    grow(witness, *range(1, 2_001))
    seqs = kept(witness)
    assert len(seqs) <= MAX_HEADS
    assert (seqs[0], seqs[-1]) == (1, 2_000)
    assert seqs[-5:] == list(range(1_996, 2_001))
    assert len([seq for seq in seqs if seq < 1_900]) >= 10
    assert path.stat().st_size < 20_000


def test_a_contradicted_log_adds_no_head_and_is_an_alarm(path: Path) -> None:
    """Until the log is the one that was seen again."""
    witness = AuditWitness(path)
    grow(witness, 3, 7)
    beat(witness, audit_head=head(20), audit_compared={"extends": False, "restore": None})
    assert "no longer has line 7" in str(witness.fault)
    assert kept(witness) == [3, 7]
    grow(witness, 8)
    assert (witness.fault, kept(witness)) == (None, [3, 7, 8])


def test_a_restore_after_the_line_explains_nothing(path: Path) -> None:
    """Lines before it must be there as they were seen."""
    witness = AuditWitness(path)
    grow(witness, 3, 7)
    restore = {"seq": 8, "hash": "a" * 64, "time": "2026-11-27T01:02:03.004Z"}
    beat(witness, audit_head=head(20), audit_compared={"extends": False, "restore": restore})
    assert witness.fault is not None


def test_a_restore_ends_the_heads_from_its_line_on(path: Path) -> None:
    """What was seen before it is asked about next; the restore is shown until somebody acknowledges it."""
    witness = AuditWitness(path)
    grow(witness, 3, 7, 9)
    restore = {"seq": 5, "hash": "a" * 64, "time": "2026-11-27T01:02:03.004Z"}
    beat(witness, audit_head=head(6), audit_compared={"extends": False, "restore": restore})
    assert (kept(witness), witness.fault) == ([3], None)
    again = AuditWitness(path)
    (sentence,) = again.warnings()
    assert "2026-11-27T01:02:03.004Z" in sentence
    assert "lines 5 to 9" in sentence
    assert again.question()[1]["audit_restored"] == {"seq": 5, "time": "2026-11-27T01:02:03.004Z", "seen_to": 9}
    assert again.accept("operator") == ["the restore of 2026-11-27T01:02:03.004Z, which removed lines 5 to 9"]
    assert (again.warnings(), again.accept("operator")) == ([], [])
    assert AuditWitness(path).document()["gaps"][0]["acknowledged"] == "operator"


def test_a_reply_from_before_an_acceptance_is_ignored(path: Path) -> None:
    """An operator accepts the log while a heartbeat is on its way."""
    witness = AuditWitness(path)
    grow(witness, 3)
    beat(witness, audit_compared={"extends": False, "restore": None})
    asked, _ = witness.question()
    assert len(witness.accept("operator")) == 1
    witness.take(asked, {"audit_head": head(4), "audit_compared": {"extends": False, "restore": None}})
    assert (witness.fault, kept(witness)) == (None, [])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"heads": 3}', b'{"heads": [{"seq": -1}]}'])
def test_a_file_that_can_not_be_read_is_a_fault(path: Path, content: bytes) -> None:
    """It is not overwritten until an operator says so; the agent runs all the while."""
    path.write_bytes(content)
    witness = AuditWitness(path)
    assert f"{path} can't be read" in str(witness.fault)
    grow(witness, 3)
    assert path.read_bytes() == content
    assert witness.accept("operator") == ["an unreadable heads.json"]
    grow(witness, 3)
    assert (AuditWitness(path).fault, kept(AuditWitness(path))) == (None, [3])


def draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.draft")


def test_a_folder_that_can_not_be_written_is_a_fault_and_no_end(path: Path) -> None:
    """The heads hold in memory, and are written once it can be; an acceptance that can't be written is refused."""
    witness = AuditWitness(path)
    grow(witness, 3)
    draft = draft_of(path)
    draft.mkdir()
    grow(witness, 4)
    assert "can't be written" in str(witness.fault)
    assert kept(witness) == [3, 4]
    beat(witness, audit_compared={"extends": False, "restore": None})
    with pytest.raises(StoreUnavailable, match="free space on its volume"):
        witness.accept("operator")
    assert "no longer has line 4" in str(witness.fault)
    draft.rmdir()
    grow(witness, 4)
    assert (witness.fault, kept(AuditWitness(path))) == (None, [3, 4])


def test_a_planted_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    """The draft is a file of its own."""
    other = tmp_path / "other"
    other.write_text("kept")
    draft_of(path).symlink_to(other)
    grow(AuditWitness(path), 3)
    assert (other.read_text(), kept(AuditWitness(path))) == ("kept", [3])
