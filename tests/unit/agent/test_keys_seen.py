"""The file of when keys were last used: it costs no write per request, and no state of it stops the agent."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.keys_seen import SETTLED_S, KeysSeen
from twinhost.moments import SYSTEM_CLOCK
from twinhost.secure_zmq.key_writer import replace_certificate, write_certificate
from twinhost.secure_zmq.keys import DAY_S, Certificate, KeyPair, Validity
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.sessions import SecuredSessions


class Bench:
    """A socket's sessions, the file, and one listed key."""

    def __init__(self, root: Path) -> None:
        listed = new_pair("third", "pc3").certificate
        (root / "keys").mkdir()
        write_certificate(listed, root / "keys" / "third.key")
        self.root = root
        self.key, self.path = listed.public.fingerprint, root / "seen.json"
        self.peers = AuthorizedPeers([root / "keys"])
        self.peers.reload()

    def authorise(self, pair: KeyPair, clock: Clock, *, days: int, folder: str = "") -> None:
        """List a key, or an invitation, that ends in so many days; where it is listed already, change when it ends."""
        end = int(clock.time()) + days * DAY_S
        self.peers.close()
        self.peers = AuthorizedPeers([self.root / "keys"], clock)
        (self.root / "keys" / folder).mkdir(exist_ok=True)
        path = self.root / "keys" / folder / "fourth.key"
        replace_certificate(Certificate(pair.certificate.owner, pair.public, Validity(None, end)), path)
        self.peers.reload()

    def start(self, clock: Clock | None = None) -> tuple[KeysSeen, SecuredSessions]:
        sessions = SecuredSessions(self.peers)
        return KeysSeen(self.path, sessions, self.peers, clock or SYSTEM_CLOCK), sessions


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    with closing(bench.peers):
        yield bench


def use(sessions: SecuredSessions, key: str, moment: float) -> None:
    sessions._last_seen[key] = moment


def test_it_writes_once_a_minute_and_at_the_end(bench: Bench) -> None:
    """A tick comes every 0.2 s; a killed agent has lost a minute at most."""
    clock = Clock()
    clock.stand_still()
    seen, sessions = bench.start(clock)
    seen.on_tick()
    first = bench.path.read_bytes()
    use(sessions, bench.key, 1_000.0)
    clock.let_pass(59)
    seen.on_tick()
    assert bench.path.read_bytes() == first
    clock.let_pass(1)
    seen.on_tick()
    assert bench.start()[1].last_seen() == {bench.key: 1_000.0}
    use(sessions, bench.key, 2_000.0)
    seen.save()
    assert bench.start()[1].last_seen() == {bench.key: 2_000.0}


def test_the_record_began_when_it_first_did(bench: Bench) -> None:
    """Before a file there is nothing that is known, and a key without a time may have been used."""
    before = time.time()
    seen, sessions = bench.start()
    since = sessions.seen_since
    assert since is not None
    assert before <= since <= time.time()
    seen.save()
    assert bench.start()[1].seen_since == since


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"since": -1.0, "seen": {}}', b'{"since": 1.0, "seen": {"a": 1e300}}']
)
def test_a_damaged_file_begins_the_record_again(bench: Bench, content: bytes) -> None:
    """The agent starts, claims nothing about the time before, and puts a good file in its place."""
    bench.path.write_bytes(content)
    before = time.time()
    seen, sessions = bench.start()
    assert (sessions.last_seen(), (sessions.seen_since or 0) >= before) == ({}, True)
    seen.save()
    assert bench.start()[1].seen_since == sessions.seen_since


def test_a_key_that_is_no_longer_listed_is_forgotten(bench: Bench) -> None:
    """Else the file would keep every key that there ever was."""
    seen, sessions = bench.start()
    use(sessions, bench.key, 1_000.0)
    use(sessions, "SHA256:another", 1_000.0)
    seen.save()
    assert bench.start()[1].last_seen() == {bench.key: 1_000.0}


def test_what_cannot_be_written_is_written_later(bench: Bench) -> None:
    """A full volume, or one that is gone, stops nobody."""
    seen, sessions = bench.start()
    use(sessions, bench.key, 1_000.0)
    bench.path.mkdir()
    seen.save()
    bench.path.rmdir()
    seen.save()
    assert bench.start()[1].last_seen() == {bench.key: 1_000.0}


@pytest.mark.parametrize("folder", ["", "invites"], ids=["key", "invitation"])
def test_a_clock_set_back_revives_nothing(bench: Bench, folder: str) -> None:
    """Nor after a restart; another `not_after` does, since an operator gave it."""
    clock, pair = Clock(), new_pair("fourth")
    bench.authorise(pair, clock, days=1, folder=folder)
    seen, _ = bench.start(clock)
    clock.let_pass(DAY_S + 61)
    seen.save()
    clock.let_pass(SETTLED_S)
    seen.save()
    clock.set_wall_clock(-10 * DAY_S)
    assert bench.peers.standing(pair.public.fingerprint) == "expired"
    seen.save()
    bench.peers = AuthorizedPeers([bench.root / "keys"], clock)
    assert bench.peers.standing(pair.public.fingerprint) == "live", "the test must see the file at work"
    again, _ = bench.start(clock)
    again.save()
    assert bench.peers.standing(pair.public.fingerprint) == "expired"
    bench.authorise(pair, clock, days=30, folder=folder)
    bench.start(clock)
    assert bench.peers.standing(pair.public.fingerprint) == "live"


def test_a_moment_in_the_future_ends_no_key_for_good(bench: Bench) -> None:
    """A clock is wrong at a start, say, until it is set; and one that is wrong for minutes, twice."""
    clock, pair = Clock(), new_pair("fourth")
    bench.authorise(pair, clock, days=1)
    seen, _ = bench.start(clock)
    for _ in range(2):
        clock.set_wall_clock(1_000 * DAY_S)
        seen.save()
        clock.let_pass(SETTLED_S - 1)
        seen.save()
        assert bench.peers.standing(pair.public.fingerprint) == "expired"
        clock.set_wall_clock(-1_000 * DAY_S)
        assert bench.peers.standing(pair.public.fingerprint) == "live"
        seen.save()
    clock.let_pass(SETTLED_S)
    seen.save()
    bench.start(clock)
    assert bench.peers.standing(pair.public.fingerprint) == "live"
