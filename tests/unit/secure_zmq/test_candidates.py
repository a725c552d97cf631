"""Keys that are proposed: accepted to prove that their holder has the secret, and for nothing else."""

import threading
from pathlib import Path

import pytest

from tests.identities import authorize, new_pair
from tests.unit.secure_zmq.wall_clock import NOW, WallClock
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.errors import LimitReached, NotGranted
from twinhost.secure_zmq.key_writer import write_revocation
from twinhost.secure_zmq.keys import Certificate, KeyOwner, KeyPair, Validity
from twinhost.secure_zmq.peers import MAX_CANDIDATES, AuthorizedPeers, Outcome


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture
def peers(tmp_path: Path, clock: WallClock) -> AuthorizedPeers:
    return AuthorizedPeers([tmp_path], clock)


def candidate(name: str = "agent", *roles: str, until: int = NOW + 120) -> KeyPair:
    owner = KeyOwner(name, "pc2", frozenset(roles or ("agent",)))
    return KeyPair.generate(owner, Validity(NOW, until))


def test_a_candidate_has_a_name_and_a_role_of_its_own(peers: AuthorizedPeers) -> None:
    """It is not its owner yet, whatever roles it will have."""
    pair = candidate("agent", "operator")
    peers.admit_candidate(pair.certificate)
    peer = peers.find(pair.public.raw)
    assert peer is not None
    assert peer == peers.live(pair.public.fingerprint)
    assert (peer.name, peer.host, peer.roles) == ("candidate:agent", "pc2", frozenset({"candidate"}))
    assert peers.candidate(pair.public.fingerprint) == pair.certificate
    assert (peers.keys_of("agent"), peers.public_key_of("agent")) == ([], None)
    assert dict(peers.contents.current) == {}


@pytest.mark.parametrize("by_role", [{}, {"candidate": {"*"}, "operator": {"*"}}, {"candidate": set()}, {"*": {"*"}}])
def test_a_candidate_may_confirm_its_key_and_nothing_else(peers: AuthorizedPeers, by_role: dict[str, set[str]]) -> None:
    """Whatever the configuration grants."""
    pair = candidate("agent", "operator")
    peers.admit_candidate(pair.certificate)
    peer = peers.find(pair.public.raw)
    assert peer is not None
    grants, holder = Grants(by_role), Caller(peer.name, peer.host, peer.roles, peer.fingerprint)
    grants.require(holder, "confirm_key")
    for action in ("enrol", "ping", "propose_key", "retire_keys", "get_trust", "heartbeat", "*"):
        with pytest.raises(NotGranted):
            grants.require(holder, action)


@pytest.mark.parametrize(("now", "live"), [(NOW - 60, True), (NOW + 180, True), (NOW + 181, False)])
def test_a_candidate_expires(peers: AuthorizedPeers, clock: WallClock, now: float, live: bool) -> None:
    """With the clocks' tolerance."""
    pair = candidate()
    peers.admit_candidate(pair.certificate)
    clock.now = now
    assert (peers.find(pair.public.raw) is not None) is live
    assert (peers.live(pair.public.fingerprint) is not None) is live


def test_a_candidate_of_the_same_owner_gives_way(peers: AuthorizedPeers) -> None:
    """At one moment one key of a name may prove itself."""
    first, second, other = candidate(), candidate(), candidate("other")
    for pair in (first, other, second):
        peers.admit_candidate(pair.certificate)
    assert peers.find(first.public.raw) is None
    assert peers.live(first.public.fingerprint) is None
    assert peers.candidate(first.public.fingerprint) is None
    assert [peer.name for peer in peers.all()] == ["candidate:agent", "candidate:other"]


