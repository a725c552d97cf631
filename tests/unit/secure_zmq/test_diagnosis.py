"""From a client's monitor events to the one error that names the cause."""

import errno
import threading

import pytest

from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    NotAuthorized,
    SecurityMismatch,
    ServerUnreachable,
    WrongServerKey,
)
from twinhost.secure_zmq.link import BROKEN_OFF_BEFORE_VERDICT, Diagnosis, wrong_server_key
from twinhost.secure_zmq.monitor import EventKind, SocketEvent

ADDRESS = "tcp://mainpc:7120"
OWN, PIN = "SHA256:own", "SHA256:pin"


def event(kind: EventKind, value: int = 0) -> SocketEvent:
    return SocketEvent(kind, value, ADDRESS)


CONNECTED = event(EventKind.CONNECTED)
SUCCEEDED = event(EventKind.SUCCEEDED)
LOST = event(EventKind.DISCONNECTED)
HUNG_UP = event(EventKind.BROKEN_OFF, errno.EPIPE)
MUTE = event(EventKind.BROKEN_OFF, errno.EAGAIN)
ZAP_300 = event(EventKind.REFUSED, 300)
ZAP_400 = event(EventKind.REFUSED, 400)
ZAP_500 = event(EventKind.REFUSED, 500)
MISMATCH = event(EventKind.MECHANISM_MISMATCH)
WRONG_KEYS = event(EventKind.WRONG_KEYS)
NOT_ZMTP = event(EventKind.NOT_ZMTP)
ENOUGH = BROKEN_OFF_BEFORE_VERDICT
ENDED = "the other side ends every handshake"
NO_REASON = (
    f"{ENDED} and gives no reason (the agent is stopped, or starting, behind a port forward; or its ZAP handler has "
    "failed)"
)
NOT_GREETED = (
    f"{ENDED} before it has sent a greeting (the agent is stopped, or starting, behind a port forward; or another "
    "program listens on that port)"
)
GREETED = f"{ENDED} (its key is not the pinned one, or the agent's ZAP handler has failed)"
MUTE_OR_FAULTY = (
    "the TCP connection was made but no handshake followed "
    "(another program listens on that port, or the agent's ZAP handler has failed)"
)


def secured(*events: SocketEvent, greeting: str | None = "CURVE") -> Diagnosis:
    diagnosis = Diagnosis(ADDRESS, OWN, PIN, lambda address: greeting if address == ADDRESS else "another address")
    for each in events:
        diagnosis.feed(each)
    return diagnosis


def unencrypted(*events: SocketEvent, greeting: str | None = "CURVE") -> Diagnosis:
    diagnosis = Diagnosis(ADDRESS, None, None, lambda address: greeting if address == ADDRESS else "another address")
    for each in events:
        diagnosis.feed(each)
    return diagnosis


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([CONNECTED, ZAP_400], NotAuthorized),
        ([CONNECTED, SUCCEEDED, LOST, CONNECTED, ZAP_400], NotAuthorized),
        ([CONNECTED, MISMATCH], SecurityMismatch),
        ([CONNECTED, NOT_ZMTP], SecurityMismatch),
        ([CONNECTED, WRONG_KEYS], WrongServerKey),
        ([CONNECTED, HUNG_UP] * ENOUGH, WrongServerKey),
        ([CONNECTED, SUCCEEDED, LOST] + [CONNECTED, HUNG_UP] * ENOUGH, WrongServerKey),
        ([CONNECTED, HUNG_UP, LOST] * ENOUGH, WrongServerKey),
    ],
)
def test_a_sequence_of_events_has_its_verdict(events: list[SocketEvent], kind: type[ConnectionRefused]) -> None:
    """What further waiting would not change is an error at once."""
    assert type(secured(*events).verdict()) is kind


@pytest.mark.parametrize(
    "events",
    [
        [],
        [CONNECTED, SUCCEEDED],
        [CONNECTED, SUCCEEDED, LOST],
        [CONNECTED, HUNG_UP] * (ENOUGH - 1),
        ([CONNECTED, HUNG_UP] * (ENOUGH - 1) + [CONNECTED, SUCCEEDED, LOST]) * 3,
        [CONNECTED, MUTE] * 100,
        [CONNECTED, ZAP_300] * 100,
    ],
)
def test_what_may_still_turn_out_well_has_no_verdict(events: list[SocketEvent]) -> None:
    """A server that restarts, is mute, or had one fault, is waited for until the deadline: no event is a last straw."""
    diagnosis = secured()
    for number, each in enumerate(events):
        diagnosis.feed(each)
        assert diagnosis.verdict() is None, f"after {number + 1} events"


