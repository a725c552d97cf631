"""Refusals that an operator announced: counted apart, reported as before, and no cover for anybody else."""

from collections.abc import Mapping

import pytest
from structlog.testing import capture_logs

from twinhost.secure_zmq.errors import LimitReached
from twinhost.secure_zmq.handshakes import MAX_ATTEMPTS, WINDOW_S, Handshakes, Probes
from twinhost.secure_zmq.peers import Outcome

OPERATOR, OWN, HERE, ELSEWHERE = "operator", "SHA256:own", "10.0.0.1", "10.0.0.66"
PROBE, OTHER = "SHA256:probe", "SHA256:other"
KEYLESS = [Outcome.WRONG_KEYS, Outcome.MECHANISM_MISMATCH, Outcome.BROKEN_OFF]


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """Handshakes with a clock, and all that their listeners are notified of."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.handshakes = Handshakes()
        self.handshakes._probes = Probes(self.clock)
        self.recorded: list[tuple[Outcome, Mapping[str, str]]] = []
        self.handshakes.accepted(OPERATOR, OWN, HERE)
        self.handshakes.record()
        self.handshakes.listen(lambda outcome, fields: self.recorded.append((outcome, dict(fields))))

    def announce(self, attempts: int = MAX_ATTEMPTS) -> None:
        self.handshakes.announce_probes(OPERATOR, OWN, [PROBE], attempts)

    def counted(self, outcome: Outcome, **fields: str) -> Outcome:
        """Return what a refusal is counted under."""
        before = self.handshakes.counts()
        self.handshakes.refused(outcome, **fields)
        (changed,) = [name for name, count in self.handshakes.counts().items() if count != before[name]]
        return Outcome(changed)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_what_was_announced_is_counted_apart(watched: Watched) -> None:
    """A key by its fingerprint, whatever its address; what shows no key by the announcer's address."""
    watched.announce()
    shown = {"fingerprint": PROBE, "address": ELSEWHERE}
    assert watched.counted(Outcome.KEY_NOT_AUTHORIZED, **shown) is Outcome.ANNOUNCED_PROBE
    for outcome in KEYLESS:
        assert watched.counted(outcome, address=HERE) is Outcome.ANNOUNCED_PROBE
        assert watched.counted(outcome) is Outcome.ANNOUNCED_PROBE  # its address is not known


def test_without_an_announcement_everything_is_a_refusal(watched: Watched) -> None:
    for outcome in KEYLESS:
        assert watched.counted(outcome, address=HERE) is outcome
    assert watched.counted(Outcome.KEY_NOT_AUTHORIZED, fingerprint=PROBE, address=HERE) is Outcome.KEY_NOT_AUTHORIZED


def test_nobody_elses_refusal_is_a_probe(watched: Watched) -> None:
    """Another key, another address, and every cause that no probe provokes."""
    watched.announce()
    refused = Outcome.KEY_NOT_AUTHORIZED
    assert watched.counted(refused, fingerprint=OTHER, address=HERE) is refused
    assert watched.counted(refused, reason="not a CURVE request of this domain") is refused
    never = set(Outcome) - {Outcome.ACCEPTED, refused, Outcome.ANNOUNCED_PROBE, *KEYLESS}
    assert {Outcome.KEY_REVOKED, Outcome.TIMED_OUT, Outcome.HANDLER_FAULT} < never
    for outcome in never:
        assert watched.counted(outcome, fingerprint=PROBE, address=HERE) is outcome
    for outcome in KEYLESS:
        assert watched.counted(outcome, address=ELSEWHERE) is outcome


def test_no_more_are_counted_apart_than_announced(watched: Watched) -> None:
    """Whoever takes one of them leaves one of the announcer's among the refusals; a claim too many is cut."""
    watched.announce(2)
    counted = [watched.counted(Outcome.BROKEN_OFF, address=HERE) for _ in range(4)]
    assert counted == [Outcome.ANNOUNCED_PROBE] * 2 + [Outcome.BROKEN_OFF] * 2
    watched.announce(10_000)
    counted = [watched.counted(Outcome.BROKEN_OFF, address=HERE) for _ in range(MAX_ATTEMPTS + 1)]
    assert counted == [Outcome.ANNOUNCED_PROBE] * MAX_ATTEMPTS + [Outcome.BROKEN_OFF]


def test_announcements_do_not_add_up(watched: Watched) -> None:
    """A new one takes the last one's place."""
    watched.announce(2)
    watched.announce(2)
    counted = [watched.counted(Outcome.WRONG_KEYS, address=HERE) for _ in range(3)]
    assert counted == [Outcome.ANNOUNCED_PROBE] * 2 + [Outcome.WRONG_KEYS]


def test_an_announcement_ends(watched: Watched) -> None:
    watched.announce()
    watched.clock.now += WINDOW_S
    assert watched.counted(Outcome.BROKEN_OFF, address=HERE) is Outcome.BROKEN_OFF
    assert watched.counted(Outcome.KEY_NOT_AUTHORIZED, fingerprint=PROBE) is Outcome.KEY_NOT_AUTHORIZED


def test_announcements_are_bounded_by_the_hour(watched: Watched) -> None:
    """A stolen operator's key can't count everything apart."""
    for _ in range(60):
        watched.announce()
    with pytest.raises(LimitReached, match="60 probes were announced within an hour"):
        watched.announce()
    watched.clock.now += 3_600.0
    watched.announce()


def test_a_probe_is_logged_and_reported_under_its_cause(watched: Watched) -> None:
    """The line is the one of any refusal, and names who announced it; so does the announcement have its own."""
    watched.handshakes.record()
    watched.handshakes.log_accepted()
    with capture_logs() as lines:
        watched.announce()
        watched.handshakes.refused(Outcome.KEY_NOT_AUTHORIZED, fingerprint=PROBE, address=HERE)
    shown = {"fingerprint": PROBE, "address": HERE, "probe_by": OPERATOR}
    assert watched.recorded == [
        (Outcome.ANNOUNCED_PROBE, {"peer": OPERATOR, "fingerprint": OWN, "attempts": str(MAX_ATTEMPTS)}),
        (Outcome.KEY_NOT_AUTHORIZED, shown),
    ]
    assert [line["event"] for line in lines] == ["probes_announced", "handshake_refused"]
    assert lines[1] == {"event": "handshake_refused", "log_level": "warning", "cause": "key_not_authorized", **shown}
