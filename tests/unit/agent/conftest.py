"""Two hosts, for what an agent does with another one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.agent_processes import Hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts of which nothing runs yet."""
    with Hosts(tmp_path) as hosts:
        yield hosts
