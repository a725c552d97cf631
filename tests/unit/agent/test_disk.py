"""A writer's share of the disk, and the reserve that only some actions may use."""

import re
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest

from tests.new_database import open_database
from tests.unit.secure_zmq.wall_clock import LeapingClock
from tests.unit.store.test_stored_bytes import COUNTED, NOTES
from twinhost.agent.disk import Disk, budget_warnings
from twinhost.schema import AGENTS, declarations_of
from twinhost.secure_zmq.budgets import Budget, Budgets, BudgetTable, Used
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller
from twinhost.secure_zmq.errors import OverBudget, StoreUnavailable
from twinhost.store.stored_bytes import ROW_BYTES, Stored, StoredBytes

ALICE = Caller("alice", "pc2", frozenset({"agent"}), "f1")
BOB = Caller("bob", "pc2", frozenset({"agent"}), "f2")
MIB = 2**20


class Volume:
    """A disk on which a test says how much is free; `reserve` is 1 MiB of its 16 MiB at most."""

    def __init__(self, folder: Path) -> None:
        self.free, self._reserve = 8 * MIB, 256 * MIB
        table = BudgetTable(Budget(stored_bytes=2 * ROW_BYTES + 10, names=3))
        self.database = open_database(folder / "db", [NOTES, COUNTED])
        self.disk = Disk(
            folder, Budgets(lambda: table), self._reserve, LeapingClock(), lambda _: (16 * MIB, 0, self.free)
        )
        self.disk.count(self.database)

    def look(self, free: int) -> None:
        self.free = free
        self.disk.look(self._reserve)

    def write(self, caller: Caller, text: str, sql: str = "INSERT INTO notes (text, written_by) VALUES (?, ?)") -> None:
        with (
            self.database.transaction(),
            self.database.savepoint(),
            self.disk.share_of(caller, len(text)) or nullcontext(),
        ):
            self.database.execute(sql, (text, caller.name))


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    volume = Volume(tmp_path)
    with closing(volume.database):
        yield volume


def test_more_than_a_share_is_refused_and_not_stored(volume: Volume) -> None:
    """The sentence says how much of which budget, and where most of it is; others write on."""
    volume.write(ALICE, "12345")
    with pytest.raises(OverBudget, match=rf"uses {ROW_BYTES + 5} of its .* of 522, .* most of it is in notes \(533\)"):
        volume.write(ALICE, "1" * 10 + "234567")
    assert volume.disk.stored_bytes() == {"alice": ROW_BYTES + 5}
    volume.write(BOB, "1")
    volume.write(UNAUTHENTICATED, "1" * 10_000)


def test_what_stores_less_is_not_refused(volume: Volume) -> None:
    """Also if the share was made smaller meanwhile; and deleting gives back."""
    for number in range(3):
        volume.database.execute("INSERT INTO notes VALUES (?, NULL, '123456', 'alice')", (number,))
    volume.write(ALICE, "1", "UPDATE notes SET text = ? WHERE written_by = ?")
    volume.write(ALICE, "0", "DELETE FROM notes WHERE id > ? AND written_by = ?")
    volume.write(ALICE, "1")


