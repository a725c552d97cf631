"""Verify: everything that is wrong with a tree is one sentence that names the file and what to do."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.certificates.trees import RECORD, certs_init, files
from twinhost.certificates.verify import mode_and_owner
from twinhost.secure_zmq.key_writer import write_certificate, write_key_pair
from twinhost.secure_zmq.keys import DAY_S, KeyOwner, KeyPair, Validity

SDT = KeyOwner("SystemDigitalTwin", "mainpc", frozenset({"agent"}))
UMRA = KeyOwner("UnifiedMemoryReasoningAgent", "pc2", frozenset({"agent"}))
DATED = Validity(not_after=int(time.time()) + 100 * DAY_S)
STRANGER = 65_534

Damage = Callable[[Path], object]


def complaints(root: Path, host: str = "") -> list[str]:
    """Return the sentences of `certs-init verify`, which ends with 1 exactly where there are any."""
    ran = certs_init(root, "verify", host=host)
    *sentences, last = ran.lines
    assert (ran.err, ran.status) == ("", 1 if sentences else 0)
    assert last == (f"{root}: {len(sentences)} problems" if sentences else f"{root}: 3 folders are correct")
    return sentences


def other_key(owner: KeyOwner) -> Callable[[Path], object]:
    """Return a damage: the public file of `owner` replaced by one with another key."""
    certificate = KeyPair.generate(owner, DATED).certificate

    def replace(path: Path) -> None:
        path.unlink()
        write_certificate(certificate, path)

    return replace


def swapped_secret(path: Path) -> None:
    """Give a secret file another secret half, of which the public half knows nothing."""
    stranger = KeyPair.generate(SDT).secret_z85.decode()
    path.write_text(re.sub(r'secret-key = ".*"', lambda _: f'secret-key = "{stranger}"', path.read_text()))


def another_pair(path: Path) -> None:
    """Replace a secret file by a whole pair of the same owner; its public half everywhere stays the old one."""
    path.unlink()
    write_key_pair(KeyPair.generate(SDT, DATED), path)


def lost(path: Path) -> None:
    """Remove a public file that was not recorded, as a killed run leaves the tree."""
    path.unlink()
    (path.parent.parent / RECORD).unlink()


def copied_secret(path: Path) -> None:
    """Copy another host's secret here, under its own name, as a careless backup does."""
    shutil.copy2(path.parent.parent / "pc2/client.key_secret", path)


def test_a_new_tree_is_right(tree: Path) -> None:
    """No sentence, and status 0."""
    assert complaints(tree) == []


@pytest.mark.parametrize(
    ("file", "damage", "sentence"),
    [
        (
            "mainpc/server.key_secret",
            Path.unlink,
            "is missing and .* is there: restore the secret from a backup, or make",
        ),
        ("pc2/server.key", lost, "is missing; run: docker compose run --rm certs-init"),
        (".distributed", lambda p: p.chmod(0o622), r"has mode 0622, .*; run: chmod 644 {path}"),
        (
            ".distributed",
            lambda p: p.write_text("?"),
            r"is malformed at line 1; restore it .*, or remove",
        ),
        ("mainpc/server.key_secret", lambda p: p.chmod(0o640), r"has mode 0640, .*; run: chmod 600 {path}"),
        ("mainpc/server.key_secret", lambda p: p.chmod(0o602), r"has mode 0602, .*; run: chmod 600 {path}"),
        ("pc2/operator.key", lambda p: p.chmod(0o666), r"has mode 0666, .*; run: chmod 644 {path}"),
        ("pc2/operator.key", lambda p: p.chmod(0o664), r"has mode 0664, .*; run: chmod 644 {path}"),
        ("pc2", lambda p: p.chmod(0o777), r"has mode 0777, .*; run: chmod 700 {path}"),
        ("operator", lambda p: p.chmod(0o770), r"has mode 0770, .*; run: chmod 700 {path}"),
        (
            "mainpc/client.key_secret",
            copied_secret,
            "is another owner's secret .*; remove it: rm -r {path}, then revoke that key",
        ),
        ("mainpc/notes.txt", Path.touch, "does not belong here; to remove it: rm -r {path}"),
        ("mainpc/intruder.key", Path.touch, "does not belong here; to remove it: rm -r {path}"),
        ("pc2/.client.key_secret.7.draft", Path.touch, "does not belong here; to remove it: rm -r {path}"),
        ("pc3", Path.mkdir, "does not belong to this tree; to remove it: rm -r {path}"),
        ("pc2/server.key", other_key(SDT), r"has the key SHA256:.* and .*/mainpc/server.key has SHA256:.*; remove"),
        ("pc2/server.key", other_key(UMRA), r"is the key of Unified.* on pc2 \(agent\), not of System.*; remove"),
        (
            "pc2/server.key",
            other_key(KeyOwner(SDT.name, SDT.host, frozenset({"agent", "operator"}))),
            r"is the key of SystemDigitalTwin on mainpc \(agent operator\), not of .* \(agent\); remove it",
        ),
        ("mainpc/server.key_secret", swapped_secret, "are not halves of one pair; restore it .*, or remove it"),
        ("mainpc/server.key_secret", another_pair, r"has the key SHA256:.* and .*/mainpc/server.key has SHA256:"),
        ("mainpc/server.key_secret", lambda p: p.write_text(""), r"must have the sections .*; restore it .* backup"),
        ("pc2/server.key", lambda p: p.write_bytes(b"\xff" * 9), "bytes that are not ASCII; restore it from a backup"),
    ],
)
@pytest.mark.thorough
def test_what_is_wrong_is_named_with_what_to_do(tree: Path, file: str, damage: Damage, sentence: str) -> None:
    """One sentence, and no second one about the same damage."""
    path = tree / file
    damage(path)
    (complaint,) = complaints(tree)
    assert re.match(re.escape(str(path)) + r"\S* .*" + sentence.format(path=re.escape(str(path))), complaint)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["mainpc/server.key_secret", "pc2/server.key", "operator", ""])
