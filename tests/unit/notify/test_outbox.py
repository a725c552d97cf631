"""The outbox: a message is kept with what it tells, waits for each destination, and is tried again later and later."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from twinhost.notify.outbox import KEPT_S, MIGRATIONS, MOST_RETRY_S, Outbox
from twinhost.notify.rules import Memory, Message, News
from twinhost.store.database import Database

NOW = 1_000_000.0
TOLD = News("began", "disk_full:mainpc", "disk_full", "broken", "mainpc's disk is full", 1.0)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "notify.db", MIGRATIONS)
    yield database
    database.close()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


def message(title: str = "mainpc's disk is full") -> Message:
    return Message("broken", title, "", "2026-05-01T12:00:00.000+00:00", [TOLD])


def test_a_message_waits_for_each_destination(outbox: Outbox) -> None:
    """Under one id, by which who gets it twice knows it."""
    outbox.keep(Memory(told={TOLD.id: TOLD}), message(), ["phone", "mail"], NOW)
    phone, mail = outbox.due("phone", NOW), outbox.due("mail", NOW)
    assert phone is not None
    assert mail is not None
    assert phone.message_id == mail.message_id
    outbox.delivered(phone)
    assert outbox.due("phone", NOW) is None
    assert outbox.due("mail", NOW) == mail
    assert outbox.memory() == Memory(told={TOLD.id: TOLD})


def test_what_can_not_be_written_is_delivered_once(outbox: Outbox, database: Database) -> None:
    """And written with the next change once it can be: what is delivered by then does not come back."""
    outbox.keep(Memory(), message("before"), ["phone"], NOW)
    database.execute("CREATE TRIGGER full BEFORE INSERT ON memory BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    outbox.keep(Memory(told={TOLD.id: TOLD}), message("first"), ["phone"], NOW)
    outbox.keep(Memory(told={TOLD.id: TOLD}), message("second"), ["phone"], NOW)
    for title in (b"before", b"first"):
        letter = outbox.due("phone", NOW)
        assert letter is not None
        assert title in letter.message
        outbox.delivered(letter)
    assert outbox.fault is not None
    assert Outbox(database).memory() == Memory()
    database.execute("DROP TRIGGER full")
    outbox.keep(Memory(told={TOLD.id: TOLD}), None, ["phone"], NOW)
    assert outbox.fault is None
    again = Outbox(database)
    assert again.memory() == Memory(told={TOLD.id: TOLD})
    letter = again.due("phone", NOW)
    assert letter is not None
    assert b"second" in letter.message
    again.delivered(letter)
    assert Outbox(database).due("phone", NOW) is None


def test_a_failed_message_waits_longer_each_time(outbox: Outbox, database: Database) -> None:
    """At most a quarter of an hour, in its order, and also if the clock is set back."""
    outbox.keep(Memory(), message("first"), ["phone"], NOW)
    outbox.keep(Memory(), message("second"), ["phone"], NOW)
    assert outbox.waits_since("phone") is None, "it was not tried yet"
    now, waits = NOW, []
    for _ in range(12):
        letter = outbox.due("phone", now)
        assert letter is not None
        assert b"first" in letter.message
        waits.append(outbox.failed(letter, now))
        assert outbox.due("phone", now + waits[-1] - 0.1) is None
        now += waits[-1]
        assert Outbox(database).due("phone", now - 0.1) is None, "nor after a restart"
    assert waits[:3] == [2.0, 4.0, 8.0]
    assert waits[-1] == MOST_RETRY_S
    assert outbox.waits_since("phone") == NOW
    letter = outbox.due("phone", now)
    assert letter is not None
    outbox.failed(letter, now)
    assert outbox.due("phone", now - 7_200) is not None


def test_messages_of_a_removed_destination_are_dropped(outbox: Outbox) -> None:
    """And those that nobody took for a week."""
    outbox.keep(Memory(), message(), ["phone", "mail"], NOW)
    outbox.drop(["phone"], NOW + 1)
    assert outbox.due("mail", NOW) is None
    assert outbox.due("phone", NOW) is not None
    letter = outbox.due("phone", NOW)
    assert letter is not None
    outbox.drop(["phone"], NOW + KEPT_S + 1)
    assert outbox.due("phone", NOW) is None
    outbox.failed(letter, NOW)
    assert outbox.waits_since("phone") is None, "it does not come back"


def test_nothing_is_written_while_nothing_changes(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked twice a second."""
    outbox.keep(Memory(told={TOLD.id: TOLD}), None, [], NOW)
    written: list[object] = []
    monkeypatch.setattr(Outbox, "_write", written.append)
    outbox.keep(Memory(told={TOLD.id: TOLD}), None, [], NOW)
    assert written == []