def test_a_caller_is_told_what_it_can_delete(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it knows the rows as: events and errors end by themselves."""
    stored = {
        "memory_details": "memory details (500): delete some, or ask",
        "happenings": "events and errors (500): ask",
    }
    for table, said in stored.items():
        monkeypatch.setattr(StoredBytes, "by_table", lambda *_, table=table: [(table, Stored(500, 0))])
        with pytest.raises(OverBudget, match=re.escape(f"; most of it is in {said} an operator for more")):
            volume.write(ALICE, "1" * 600)


def test_names_have_a_share_too(volume: Volume) -> None:
    table = BudgetTable(Budget(names=1))
    disk = Disk(volume.database.path.parent, Budgets(lambda: table), 0)
    disk.count(volume.database)
    volume.write(ALICE, "1")
    share = disk.share_of(ALICE, 0)
    assert share is not None
    with pytest.raises(OverBudget, match="uses 1 of its budget names of 1"), share:
        volume.database.execute("INSERT INTO notes (text, written_by) VALUES ('', 'alice')")


def test_nothing_is_read_of_who_has_room_until_it_may_be_used_up(volume: Volume) -> None:
    """What is taken from the room is more than any request stores, so a share is never exceeded unnoticed."""
    tables = [BudgetTable(Budget(stored_bytes=4 * MIB))]
    disk = Disk(volume.database.path.parent, Budgets(lambda: tables[-1]), 0)
    disk.count(volume.database)
    assert [disk.share_of(ALICE, 0) for _ in range(4)] == [None] * 4
    volume.database.execute("INSERT INTO notes VALUES (1, NULL, ?, 'alice')", ("x" * MIB,))
    assert [disk.share_of(ALICE, 0) for _ in range(2)] == [None] * 2
    assert disk.share_of(BOB, 2 * MIB) is not None
    tables.append(BudgetTable(Budget(stored_bytes=MIB)))
    assert disk.share_of(ALICE, 0) is not None


def test_shares_are_of_all_databases_together(volume: Volume, tmp_path: Path) -> None:
    """Of those of its own too, whoever writes there."""
    with closing(open_database(tmp_path / "own", [NOTES, COUNTED])) as own:
        volume.disk.count(own, owner="alice")
        own.execute("INSERT INTO notes VALUES (1, NULL, '12345', 'bob')")
        volume.write(ALICE, "12345")
        assert volume.disk.stored_bytes() == {"alice": 2 * ROW_BYTES + 10}
        with pytest.raises(OverBudget):
            volume.write(ALICE, "")


def test_the_reserve_is_a_part_of_a_small_volume_at_most(volume: Volume) -> None:
    """What is refused then has the code of a full disk, and says what it takes."""
    volume.look(1 * MIB)
    volume.write(BOB, "1")
    volume.look(1 * MIB - 1)
    with pytest.raises(StoreUnavailable, match=r"1048575 bytes are free .* the last 1048576 are for registrations"):
        volume.write(BOB, "1")
    assert volume.disk.fault() is not None
    volume.look(1 * MIB)
    assert volume.disk.fault() is None


def test_health_warns_before_a_share_is_used_up(volume: Volume) -> None:
    rows = [Used("alice", "stored_bytes", 81, 100), Used("bob", "names", 79, 100), Used("bob", "errors", 100, 100)]
    rows.sort(key=lambda row: -row.share)
    (share,) = budget_warnings(rows, "Keeper")
    assert share.name == "budgets/alice"
    assert share.what.startswith("alice uses 81% of its budget stored_bytes (81 of 100)")
    assert list(budget_warnings([], "Keeper")) == []


def test_a_volume_that_cannot_be_looked_at_changes_nothing(tmp_path: Path) -> None:
    def fails(_: Path) -> tuple[int, int, int]:
        raise OSError

    disk = Disk(tmp_path, Budgets(), MIB, usage=fails)
    with suppress(StoreUnavailable):
        assert disk.fault() is None


def test_the_actions_that_may_use_the_reserve() -> None:
    """Registrations, heartbeats, what puts the agents in order, and what deletes; what changes keys is apart."""
    declared = {action: entry.options for name in AGENTS for action, entry in declarations_of(name).items()}
    assert {action for action, options in declared.items() if options["from_reserve"]} == {
        "register_agent",
        "heartbeat",
        "unregister",
        "release_lease",
        "accept_audit_log",
        "acknowledge_trouble",
        "quarantine_memory",
        "release_memory",
        "clear_context",
        "delete_interactions",
        "delete_memory",
        "delete_twin",
        "delete_error_pattern",
    }
    assert {"enrol", "propose_key", "confirm_key", "retire_keys"} <= {a for a in declared if declared[a]["apart"]}
    assert not any(options["from_reserve"] and not options["mutates"] for options in declared.values())
