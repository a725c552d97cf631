"""The live list of authorised keys."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.identities import authorize, new_pair
from tests.unit.system_digital_twin.twin import Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq import certificates
from twinhost.secure_zmq.callers import Peer
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.key_writer import move_to_revoked, write_certificate, write_revocation
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, DAY_S, Certificate, KeyOwner, KeyPair, Validity
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome

SEEN_WITHIN_S = 1.0  # the promise of the watcher


def names(peers: AuthorizedPeers) -> list[str]:
    return [peer.name for peer in peers.all()]


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[AuthorizedPeers]:
    """Peers of an empty folder, whose watcher has been seen to react once."""
    peers = AuthorizedPeers([tmp_path])
    peers.watch()
    probe = authorize(tmp_path, new_pair("probe"))
    wait_until(lambda: names(peers) == ["probe"], PATIENCE_S, "the watcher works")
    probe.unlink()
    wait_until(lambda: names(peers) == [], PATIENCE_S, "the watcher works")
    yield peers
    peers.close()
    assert not peers.watching


def test_a_listed_key_is_found_by_its_bytes_and_its_fingerprint(tmp_path: Path) -> None:
    """The handshake looks a key up by its 32 bytes, a message by its fingerprint; both lead to the owner."""
    pair = new_pair("UnifiedMemoryReasoningAgent", "pc2", "agent")
    authorize(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path])
    peer = peers.find(pair.public.raw)
    assert peer is not None
    assert (peer.name, peer.host, peer.roles) == ("UnifiedMemoryReasoningAgent", "pc2", frozenset({"agent"}))
    assert peers.live(pair.public.fingerprint) == peer
    assert peers.public_key_of("UnifiedMemoryReasoningAgent") == pair.public.z85


def test_an_unlisted_key_is_not_found(tmp_path: Path) -> None:
    """A key that lies in no folder is nobody's."""
    authorize(tmp_path, new_pair())
    stranger = new_pair("stranger")
    peers = AuthorizedPeers([tmp_path])
    assert peers.find(stranger.public.raw) is None
    assert peers.find(b"") is None
    assert peers.live(stranger.public.fingerprint) is None
    assert peers.live("") is None
    assert peers.public_key_of("stranger") is None


@pytest.mark.sdt_security
def test_a_handshake_is_judged_by_the_present_list(tmp_path: Path) -> None:
    """Nothing of an earlier list is remembered: neither a name, nor a key that was removed, or revoked."""
    pair, kept = new_pair("agent"), new_pair("kept")
    path = authorize(tmp_path, pair)
    authorize(tmp_path, kept)
    peers = AuthorizedPeers([tmp_path])
    before = peers.judge(pair.public.raw)
    path.unlink()
    renamed = Certificate(KeyOwner("renamed", "pc2", frozenset({"agent"})), pair.public)
    write_certificate(renamed, tmp_path / "renamed.key")
    peers.reload()
    after = peers.judge(pair.public.raw)
    assert isinstance(before, Peer)
    assert isinstance(after, Peer)
    assert (before.name, after.name) == ("agent", "renamed")
    write_revocation(pair.certificate, tmp_path / "revoked")
    peers.reload()
    assert peers.judge(pair.public.raw) is Outcome.KEY_REVOKED
    assert peers.judge(kept.public.raw) == peers.live(kept.public.fingerprint)
    for _ in range(1_000):
        assert peers.judge(os.urandom(32)) is Outcome.KEY_NOT_AUTHORIZED
    assert list(peers._snapshot.by_fingerprint) == [kept.public.fingerprint]


def test_a_secret_file_authorizes_nobody(tmp_path: Path) -> None:
    """Only `*.key` files are looked at; a host's own secret is not read as a peer."""
    pair = new_pair()
    authorize(tmp_path, pair).rename(tmp_path / "client.key_secret")
    assert names(AuthorizedPeers([tmp_path])) == []


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe", b"curve\n", b"x" * 5_000])
def test_a_bad_file_is_named_and_hides_nobody(tmp_path: Path, content: bytes) -> None:
    """One malformed file costs its own peer alone, whatever its place in the order."""
    (tmp_path / "a-bad.key").write_bytes(content)
    (tmp_path / "z-bad.key").write_bytes(content)
    authorize(tmp_path, new_pair("good"))
    peers = AuthorizedPeers([tmp_path])
    report = peers.reload()
    assert names(peers) == ["good"]
    assert len(report.rejected) == 2
    assert str(tmp_path / "a-bad.key") in report.rejected[0]
    assert str(tmp_path / "z-bad.key") in report.rejected[1]