def test_a_session_overrules_a_verdict() -> None:
    """What came about is no longer impossible."""
    assert secured(ZAP_400, CONNECTED, SUCCEEDED).verdict() is None


def test_a_refused_key_is_named_with_what_to_do() -> None:
    """The owner of the server can be given the key to add."""
    sentence = str(secured(ZAP_400).verdict())
    assert ADDRESS in sentence
    assert OWN in sentence
    assert sentence.endswith("; compare it on mainpc: ./twinhost keys list")


def test_a_wrong_pin_is_only_most_likely() -> None:
    """A fault of the server's ZAP handler looks the same from here, and the sentence says so."""
    sentence = str(secured(*[CONNECTED, HUNG_UP] * ENOUGH).verdict())
    assert f"ended {ENOUGH} handshakes" in sentence
    assert f"most likely its key is not the pinned {PIN}" in sentence
    assert "a failed ZAP handler there looks the same" in sentence


def test_an_open_server_that_hangs_up_is_a_mismatch() -> None:
    """The server's greeting distinguishes an open server from a wrong pin."""
    hung_up = [CONNECTED, HUNG_UP] * ENOUGH
    assert type(secured(*hung_up, greeting="NULL").verdict()) is SecurityMismatch
    assert type(secured(*hung_up, greeting="CURVE").verdict()) is WrongServerKey


def greeted(*greetings: str | None) -> tuple[Diagnosis, list[str]]:
    """Return the diagnosis of a server that greets like this whenever it is asked, and the addresses asked so far."""
    coming, asked = iter(greetings), list[str]()

    def ask(address: str) -> str | None:
        asked.append(address)
        return next(coming)

    return Diagnosis(ADDRESS, OWN, PIN, ask), asked


def test_a_server_that_does_not_greet_is_waited_for() -> None:
    """One that is away behind a port proxy hangs up too, however often."""
    hung_up = [CONNECTED, HUNG_UP] * ENOUGH
    assert secured(*hung_up * 5, greeting=None).verdict() is None
    assert unencrypted(*hung_up * 5, greeting=None).verdict() is None


@pytest.mark.parametrize("away", range(1, ENOUGH + 3))
def test_breaks_before_a_server_returned_are_not_counted(away: int) -> None:
    """It may have come back between the last of them and its greeting; from then on, each counts."""
    diagnosis, _ = greeted(*[None] * away, *["CURVE"] * ENOUGH)
    for each in [CONNECTED, HUNG_UP] * (1 + away + ENOUGH):
        diagnosis.feed(each)
        assert diagnosis.verdict() is None
    diagnosis.feed(CONNECTED)
    diagnosis.feed(HUNG_UP)
    assert type(diagnosis.verdict()) is WrongServerKey


def test_the_greeting_is_asked_for_only_before_a_verdict() -> None:
    """A server that restarts is not asked, and one that hangs up for ever is asked twice: it was there all along."""
    diagnosis, asked = greeted("CURVE", "CURVE")
    for each in [CONNECTED, HUNG_UP] * (ENOUGH - 2) + [CONNECTED, SUCCEEDED, LOST]:
        diagnosis.feed(each)
    assert asked == []
    for each in [CONNECTED, HUNG_UP] * (ENOUGH + 5):
        diagnosis.feed(each)
    assert asked == [ADDRESS, ADDRESS]
    assert type(diagnosis.verdict()) is WrongServerKey


def test_a_client_with_a_second_pin_needs_one_handshake() -> None:
    """How many are enough is asked for at each one: a next key may become known while the connection is there."""
    enough = ENOUGH
    diagnosis = Diagnosis(ADDRESS, OWN, PIN, lambda _: "CURVE", lambda: enough)
    diagnosis.feed(HUNG_UP)
    assert diagnosis.verdict() is None
    for each in (CONNECTED, SUCCEEDED, LOST):
        diagnosis.feed(each)
    enough = 1
    diagnosis.feed(MUTE)
    assert diagnosis.verdict() is None
    diagnosis.feed(HUNG_UP)
    assert type(diagnosis.verdict()) is WrongServerKey
    assert diagnosis.broken_off == 1


@pytest.mark.parametrize(("greeting", "kind"), [(None, type(None)), ("NULL", SecurityMismatch)])
def test_one_handshake_is_no_verdict_without_the_greeting(greeting: str | None, kind: type) -> None:
    """A server that is stopping or open is distinguished from a wrong key, however few handshakes are enough."""
    diagnosis = Diagnosis(ADDRESS, OWN, PIN, lambda _: greeting, lambda: 1)
    diagnosis.feed(HUNG_UP)
    assert type(diagnosis.verdict()) is kind