def test_open_slots_are_bounded_and_expire(peers: AuthorizedPeers, clock: WallClock) -> None:
    """The limit refuses the newcomer and removes no other; one that was replaced, or has expired, does not count."""
    pairs = [candidate(f"agent-{number}") for number in range(MAX_CANDIDATES)]
    for pair in pairs:
        peers.admit_candidate(pair.certificate)
    newcomer = candidate("newcomer")
    with pytest.raises(LimitReached, match="64 keys are waiting for confirmation by their owners"):
        peers.admit_candidate(newcomer.certificate)
    assert peers.find(newcomer.public.raw) is None
    assert all(peers.find(pair.public.raw) is not None for pair in pairs)
    peers.admit_candidate(candidate("agent-0").certificate)
    clock.now = NOW + 181
    late = candidate("newcomer", until=NOW + 300)
    peers.admit_candidate(late.certificate)
    assert peers.find(late.public.raw) is not None
    assert [peer.name for peer in peers.all()] == ["candidate:newcomer"]


def test_listed_beats_candidate(peers: AuthorizedPeers, tmp_path: Path) -> None:
    """Once the file is there the key is its owner's; and a proposal takes nothing from somebody who is listed."""
    pair = candidate()
    peers.admit_candidate(pair.certificate)
    authorize(tmp_path, pair)
    peers.reload()
    peer = peers.find(pair.public.raw)
    assert peer is not None
    assert (peer.name, peer.roles) == ("agent", frozenset({"agent"}))
    thief = Certificate(new_pair("thief").certificate.owner, pair.public, Validity(NOW, NOW + 120))
    peers.admit_candidate(thief)
    peer = peers.find(pair.public.raw)
    assert peer is not None
    assert peer.name == "agent"


def test_candidate_beats_invitation_of_the_same_key(peers: AuthorizedPeers, tmp_path: Path) -> None:
    """The lesser of two that act for nobody."""
    pair = candidate()
    (tmp_path / "invites").mkdir()
    authorize(tmp_path / "invites", pair)
    peers.reload()
    peers.admit_candidate(pair.certificate)
    peer = peers.find(pair.public.raw)
    assert peer is not None
    assert peer.name == "candidate:agent"


def test_revoked_beats_candidate(peers: AuthorizedPeers, tmp_path: Path) -> None:
    """Before the proposal or after it."""
    for before in (True, False):
        pair = candidate()
        if not before:
            peers.admit_candidate(pair.certificate)
        write_revocation(pair.certificate, tmp_path / "revoked")
        peers.reload()
        if before:
            peers.admit_candidate(pair.certificate)
        assert peers.find(pair.public.raw) is None
        assert peers.judge(pair.public.raw) is Outcome.KEY_REVOKED


def test_a_dismissed_candidate_is_out(peers: AuthorizedPeers) -> None:
    """Unless it is listed by now; a second time does no harm."""
    pair = candidate()
    peers.admit_candidate(pair.certificate)
    for _ in range(2):
        peers.dismiss_candidate(pair.public)
        assert peers.find(pair.public.raw) is None
        assert peers.candidate(pair.public.fingerprint) is None


def test_candidates_survive_a_change_of_the_folders(peers: AuthorizedPeers, tmp_path: Path) -> None:
    """Somebody else's enrolment ends no proof under way."""
    pair = candidate()
    peers.admit_candidate(pair.certificate)
    authorize(tmp_path, new_pair("other"))
    peers.reload()
    assert peers.find(pair.public.raw) is not None


def test_the_watch_and_the_actions_may_change_the_list_at_once(peers: AuthorizedPeers, tmp_path: Path) -> None:
    """Neither loses what the other did: the folders are read on one thread and candidates come on another."""
    stop = threading.Event()

    def keep_looking() -> None:
        while not stop.is_set():
            peers.reload()

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        for number in range(50):
            pair, listed = candidate(), new_pair(f"listed-{number}")
            authorize(tmp_path, listed)
            peers.reload()
            peers.admit_candidate(pair.certificate)
            assert peers.find(pair.public.raw) is not None
            assert peers.find(listed.public.raw) is not None
            peers.dismiss_candidate(pair.public)
            assert peers.find(pair.public.raw) is None
    finally:
        stop.set()
        thread.join()
