"""No descriptor is left: a revocation is carried out all the same, and what had to wait for one comes by itself."""

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.identities import authorize, new_pair
from tests.loopback.test_feed import serving as serving_feed
from tests.loopback.test_feed import subscribed
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq import connections
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.descriptors import shut
from twinhost.secure_zmq.errors import KeyFileMissing
from twinhost.secure_zmq.key_writer import revoked_file_name, write_key_pair
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import AuthorizedPeers


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing more: its limit is what it has open, and what is free below is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


def inotify_instances() -> int:
    return sum(
        path.is_symlink() and str(path.readlink()) == "anon_inode:inotify" for path in Path("/proc/self/fd").iterdir()
    )


def revoke(home: Path, keys: KeyPair) -> None:
    """Revoke a key by a file that was prepared, since nothing can be opened now."""
    (home / "prepared").rename(home / "revoked" / revoked_file_name(keys.public.fingerprint))


@pytest.fixture
def prepared(home: Path) -> Path:
    (home / "revoked").mkdir()
    (home / "prepared").touch()
    return home


def test_a_revoked_subscriber_gets_no_event(prepared: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """Its connection is closed without a new descriptor, before anything is published."""
    with serving_feed(prepared, server_keys) as served, subscribed(served, peer_keys, b"EVENT:") as subscriber:
        served.feed.publish(b"EVENT:", b'{"number": 0}')
        assert subscriber.get(PATIENCE_S) is not None
        with no_descriptors():
            revoke(prepared, peer_keys)
            served.peers.reload()
            for number in range(1, 6):
                served.feed.publish(b"EVENT:", b'{"number": %d}' % number)
            wait_until(lambda: served.closed_count, 1, "the connection is closed")
            wait_until(lambda: served.feed.counters.published == 6, PATIENCE_S, "the events are published")
            assert subscriber.get(0.5) is None


def test_nothing_is_published_while_a_close_fails(
    prepared: Path, server_keys: KeyPair, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events wait for the close, which is tried again at every turn."""
    neighbour = new_pair("neighbour", "pc3")
    authorize(prepared, neighbour)
    with (
        serving_feed(prepared, server_keys) as served,
        subscribed(served, peer_keys, b"EVENT:") as revoked,
        subscribed(served, neighbour, b"EVENT:") as good,
    ):
        monkeypatch.setattr(connections, "shut", lambda _: False)
        revoke(prepared, peer_keys)
        served.peers.reload()
        served.feed.publish(b"EVENT:", b'{"number": 1}')
        assert good.get(1.0) is None
        assert served.feed.counters.published == 0
        monkeypatch.setattr(connections, "shut", shut)
        assert good.get(PATIENCE_S) is not None
        assert revoked.get(0.2) is None


def test_a_folder_that_cannot_be_read_is_no_missing_key(prepared: Path, peer_keys: KeyPair) -> None:
    """The watch reads the own key too: it gets an error that it knows, and no advice to make a key."""
    write_key_pair(peer_keys, prepared / "own.key_secret")
    with no_descriptors(), pytest.raises(KeyFileMissing, match=r"can't be read \(Too many open files\)"):
        load_certificates(prepared)
    assert load_certificates(prepared).own_keys == peer_keys


def test_good_keys_come_back_with_the_descriptors(prepared: Path, peer_keys: KeyPair) -> None:
    """A reload that could not read the list lets nobody in; it is tried again, although no file changes."""
    peers, before = AuthorizedPeers([prepared]), inotify_instances()
    peers.watch()
    wait_until(lambda: inotify_instances() > before, PATIENCE_S, "the folders are followed")
    time.sleep(0.6)  # and the first scans are done
    with no_descriptors():
        report = peers.reload()
        assert (peers.all(), report.removed[0].name) == ((), peer_keys.certificate.owner.name)
        assert "(Too many open files); this is retried; raise TWINHOST_NOFILE" in report.rejected[0]
        time.sleep(0.6)  # the watch tries twice, in vain
        assert peers.all() == ()
    wait_until(lambda: len(peers.all()) == 1, PATIENCE_S, "the key is good again")
    peers.close()
