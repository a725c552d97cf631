"""An index that is damaged while it is filled, and what else a tick of the agent does."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.unified_memory_reasoning.memory import assembled
from tests.unit.unified_memory_reasoning.older_volume import make_older_volume
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.unified_memory_reasoning.__main__ import NAME
from twinhost.unified_memory_reasoning.backup.actions import BackupActions


def test_a_fill_that_fails_holds_up_no_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose turn is last in a tick: it replaces the damaged database."""
    (tmp_path / "state").mkdir()
    make_older_volume(path := tmp_path / "state" / f"{NAME}.sqlite3")
    turns, turn = list[BackupActions](), BackupActions.on_tick

    def noted(backups: BackupActions) -> None:
        turns.append(backups)
        turn(backups)

    with assembled(tmp_path) as agent:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DROP TABLE recall_passages_docsize")
        monkeypatch.setattr(BackupActions, "on_tick", noted)
        with pytest.raises(StoreUnavailable):
            agent.assembly.on_tick()
        agent.assembly.on_tick()
        assert len(turns) == 1
        with pytest.raises(StoreUnavailable):
            agent.assembly.on_tick()
