"""Key pairs and the files that they are written to."""

import base64
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.auth
from zmq.utils import z85

from tests.identities import new_pair
from twinhost.secure_zmq.errors import KeyFileExposed, KeyFileMalformed, KeyFileMissing, KeyMismatch
from twinhost.secure_zmq.key_writer import render_certificate, write_certificate, write_key_pair
from twinhost.secure_zmq.keys import (
    Certificate,
    KeyOwner,
    KeyPair,
    PublicKey,
    load_certificate,
    load_key_pair,
    parse_certificate,
)

ZERO_KEY = z85.encode(bytes(32)).decode()


@pytest.fixture
def umask() -> Iterator[None]:
    """Put the process's umask back after the test."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pair_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    """What was written is what is loaded: secret, public half, name, host, and roles."""
    pair = new_pair("UnifiedMemoryReasoningAgent", "pc2", "agent", "operator")
    assert write_key_pair(pair, tmp_path / "client.key_secret")
    assert load_key_pair(tmp_path / "client.key_secret") == pair
    assert load_certificate(tmp_path / "client.key") == pair.certificate


def test_a_rendered_certificate_reads_back() -> None:
    """A public key that is printed and pasted elsewhere is the same key."""
    certificate = new_pair().certificate
    assert parse_certificate(render_certificate(certificate), "standard input") == certificate


def test_an_owner_without_roles_survives(tmp_path: Path) -> None:
    """No role is a state of its own and no damage."""
    pair = KeyPair.generate(KeyOwner("nobody", "pc2", frozenset()))
    write_key_pair(pair, tmp_path / "nobody.key_secret")
    assert load_key_pair(tmp_path / "nobody.key_secret").certificate.owner.roles == frozenset()


def test_an_existing_secret_is_never_overwritten(tmp_path: Path) -> None:
    """A second run over a tree of keys changes not one byte, and says so."""
    first = new_pair()
    write_key_pair(first, tmp_path / "client.key_secret")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert not write_key_pair(new_pair(), tmp_path / "client.key_secret")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_existing_public_key_is_never_overwritten(tmp_path: Path) -> None:
    """The pin that a host trusts is not exchanged by writing another."""
    first = new_pair()
    assert write_certificate(first.certificate, tmp_path / "server.key")
    assert not write_certificate(new_pair().certificate, tmp_path / "server.key")
    assert load_certificate(tmp_path / "server.key") == first.certificate


def test_a_link_to_nowhere_is_not_written_through(tmp_path: Path) -> None:
    """A name that is a symbolic link is taken, even where its target is free."""
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "client.key_secret").symlink_to(elsewhere)
    assert not write_key_pair(new_pair(), tmp_path / "client.key_secret")
    assert not elsewhere.exists()


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_secret_is_for_its_owner_alone_under_any_umask(tmp_path: Path, mask: int) -> None:
    """The secret has mode 0600 and the public half 0644, whatever the umask is."""
    os.umask(mask)
    write_key_pair(new_pair(), tmp_path / "client.key_secret")
    assert mode_of(tmp_path / "client.key_secret") == 0o600
    assert mode_of(tmp_path / "client.key") == 0o644


def test_no_draft_is_left_behind(tmp_path: Path) -> None:
    """Only the two key files remain, whether a write came through or found the name taken."""
    for _ in range(2):
        write_key_pair(new_pair(), tmp_path / "client.key_secret")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["client.key", "client.key_secret"]


def test_a_write_that_fails_leaves_no_part_of_a_key(tmp_path: Path) -> None:
    """Where the disk takes 100 bytes and no more, there is no file under the key's name, and no draft."""
    program = (
        "import pathlib, resource, sys\n"
        "from tests.identities import new_pair\n"
        "from twinhost.secure_zmq.key_writer import write_key_pair\n"
        "pair = new_pair()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n"
        "    write_key_pair(pair, pathlib.Path(sys.argv[1]))\n"
        "except OSError:\n"
        "    print('refused by the disk')\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, str(tmp_path / "client.key_secret")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "refused by the disk\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o620, 0o610, 0o644, 0o666])
