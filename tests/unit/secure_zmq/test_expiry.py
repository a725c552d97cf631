"""Keys that begin and end, in the live list: every look counts the clock of that moment."""

from pathlib import Path
from typing import cast

import pytest
import zmq

from tests.identities import authorize, new_pair
from tests.unit.secure_zmq.wall_clock import NOW, WallClock
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.callers import IDENTITY_PROPERTY
from twinhost.secure_zmq.errors import PeerNotLive
from twinhost.secure_zmq.key_writer import write_certificate, write_revocation
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, Validity
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.sessions import SecuredSessions
from twinhost.secure_zmq.sockets import ZAP_DOMAIN


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


def dated(not_before: int | None, not_after: int | None, name: str = "agent") -> KeyPair:
    return KeyPair.generate(KeyOwner(name, "pc2", frozenset({"agent"})), Validity(not_before, not_after))


@pytest.mark.parametrize("where", [".key", ".next.key", "invites"])
@pytest.mark.parametrize(
    ("now", "refusal"),
    [
        (NOW - 100_000, Outcome.KEY_NOT_YET_VALID),
        (NOW - 61, Outcome.KEY_NOT_YET_VALID),
        (NOW - 60.001, Outcome.KEY_NOT_YET_VALID),
        (NOW - 60, None),
        (NOW, None),
        (NOW + 1_000, None),
        (NOW + 1_060, None),
        (NOW + 1_060.001, Outcome.KEY_EXPIRED),
        (NOW + 100_000, Outcome.KEY_EXPIRED),
    ],
)
def test_a_key_is_good_within_its_time_and_the_tolerance(
    tmp_path: Path, clock: WallClock, now: float, refusal: Outcome | None, where: str
) -> None:
    """Handshake and message ask alike, again at every call, for each kind of key; no file has to change."""
    pair = dated(NOW, NOW + 1_000)
    path = authorize(tmp_path, pair)
    (tmp_path / "invites").mkdir()
    path.rename(tmp_path / "invites/agent.key" if where == "invites" else tmp_path / f"agent{where}")
    peers = AuthorizedPeers([tmp_path], clock)
    clock.now = now
    peer = peers.find(pair.public.raw)
    assert (peer is None) is (refusal is not None)
    assert peers.live(pair.public.fingerprint) is peer
    assert peers.judge(pair.public.raw) is (refusal or peer)
    assert peers.judge_fingerprint(pair.public.fingerprint, now) is (refusal or peer)
    assert peers.standing(pair.public.fingerprint) == (refusal.removeprefix("key_") if refusal else "live")


def test_a_message_under_an_expired_key_says_that_it_expired(tmp_path: Path, clock: WallClock) -> None:
    """And under one that was removed, that it is not authorised."""
    pair = dated(None, NOW - 100_000)
    path = authorize(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path], clock)
    sessions = SecuredSessions(peers)
    frame = cast("zmq.Frame", AuthenticatedFrame(pair))
    with pytest.raises(PeerNotLive, match="the key of agent has expired here; enrol a new key"):
        sessions.caller_of(b"a", frame, NOW)
    path.unlink()
    peers.reload()
    with pytest.raises(PeerNotLive, match="the key of agent is no longer authorised here"):
        sessions.caller_of(b"a", frame, NOW)


def test_a_new_cause_refuses_at_both_doors(tmp_path: Path, clock: WallClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added where the page says, it refuses handshakes, and ends an open session of a key without dates too."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path], clock)
    sessions = SecuredSessions(peers)
    frame = cast("zmq.Frame", AuthenticatedFrame(pair))
    sessions.caller_of(b"a", frame, NOW)
    monkeypatch.setattr(peers, "judge_fingerprint", lambda *_: Outcome.KEY_REVOKED)
    assert peers.judge(pair.public.raw) is Outcome.KEY_REVOKED
    with pytest.raises(PeerNotLive):
        sessions.caller_of(b"a", frame, NOW)


class AuthenticatedFrame:
    """A frame with the properties that libzmq gives one that came over a connection."""

    def __init__(self, pair: KeyPair) -> None:
        self._identity = f"{pair.public.fingerprint} {pair.certificate.owner.name}"

    def get(self, option: int | str | bytes) -> int | str:
        """Return a property; the descriptor is nobody's."""
        properties: dict[int | str | bytes, str] = {IDENTITY_PROPERTY: self._identity, "Peer-Address": "127.0.0.1"}
        return properties.get(option, -1)


def test_an_expired_key_stays_listed(tmp_path: Path, clock: WallClock) -> None:
    """So that an operator sees it, and nobody else enrols under its name unseen."""
    pair = dated(None, NOW - 100_000)
    authorize(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path], clock)
    assert [peer.name for peer in peers.all()] == ["agent"]
    assert peers.keys_of("agent") == [pair.public]


