"""When certs-init, which Compose runs first, fails, the cli says why: Compose itself shows an exit status alone."""

import shutil
from pathlib import Path

import pytest

from tests.unit.archive.mainpcs import Mainpc
from tests.unit.certificates.trees import certs_init
from tests.unit.cli.running import Ran, run_process


def status(folder: Path) -> Ran:
    """Run `cli status` with a folder of keys, where no agent runs."""
    return run_process({"TWINHOST_CERTIFICATES": str(folder), "MAINPC_IP": "127.0.0.1", "SECURE_ZMQ": "1"}, "status")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree whose mainpc has lost its secret."""
    assert certs_init(tmp_path).status == 0
    shutil.move(tmp_path / "mainpc/server.key_secret", tmp_path.parent / f"{tmp_path.name}.lost")
    return tmp_path


@pytest.mark.parametrize("folder", ["operator", "pc2"])
@pytest.mark.thorough
def test_status_shows_the_sentence_of_certs_init(tree: Path, folder: str) -> None:
    """Until a run of certs-init succeeds; `verify` takes the note for no stray file."""
    failed = certs_init(tree)
    assert failed.status == 1
    sentence = failed.err.removeprefix("certs-init: ").strip()
    assert f"certs-init failed: {sentence}" in " ".join(status(tree / folder).err.split())
    assert "does not belong" not in certs_init(tree, "verify").out
    shutil.move(tree.parent / f"{tree.name}.lost", tree / "mainpc/server.key_secret")
    assert certs_init(tree).status == 0
    assert "certs-init failed" not in status(tree / folder).err
    assert certs_init(tree, "verify").status == 0


@pytest.mark.thorough
def test_another_command_that_fails_leaves_no_note(tree: Path) -> None:
    """Whoever ran it has seen its sentence."""
    assert certs_init(tree, "invite", "Sensor", "--host", "pc3", "--role", "root").status == 1
    assert "certs-init failed" not in status(tree / "operator").err


@pytest.mark.parametrize(("host", "folder"), [("", "operator"), ("mainpc", "operator"), ("pc2", "pc2")])
@pytest.mark.thorough
def test_a_first_run_that_fails_leaves_a_folder_for_the_cli(tmp_path: Path, host: str, folder: str) -> None:
    """The container of the cli mounts its folder; without one it could not even start to say why."""
    root, config = tmp_path / "volume", tmp_path / "network_config.yaml"
    root.mkdir()
    config.write_text("hosts: [")
    failed = certs_init(root, host=host, config=str(config))
    assert (failed.status, "is not YAML" in failed.err) == (1, True)
    assert "is not YAML" in status(root / folder).err
    assert certs_init(root, host=host).status == 0
    assert "certs-init failed" not in status(root / folder).err
    assert "does not belong" not in certs_init(root, "verify", host=host).out


def test_a_backup_leaves_the_note_out(tmp_path: Path) -> None:
    """It is nothing of mainpc's state."""
    mainpc = Mainpc(tmp_path / "here").make()
    config = tmp_path / "network_config.yaml"
    config.write_text("hosts: [")
    assert certs_init(mainpc.keys, config=str(config)).status == 1
    ran = mainpc.run("backup", "-")
    assert (ran.status, "left out" in ran.err, b"certs-init-failed" in ran.out) == (0, False, False)
