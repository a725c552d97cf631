"""One process at a time on a store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.sole_user import hold


def test_a_second_one_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    """In this process, or in another."""
    lock = tmp_path / "agent.lock"
    let_go = hold(lock)
    with pytest.raises(ConfigurationError, match=r"another process uses .*; stop it"):
        hold(lock)
    let_go()
    hold(lock)()


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    """There is nothing to be cleaned up by hand."""
    program = (
        "import sys; from pathlib import Path; from twinhost.store.sole_user import hold\n"
        "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    lock = tmp_path / "agent.lock"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigurationError):
            hold(lock)
        holder.kill()
    hold(lock)()


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    """No traceback."""
    with pytest.raises(ConfigurationError, match="can't be made"):
        hold(tmp_path / "none/agent.lock")
