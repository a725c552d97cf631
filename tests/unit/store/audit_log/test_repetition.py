"""What repeats is counted: a stranger fills no disk, and hides nobody else's line."""

from pathlib import Path

from tests.unit.store.audit_log.books import Clock, check, opened, records
from twinhost.store.audit_log.chain import (
    AGGREGATED,
    DAY_S,
    HOUR_S,
    LINES_PER_DAY,
    MAX_KINDS,
    MINUTE_S,
    WRITTEN_PER_MINUTE,
    AuditEvent,
    Repetition,
)


def test_a_flood_of_100_000_refusals_makes_21_lines(tmp_path: Path) -> None:
    """Twenty one by one, and one with the count, its times and a few addresses; others' lines are among them."""
    clock = Clock()
    with opened(tmp_path, clock=clock) as (_, log):
        for number in range(100_000):
            log.note(
                AuditEvent.HANDSHAKE_REFUSED,
                cause="key_not_authorized",
                address=f"10.0.{number % 256}.7",
                fingerprint=f"{number:064x}",
            )
            if number == 50_000:
                log.note(AuditEvent.KEY_REVOKED, name="rare")
                log.note(AuditEvent.HANDSHAKE_REFUSED, cause="oversized_handshake", address="10.9.9.9")
            if number % 10_000 == 0:
                log.flush()
        log.flush()
        assert len(records(log)) == 22
        clock.now += MINUTE_S
        log.flush()
        lines = records(log)
        assert [line["event"] for line in lines].count("handshake_refused") == 21
        assert [line["name"] for line in lines if line["event"] == "key_revoked"] == ["rare"]
        last = lines[-1]
        assert (last["event"], last["of"], last["cause"]) == ("repeated", "handshake_refused", "key_not_authorized")
        assert last["count"] == 100_000 - WRITTEN_PER_MINUTE
        assert last["first"] <= last["last"]
        assert last["addresses"] == [f"10.0.{number}.7" for number in range(20, 25)]
        assert check(log).whole


def test_a_kind_takes_at_most_550_lines_a_day() -> None:
    """At every speed; and no event goes uncounted."""
    for gap_s in (0.5, 2.9, 3.1, 30.0, 61.0):
        clock = Clock()
        repetition = Repetition(clock)
        came = written = counted = lines = 0
        while clock.now < 1_000.0 + DAY_S:
            came += 1
            written += repetition.admit(AuditEvent.HANDSHAKE_REFUSED, {"cause": "x"}, clock.now)
            over = repetition.finished()
            lines += len(over)
            counted += sum(int(str(line["count"])) for line in over)
            clock.now += gap_s
        over = repetition.finished(everything=True)
        counted += sum(int(str(line["count"])) for line in over)
        assert written + lines + len(over) <= LINES_PER_DAY == 550
        assert written + counted == came


def test_a_new_minute_is_written_until_the_days_share_is_used() -> None:
    """A short burst costs nobody the next minute; a long one shows once an hour."""
    clock = Clock()
    repetition = Repetition(clock)

    def burst() -> int:
        return sum(repetition.admit(AuditEvent.HANDSHAKE_REFUSED, {"cause": "x"}, 1.0) for _ in range(30))

    for _ in range(25):
        assert burst() == WRITTEN_PER_MINUTE
        clock.now += MINUTE_S
    assert len(repetition.finished()) == 25
    assert burst() == 0
    clock.now += MINUTE_S
    assert repetition.finished() == []
    clock.now += HOUR_S
    assert [line["count"] for line in repetition.finished()] == [30]
    clock.now += DAY_S
    assert burst() == WRITTEN_PER_MINUTE


def test_finished_windows_are_looked_for_once_a_second() -> None:
    """A tick comes five times a second, and there may be a thousand windows; none is missed."""
    clock = Clock()
    repetition = Repetition(clock)
    for _ in range(WRITTEN_PER_MINUTE + 1):
        repetition.admit(AuditEvent.HANDSHAKE_REFUSED, {"cause": "x"}, 1.0)
    found = []
    for passed_s in (MINUTE_S - 0.5, 0.7, 0.7, 0.7):  # the window ends before the second look, which comes too soon
        clock.now += passed_s
        found.append(len(repetition.finished()))
    assert found == [0, 0, 1, 0]


def test_kinds_do_not_share() -> None:
    """By event, cause or code, and peer: one peer's many requests take no line from another's."""
    repetition = Repetition(Clock())
    for _ in range(1_000):
        repetition.admit(AuditEvent.HANDSHAKE_ACCEPTED, {"peer": "noisy", "address": "1.1.1.1"}, 1.0)
    assert repetition.admit(AuditEvent.HANDSHAKE_ACCEPTED, {"peer": "quiet", "address": "1.1.1.1"}, 1.0)
    assert repetition.admit(AuditEvent.REQUEST_REFUSED, {"peer": "noisy", "code": "not_granted"}, 1.0)
    assert repetition.admit(AuditEvent.REQUEST_REFUSED, {"peer": "noisy", "code": "malformed_request"}, 1.0)


def test_a_sentence_makes_no_kind() -> None:
    """What a caller can vary as it likes, the action's name in a refusal's sentence, is not counted apart."""
    repetition = Repetition(Clock())
    refused = [{"code": "unknown_action", "peer": "b", "cause": f"no action x{number}"} for number in range(100)]
    assert sum(repetition.admit(AuditEvent.REQUEST_REFUSED, fields, 1.0) for fields in refused) == WRITTEN_PER_MINUTE


def test_kinds_that_a_stranger_could_invent_are_bounded() -> None:
    """Beyond a thousand they are one kind, so neither memory nor the log grows with them."""
    repetition = Repetition(Clock())
    written = sum(
        repetition.admit(AuditEvent.ENROLMENT_REFUSED, {"cause": f"cause {number}"}, 1.0) for number in range(10_000)
    )
    assert written == MAX_KINDS + WRITTEN_PER_MINUTE
    (line,) = repetition.finished(everything=True)
    assert (line["cause"], line["count"]) == ("others", 10_000 - written)


def test_what_changes_a_key_is_never_folded(tmp_path: Path) -> None:
    """A thousand keys that are authorised in a minute are a thousand lines."""
    assert not {event for event in AGGREGATED if event.startswith("key_") and event != AuditEvent.KEY_FILE_REJECTED}
    with opened(tmp_path) as (_, log):
        for number in range(1_000):
            log.note(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}")
        log.flush()
        assert len(records(log)) == 1_000


def test_a_stop_writes_what_was_counted(tmp_path: Path) -> None:
    """The minute under way is not lost."""
    with opened(tmp_path) as (_, log):
        for _ in range(50):
            log.record(AuditEvent.REQUEST_REFUSED, code="not_granted", peer="b")
        log.close()
        assert [line["count"] for line in records(log) if line["event"] == "repeated"] == [30]


def test_notes_beyond_the_queue_are_counted_and_said(tmp_path: Path) -> None:
    """A queue that is full loses a note and not the fact that it did."""
    with opened(tmp_path) as (_, log):
        for number in range(10_007):
            log.note(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}")
        for _ in range(10):
            log.flush()
        lines = records(log)
        assert len(lines) == 10_001
        assert [line["count"] for line in lines if line["event"] == "notes_lost"] == [7]
        assert check(log).whole
