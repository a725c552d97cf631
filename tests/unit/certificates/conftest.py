"""A tree; and no test of one waits for a name service: the agents' addresses are ones at which nothing listens."""

from pathlib import Path

import pytest

from tests.unit.certificates import trees

LOOPBACK = "127.0.0.9"  # where no published port is


@pytest.fixture
def nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the configuration name that address for both hosts."""
    environment_of = trees.environment_of
    addresses = dict.fromkeys(("MAINPC_IP", "PC2_IP"), LOOPBACK)
    monkeypatch.setattr(trees, "environment_of", lambda *of: {**environment_of(*of), **addresses})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    assert trees.certs_init(tmp_path / "tree").status == 0
    return tmp_path / "tree"