def test_several_wrong_pins_are_all_named() -> None:
    """Whoever reads the error can compare each with the server's own."""
    sentence = str(wrong_server_key(ADDRESS, 6, "SHA256:one", "SHA256:two"))
    assert "ended 6 handshakes and gave no reason" in sentence
    assert "not the pinned SHA256:one or SHA256:two" in sentence
    assert sentence.endswith("after a rotation, a profile gets the new key by: twinhost join --refresh")


def test_no_connection_has_no_verdict() -> None:
    """What a client holds before its first connection."""
    assert not Diagnosis.blank().connected
    assert Diagnosis.blank().verdict() is None


def test_a_mismatch_says_which_side_is_encrypted() -> None:
    """Each side of a link that is half secured reads what the other one is."""
    assert "is not encrypted and this client uses CURVE" in str(secured(MISMATCH).verdict())
    assert "requires CURVE and this client is not encrypted" in str(unencrypted(MISMATCH).verdict())


def test_an_unencrypted_client_has_no_wrong_key() -> None:
    """A plain client that is hung up on met an encrypted server: there is no pin that could be wrong."""
    assert type(unencrypted(*[CONNECTED, HUNG_UP] * ENOUGH).verdict()) is SecurityMismatch
    assert unencrypted(*[CONNECTED, HUNG_UP] * ENOUGH, greeting="NULL").verdict() is None
    assert "key" not in unencrypted(*[CONNECTED, HUNG_UP] * ENOUGH, greeting="NULL").last_seen
    assert type(unencrypted(WRONG_KEYS).verdict()) is SecurityMismatch


@pytest.mark.parametrize(
    ("events", "greeting", "last"),
    [
        ([], None, "nothing answered at that address"),
        ([CONNECTED], None, MUTE_OR_FAULTY),
        ([CONNECTED, MUTE], None, MUTE_OR_FAULTY),
        ([CONNECTED, HUNG_UP], "CURVE", NO_REASON),
        ([CONNECTED, HUNG_UP, CONNECTED, HUNG_UP], "CURVE", GREETED),
        ([CONNECTED, HUNG_UP, CONNECTED, MUTE], "CURVE", MUTE_OR_FAULTY),
        ([CONNECTED, SUCCEEDED], "CURVE", "it received the request and did not reply"),
        ([CONNECTED, SUCCEEDED, LOST], None, "the connection was lost"),
        ([CONNECTED, SUCCEEDED, LOST, CONNECTED, HUNG_UP], None, NO_REASON),
        ([CONNECTED, SUCCEEDED, LOST, *[CONNECTED, HUNG_UP, LOST] * 9, CONNECTED], None, NOT_GREETED),
    ],
)
def test_a_deadline_says_how_far_it_came(events: list[SocketEvent], greeting: str | None, last: str) -> None:
    """A time-out is never bare: it names the address, the action, the time, and the last thing seen.

    It blames the pinned key only where a greeting came: who accepts and hangs up may be a port forward.
    """
    error = secured(*events, greeting=greeting).timed_out("ping", 5.0004)
    assert type(error) is ServerUnreachable
    assert str(error) == (
        f"no reply to ping from {ADDRESS} within 5 s: {last}; check that the agent runs (on its machine: docker "
        "compose ps) and that its address is right (network_config.yaml; of a profile: twinhost join --refresh)"
    )


def test_each_session_has_a_number() -> None:
    """A client sees that a session is not the one that it sent its request in."""
    assert secured().generation == 0
    assert secured(CONNECTED, SUCCEEDED).generation == 1
    assert secured(CONNECTED, SUCCEEDED, LOST, CONNECTED, SUCCEEDED).generation == 2


def test_a_session_ends_with_its_connection() -> None:
    """`connected` follows the handshake and the loss."""
    assert not secured(CONNECTED).connected
    assert secured(CONNECTED, SUCCEEDED).connected
    assert not secured(CONNECTED, SUCCEEDED, LOST).connected


@pytest.mark.parametrize(("last", "settled"), [(SUCCEEDED, True), (ZAP_400, False)])
def test_who_waits_is_woken_by_a_session_and_by_a_verdict(last: SocketEvent, settled: bool) -> None:
    """Waiting ends with the event and not with the time-out."""
    diagnosis = secured(CONNECTED)
    results: list[bool] = []
    waiter = threading.Thread(target=lambda: results.append(diagnosis.wait_until_settled(60)))
    waiter.start()
    diagnosis.feed(last)
    waiter.join(timeout=10)
    assert results == [settled]


def test_waiting_without_an_event_ends() -> None:
    """A wait has its own limit."""
    assert not secured(CONNECTED).wait_until_settled(0.01)
