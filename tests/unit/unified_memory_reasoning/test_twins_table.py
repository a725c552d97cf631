"""The table of twins: one user's large twin costs the others nothing."""

import pytest

from tests.unit.agent.assembled import Assembled

pytestmark = pytest.mark.unified_memory_agent


def test_looking_up_a_user_reads_no_others_twin(agent: Assembled) -> None:
    """A table WITHOUT ROWID compares whole rows: beside one twin of 4 MiB, every look-up was 14 times slower."""
    (without_rowid,) = agent.database.execute("SELECT wr FROM pragma_table_list WHERE name = 'twins'").fetchone()
    assert without_rowid == 0
