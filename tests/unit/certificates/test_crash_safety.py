"""Killed at any moment, the next run finishes the job and keeps every key that was there."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.certificates.trees import (
    BOTH_HOSTS,
    RECORD,
    certs_init,
    dies_at,
    environment_of,
    files,
    secrets,
    start_certs_init,
    tree_layout,
)
from tests.waiting import PATIENCE_S, wait_until
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import Layout
from twinhost.secure_zmq.keys import load_certificate, load_key_pair


def killed_at(layout: Layout, step: int) -> bool:
    """Make the keys in a child that dies at a step; return False once it lives to the end."""
    return dies_at(step, make_keys, layout)


def assert_whole(root: Path) -> None:
    """Every file that has its final name can be believed."""
    for path in root.rglob("[!.]*.key"):
        load_certificate(path)
    for path in root.rglob("[!.]*.key_secret"):
        load_key_pair(path)


def assert_finished_by_the_next_run(root: Path) -> None:
    """A run ends well, verify finds nothing, and each secret that existed before is the one that is there."""
    kept = secrets(root)
    assert_whole(root)
    ran = certs_init(root)
    assert (ran.status, ran.err) == (0, "")
    assert (certs_init(root, "verify").out, set(files(root))) == (f"{root}: 3 folders are correct\n", BOTH_HOSTS)
    assert kept.items() <= secrets(root).items()
    recorded = {line.split()[0] for line in (root / RECORD).read_text().splitlines()}
    assert recorded == {name for name in BOTH_HOSTS if name.endswith(".key")}


@pytest.mark.thorough
def test_killed_before_any_step_the_next_run_finishes_the_job(tmp_path: Path) -> None:
    """A kill before every single system call that changes the tree: some hundred half-way states, all recovered."""
    step, halfway = 1, set()
    while killed_at(tree_layout(tmp_path / str(step)), step):
        root = tmp_path / str(step)
        halfway.add(frozenset(name for name in files(root) if ".draft" not in name))
        assert_finished_by_the_next_run(root)
        step += 1
    assert len(halfway) == len(BOTH_HOSTS) + 1, "each file comes into being in a step of its own"


def test_killed_again_and_again_it_gets_there(tmp_path: Path) -> None:
    """The run that finishes the job may be killed as well: every one of them keeps what the last one left."""
    layout, step, kept = tree_layout(tmp_path), 1, secrets(tmp_path)
    while killed_at(layout, step):
        assert kept.items() <= secrets(tmp_path).items()
        kept = secrets(tmp_path)
        step += 7
    assert len(kept) == 3
    assert_finished_by_the_next_run(tmp_path)


@pytest.mark.thorough
def test_killed_at_any_step_no_removed_key_comes_back(tmp_path: Path) -> None:
    """A key is made again while another is removed: the kill hides neither, and one removed just after it stays so."""
    begun = tmp_path / "begun"
    certs_init(begun)
    for path in [begun / "mainpc/client.key", begun / "mainpc/server.key_secret", *begun.rglob("server.key")]:
        path.unlink()
    step, alive = 1, False
    while not alive:
        root = tmp_path / str(step)
        shutil.copytree(begun, root)
        alive = not killed_at(tree_layout(root), step)
        assert (certs_init(root).status, set(files(root))) == (0, BOTH_HOSTS - {"mainpc/client.key"})
        (root / "pc2/server.key").unlink()
        assert certs_init(root).status == 0
        assert set(files(root)) == BOTH_HOSTS - {"mainpc/client.key", "pc2/server.key"}
        step += 1
    assert step > len(BOTH_HOSTS)


@pytest.mark.parametrize("folder", [".", "mainpc", "pc2", "operator"])
def test_a_draft_of_a_killed_run_is_cleared_away(tmp_path: Path, folder: str) -> None:
    """Half a draft, or a whole secret that only lacks its name, does not stay behind, nor is it used."""
    certs_init(tmp_path)
    before = files(tmp_path)
    (tmp_path / folder / ".server.key_secret.7.draft").write_text("half a fi")
    os.link(tmp_path / "pc2/client.key", tmp_path / folder / ".client.key.1.draft")
    assert certs_init(tmp_path, "verify").status == 1
    assert certs_init(tmp_path).status == 0
    assert files(tmp_path) == before


@pytest.mark.thorough
def test_killed_at_any_moment_the_next_run_completes_the_tree(tmp_path: Path) -> None:
    """The real command, killed after each number of files."""
    halfway = 0
    for number in range(len(BOTH_HOSTS)):
        root = tmp_path / str(number)
        process = start_certs_init(root)
        wait_until((root / ".lock").exists, PATIENCE_S, "the first file")
        while process.poll() is None and sum(1 for _ in root.rglob("[!.]*.*")) < number:
            pass  # all the files take less time than a pause; none is read, since drafts are renamed meanwhile
        process.kill()
        process.communicate()
        halfway += 0 < len(files(root)) < len(BOTH_HOSTS)
        assert_finished_by_the_next_run(root)
    assert halfway, "not one of the kills came while keys were being made"


def test_a_process_killed_before_its_first_file_leaves_nothing(tmp_path: Path) -> None:
    """A kill right after the start is followed by an ordinary first run; on a busy machine one may come later."""

    def killed_in_time(root: Path) -> bool:
        process = start_certs_init(root)
        process.kill()
        process.communicate()
        return not root.exists()

    tree = next((root for number in range(5) if killed_in_time(root := tmp_path / str(number))), None)
    assert tree is not None, "no process was killed before its first file"
    assert_finished_by_the_next_run(tree)


def test_runs_at_the_same_time_agree(tmp_path: Path) -> None:
    """Four runs that start on an empty tree wait for each other, and name the same keys."""
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = [start_certs_init(tmp_path) for _ in range(4)]
        wait_until(lambda: waiting_for(tmp_path / ".lock") == len(runs), PATIENCE_S, "every run waits for the lock")
        assert files(tmp_path) == {}
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs)
    words = [[line.split() for line in output.splitlines()[:3]] for output in outputs]
    assert len({tuple(line[-1] for line in lines) for lines in words}) == 1  # the fingerprints
    assert sorted(lines[0][3] for lines in words) == ["already", "already", "already", "created"]
    assert certs_init(tmp_path, "verify").status == 0


def waiting_for(path: Path) -> int:
    """Return how many processes wait for a lock on a file; the kernel marks them with an arrow."""
    inode = path.stat().st_ino
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return sum("->" in line and line.split()[-3].endswith(f":{inode}") for line in lines)


def test_a_killed_run_holds_no_lock(tmp_path: Path) -> None:
    """The lock is the kernel's and dies with its process."""
    assert killed_at(tree_layout(tmp_path), 10)
    process = subprocess.run(
        [sys.executable, "-m", "twinhost.cli.certs_init", "--root", str(tmp_path)],
        env={**os.environ, **environment_of(), "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert process.returncode == 0