def test_what_is_no_file_is_named_and_hides_nobody(tmp_path: Path) -> None:
    """A folder, a pipe, or a link under a key's name is named and skipped."""
    (tmp_path / "a-folder.key").mkdir()
    os.mkfifo(tmp_path / "b-pipe.key")
    (tmp_path / "c-link.key").symlink_to("/dev/zero")
    authorize(tmp_path, new_pair("good"))
    peers = AuthorizedPeers([tmp_path])
    report = peers.reload()
    assert names(peers) == ["good"]
    assert [sentence.split()[0] for sentence in report.rejected] == [
        str(tmp_path / name) for name in ("a-folder.key", "b-pipe.key", "c-link.key")
    ]


def test_a_secret_in_a_public_file_is_not_a_peer(tmp_path: Path) -> None:
    """A secret that was copied under a public name is reported, and opens no door."""
    pair = new_pair()
    path = authorize(tmp_path, pair)
    path.write_text(path.read_text() + f'    secret-key = "{pair.secret_z85.decode()}"\n')
    peers = AuthorizedPeers([tmp_path])
    report = peers.reload()
    assert names(peers) == []
    assert pair.secret_z85.decode() not in report.rejected[0]


def test_a_second_key_for_a_name_is_refused(tmp_path: Path) -> None:
    """Whoever adds a key under a name that is taken does not become that peer; the first file's stays."""
    first, second = new_pair("agent"), new_pair("agent")
    write_certificate(first.certificate, tmp_path / "a.key")
    write_certificate(second.certificate, tmp_path / "b.key")
    peers = AuthorizedPeers([tmp_path])
    assert peers.find(first.public.raw) is not None
    assert peers.find(second.public.raw) is None
    assert peers.public_key_of("agent") == first.public.z85
    assert peers.reload().rejected == (
        f"{tmp_path / 'b.key'} gives agent a second, different key; revoke the wrong one: "
        f"certs-init revoke {first.public.fingerprint} or {second.public.fingerprint}",
    )


def test_one_key_has_one_owner(tmp_path: Path) -> None:
    """A key that two files give to different names keeps its first owner."""
    pair = new_pair("agent")
    write_certificate(pair.certificate, tmp_path / "a.key")
    text = (tmp_path / "a.key").read_text().replace('"agent"', '"impostor"', 1)
    (tmp_path / "b.key").write_text(text)
    peers = AuthorizedPeers([tmp_path])
    peer = peers.find(pair.public.raw)
    assert peer is not None
    assert peer.name == "agent"
    assert names(peers) == ["agent"]
    assert "one key to two owners" in peers.reload().rejected[0]


def test_the_same_key_twice_is_one_peer(tmp_path: Path) -> None:
    """The same public file under two names, as `server.key` beside a copy, is no contradiction."""
    pair = new_pair("agent")
    for name in ("a.key", "b.key"):
        write_certificate(pair.certificate, tmp_path / name)
    peers = AuthorizedPeers([tmp_path])
    report = peers.reload()
    assert names(peers) == ["agent"]
    assert report.rejected == ()


def test_several_folders_are_one_list(tmp_path: Path) -> None:
    """Keys of the image and keys enrolled at run time lie apart and count alike."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        authorize(tmp_path / name, new_pair(name))
    assert names(AuthorizedPeers([tmp_path / "one", tmp_path / "two", tmp_path / "absent"])) == ["one", "two"]


def test_a_report_says_who_came_and_who_went(tmp_path: Path) -> None:
    """A reload names what it changed, and a second one nothing."""
    peers = AuthorizedPeers([tmp_path])
    path = authorize(tmp_path, new_pair("agent"))
    assert [peer.name for peer in peers.reload().added] == ["agent"]
    again = peers.reload()
    assert (again.added, again.removed) == ((), ())
    path.unlink()
    assert [peer.name for peer in peers.reload().removed] == ["agent"]


def test_an_exchanged_key_is_a_removal_and_an_arrival(tmp_path: Path) -> None:
    """A new key under an old name ends the old key's life at once."""
    old, new = new_pair("agent"), new_pair("agent")
    path = authorize(tmp_path, old)
    peers = AuthorizedPeers([tmp_path])
    path.unlink()
    authorize(tmp_path, new)
    report = peers.reload()
    assert [peer.fingerprint for peer in report.removed] == [old.public.fingerprint]
    assert [peer.fingerprint for peer in report.added] == [new.public.fingerprint]
    assert peers.live(old.public.fingerprint) is None


def test_a_removal_is_noticed_within_a_second(followed: AuthorizedPeers, tmp_path: Path) -> None:
    """Deleting a key file is all that a revocation takes."""
    pair = new_pair("agent")
    path = authorize(tmp_path, pair)
    wait_until(lambda: followed.find(pair.public.raw), PATIENCE_S, "the key is listed")
    path.unlink()
    wait_until(lambda: followed.find(pair.public.raw) is None, SEEN_WITHIN_S, "the removal is noticed")


