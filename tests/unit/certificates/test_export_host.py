"""A host's folder for a machine that is provisioned by hand: its own secret alone, and a warning."""

import io
import os
import pty
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.unit.certificates.trees import ENTRY_POINT, certs_init, environment_of, files
from tests.waiting import PATIENCE_S
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import load_key_pair

pytestmark = pytest.mark.thorough

OF_PC2 = {"client.key_secret", "client.key", "server.key", "operator.key"}


@pytest.fixture
def mainpc(tmp_path: Path) -> Path:
    """mainpc's tree, to which pc2 is unknown."""
    assert certs_init(tmp_path / "mainpc", host="mainpc").status == 0
    return tmp_path / "mainpc"


def exported(root: Path, host: str, *, only_host: str = "mainpc") -> "subprocess.CompletedProcess[bytes]":
    """Run `certs-init export-host` with its output in a pipe."""
    return subprocess.run(
        [sys.executable, str(ENTRY_POINT), "--root", str(root), "export-host", host],
        env={**os.environ, **environment_of(only_host)},
        check=False,
        capture_output=True,
        timeout=PATIENCE_S,
    )


def test_the_tar_is_that_hosts_folder_with_its_own_secret_alone(mainpc: Path, tmp_path: Path) -> None:
    """Unpacked on the other machine it is a tree that is right, with which mainpc's agrees."""
    ran = exported(mainpc, "pc2")
    assert ran.returncode == 0, ran.stderr
    target = tmp_path / "on-pc2"
    target.mkdir(mode=0o700)
    with tarfile.open(fileobj=io.BytesIO(ran.stdout)) as tar:
        assert {m.name for m in tar.getmembers() if m.isfile()} == {f"pc2/{name}" for name in OF_PC2}
        assert {m.mode for m in tar.getmembers() if m.name.endswith("_secret")} == {0o600}
        tar.extractall(target, filter="tar")
    assert certs_init(target, "verify", host="pc2").lines == [f"{target}: 1 folders are correct"]
    assert "created" not in certs_init(target, host="pc2").out
    assert (mainpc / "mainpc/client.key").read_bytes() == (target / "pc2/client.key").read_bytes()


def test_it_warns_that_a_secret_travels(mainpc: Path) -> None:
    """On standard error, with the way that avoids it."""
    err = exported(mainpc, "pc2").stderr.decode()
    assert "Warning: the secret of pc2 was made here and is transferred" in err
    assert "To make it there instead: " in err
    assert f"Once it is there, remove it here: rm -r {mainpc}/pc2" in err
    verified = certs_init(mainpc, "verify", host="mainpc")
    assert verified.status == 0
    assert f"remark: {mainpc}/pc2 holds the secret of another host; once it is there, remove it here" in verified.out


def test_exported_again_it_is_the_same(mainpc: Path) -> None:
    """No second key is made."""
    first, before = exported(mainpc, "pc2").stdout, files(mainpc)
    assert (exported(mainpc, "pc2").stdout, files(mainpc)) == (first, before)


def test_where_it_went_it_is_not_made_again(mainpc: Path) -> None:
    """Once the folder was removed here, as advised, that host's key is its own affair."""
    exported(mainpc, "pc2")
    for path in (mainpc / "pc2").rglob("*.*"):
        path.unlink()
    before = files(mainpc)
    ran = exported(mainpc, "pc2")
    assert (ran.returncode, ran.stdout, files(mainpc)) == (1, b"", before)
    assert b"on pc2, so there is no secret to export here" in ran.stderr
    assert certs_init(mainpc, host="mainpc").status == 0


def test_a_host_that_made_its_own_keys_is_not_exported(mainpc: Path) -> None:
    """Its secret is there."""
    key = new_pair("UnifiedMemoryReasoningAgent", "pc2").certificate
    certs_init(mainpc, "trust", "-", host="mainpc", stdin=render_certificate(key).encode())
    before = files(mainpc)
    ran = exported(mainpc, "pc2")
    assert (ran.returncode, ran.stdout, files(mainpc)) == (1, b"", before)
    assert key.public.fingerprint.encode() in ran.stderr


def test_the_simulations_tree_has_it_already(tmp_path: Path) -> None:
    """All secrets lie in one tree there; the folder is written as it is."""
    certs_init(tmp_path / "tree")
    ran = exported(tmp_path / "tree", "pc2", only_host="")
    assert ran.returncode == 0
    assert b"Once it is there" not in ran.stderr
    secret = load_key_pair(tmp_path / "tree/mainpc/server.key_secret").secret_z85
    assert secret not in ran.stdout
    assert load_key_pair(tmp_path / "tree/pc2/client.key_secret").secret_z85 in ran.stdout


@pytest.mark.parametrize(
    ("host", "sentence"),
    [("mainpc", b"can't be exported"), ("pc3", b"there is no host 'pc3'"), ("..", b"no host '..'")],
)
def test_what_is_not_exported(mainpc: Path, host: str, sentence: bytes) -> None:
    """One sentence, and nothing is made or written."""
    before = files(mainpc)
    ran = exported(mainpc, host)
    assert (ran.returncode, ran.stdout, files(mainpc)) == (1, b"", before)
    assert sentence in ran.stderr


def test_a_revoked_key_is_not_exported(tmp_path: Path) -> None:
    """A new one is made first."""
    certs_init(tmp_path / "tree")
    certs_init(tmp_path / "tree", "revoke", "UnifiedMemoryReasoningAgent")
    ran = exported(tmp_path / "tree", "pc2", only_host="")
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"certs-init replace UnifiedMemoryReasoningAgent" in ran.stderr


def test_a_terminal_gets_no_tar(mainpc: Path) -> None:
    """A secret on a screen, and in its scroll-back, is of no use; no key is made for it either."""
    before = files(mainpc)
    master, slave = pty.openpty()
    ran = subprocess.run(
        [sys.executable, str(ENTRY_POINT), "--root", str(mainpc), "export-host", "pc2"],
        env={**os.environ, **environment_of("mainpc")},
        check=False,
        stdout=slave,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
    )
    os.close(slave)
    os.close(master)
    assert (ran.returncode, files(mainpc)) == (1, before)
    assert b"redirect it into a file, or give --to DIR" in ran.stderr


def test_to_a_folder(mainpc: Path, tmp_path: Path) -> None:
    """Laid out whole, with the modes that it must have; a second time nothing changes."""
    target = tmp_path / "stick"
    for _ in range(2):
        ran = certs_init(mainpc, "export-host", "pc2", "--to", str(target), host="mainpc")
        assert (ran.status, ran.out) == (0, "")
    assert set(files(target)) == {f"pc2/{name}" for name in OF_PC2}
    target.chmod(0o700)
    assert certs_init(target, "verify", host="pc2").status == 0


def test_another_folder_there_is_left_alone(mainpc: Path, tmp_path: Path) -> None:
    """It may be the only copy of somebody's secret."""
    (tmp_path / "stick/pc2").mkdir(parents=True)
    (tmp_path / "stick/pc2/client.key_secret").write_text("another")
    before = files(tmp_path / "stick")
    ran = certs_init(mainpc, "export-host", "pc2", "--to", str(tmp_path / "stick"), host="mainpc")
    assert (ran.status, files(tmp_path / "stick")) == (1, before)
    assert "exists already and differs; remove it, or name another folder with --to" in ran.err


def test_a_place_that_can_not_be_written_is_one_sentence(mainpc: Path, tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "file").touch()
    ran = certs_init(mainpc, "export-host", "pc2", "--to", str(tmp_path / "file/stick"), host="mainpc")
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert "can't be written (Not a directory)" in ran.err
