"""A public key that somebody removed from a folder stays removed, until somebody brings it back."""

import stat
from pathlib import Path

import pytest

from tests.unit.certificates.trees import BOTH_HOSTS, RECORD, Ran, certs_init, files
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, load_certificate, parse_certificate

UMRA = KeyOwner("UnifiedMemoryReasoningAgent", "pc2", frozenset({"agent"}))
PUBLIC = sorted(name for name in BOTH_HOSTS if name.endswith(".key"))


def brought_back(root: Path, stem: str) -> Ran:
    """Do what the output advises: `certs-init public KEY | certs-init trust -`."""
    public = certs_init(root, "public", stem)
    assert (public.status, public.err) == (0, "")
    return certs_init(root, "trust", "-", stdin=public.out.encode())


def remarks(root: Path) -> list[str]:
    """Return what `certs-init verify` remarks on in a tree in which nothing is wrong."""
    ran = certs_init(root, "verify")
    *sentences, last = ran.lines
    assert (ran.status, ran.err, last) == (0, "", f"{root}: 3 folders are correct")
    return sentences


@pytest.mark.parametrize("name", PUBLIC)
def test_a_removed_public_key_stays_removed(tree: Path, name: str) -> None:
    """Over two runs, whichever it is; each says which file, what that means, and how to bring it back."""
    (tree / name).unlink()
    before = files(tree)
    for ran in (certs_init(tree), certs_init(tree)):
        assert (ran.status, ran.err, files(tree)) == (0, "", before)
        (said,) = [line for line in ran.lines if "was removed" in line]
        assert said.startswith(f"{tree / name} was removed and stays removed: ")
        assert f"is not authorised in {name.partition('/')[0]}" in said
        stem = Path(name).stem
        assert f"certs-init public {stem} | docker compose run --rm -T certs-init trust -" in ran.out


def test_the_output_no_longer_lists_it_in_that_folder(tree: Path) -> None:
    """What is said to lie in a folder lies there."""
    (tree / "mainpc/client.key").unlink()
    ran = certs_init(tree)
    assert f"{tree}/mainpc: server.key_secret (stays there, mode 0600); public: server.key, operator.key" in ran.lines


@pytest.mark.parametrize("name", PUBLIC)
def test_verify_remarks_on_it_and_ends_well(tree: Path, name: str) -> None:
    """It is a decision that somebody took, and no damage."""
    (tree / name).unlink()
    (remark,) = remarks(tree)
    assert remark.startswith(f"remark: {tree / name} was removed and stays removed: ")


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.thorough
def test_trust_brings_it_back(tree: Path, name: str) -> None:
    """The same bytes, and the next runs find it present; nothing is removed any more."""
    before = files(tree)
    (tree / name).unlink()
    certs_init(tree)
    assert brought_back(tree, Path(name).stem).status == 0
    assert (files(tree), remarks(tree)) == (before, [])
    assert "was removed" not in certs_init(tree).out


def test_a_key_removed_everywhere_comes_back_from_its_secret(tree: Path) -> None:
    """With every public copy removed nobody is accepted with that key, and `public` still knows it."""
    before = files(tree)
    for path in list(tree.rglob("client.key")):
        path.unlink()
    ran = certs_init(tree)
    assert (ran.status, list(tree.rglob("client.key")), len(remarks(tree))) == (0, [], 3)
    assert brought_back(tree, "client").status == 0
    assert files(tree) == before


def test_removed_again_it_stays_removed_again(tree: Path) -> None:
    """Bringing back is for once, and no standing permission."""
    for _ in range(2):
        (tree / "mainpc/client.key").unlink()
        certs_init(tree)
        assert not (tree / "mainpc/client.key").exists()
        brought_back(tree, "client")


def test_a_new_key_under_the_name_is_distributed(tree: Path) -> None:
    """A key that was never given to a folder was never removed from it."""
    (tree / "mainpc/client.key").unlink()
    certs_init(tree)
    for path in [tree / "pc2/client.key_secret", *tree.rglob("client.key")]:
        path.unlink()
    ran = certs_init(tree)
    assert (ran.status, remarks(tree)) == (0, [])
    assert load_certificate(tree / "mainpc/client.key").public.fingerprint == ran.fingerprints[1]


def test_a_kill_between_the_file_and_its_record_leaves_no_gap(tree: Path) -> None:
    """The next run finds the file, records it, and from then on it can be removed for good."""
    record = tree / RECORD
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if not line.startswith("mainpc/client.key ")))
    assert certs_init(tree).status == 0
    assert record.read_text().splitlines(keepends=True) == lines
    (tree / "mainpc/client.key").unlink()
    certs_init(tree)
    assert not (tree / "mainpc/client.key").exists()


def test_what_was_never_recorded_is_missing_and_not_removed(tree: Path) -> None:
    """A tree of before there was a record, or a run that was killed: it is completed, and verify says what is wrong."""
    (tree / RECORD).unlink()
    (tree / "mainpc/client.key").unlink()
    ran = certs_init(tree, "verify")
    assert (ran.status, ran.lines[0].startswith(f"{tree}/mainpc/client.key is missing; run: ")) == (1, True)
    assert certs_init(tree).status == 0
    assert set(files(tree)) == BOTH_HOSTS


