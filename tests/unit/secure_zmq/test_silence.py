"""What connections show about a silent peer: which rule applies, and what is not claimed."""

import pytest

from twinhost.secure_zmq.descriptors import TcpAnswers
from twinhost.secure_zmq.silence import TIMED_OUT_S, Silence, known_since, of_closed, of_open, reconnecting

pytestmark = pytest.mark.sdt_security

QUIET = TcpAnswers(0, 11_000, 10_990)  # it acknowledged the last reply, and nothing was to be acknowledged since
FROZEN = TcpAnswers(0, 15_000, 4_900)  # it acknowledged a keepalive
CUT = TcpAnswers(1, 15_000, 14_990)


@pytest.mark.parametrize(
    ("connections", "shown"),
    [
        ([QUIET], Silence.QUIET),
        ([CUT], Silence.CUT),
        ([FROZEN], Silence.FROZEN),
        ([QUIET, CUT], Silence.CUT),
        ([CUT, FROZEN], Silence.FROZEN),  # an older connection may be dead
        ([TcpAnswers(1, 15_000, 4_900)], Silence.CUT),  # it acknowledged one keepalive, and not the next
    ],
)
def test_open_connections_tell_a_cut_link_from_a_frozen_agent(connections: list[TcpAnswers], shown: Silence) -> None:
    assert of_open(connections) is shown


def test_a_connection_that_ended_soon_was_closed_by_the_peer() -> None:
    """Later, this side may have ended it because of the silence, or another machine at that address has reset it."""
    assert of_closed(5.0) is Silence.ENDED
    assert of_closed(TIMED_OUT_S) is Silence.QUIET


def test_what_was_seen_stays_known_during_one_silence() -> None:
    """Its connection times out meanwhile, or a new one is silent from the start."""
    assert known_since(Silence.FROZEN, None) is Silence.FROZEN
    assert known_since(Silence.CUT, Silence.QUIET) is Silence.CUT
    assert known_since(Silence.QUIET, Silence.FROZEN) is Silence.FROZEN
    assert known_since(Silence.FROZEN, Silence.ENDED) is Silence.ENDED
    assert known_since(None, None) is None


def test_a_peer_that_can_not_be_reached_again_was_cut_off() -> None:
    """Unless it closed the connection before, or there was none."""
    shown = [reconnecting(before) for before in (Silence.ENDED, Silence.QUIET, Silence.FROZEN, None)]
    assert shown == [Silence.ENDED, Silence.CUT, Silence.CUT, None]
