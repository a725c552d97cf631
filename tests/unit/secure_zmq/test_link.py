"""What a client does about its connection: which of a server's keys is tried when, and when to give up."""

import errno

import pytest

from tests.identities import new_pair
from twinhost.secure_zmq.errors import ConnectionRefused, NotAuthorized, PeerNotLive, SecurityMismatch, WrongServerKey
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.link import BROKEN_OFF_BEFORE_VERDICT, SILENT_AFTER_S, Link, Step
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress, UnencryptedAddress
from twinhost.secure_zmq.silence import Silence

ADDRESS = "tcp://mainpc:7120"
HUNG_UP = SocketEvent(EventKind.BROKEN_OFF, errno.EPIPE, ADDRESS)
REFUSED = SocketEvent(EventKind.REFUSED, 400, ADDRESS)
SUCCEEDED = SocketEvent(EventKind.SUCCEEDED, 0, ADDRESS)
CONNECTED = SocketEvent(EventKind.CONNECTED, 0, ADDRESS)
TOO_MANY = SocketEvent(EventKind.REFUSED, 500, ADDRESS)
LOST = SocketEvent(EventKind.DISCONNECTED, 0, ADDRESS)
ENOUGH = BROKEN_OFF_BEFORE_VERDICT


class Followed:
    """What somebody else keeps up to date, and the link of a client that follows it."""

    def __init__(self, pins: int) -> None:
        self.address = ADDRESS
        self.own_keys = new_pair()
        self.pins = [new_pair().public for _ in range(pins)]
        self.server = FollowedAddress(lambda: self.address, lambda: self.own_keys, lambda: self.pins)
        self.link = Link(self.server, lambda _: "CURVE")

    def choose(self) -> PublicKey:
        """Return the pin that a client would connect with now."""
        target = self.link.next_target()
        assert isinstance(target, SecuredAddress)
        return target.server_key

    def refused(self, event: SocketEvent = HUNG_UP, times: int = 1) -> ConnectionRefused | None:
        """Feed an event so often, which must end the connection; return the error that it ends with for good."""
        for _ in range(times):
            assert self.link.diagnosis.verdict() is None
            self.link.feed(event)
        try:
            assert self.link.step(0.0) is Step.RECONNECT
        except ConnectionRefused as error:
            return error
        return None


def test_a_fixed_address_is_its_own_only_target(pair_and_pin: tuple[KeyPair, PublicKey]) -> None:
    """Nothing to choose from, whether secured or not."""
    own, pin = pair_and_pin
    for server in (SecuredAddress(ADDRESS, own, pin), UnencryptedAddress(ADDRESS)):
        assert tuple(server.targets()) == (server,)
        link = Link(server)
        assert link.next_target() is server
        assert not link.withdrawn()


@pytest.fixture
def pair_and_pin() -> tuple[KeyPair, PublicKey]:
    return new_pair(), new_pair().public


def test_a_followed_address_has_a_secured_target_for_each_pin() -> None:
    """In the order of the pins, each once, and of this moment."""
    followed = Followed(2)
    first, second = followed.pins
    followed.pins = [first, second, first]
    assert list(followed.server.targets()) == [
        SecuredAddress(ADDRESS, followed.own_keys, first),
        SecuredAddress(ADDRESS, followed.own_keys, second),
    ]
    assert FollowedAddress("tcp://pc2:7130", lambda: followed.own_keys, list).address == "tcp://pc2:7130"


def test_the_keys_take_turns_until_each_had_its_handshakes() -> None:
    """One each, then the others; none is given up before it had as many as the only one would."""
    followed = Followed(2)
    first, second = followed.pins
    assert followed.choose() == first
    assert followed.refused() is None
    assert followed.choose() == second
    assert followed.refused() is None
    assert followed.choose() == first
    assert followed.refused(times=ENOUGH - 1) is None
    assert followed.choose() == second
    error = followed.refused(times=ENOUGH - 1)
    assert type(error) is WrongServerKey
    assert f"ended {2 * ENOUGH} handshakes" in str(error)
    assert all(pin.fingerprint in str(error) for pin in followed.pins)
    assert followed.choose() == first  # and everything from the start


def test_the_handshake_limit_follows_the_number_of_keys() -> None:
    """A next key that becomes known while the connection is there is tried after one handshake."""
    followed = Followed(1)
    followed.choose()
    followed.link.feed(HUNG_UP)
    assert followed.link.step(0.0) is Step.KEEP
    followed.pins.append(new_pair().public)
    assert followed.refused() is None
    assert followed.choose() == followed.pins[1]


def test_the_key_that_works_is_kept() -> None:
    """After a change, and whatever else ends the connection, the new key comes first."""
    followed = Followed(2)
    followed.choose()
    followed.refused()
    assert followed.choose() == followed.pins[1]
    followed.link.worked()
    assert followed.choose() == followed.pins[1]


def test_what_is_withdrawn_is_seen_and_never_chosen() -> None:
    """A retired pin, another own key, another address: each makes the target in use one of the past."""
    followed = Followed(2)
    followed.choose()
    followed.link.worked()
    assert not followed.link.withdrawn()
    followed.pins = followed.pins[1:]
    assert followed.link.withdrawn()
    assert followed.choose() == followed.pins[0]
    followed.own_keys = new_pair()
    assert followed.link.withdrawn()
    followed.choose()
    assert not followed.link.withdrawn()
    followed.address = "tcp://elsewhere:7120"
    assert followed.link.withdrawn()


