"""A restore that is killed at any step leaves the old state, or one that the same command completes."""

import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.unit.archive.mainpcs import Mainpc
from tests.unit.certificates.trees import certs_init
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing
from twinhost.store.files import COMMIT, RESTORING, require_no_restore

pytestmark = pytest.mark.thorough

_CHANGES = frozenset(
    {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
)  # Python notifies its audit hooks before (PEP 578)
_MOST_STEPS = 200  # more than there are


def killed_at(step: int, machine: Mainpc, archive: bytes) -> bool:
    """Restore in a child that is killed before a step which changes a name; False where it lived on."""

    def restore_and_die() -> None:
        steps = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal steps
            if event in _CHANGES and str(machine.root) in str(arguments[0]):
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        os._exit(machine.run("restore", "-", "--replace", given=archive).status)

    child = multiprocessing.get_context("fork").Process(target=restore_and_die)
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def assert_nobody_uses_it(machine: Mainpc, before: dict[str, tuple[int, bytes]]) -> None:
    """certs-init, and mainpc's agent with keys or without, refuse what lies there amid an exchange."""
    assert certs_init(machine.keys, host="mainpc").status == 1
    with pytest.raises(ConfigurationError):
        require_no_restore(machine.state)
    if without_received(machine) != before:
        with pytest.raises(KeyFileMissing):
            load_certificates(machine.keys / "mainpc")


def without_received(machine: Mainpc) -> dict[str, tuple[int, bytes]]:
    """Return the files but for those that a restore received."""
    return {name: file for name, file in machine.files().items() if f"/{RESTORING}/" not in name}


@pytest.mark.parametrize("over", ["another state", "nothing"])
def test_killed_before_any_step_the_same_command_completes(tmp_path: Path, over: str) -> None:
    """Before the point of no return all is as it was; after it nobody can use what is half of each until it is done."""
    here = Mainpc(tmp_path / "here").make()
    archive = here.backup()
    begun = Mainpc(tmp_path / "begun", host="mainpc")
    if over == "another state":
        begun.make(agents=1)
    before, old = begun.files(), begun.key_files()
    step, untouched, between = 1, 0, 0
    while True:
        machine_root = tmp_path / str(step)
        shutil.copytree(begun.root, machine_root)
        machine = Mainpc(machine_root, host="mainpc")
        died = killed_at(step, machine, archive)
        if died and not (machine.keys / RESTORING / COMMIT).exists():
            done = machine.key_files() == here.key_files()
            assert done or without_received(machine) == before, step
            untouched += not done
        elif died:
            in_use = machine.key_files() == here.key_files()  # the very end: only what was received is being removed
            if not in_use:
                assert_nobody_uses_it(machine, before)
            between += not in_use
        if died:
            again = machine.run("restore", "-", "--replace", given=archive)
            assert again.status == 0, (step, again.err)
        assert machine.key_files() == here.key_files(), step
        assert machine.registered() == here.registered(), step
        with machine.opened() as (_, audit):
            assert audit.fault is None, step
        assert sorted(path.name for path in machine.keys.iterdir() if path.name == RESTORING) == []
        assert not (machine.state / RESTORING).exists()
        if old:
            kept = {file for name, file in machine.files().items() if "/.replaced-" in name}
            assert set(old.values()) <= kept, step
        shutil.rmtree(machine_root)
        if not died:
            break
        step += 1
    assert untouched > 5
    assert between > 3
    assert step < _MOST_STEPS


def begun(tmp_path: Path) -> tuple[Mainpc, Mainpc, bytes]:
    """Return a machine, one on which a restore of its backup was killed amid its work, and the backup."""
    here, there = Mainpc(tmp_path / "here").make(), Mainpc(tmp_path / "there", host="mainpc")
    archive = here.backup()
    step = 1
    while killed_at(step, there, archive) and not (there.keys / RESTORING / COMMIT).exists():
        step += 1
    assert (there.keys / RESTORING / COMMIT).exists()
    return here, there, archive


def test_a_begun_restore_is_finished_before_another_archive(tmp_path: Path) -> None:
    """The same machine is given another file: what was begun is whole first, and then refused as any that is there."""
    here, there, _ = begun(tmp_path)
    ran = there.run("restore", "-", given=Mainpc(tmp_path / "other").make(agents=1).backup())
    assert (ran.status, "the interrupted restore of the state of" in ran.err) == (1, True), ran.err
    assert "exists already" in ran.err
    assert (there.registered(), there.key_files()) == (here.registered(), here.key_files())


def test_finished_by_the_same_command_it_says_what_is_there(tmp_path: Path) -> None:
    """Without --replace too: the state that is there is the one that was being restored."""
    here, there, archive = begun(tmp_path)
    ran = there.run("restore", "-", given=archive)
    assert (ran.status, here.fingerprint in ran.err, "3 agents, 3 keys" in ran.err) == (0, True, True), ran.err
