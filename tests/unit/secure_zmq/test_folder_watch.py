"""Changes of the folders are seen, folders made later included, and nothing ends the watch."""

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.identities import authorize, new_pair, time_kept
from tests.waiting import PATIENCE_S, wait_until
from twinhost.folder_events import FolderEvents
from twinhost.secure_zmq import peers as peers_module
from twinhost.secure_zmq.key_writer import write_revocation
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import AuthorizedPeers, ReloadReport

SEEN_WITHIN_S = 1.0  # the promise


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    pair = new_pair("agent")
    (tmp_path / "host").mkdir()
    authorize(tmp_path / "host", pair)
    return pair


@pytest.fixture
def peers(tmp_path: Path, pair: KeyPair) -> Iterator[AuthorizedPeers]:
    """Peers whose watch has been seen to react once."""
    peers = AuthorizedPeers([tmp_path / "host", tmp_path / "host/enrolled", tmp_path / "trust"])
    peers.watch()
    probe = new_pair("probe")
    path = authorize(tmp_path / "host", probe)
    wait_until(lambda: peers.find(probe.public.raw), PATIENCE_S, "the watch works")
    path.unlink()
    wait_until(lambda: peers.find(probe.public.raw) is None, PATIENCE_S, "the watch works")
    yield peers
    peers.close()
    assert not peers.watching


@pytest.mark.parametrize("place", ["host", "host/enrolled", "trust"])
def test_a_revocation_in_a_new_folder_is_seen_within_a_second(
    peers: AuthorizedPeers, pair: KeyPair, tmp_path: Path, place: str
) -> None:
    """`revoked/` is there since the first revocation; `enrolled` and `trust` may come after the start too."""
    (tmp_path / place).mkdir(exist_ok=True)
    write_revocation(pair.certificate, tmp_path / place / "revoked")
    wait_until(lambda: peers.find(pair.public.raw) is None, SEEN_WITHIN_S, "the first revocation")
    later = new_pair("later")
    authorize(tmp_path / "host", later)
    wait_until(lambda: peers.find(later.public.raw), SEEN_WITHIN_S, "a key that comes after it")
    write_revocation(later.certificate, tmp_path / place / "revoked")
    wait_until(lambda: peers.find(later.public.raw) is None, SEEN_WITHIN_S, "the second revocation")


def test_an_invitation_in_a_new_folder_is_seen_within_a_second(peers: AuthorizedPeers, tmp_path: Path) -> None:
    """And its withdrawal."""
    token = new_pair("newcomer")
    (tmp_path / "host/invites").mkdir()
    path = authorize(tmp_path / "host/invites", token)
    wait_until(lambda: peers.find(token.public.raw), SEEN_WITHIN_S, "the invitation")
    path.unlink()
    wait_until(lambda: peers.find(token.public.raw) is None, SEEN_WITHIN_S, "its withdrawal")


def test_a_folder_that_is_put_in_anothers_place_is_followed(peers: AuthorizedPeers, tmp_path: Path) -> None:
    """As a restore does it: the watch of the old one would see nothing of the new one."""
    (tmp_path / "new").mkdir()
    restored = new_pair("restored")
    authorize(tmp_path / "new", restored)
    (tmp_path / "host").rename(tmp_path / "old")
    (tmp_path / "new").rename(tmp_path / "host")
    wait_until(lambda: peers.find(restored.public.raw), PATIENCE_S, "the new folder's key")
    later = new_pair("later")
    authorize(tmp_path / "host", later)
    wait_until(lambda: peers.find(later.public.raw), PATIENCE_S, "a change in the new folder")


