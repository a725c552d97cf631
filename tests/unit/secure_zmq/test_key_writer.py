"""Files that keep a key out, and files that are put in another's place."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.identities import new_pair
from twinhost.secure_zmq.errors import KeyFileMalformed
from twinhost.secure_zmq.key_writer import (
    replace_certificate,
    revoked_file_name,
    write_revocation,
    write_revoked_fingerprint,
)
from twinhost.secure_zmq.keys import PublicKey, load_certificate


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(st.binary(min_size=32, max_size=32).filter(any))
def test_a_revoked_file_has_the_keys_hash_for_a_name(raw: bytes) -> None:
    """SHA-256 in hex, which a person can work out and a file system can take, unlike base64."""
    assert revoked_file_name(PublicKey(raw).fingerprint) == hashlib.sha256(raw).hexdigest() + ".key"


def test_a_key_that_is_revoked_needs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full volume its revocation is there already, and is not written a second time."""
    certificate = new_pair().certificate
    assert write_revocation(certificate, tmp_path)

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    assert not write_revocation(certificate, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "SHA256:", "SHA256:abc", "agent", "../../etc/passwd", "SHA256:" + "A" * 42, "SHA256:" + "A" * 44, "ä" * 43],
)
def test_what_is_no_fingerprint_names_no_file(text: str) -> None:
    """It may come from another host."""
    with pytest.raises(KeyFileMalformed, match="is not the fingerprint of a key, which looks like SHA256:AbC"):
        revoked_file_name(text)


@given(st.text(max_size=60))
def test_no_text_at_all_leads_out_of_the_folder(text: str) -> None:
    """Any text is a plain name of 64 hex digits, or refused."""
    for candidate in (text, f"SHA256:{text}"):
        try:
            name = revoked_file_name(candidate)
        except KeyFileMalformed:
            continue
        assert len(name) == 68
        assert "/" not in name


def test_a_revocation_makes_its_folder_and_says_whose_key_it_was(tmp_path: Path) -> None:
    """The folder is for its owner alone; a second time changes nothing."""
    certificate = new_pair("agent").certificate
    folder = tmp_path / "revoked"
    assert write_revocation(certificate, folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    path = folder / revoked_file_name(certificate.public.fingerprint)
    assert load_certificate(path) == certificate
    assert not write_revocation(certificate, folder)
    assert names_in(folder) == [path.name]


def test_a_fingerprint_alone_is_enough_to_revoke(tmp_path: Path) -> None:
    """Another host receives no more than that, and what is there already stays as it is."""
    certificate = new_pair("agent").certificate
    fingerprint = certificate.public.fingerprint
    assert write_revoked_fingerprint(fingerprint, tmp_path / "revoked")
    (path,) = (tmp_path / "revoked").iterdir()
    assert fingerprint in path.read_text()
    assert not write_revoked_fingerprint(fingerprint, tmp_path / "revoked")
    assert not write_revocation(certificate, tmp_path / "revoked")


def test_a_key_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Whatever was under the name, a link too, is not written through; nothing else is left behind."""
    first, second = new_pair("agent").certificate, new_pair("agent").certificate
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    path = tmp_path / "agent.key"
    path.symlink_to(elsewhere)
    for certificate in (first, second):
        replace_certificate(certificate, path)
        assert load_certificate(path) == certificate
    assert elsewhere.read_text() == "mine"
    assert names_in(tmp_path) == ["agent.key", "elsewhere"]


def test_a_file_that_can_not_be_replaced_leaves_no_draft(tmp_path: Path) -> None:
    """A folder has the name."""
    (tmp_path / "agent.key").mkdir()
    with pytest.raises(OSError, match=r"agent\.key"):
        replace_certificate(new_pair("agent").certificate, tmp_path / "agent.key")
    assert names_in(tmp_path) == ["agent.key"]