def test_a_refusal_of_a_since_changed_key_is_not_final() -> None:
    """ZAP refused the old one; the new one is still to be tried. Without a change, it is final at once."""
    followed = Followed(2)
    followed.choose()
    assert type(followed.refused(REFUSED)) is NotAuthorized
    followed.choose()
    followed.link.feed(REFUSED)
    followed.own_keys = new_pair()
    assert followed.link.step(0.0) is Step.RECONNECT


def test_only_a_wrong_key_leads_to_the_next_target() -> None:
    """An open server is no reason to try another key on it."""
    followed = Followed(2)
    followed.choose()
    mismatch = SocketEvent(EventKind.MECHANISM_MISMATCH, 0, ADDRESS)
    assert type(followed.refused(mismatch)) is SecurityMismatch


def test_without_any_key_there_is_nobody_to_connect_to() -> None:
    """An error with what to do, and no target."""
    followed = Followed(0)
    with pytest.raises(WrongServerKey, match=r"no key of tcp://mainpc:7120 is valid here: .* certs-init verify"):
        followed.choose()
    assert followed.link.withdrawn()


def test_each_session_of_a_client_has_its_own_number() -> None:
    """Also over connections: what was sent in one is sent again in the next, and never twice in one."""
    followed, numbers = Followed(1), list[int]()
    for _ in range(2):
        followed.choose()
        for _ in range(2):
            assert followed.link.session == 0
            followed.link.feed(SUCCEEDED)
            numbers.append(followed.link.session)
            followed.link.feed(LOST)
    assert numbers == [1, 2, 3, 4]


def test_nothing_is_sent_in_a_session_whose_key_was_retired() -> None:
    """Neither ours nor the server's: the connection is replaced first."""
    followed = Followed(1)
    followed.choose()
    followed.link.feed(SUCCEEDED)
    followed.own_keys = new_pair()
    assert followed.link.session == 0
    assert followed.link.step(0.0) is Step.RECONNECT


@pytest.mark.parametrize("had_session", [True, False])
def test_a_session_that_is_silent_is_replaced(had_session: bool) -> None:
    """Only where a reply is due; libzmq itself goes on connecting to a server that is away."""
    followed = Followed(1)
    followed.choose()
    if had_session:
        followed.link.feed(SUCCEEDED)
    now = 1_000.0
    assert followed.link.step(now) is Step.KEEP
    assert followed.link.step(now, now - SILENT_AFTER_S / 2) is Step.KEEP
    assert followed.link.step(now, now - SILENT_AFTER_S) is (Step.RECONNECT if had_session else Step.KEEP)


def test_the_backoff_grows_with_each_error_and_ends_with_a_reply() -> None:
    """With jitter of half of it, and 2 s at most; a first connection waits for nothing."""
    followed = Followed(1)
    assert followed.link.backoff_s() == 0
    for longest in (0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        followed.choose()
        assert followed.refused(REFUSED) is not None
        assert longest / 2 <= followed.link.backoff_s() <= longest
    followed.choose()
    followed.link.feed(SUCCEEDED)
    assert followed.link.accepts({"status": "error", "code": PeerNotLive.code})  # a refusal of the key that we have
    assert followed.link.backoff_s() == 0
    followed.own_keys = new_pair()
    assert not followed.link.accepts({"status": "error", "code": PeerNotLive.code})


def test_after_a_refusal_for_too_many_sessions_it_tries_again() -> None:
    """After the backoff, which grows; libzmq would not, and the refusal is not final."""
    followed = Followed(1)
    for longest_s in (0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        followed.choose()
        assert followed.link.retry_at is None
        followed.link.feed(TOO_MANY)
        assert followed.link.step(7.0) is Step.KEEP
        retry_at = followed.link.retry_at
        assert retry_at is not None
        assert longest_s / 2 <= retry_at - 7.0 <= longest_s
        assert followed.link.step(retry_at - 0.01) is Step.KEEP
        assert followed.link.step(retry_at) is Step.RECONNECT
    followed.choose()
    followed.link.feed(CONNECTED)
    assert "reached its limit of connections" in str(followed.link.diagnosis.timed_out("ping", 1.0))


def test_a_session_ends_what_was_said_of_too_many_sessions() -> None:
    """A server that can't be reached after it is not said to have refused this key."""
    followed = Followed(1)
    followed.choose()
    followed.link.feed(TOO_MANY)
    assert followed.link.step(7.0) is Step.KEEP
    assert followed.link.step(10.0) is Step.RECONNECT
    followed.choose()
    followed.link.feed(SUCCEEDED)
    followed.own_keys = new_pair()
    assert followed.link.step(11.0) is Step.RECONNECT
    followed.choose()
    assert "nothing answered at that address" in str(followed.link.diagnosis.timed_out("ping", 1.0))


def test_without_any_key_there_is_no_session() -> None:
    """The one before it has ended, whatever its monitor saw last."""
    followed = Followed(1)
    followed.choose()
    followed.link.feed(SUCCEEDED)
    followed.pins = []
    with pytest.raises(WrongServerKey):
        followed.choose()
    assert not followed.link.diagnosis.connected


def test_a_closed_session_is_told_from_a_cut_one() -> None:
    """By how it ended, for as long as no other connection shows more; and an accepted one without a handshake."""
    for events, shown in (
        ([SUCCEEDED, LOST], Silence.ENDED),
        ([SUCCEEDED], Silence.CUT),
        ([], None),
        ([CONNECTED], Silence.CUT),  # and now there is not even that
    ):
        followed = Followed(1)
        followed.choose()
        for event in events:
            followed.link.feed(event)
        followed.choose()
        assert followed.link.diagnosis.timed_out("ping", 1.0).silence is shown
        followed.link.feed(CONNECTED)
        assert followed.link.diagnosis.timed_out("ping", 1.0).silence is Silence.FROZEN
