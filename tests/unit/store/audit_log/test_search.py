"""The search of the log: every line once, newest first, wherever a read or an answer ends."""

import itertools
import random
from pathlib import Path

import pytest

from twinhost.store.audit_log import search
from twinhost.store.audit_log.chain import NO_HASH, AuditEvent, Fields, Head, hash_of, iso, make_line
from twinhost.store.audit_log.files import LogFiles
from twinhost.store.audit_log.search import Found, Wanted, newest

pytestmark = pytest.mark.sdt_security

HOUR_S = 3_600.0
BEGAN = 1_700_000_000.0
EVENTS: list[tuple[AuditEvent, Fields]] = [
    (AuditEvent.STARTED, {"secure": True}),
    (AuditEvent.KEY_AUTHORIZED, {"name": "planner", "host": "pc3", "fingerprint": "SHA256:abc"}),
    (AuditEvent.HANDSHAKE_REFUSED, {"cause": "key_revoked", "peer": "Planner-2", "address": "10.0.0.7"}),
    (AuditEvent.REPEATED, {"of": "handshake_refused", "count": 7, "addresses": ["10.0.0.8", "10.0.0.9"]}),
    (AuditEvent.KEY_REVOKED, {"name": "größe"}),
]


@pytest.fixture
def log(tmp_path: Path) -> LogFiles:
    """A log of two files, with a line each hour."""
    log, head, lines = LogFiles(tmp_path), Head(0, NO_HASH), []
    for number, (event, fields) in enumerate(EVENTS):
        lines.append(make_line(head, iso(BEGAN + number * HOUR_S), event, fields))
        head = Head(head.seq + 1, hash_of(lines[-1]))
    log.append(1, b"".join(line + b"\n" for line in lines[:3]))
    log.append(4, b"".join(line + b"\n" for line in lines[3:]))
    return log


ANY = Wanted()


def all_of(log: LogFiles, wanted: Wanted = ANY, limit: int = 25) -> list[Found]:
    """Return what one answer after the other has, until the oldest line is reached."""
    found, before = list[Found](), None
    for _ in range(1_000):
        result = newest(log, wanted, limit, before)
        assert len(result.lines) <= limit
        found += result.lines
        if result.next_before is None:
            return found
        before = result.next_before
    raise AssertionError("it does not end")


def numbers(found: list[Found]) -> list[int]:
    return [line.fields["seq"] for line in found if line.fields]


@pytest.mark.parametrize("limit", [1, 2, 25])
def test_every_line_comes_once_newest_first(log: LogFiles, limit: int) -> None:
    found = all_of(log, limit=limit)
    assert numbers(found) == [5, 4, 3, 2, 1]
    assert all(line.intact for line in found)
    assert newest(log, ANY, 25).reached == iso(BEGAN)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(event=AuditEvent.HANDSHAKE_REFUSED), [3]),
        (Wanted(who="planner"), [3, 2]),
        (Wanted(who="10.0.0"), [4, 3]),
        (Wanted(who="GRÖSSE".replace("SS", "ß")), [5]),
        (Wanted(who="name"), []),
        (Wanted(since=BEGAN + HOUR_S), [5, 4, 3, 2]),
        (Wanted(until=BEGAN + HOUR_S), [1]),
        (Wanted(who="planner", since=BEGAN + 2 * HOUR_S, until=BEGAN + 3 * HOUR_S), [3]),
    ],
    ids=["event", "who", "address, also of a list", "case", "a field's name", "since", "until", "all"],
)
def test_a_line_is_found_by_what_it_has(log: LogFiles, wanted: Wanted, expected: list[int]) -> None:
    assert numbers(all_of(log, wanted)) == expected


def test_what_was_changed_is_shown_as_it_lies(log: LogFiles) -> None:
    """A line whose hash does not fit, and what is no line, long or short."""
    text = log.path(1).read_bytes().replace(b"10.0.0.7", b"10.0.0.1")
    log.path(1).write_bytes(text + b"nonsense\n" + b"x" * 200_000 + b"\n")
    found = all_of(log)
    assert [line.intact for line in found] == [True, True, False, False, False, True, True]
    assert [(len(line.text), line.fields) for line in found[2:4]] == [(4_096, None), (8, None)]
    assert found[4].fields is not None
    assert found[4].fields["address"] == "10.0.0.1"


def test_a_line_that_is_being_written_is_not_shown(log: LogFiles) -> None:
    with log.path(4).open("ab") as file:
        file.write(b'{"seq":6,"time":"20')
    assert numbers(all_of(log)) == [5, 4, 3, 2, 1]


def test_a_search_ends_after_so_many_bytes_and_goes_on(log: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is told, also where it found nothing."""
    monkeypatch.setattr(search, "MAX_SEARCHED_BYTES", 300)
    monkeypatch.setattr(search, "_READ_BYTES", 300)
    first = newest(log, Wanted(who="nobody"), 25)
    assert (first.lines, first.reached) == ((), iso(BEGAN + 4 * HOUR_S))
    assert first.next_before is not None
    assert numbers(all_of(log)) == [5, 4, 3, 2, 1]


def test_files_that_are_dropped_meanwhile_are_left_out(log: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    files = log.firsts()
    log.drop(1)
    monkeypatch.setattr(LogFiles, "firsts", lambda _: files)
    assert numbers(all_of(log)) == [5, 4]


@pytest.mark.parametrize("position", ["", "1", "1:x", "-1:0", "1:2:3"])
def test_no_other_position_is_taken(log: LogFiles, position: str) -> None:
    with pytest.raises(ValueError, match="Expected a position from an earlier answer"):
        newest(log, ANY, 25, position)


def test_any_files_come_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their lines are, and however long, with reads and answers that end anywhere."""
    chance = random.Random(7)
    monkeypatch.setattr(search, "_READ_BYTES", 50)
    monkeypatch.setattr(search, "_PAUSE_S", 0)
    log = LogFiles(tmp_path)
    for _ in range(300):
        expected: list[str] = []
        for first in (1, 100, 200):
            sizes = [chance.choice([0, 1, 3, 10, 49, 50, 51, 120]) for _ in range(chance.randrange(7))]
            lines = ["".join(chance.choices("abc", k=size)) for size in sizes]
            torn = "z" * chance.choice([0, 0, 1, 49, 50, 130])
            log.path(first).write_text("".join(f"{line}\n" for line in lines) + torn)
            expected += lines
        monkeypatch.setattr(search, "MAX_SEARCHED_BYTES", chance.choice([50, 60, 1_000]))
        found = all_of(log, limit=chance.choice([1, 2, 5]))
        assert [line.text for line in found] == expected[::-1]
        assert all(one.position != other.position for one, other in itertools.pairwise(found))