def test_a_secret_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Any bit for group or others stops the start, and the message is the command that mends it."""
    path = tmp_path / "client.key_secret"
    write_key_pair(new_pair(), path)
    path.chmod(mode)
    with pytest.raises(KeyFileExposed, match=f"has mode {mode:04o}.*chmod 600 {path}"):
        load_key_pair(path)


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_secret_of_its_owner_alone_is_taken(tmp_path: Path, mode: int) -> None:
    """Read-only is fine too."""
    path = tmp_path / "client.key_secret"
    write_key_pair(new_pair(), path)
    path.chmod(mode)
    assert load_key_pair(path).secret_z85


def test_mismatched_halves_are_refused(tmp_path: Path) -> None:
    """A secret beside another pair's public half is found out before anything is bound or connected."""
    path = tmp_path / "client.key_secret"
    ours, theirs = new_pair(), new_pair()
    write_key_pair(ours, path)
    text = path.read_text().replace(ours.public.z85.decode(), theirs.public.z85.decode())
    path.write_text(text)
    with pytest.raises(KeyMismatch, match=f"{path}: .*certs-init verify") as refusal:
        load_key_pair(path)
    assert ours.secret_z85.decode() not in str(refusal.value)


def test_mismatched_halves_make_no_pair() -> None:
    """A KeyPair object whose halves do not match can't exist."""
    with pytest.raises(KeyMismatch):
        KeyPair(new_pair().certificate, new_pair().secret_z85)


def test_a_zero_secret_is_refused(tmp_path: Path) -> None:
    """The all-zero secret, with which libzmq binds where it was forgotten, is no key."""
    path = tmp_path / "client.key_secret"
    pair = new_pair()
    write_key_pair(pair, path)
    path.write_text(path.read_text().replace(pair.secret_z85.decode(), ZERO_KEY))
    with pytest.raises(KeyFileMalformed, match="the secret key is all zero"):
        load_key_pair(path)


def test_the_public_half_of_the_zero_secret_does_not_save_it() -> None:
    """Zero is refused as such, and not only because its halves differ."""
    public = PublicKey(z85.decode(zmq.curve_public(ZERO_KEY.encode())))
    with pytest.raises(KeyFileMalformed, match="all zero"):
        KeyPair(Certificate(new_pair().certificate.owner, public), ZERO_KEY.encode())


def test_a_zero_public_key_is_refused() -> None:
    """The all-zero public key is nobody's."""
    pair = new_pair()
    text = render_certificate(pair.certificate).replace(pair.public.z85.decode(), ZERO_KEY)
    with pytest.raises(KeyFileMalformed, match="not all zero"):
        parse_certificate(text, "a file")


@pytest.mark.parametrize("raw", [b"", b"short", bytes(31), bytes([1]) * 31, bytes([1]) * 33])
def test_a_public_key_of_another_length_is_refused(raw: bytes) -> None:
    """Three characters were once enough for a key; here it is 32 bytes."""
    with pytest.raises(KeyFileMalformed, match="32 bytes"):
        PublicKey(raw)


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{0!r}".format, lambda pair: repr([pair]), "%s".__mod__])
def test_no_text_of_a_pair_shows_the_secret(show: Callable[[KeyPair], str]) -> None:
    """A pair that ends up in a log or a traceback gives nothing away."""
    pair = new_pair()
    shown = show(pair)
    assert pair.secret_z85.decode() not in shown
    assert pair.certificate.owner.name in shown


def test_the_fingerprint_is_what_openssh_would_print() -> None:
    """`SHA256:` and the unpadded base64 of the raw key's hash."""
    pair = new_pair()
    digest = base64.b64encode(hashlib.sha256(z85.decode(pair.public.z85)).digest()).decode()
    assert pair.public.fingerprint == f"SHA256:{digest.rstrip('=')}"


def test_pyzmq_reads_our_files(tmp_path: Path) -> None:
    """The files are zcert files, which any other ZeroMQ program can use."""
    pair = new_pair()
    write_key_pair(pair, tmp_path / "client.key_secret")
    assert zmq.auth.load_certificate(tmp_path / "client.key_secret") == (pair.public.z85, pair.secret_z85)
    assert zmq.auth.load_certificate(tmp_path / "client.key") == (pair.public.z85, None)


def test_a_missing_key_names_the_command_that_makes_it(tmp_path: Path) -> None:
    """The first error that a new user meets says what to run."""
    with pytest.raises(KeyFileMissing, match=r"client\.key_secret is missing; run: docker compose run --rm certs-init"):
        load_key_pair(tmp_path / "client.key_secret")


def test_two_pairs_are_never_the_same() -> None:
    """Keys come from the random generator and from no name."""
    assert len({new_pair().public.raw for _ in range(20)}) == 20
