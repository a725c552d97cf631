"""One process at a time locks a store; a new file is named once it is complete, and never replaces another."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.files import exclusive_lock, new_file


def test_a_second_one_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    """In this process, or in another."""
    lock = tmp_path / "agent.lock"
    let_go = exclusive_lock(lock)
    with pytest.raises(ConfigurationError, match=r"another process uses .*; stop that process"):
        exclusive_lock(lock)
    let_go()
    exclusive_lock(lock)()


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    """There is nothing to be cleaned up by hand."""
    program = (
        "import sys; from pathlib import Path; from twinhost.store.files import exclusive_lock\n"
        "exclusive_lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
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
            exclusive_lock(lock)
        holder.kill()
    exclusive_lock(lock)()


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    """No traceback."""
    with pytest.raises(ConfigurationError, match="can't be created"):
        exclusive_lock(tmp_path / "none/agent.lock")


def no_links(*_: object) -> NoReturn:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_new_file_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    path = tmp_path / "backup"
    with new_file(path) as stream:
        stream.write(b"first")
        assert not path.exists()
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"first", 0o600)
    with pytest.raises(ConfigurationError, match="can't be written"), new_file(path) as stream:
        stream.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
