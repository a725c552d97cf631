"""The agent after its first start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent.assembled import Assembled
from tests.unit.unified_memory_reasoning.memory import assembled


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Assembled]:
    with assembled(tmp_path) as agent:
        yield agent