def test_what_belongs_to_another_user_is_named(tree: Path, name: str) -> None:
    """Its owner could change it, whatever the mode says."""
    path = tree / name
    os.chown(path, STRANGER, -1)
    assert complaints(tree) == [f"{path} belongs to uid {STRANGER} and not to {os.getuid()}; run: chown 0 {path}"]


@pytest.mark.parametrize("mode", [0o666, 0o777, 0o622])
@pytest.mark.parametrize("name", ["", "mainpc", "mainpc/server.key_secret", "pc2/client.key"])
def test_the_advised_command_mends_it(tree: Path, name: str, mode: int) -> None:
    """Whoever pastes what follows `run:` gets a correct tree."""
    (tree / name).chmod(mode)
    (complaint,) = complaints(tree)
    subprocess.run(complaint.partition("run: ")[2].split(), check=True)
    assert complaints(tree) == []


def test_a_public_key_of_another_owner_everywhere_is_found(tree: Path) -> None:
    """All published copies agree on a key, and it is not the one that the owner's secret has."""
    certificate = KeyPair.generate(SDT, DATED).certificate
    for path in tree.rglob("server.key"):
        path.unlink()
        write_certificate(certificate, path)
    (complaint,) = complaints(tree)
    assert complaint.startswith(f"{tree}/mainpc/server.key_secret has the key SHA256:")


def test_everything_that_is_wrong_is_said_at_once(tree: Path) -> None:
    """One look shows all there is to mend."""
    (tree / "mainpc/server.key_secret").unlink()
    (tree / "pc2/client.key_secret").chmod(0o644)
    shutil.rmtree(tree / "operator")
    (tree / "stray").touch()
    assert [complaint.split()[0] for complaint in complaints(tree)] == [
        f"{tree}/mainpc/server.key_secret",
        f"{tree}/pc2/client.key_secret",
        f"{tree}/operator",
        f"{tree}/stray",
    ]


def test_a_link_is_not_a_key_file(tree: Path) -> None:
    """A key that lies elsewhere, where other modes and owners hold, is not accepted through a link."""
    path = tree / "pc2/server.key"
    path.rename(tree.parent / "server.key")
    path.symlink_to(tree.parent / "server.key")
    assert any(complaint.startswith(f"{path} can't be read") for complaint in complaints(tree))


def test_no_tree_is_one_sentence(tmp_path: Path) -> None:
    """Verify before the first run says how to make the keys."""
    ran = certs_init(tmp_path / "none", "verify")
    assert ran.status == 1
    assert ran.lines[0] == f"{tmp_path}/none is not a folder; run: certs-init"


def test_verify_changes_nothing(tree: Path) -> None:
    """It looks, and mends nothing by itself."""
    lost(tree / "pc2/server.key")
    (tree / "pc2/.x.draft").touch()
    before = files(tree)
    complaints(tree)
    assert files(tree) == before


def test_another_hosts_missing_public_key_is_reported(tmp_path: Path) -> None:
    """On a real machine the other's key is not made by certs-init; the sentence says where it is to be had."""
    certs_init(tmp_path, host="pc2")
    assert complaints(tmp_path, host="pc2") == [
        f"{tmp_path}/pc2/{stem}.key is missing: get {name}'s public key from mainpc; "
        f"there: certs-init public {stem} > {stem}.key, here: certs-init trust - < {stem}.key"
        for stem, name in (("server", "SystemDigitalTwin"), ("operator", "operator"))
    ]


def test_two_different_keys_of_another_host_are_found(tmp_path: Path) -> None:
    """mainpc's two folders must hold the same key of pc2, though pc2's own folder is not here."""
    certs_init(tmp_path, host="mainpc")
    for folder in ("mainpc", "operator"):
        write_certificate(KeyPair.generate(UMRA, DATED).certificate, tmp_path / folder / "client.key")
    (complaint,) = complaints(tmp_path, host="mainpc")
    assert complaint.startswith(f"{tmp_path}/operator/client.key has the key SHA256:")
    assert f" and {tmp_path}/mainpc/client.key has SHA256:" in complaint


def test_a_file_that_an_agent_takes_away_meanwhile_is_no_problem(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of a rotation: the tree is checked again."""
    times = 0
    really = mode_and_owner

    def vanishing(path: Path) -> list[str]:
        nonlocal times
        times += 1
        if times in (2, 5):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return really(path)

    monkeypatch.setattr("twinhost.certificates.verify.mode_and_owner", vanishing)
    assert complaints(tree) == []
    assert times > 5
