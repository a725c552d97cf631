"""What became of handshakes: every one counted, and no more logged than a budget allows."""

import threading

from structlog.testing import capture_logs

from twinhost.rate_limit import LINES_PER_WINDOW, WINDOW_S, LogBudget
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.peers import Outcome


def test_every_outcome_is_counted_from_the_start() -> None:
    """An operator sees a zero where nothing happened."""
    assert Handshakes().counts() == {outcome.value: 0 for outcome in Outcome}


def test_each_handshake_is_counted_under_its_cause() -> None:
    """Acceptances and each kind of refusal have a number of their own."""
    handshakes = Handshakes()
    handshakes.accepted("agent", "SHA256:x", "127.0.0.1")
    for outcome in Outcome:
        if outcome is not Outcome.ACCEPTED:
            handshakes.refused(outcome)
            handshakes.refused(outcome)
    assert handshakes.counts() == {o.value: 1 if o is Outcome.ACCEPTED else 2 for o in Outcome}


def test_each_is_recorded_once_whichever_thread_does_it() -> None:
    """And the one who asks for it finds its own recorded, even if another thread is doing that."""
    handshakes, recorded, enough = Handshakes(), list[str](), threading.Event()
    handshakes.listen(lambda _, fields: recorded.append(fields["address"]))

    def record() -> None:
        while not enough.is_set():
            handshakes.record()

    others = [threading.Thread(target=record) for _ in range(3)]
    with capture_logs():
        for other in others:
            other.start()
        for number in range(2_000):
            handshakes.accepted("agent", "SHA256:x", str(number))
            handshakes.record()
            assert len(recorded) == number + 1
        enough.set()
        for other in others:
            other.join()
    assert recorded == [str(number) for number in range(2_000)]


def test_an_accepted_key_is_logged_when_it_is_recorded() -> None:
    """Once, and ahead of a refusal that follows: not while its peer waits for the answer."""
    handshakes = Handshakes()
    known = {"peer": "agent", "fingerprint": "SHA256:x", "address": "127.0.0.1"}
    with capture_logs() as lines:
        handshakes.accepted(**known)
        assert lines == []
        handshakes.record()
        handshakes.record()
    assert lines == [{"event": "handshake_accepted", "log_level": "info", **known}]
    with capture_logs() as lines:
        handshakes.accepted(**known)
        handshakes.refused(Outcome.NOT_ZMTP)
    assert [line["event"] for line in lines] == ["handshake_accepted", "handshake_refused"]


def test_a_refusal_is_logged_with_cause_address_and_fingerprint() -> None:
    """The line says who was refused and why."""
    with capture_logs() as lines:
        Handshakes().refused(Outcome.KEY_NOT_AUTHORIZED, address="10.0.0.1", fingerprint="SHA256:x")
    assert lines == [
        {
            "event": "handshake_refused",
            "log_level": "warning",
            "cause": "key_not_authorized",
            "address": "10.0.0.1",
            "fingerprint": "SHA256:x",
        }
    ]


def test_a_stranger_can_not_fill_the_log() -> None:
    """Refusals beyond the budget are counted, and the next window says how many were not logged."""
    now = 1_000.0
    handshakes = Handshakes()
    handshakes._budget = LogBudget(lambda: now)
    with capture_logs() as lines:
        for _ in range(LINES_PER_WINDOW + 450):
            handshakes.refused(Outcome.NOT_ZMTP)
    assert len(lines) == LINES_PER_WINDOW
    assert handshakes.counts()["not_zmtp"] == LINES_PER_WINDOW + 450
    now += WINDOW_S
    with capture_logs() as lines:
        handshakes.refused(Outcome.NOT_ZMTP)
    assert [line["event"] for line in lines] == ["handshake_refused"]
    assert lines[0]["not_logged_before"] == 450


def test_many_refusals_of_one_kind_hide_none_of_another() -> None:
    """A port scan does not keep an unknown key's fingerprint out of the log."""
    handshakes = Handshakes()
    with capture_logs() as lines:
        for _ in range(10 * LINES_PER_WINDOW):
            handshakes.refused(Outcome.NOT_ZMTP)
        handshakes.refused(Outcome.KEY_NOT_AUTHORIZED, fingerprint="SHA256:x")
    assert lines[-1]["fingerprint"] == "SHA256:x"
