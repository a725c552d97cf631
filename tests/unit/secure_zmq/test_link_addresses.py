"""A server with a standby, so with two addresses: when a client goes on to the other one, and when it gives up."""

import errno

import pytest

from tests.identities import new_pair
from twinhost.secure_zmq.errors import NotAuthorized, SecurityMismatch, WrongServerKey
from twinhost.secure_zmq.framing.exchange import DEFAULT_DEADLINE_S, Exchange, deadline_of
from twinhost.secure_zmq.link import BROKEN_OFF_BEFORE_VERDICT, TAKEOVER_S, Link, LinkState, Step
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress, ServerAddress, UnencryptedAddress

HOME, STANDBY = "tcp://mainpc:7120", "tcp://pc2:7120"
PATIENCE_S = 0.5
HANDSHAKE_S = 4.0  # the longest
WATCHED_S = 2.0


class Followed:
    """A link to an agent with a standby, at a time that the test sets."""

    def __init__(self, *addresses: str, pins: int = 1) -> None:
        self.pins = [new_pair().public for _ in range(pins)]
        own = new_pair()
        self.server = FollowedAddress(addresses or (HOME, STANDBY), lambda: own, lambda: self.pins)
        self.link = Link(self.server, lambda _: "CURVE")
        self.now = 1_000.0
        self.at = self.choose()

    def choose(self) -> str:
        self.at = self.link.next_target().address
        return self.at

    def report(self, *kinds: EventKind, value: int = 0) -> None:
        for kind in kinds:
            self.link.feed(SocketEvent(kind, value, self.at))

    def stays_s(self) -> float:
        """Let the time pass until the client leaves the address in use; return how long it stayed."""
        begun = self.now
        while self.link.step(self.now) is Step.KEEP:
            assert self.link.leave_at is not None, f"it never leaves {self.at}"
            self.now = self.link.leave_at
        self.choose()
        return self.now - begun


def test_where_nothing_answers_the_other_address_is_next() -> None:
    """And then the first one again, for as long as the call lasts."""
    followed = Followed()
    tried = [(followed.at, followed.stays_s()) for _ in range(4)]
    assert tried == [(HOME, PATIENCE_S), (STANDBY, PATIENCE_S)] * 2


def test_an_address_that_refuses_is_left_at_once_the_first_time() -> None:
    """A command after a takeover waits for nothing; while none of the two is active, it does not hurry."""
    followed = Followed()
    stayed = []
    for _ in range(4):
        followed.report(EventKind.RETRIED)
        stayed.append(followed.stays_s())
    assert stayed == [0.0, 0.0, PATIENCE_S, PATIENCE_S]


def test_a_lost_session_has_time_to_come_back() -> None:
    """As after a rotation of keys, or a cable that was pulled: the retries of libzmq are no refusals then."""
    followed = Followed()
    followed.report(EventKind.CONNECTED, EventKind.SUCCEEDED)
    assert followed.link.step(followed.now) is Step.KEEP
    assert followed.link.leave_at is None
    followed.now += 3_600.0
    followed.report(EventKind.DISCONNECTED, EventKind.RETRIED)
    assert followed.stays_s() == PATIENCE_S
    assert followed.at == STANDBY


def test_the_time_without_a_session_begins_with_the_call() -> None:
    """A session that was lost while nobody asked: its address has as long as any other."""
    followed = Followed()
    assert followed.link.step(followed.now) is Step.KEEP
    followed.report(EventKind.CONNECTED, EventKind.SUCCEEDED, EventKind.DISCONNECTED)
    followed.now += 3_600.0
    assert followed.stays_s() == PATIENCE_S


def test_a_slow_handshake_gets_more_time_in_each_round() -> None:
    """Up to what a handshake may take; a machine that is stopped accepts TCP connections too."""
    followed = Followed()
    stayed = []
    for _ in range(10):
        followed.report(EventKind.CONNECTED)
        stayed.append(followed.stays_s())
    assert stayed[::2] == stayed[1::2] == [0.5, 1.0, 2.0, HANDSHAKE_S, HANDSHAKE_S]


def answered() -> Followed:
    """Return one whose first address has replied, and whose session is lost."""
    followed = Followed()
    followed.report(EventKind.CONNECTED, EventKind.SUCCEEDED)
    assert followed.link.accepts({"status": "ok"})
    followed.report(EventKind.DISCONNECTED)
    return followed


def test_while_one_is_stuck_the_other_is_watched_for_longer() -> None:
    """An agent that was stopped: its standby answers soon, and until then refuses, which costs nothing."""
    followed = answered()
    stayed = []
    for address in [HOME, STANDBY] * 3:
        assert followed.at == address
        followed.report(EventKind.CONNECTED if address == HOME else EventKind.RETRIED)
        stayed.append(followed.stays_s())
    assert stayed[::2] == [0.5, 1.0, 2.0]
    assert stayed[1::2] == [0.0, WATCHED_S, WATCHED_S]


def test_an_agent_that_takes_over_is_waited_for() -> None:
    """Its first handshake may be slow on a busy machine, and nobody else makes TCP connections."""
    followed = answered()
    followed.stays_s()
    assert followed.at == STANDBY
    followed.report(EventKind.CONNECTED)
    assert followed.stays_s() == HANDSHAKE_S
    followed.report(EventKind.RETRIED)
    assert followed.stays_s() == PATIENCE_S, "the other one is not watched"


def test_a_reply_ends_what_was_learnt_of_an_address() -> None:
    followed = Followed()
    for _ in range(4):
        followed.report(EventKind.CONNECTED)
        followed.stays_s()
    followed.report(EventKind.CONNECTED, EventKind.SUCCEEDED)
    assert followed.link.accepts({"status": "ok"})
    followed.report(EventKind.DISCONNECTED, EventKind.CONNECTED)
    assert followed.stays_s() == PATIENCE_S