def test_a_folder_that_goes_takes_its_keys_with_it(peers: AuthorizedPeers, pair: KeyPair, tmp_path: Path) -> None:
    """And brings them back."""
    (tmp_path / "host").rename(tmp_path / "away")
    wait_until(lambda: peers.find(pair.public.raw) is None, PATIENCE_S, "the keys are gone")
    (tmp_path / "away").rename(tmp_path / "host")
    wait_until(lambda: peers.find(pair.public.raw), PATIENCE_S, "the keys are back")
    assert peers.watching


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that reports no changes."""

    class Deaf(FolderEvents):
        def wait(self, timeout_s: float) -> set[str]:
            time.sleep(timeout_s)
            return set()

    monkeypatch.setattr(peers_module, "FolderEvents", Deaf)


@pytest.mark.usefixtures("deaf")
def test_a_revocation_counts_without_file_notifications(pair: KeyPair, tmp_path: Path) -> None:
    """As one that is shared with another machine, where the change was made."""
    (tmp_path / "host/revoked").mkdir()
    peers = AuthorizedPeers([tmp_path / "host"])
    changes: list[ReloadReport] = []
    peers.listen(changes.append)
    peers.watch()
    try:
        later = new_pair("later")
        authorize(tmp_path / "host", later)
        wait_until(lambda: peers.find(later.public.raw), SEEN_WITHIN_S, "a key")
        write_revocation(pair.certificate, tmp_path / "host/revoked")
        wait_until(lambda: peers.find(pair.public.raw) is None, SEEN_WITHIN_S, "the revocation")
        wait_until(
            lambda: len(changes) >= 2, PATIENCE_S, "the listeners are notified"
        )  # just after the keys are in use
        assert len(changes) == 2
    finally:
        peers.close()


@pytest.mark.usefixtures("deaf", "pair")
def test_a_change_that_leaves_the_folders_time_is_seen(tmp_path: Path) -> None:
    """As one within 4 ms of another: Linux' file systems have no finer time. A look came between the two."""
    first, second = new_pair("first"), new_pair("second")
    peers = AuthorizedPeers([tmp_path / "host"])
    peers.watch()
    try:
        authorize(tmp_path / "host", first)
        wait_until(lambda: peers.find(first.public.raw), SEEN_WITHIN_S, "a key")
        with time_kept(tmp_path / "host"):
            authorize(tmp_path / "host", second)
        wait_until(lambda: peers.find(second.public.raw), SEEN_WITHIN_S, "a key of the same time")
    finally:
        peers.close()


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.EMFILE, "Too many open files", "inotify"),
        OSError(errno.ENOSYS, "this system has no inotify"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
)
def test_without_inotify_watches_the_folders_are_polled(
    pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """Its inotify instances are for the whole machine, and anybody may have used them up: revocations still count."""

    def refuse(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(peers_module, "FolderEvents", refuse)
    peers = AuthorizedPeers([tmp_path / "host"])
    peers.watch()
    try:
        assert peers.find(pair.public.raw)
        write_revocation(pair.certificate, tmp_path / "host/revoked")
        wait_until(lambda: peers.find(pair.public.raw) is None, SEEN_WITHIN_S, "the revocation")
        assert peers.watching
    finally:
        peers.close()


def test_others_look_at_every_change_too(pair: KeyPair, tmp_path: Path) -> None:
    """An agent's own pair lies in the same folder."""
    looks: list[int] = []
    peers = AuthorizedPeers([tmp_path / "host"])
    peers.watch(lambda: looks.append(len(peers.all())))
    try:
        wait_until(lambda: looks, PATIENCE_S, "the first look")
        authorize(tmp_path / "host", new_pair("later"))
        wait_until(lambda: 2 in looks, PATIENCE_S, "the list is renewed before the others look")
    finally:
        peers.close()


def test_a_change_is_noticed_at_once(peers: AuthorizedPeers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its event, long before anybody looks at the folders."""
    monkeypatch.setattr(peers_module, "_LOOK_S", 600.0)
    ready = new_pair("ready")  # the wait under way is still a short one
    authorize(tmp_path / "host", ready)
    wait_until(lambda: peers.find(ready.public.raw), PATIENCE_S, "the watch waits again")
    later = new_pair("later")
    authorize(tmp_path / "host", later)
    wait_until(lambda: peers.find(later.public.raw), SEEN_WITHIN_S, "a key")