def test_an_arrival_is_noticed_within_a_second(followed: AuthorizedPeers, tmp_path: Path) -> None:
    """Putting a key file in place is all that an enrolment takes."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    wait_until(lambda: followed.find(pair.public.raw), SEEN_WITHIN_S, "the arrival is noticed")


@pytest.mark.parametrize("kind", ["garbage", "folder", "pipe"])
def test_a_bad_file_does_not_stop_revocation(followed: AuthorizedPeers, tmp_path: Path, kind: str) -> None:
    """Beside something unreadable, a removed key still ends within a second."""
    pair = new_pair("agent")
    path = authorize(tmp_path, pair)
    wait_until(lambda: followed.find(pair.public.raw), PATIENCE_S, "the key is listed")
    bad = tmp_path / "bad.key"
    if kind == "garbage":
        bad.write_bytes(b"\xff")
    elif kind == "folder":
        bad.mkdir()
    else:
        os.mkfifo(bad)
    authorize(tmp_path, new_pair("later"))
    wait_until(lambda: "later" in names(followed), PATIENCE_S, "the watcher looked again")
    path.unlink()
    wait_until(lambda: names(followed) == ["later"], SEEN_WITHIN_S, "the removal is noticed")
    assert followed.watching


def test_what_changed_before_the_watch_began_is_noticed(tmp_path: Path) -> None:
    """A key that is removed between the first look and the watch does not live on."""
    pair: KeyPair = new_pair("agent")
    path = authorize(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path])
    path.unlink()
    peers.watch()
    wait_until(lambda: names(peers) == [], PATIENCE_S, "the removal is noticed")
    peers.close()


def test_a_key_that_is_moved_while_it_is_read_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation moves its file: no read may find it in neither place."""
    pair = new_pair("guest")
    path = authorize(tmp_path, pair)
    listing = certificates._key_files

    def move_after_the_first(*arguments: Any) -> list[Path]:
        files = listing(*arguments)
        if path.exists():
            move_to_revoked(path, pair.public.fingerprint, tmp_path / "revoked")
        return files

    monkeypatch.setattr(certificates, "_key_files", move_after_the_first)
    assert read_folders([tmp_path]).revoked == {pair.public.fingerprint}


def test_a_start_logs_no_key_that_was_revoked_before(tmp_path: Path) -> None:
    """It was logged when it was revoked."""
    old, new = new_pair("old"), new_pair("new")
    authorize(tmp_path, new)
    write_revocation(old.certificate, tmp_path / "revoked")
    with capture_logs() as lines:
        peers = AuthorizedPeers([tmp_path])
    assert [line["event"] for line in lines] == ["peer_authorized"]
    write_revocation(new.certificate, tmp_path / "revoked")
    with capture_logs() as lines:
        peers.reload()
    assert [line["fingerprint"] for line in lines if line["event"] == "key_revoked"] == [new.public.fingerprint]


def test_a_server_whose_key_begins_later_is_pinned_not_served(tmp_path: Path) -> None:
    """This host's clock is behind: it can tell mainpc so, and accepts nobody by such a key."""
    pair, clock = new_pair("mainpc"), Clock()
    begins = int(clock.time()) + 7_200
    certificate = Certificate(pair.certificate.owner, pair.public, Validity(begins, begins + DAY_S))
    write_certificate(certificate, tmp_path / "mainpc.key")
    peers = AuthorizedPeers([tmp_path], clock)
    assert (peers.pins_of("mainpc"), peers.find(pair.public.raw)) == ([pair.public], None)
    clock.let_pass(7_200 + DAY_S + CLOCK_TOLERANCE_S + 2)
    assert peers.pins_of("mainpc") == [], "one that has ended is not"


def test_no_clock_that_went_back_pins_an_expired_server(tmp_path: Path) -> None:
    """Not even one that went back to before the key began."""
    pair, clock = new_pair("mainpc"), Clock()
    begins = int(clock.time()) - 2 * DAY_S
    certificate = Certificate(pair.certificate.owner, pair.public, Validity(begins, begins + DAY_S))
    write_certificate(certificate, tmp_path / "mainpc.key")
    peers = AuthorizedPeers([tmp_path], clock)
    peers.keep_expired({pair.public.fingerprint: begins + DAY_S})
    clock.set_wall_clock(-3 * DAY_S)
    assert (peers.pins_of("mainpc"), peers.judge(pair.public.raw)) == ([], Outcome.KEY_EXPIRED)