def test_the_address_that_replied_last_is_kept() -> None:
    """After a takeover the standby's: the next connection begins there."""
    followed = Followed()
    followed.stays_s()
    followed.report(EventKind.CONNECTED, EventKind.SUCCEEDED)
    followed.link.worked()
    assert followed.link.address == STANDBY
    assert followed.choose() == STANDBY


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [(EventKind.REFUSED, 400, NotAuthorized), (EventKind.NOT_ZMTP, 0, SecurityMismatch)],
    ids=["not_authorised", "not_zmtp"],
)
def test_a_refusal_is_final_once_the_other_was_tried(kind: EventKind, value: int, error: type[Exception]) -> None:
    """An agent that is no longer active, or another program there, may refuse what the active one accepts."""
    followed = Followed()
    followed.report(kind, value=value)
    assert followed.link.step(followed.now) is Step.RECONNECT
    assert followed.choose() == STANDBY
    assert followed.stays_s() == PATIENCE_S
    followed.report(kind, value=value)
    with pytest.raises(error, match=HOME):
        followed.link.step(followed.now)
    followed.choose()
    followed.report(kind, value=value)
    assert followed.link.step(followed.now) is Step.RECONNECT  # for the next call all begins again


def test_a_wrong_key_is_final_once_both_were_tried() -> None:
    """Each pin gets as many handshakes at an address as a single one would."""
    followed = Followed(pins=2)
    tried = []
    with pytest.raises(WrongServerKey, match=f"ended {2 * BROKEN_OFF_BEFORE_VERDICT} handshakes"):  # noqa: PT012
        for _ in range(20):
            while followed.link.diagnosis.state is not LinkState.REFUSED:
                tried.append(followed.at)
                followed.report(EventKind.BROKEN_OFF, value=errno.EPIPE)
            assert followed.link.step(followed.now) is Step.RECONNECT
            followed.choose()
    assert tried == [HOME] * 2 * BROKEN_OFF_BEFORE_VERDICT + [STANDBY] * 2 * BROKEN_OFF_BEFORE_VERDICT


def test_too_many_sessions_is_no_reason_to_go_elsewhere() -> None:
    """The agent is active there."""
    followed = Followed()
    followed.report(EventKind.REFUSED, value=500)
    assert followed.link.step(followed.now) is Step.KEEP
    assert followed.link.leave_at is None
    assert followed.link.step(followed.now + 10.0) is Step.RECONNECT
    assert followed.choose() == HOME


def test_the_only_address_is_never_left() -> None:
    """Without a standby nothing is as it was not before."""
    followed = Followed(HOME)
    followed.report(EventKind.RETRIED)
    for seconds in (0.0, 0.6, 60.0):
        assert followed.link.step(followed.now + seconds) is Step.KEEP
    assert followed.link.leave_at is None
    followed.report(EventKind.REFUSED, value=400)
    with pytest.raises(NotAuthorized):
        followed.link.step(followed.now)


def test_by_default_a_call_waits_for_a_takeover() -> None:
    """Only where there is a standby; a deadline that was given is kept."""
    both, one = (Link(UnencryptedAddress(HOME, others)) for others in ((STANDBY,), ()))
    assert [Exchange(link, 1_000).ask("ping", {}, "r", None).deadline_s for link in (both, one)] == [
        DEFAULT_DEADLINE_S + TAKEOVER_S,
        DEFAULT_DEADLINE_S,
    ]
    assert deadline_of(2.0, {}, TAKEOVER_S) == 2.0
    assert deadline_of(None, {"wait_s": 7.0}, TAKEOVER_S) == DEFAULT_DEADLINE_S + TAKEOVER_S + 7.0


def test_a_missed_deadline_says_what_to_repeat() -> None:
    followed = Followed()
    sentence = str(followed.link.timed_out("store_memory", 1.0, "r1"))
    assert f"no reply to store_memory from {HOME} or {STANDBY} within 1 s" in sentence
    assert sentence.endswith("to have it executed once, repeat it with request_id='r1'")
    assert "r1" not in str(Followed(HOME).link.timed_out("store_memory", 1.0, "r1"))


@pytest.mark.parametrize("secure", [True, False], ids=["curve", "open"])
def test_each_address_has_a_target(secure: bool) -> None:
    """For each pin, in the order of the addresses."""
    followed = Followed(pins=2)
    server: ServerAddress = followed.server if secure else UnencryptedAddress(HOME, (STANDBY,))
    assert list(server.addresses) == [HOME, STANDBY]
    assert server.address == HOME
    own = followed.server.own_keys
    assert list(server.targets()) == (
        [SecuredAddress(address, own, pin) for address in (HOME, STANDBY) for pin in followed.pins]
        if secure
        else [UnencryptedAddress(HOME), UnencryptedAddress(STANDBY)]
    )


def test_an_address_that_is_configured_no_more_is_not_used() -> None:
    """What was learnt of it goes with it."""
    addresses = [HOME, STANDBY]
    own, pins = new_pair(), [new_pair().public]
    link = Link(FollowedAddress(addresses, lambda: own, lambda: pins), lambda _: "CURVE")
    link.next_target()
    assert link.step(0.0) is Step.KEEP
    assert link.step(PATIENCE_S) is Step.RECONNECT
    assert link.next_target().address == STANDBY
    addresses.remove(STANDBY)
    assert link.step(PATIENCE_S) is Step.RECONNECT
    assert link.next_target().address == HOME