def test_an_expired_key_is_never_pinned(tmp_path: Path, clock: WallClock) -> None:
    """Neither here nor where a client asks mainpc for keys to pin."""
    over, good = dated(None, NOW + 1_000), dated(None, NOW + 9_000)
    authorize(tmp_path, over)
    write_certificate(good.certificate, tmp_path / "agent.next.key")
    peers = AuthorizedPeers([tmp_path], clock)
    assert (peers.pins_of("agent"), peers.public_key_of("agent")) == ([over.public, good.public], over.public.z85)
    clock.now = NOW + 1_061
    assert (peers.pins_of("agent"), peers.public_key_of("agent")) == ([good.public], None)


def test_the_judge_knows_strangers_and_the_revoked(tmp_path: Path, clock: WallClock) -> None:
    """Revoked says more than expired, and unknown is what was never listed."""
    over = dated(None, NOW - 100_000)
    authorize(tmp_path, over)
    write_revocation(over.certificate, tmp_path / "revoked")
    peers = AuthorizedPeers([tmp_path], clock)
    assert peers.judge(over.public.raw) is Outcome.KEY_REVOKED
    assert peers.judge(new_pair().public.raw) is Outcome.KEY_NOT_AUTHORIZED
    for nobodys in (b"", bytes(32), b"\1" * 31, b"\1" * 33):
        assert peers.judge(nobodys) is Outcome.KEY_NOT_AUTHORIZED


def test_a_handshake_is_refused_with_its_cause_and_counted(tmp_path: Path, clock: WallClock) -> None:
    """The other side learns nothing but `key not authorized`; the log and the counters know why."""
    live, over, early = dated(None, None, "live"), dated(None, NOW - 100, "over"), dated(NOW + 100, None, "early")
    revoked, stranger = dated(None, None, "revoked"), new_pair()
    for pair in (live, over, early, revoked):
        authorize(tmp_path, pair)
    write_revocation(revoked.certificate, tmp_path / "revoked")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    authenticator = Authenticator(context, AuthorizedPeers([tmp_path], clock))
    outcomes: list[tuple[str, str | None]] = []
    authenticator.handshakes.listen(lambda outcome, fields: outcomes.append((outcome.value, fields.get("fingerprint"))))
    try:
        replies = {
            pair.certificate.owner.name: authenticator._reply_to(
                [b"1.0", b"1", ZAP_DOMAIN, b"192.0.2.1", b"", b"CURVE", pair.public.raw]
            )
            for pair in (live, over, early, revoked, stranger)
        }
    finally:
        authenticator.stop()
        context.term()
    assert replies.pop("live").status == b"200"
    assert {(reply.status, reply.text) for reply in replies.values()} == {(b"400", b"key not authorized")}
    assert outcomes == [
        (outcome.value, pair.public.fingerprint)
        for outcome, pair in (
            (Outcome.ACCEPTED, live),
            (Outcome.KEY_EXPIRED, over),
            (Outcome.KEY_NOT_YET_VALID, early),
            (Outcome.KEY_REVOKED, revoked),
            (Outcome.KEY_NOT_AUTHORIZED, stranger),
        )
    ]
    counts = authenticator.handshakes.counts()
    assert {name: count for name, count in counts.items() if count} == dict.fromkeys(
        ("accepted", "key_expired", "key_not_yet_valid", "key_revoked", "key_not_authorized"), 1
    )