def test_the_record_has_a_sorted_line_per_file_and_is_private(tree: Path) -> None:
    """It can be read by a person, and a second run leaves it as it is."""
    record = tree / RECORD
    before = record.read_bytes(), record.stat().st_ino
    expected = sorted(f"{name} {load_certificate(tree / name).public.fingerprint}\n" for name in PUBLIC)
    assert (record.read_text(), stat.S_IMODE(record.stat().st_mode)) == ("".join(expected), 0o600)
    certs_init(tree)
    assert (record.read_bytes(), record.stat().st_ino) == before


@pytest.mark.parametrize("content", [b"mainpc/client.key\n", b"\xff\xfe\n", b"mainpc/client.key SHA256:short\n", b"\n"])
def test_a_record_that_cannot_be_believed_lets_nobody_in(tree: Path, content: bytes) -> None:
    """Neither of the commands that distribute goes on without it; verify names it too."""
    (tree / RECORD).write_bytes(content)
    (tree / "mainpc/client.key").unlink()
    before = files(tree)
    public = certs_init(tree, "public", "client").out.encode()
    for ran in (certs_init(tree), certs_init(tree, "trust", "-", stdin=public)):
        assert (ran.status, ran.out, ran.err.count("\n"), files(tree)) == (1, "", 1, before)
        assert ran.err.startswith(f"certs-init: {tree}/{RECORD} is malformed at line 1; restore it")
    verified = certs_init(tree, "verify")
    assert verified.status == 1
    assert f"{tree}/{RECORD} is malformed at line 1" in verified.out


def test_a_failed_run_has_recorded_what_it_gave_out(tree: Path) -> None:
    """A contradiction about one key is no way to bring another one back."""
    (tree / RECORD).unlink()
    (tree / "pc2/operator.key").unlink()
    (tree / "pc2/operator.key").write_text(render_certificate(KeyPair.generate(UMRA).certificate))
    assert certs_init(tree).status == 1
    (tree / "pc2/server.key").unlink()
    assert certs_init(tree).status == 1
    assert not (tree / "pc2/server.key").exists()


def test_a_key_of_another_machine_stays_removed(tmp_path: Path) -> None:
    """From one folder or from both; what is left of it here brings it back, or the other machine does."""
    root, pair = tmp_path / "tree", KeyPair.generate(UMRA)
    public = render_certificate(pair.certificate).encode()
    certs_init(root, host="mainpc")
    certs_init(root, "trust", "-", host="mainpc", stdin=public)
    (root / "mainpc/client.key").unlink()
    ran = certs_init(root, host="mainpc")
    assert (ran.status, (root / "mainpc/client.key").exists()) == (0, False)
    assert f"{root}/mainpc/client.key was removed and stays removed" in ran.out
    left = certs_init(root, "public", "client", host="mainpc").out
    assert parse_certificate(left, "it").public == pair.public
    (root / "operator/client.key").unlink()
    ran = certs_init(root, host="mainpc")
    assert (ran.status, list(root.rglob("client.key"))) == (0, [])
    assert ran.lines[2].split() == ["client", UMRA.name, "pc2", "removed", "-"]
    assert "certs-init trust - < client.key" in ran.out
    assert certs_init(root, "verify", host="mainpc").status == 0
    assert certs_init(root, "trust", "-", host="mainpc", stdin=public).status == 0
    assert len(list(root.rglob("client.key"))) == 2


@pytest.mark.parametrize("stem", ["server", "operator"])
def test_another_key_than_ones_own_is_not_trusted(tree: Path, stem: str) -> None:
    """Where the secret is, it says which key is the identity's."""
    for path in list(tree.rglob(f"{stem}.key")):
        path.unlink()
    before = files(tree)
    name, role = {"server": ("SystemDigitalTwin", "agent"), "operator": ("operator", "operator")}[stem]
    stranger = KeyPair.generate(KeyOwner(name, "mainpc", frozenset({role}))).certificate
    ran = certs_init(tree, "trust", "-", stdin=render_certificate(stranger).encode())
    assert (ran.status, ran.out, files(tree)) == (1, "", before)
    assert f"standard input holds another key than {tree}/" in ran.err


def test_a_local_identitys_key_is_not_trusted_before_it_is_made(tmp_path: Path) -> None:
    """A stranger's public key can't take the place of an identity that this machine has yet to make."""
    stranger = render_certificate(KeyPair.generate(UMRA).certificate).encode()
    ran = certs_init(tmp_path / "tree", "trust", "-", stdin=stranger)
    assert (ran.status, ran.out, files(tmp_path)) == (1, "", {})
    assert "pc2/client.key_secret is missing; run: docker compose run --rm certs-init" in ran.err


def test_a_damaged_copy_is_replaced_as_the_commands_advise(tree: Path) -> None:
    """verify says to remove it and to run certs-init, which says how to bring the right one back."""
    before = files(tree)
    (tree / "pc2/server.key").write_text("half a fi")
    assert (
        certs_init(tree, "verify")
        .lines[0]
        .endswith(f"remove it: rm -r {tree}/pc2/server.key, then run certs-init, which says how to continue")
    )
    (tree / "pc2/server.key").unlink()
    assert "certs-init public server | " in certs_init(tree).out
    assert brought_back(tree, "server").status == 0
    assert files(tree) == before
