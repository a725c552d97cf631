"""Which of a server's keys is tried when, and when all were."""

import errno

import pytest

from tests.identities import new_pair
from twinhost.secure_zmq.diagnosis import BROKEN_OFF_BEFORE_VERDICT, Diagnosis
from twinhost.secure_zmq.errors import NotAuthorized, SecurityMismatch, WrongServerKey
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.monitor import Happening, SocketEvent
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress, TargetChoice, UnencryptedAddress

ADDRESS = "tcp://mainpc:7120"
HUNG_UP = SocketEvent(Happening.BROKEN_OFF, errno.EPIPE, ADDRESS)
ENOUGH = BROKEN_OFF_BEFORE_VERDICT


class Followed:
    """What somebody else keeps up to date, and the choice of a client that follows it."""

    def __init__(self, pins: int) -> None:
        self.address = ADDRESS
        self.own_keys = new_pair()
        self.pins = [new_pair().public for _ in range(pins)]
        self.server = FollowedAddress(lambda: self.address, lambda: self.own_keys, lambda: self.pins)
        self.choice = TargetChoice(self.server)

    def choose(self) -> PublicKey:
        """Return the pin that a client would connect with now."""
        target, _ = self.choice.choose()
        assert isinstance(target, SecuredAddress)
        return target.server_key

    def refused(self, broken_off: int = 1) -> Exception | None:
        """Take so many broken-off handshakes as wrong."""
        return self.choice.final(judged(HUNG_UP, broken_off))


def judged(event: SocketEvent, times: int = 1) -> Diagnosis:
    diagnosis = Diagnosis(ADDRESS, "SHA256:own", "SHA256:pin", lambda _: "CURVE", lambda: times)
    for _ in range(times):
        diagnosis.feed(event)
    assert diagnosis.verdict() is not None
    return diagnosis


def test_a_fixed_address_is_its_own_only_target(pair_and_pin: tuple[KeyPair, PublicKey]) -> None:
    """Nothing to choose from, whether secured or not."""
    own, pin = pair_and_pin
    for server in (SecuredAddress(ADDRESS, own, pin), UnencryptedAddress(ADDRESS)):
        assert tuple(server.targets()) == (server,)
        choice = TargetChoice(server)
        assert choice.choose()[0] is server
        assert not choice.withdrawn()


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
    assert followed.refused(1) is None
    assert followed.choose() == second
    assert followed.refused(1) is None
    assert followed.choose() == first
    assert followed.refused(ENOUGH - 1) is None
    assert followed.choose() == second
    error = followed.refused(ENOUGH - 1)
    assert type(error) is WrongServerKey
    assert f"ended {2 * ENOUGH} handshakes" in str(error)
    assert all(pin.fingerprint in str(error) for pin in followed.pins)
    assert followed.choose() == first  # and everything from the start


def test_how_many_handshakes_a_key_has_follows_the_keys_there_are() -> None:
    """A next key that becomes known while the connection is there is tried after one handshake."""
    followed = Followed(1)
    _, diagnosis = followed.choice.choose()
    diagnosis._ask_mechanism = lambda _: "CURVE"
    diagnosis.feed(HUNG_UP)
    assert diagnosis.verdict() is None
    followed.pins.append(new_pair().public)
    diagnosis.feed(HUNG_UP)
    assert type(diagnosis.verdict()) is WrongServerKey
    assert followed.choice.final(diagnosis) is None
    assert followed.choose() == followed.pins[1]


def test_the_key_that_works_is_kept() -> None:
    """After a change, and whatever else ends the connection, the new key comes first."""
    followed = Followed(2)
    followed.choose()
    followed.refused()
    assert followed.choose() == followed.pins[1]
    followed.choice.worked()
    assert followed.choose() == followed.pins[1]


def test_what_is_withdrawn_is_seen_and_never_chosen() -> None:
    """A retired pin, another own key, another address: each makes the target in use one of the past."""
    followed = Followed(2)
    followed.choose()
    followed.choice.worked()
    assert not followed.choice.withdrawn()
    followed.pins = followed.pins[1:]
    assert followed.choice.withdrawn()
    assert followed.choose() == followed.pins[0]
    followed.own_keys = new_pair()
    assert followed.choice.withdrawn()
    followed.choose()
    assert not followed.choice.withdrawn()
    followed.address = "tcp://elsewhere:7120"
    assert followed.choice.withdrawn()


def test_the_refusal_of_a_key_that_was_changed_since_is_not_final() -> None:
    """ZAP refused the old one; the new one is still to be tried. Without a change, it is final at once."""
    refused = judged(SocketEvent(Happening.REFUSED, 400, ADDRESS))
    followed = Followed(2)
    followed.choose()
    assert type(followed.choice.final(refused)) is NotAuthorized
    followed.own_keys = new_pair()
    assert followed.choice.final(refused) is None


def test_only_a_wrong_key_leads_to_the_next_target() -> None:
    """An open server is no reason to try another key on it."""
    followed = Followed(2)
    followed.choose()
    mismatch = judged(SocketEvent(Happening.MECHANISM_MISMATCH, 0, ADDRESS))
    assert type(followed.choice.final(mismatch)) is SecurityMismatch


def test_without_any_key_there_is_nobody_to_connect_to() -> None:
    """An error with what to do, and no target."""
    followed = Followed(0)
    with pytest.raises(WrongServerKey, match=r"no key of tcp://mainpc:7120 is good here now: .* pin that key"):
        followed.choose()
    assert followed.choice.withdrawn()
