"""Stored replies: found again after a restart, and deleted for good when they expire."""

import json
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.older_database import REPLY_LOG_MIGRATIONS
from tests.waiting import PATIENCE_S, wait_until
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.errors import NotFound, TransactionLost
from twinhost.secure_zmq.wire import MAX_REQUEST_ID_CHARACTERS
from twinhost.store import reply_log
from twinhost.store.database import IN_MEMORY, Database
from twinhost.store.reply_log import SCHEMA, ReplyLog, StoredReply

LONG_S = 600.0
CHILDREN = "CREATE TABLE children (reply INTEGER REFERENCES replies (seq) DEFERRABLE INITIALLY DEFERRED) STRICT"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database(path, REPLY_LOG_MIGRATIONS)) as database:
        yield database


def add(database: Database, log: ReplyLog, *request_ids: str, caller: str = "agent") -> None:
    with database.transaction():
        for request_id in request_ids:
            log.add(caller, request_id, b"digest of " + request_id.encode(), b"reply to " + request_id.encode())


def add_each(database: Database, log: ReplyLog, *request_ids: str) -> None:
    """Store each reply in a transaction of its own, so that each has a row of its own."""
    for request_id in request_ids:
        add(database, log, request_id)


def rows(path: Path) -> list[list[str]]:
    """Return the request ids of each row."""
    with closing(sqlite3.connect(path)) as other:
        rows = other.execute("SELECT requests FROM replies ORDER BY seq").fetchall()
    return [[request_id for request_id, _ in json.loads(requests)] for (requests,) in rows]


def test_a_callers_replies_of_one_transaction_are_one_row(database: Database, path: Path) -> None:
    """Of every caller its own row, in the order of its first reply; each reply is found by its place in the row."""
    log = ReplyLog(database, LONG_S, 100)
    with database.transaction():
        for caller, request_id in (("agent", "1"), ("another", "10"), ("agent", "2"), ("agent", "3")):
            log.add(caller, request_id, b"digest of %2d" % int(request_id), b"reply" * int(request_id))
    add(database, log, "4")
    assert rows(path) == [["1", "2", "3"], ["10"], ["4"]]
    for found in (log, ReplyLog(database, LONG_S, 100)):
        assert [found.find("agent", request_id) for request_id in "123"] == [
            StoredReply(b"digest of %2d" % number, b"reply" * number) for number in (1, 2, 3)
        ]
        assert found.find("another", "10") == StoredReply(b"digest of 10", b"reply" * 10)


def test_a_row_ends_at_256_kib(database: Database, path: Path) -> None:
    """So that reading one reply for a retry reads little more than that, and eviction frees no more at once."""
    log = ReplyLog(database, LONG_S, 100)
    with database.transaction():
        for request_id in "12345":
            log.add("agent", request_id, b"digest", request_id.encode() * 131_072)
    assert rows(path) == [["1", "2"], ["3", "4"], ["5"]]
    assert [log.find("agent", id_) == StoredReply(b"digest", id_.encode() * 131_072) for id_ in "12345"] == [True] * 5


def test_replies_of_the_version_before_are_found(path: Path) -> None:
    """In their order, with any id that a client may choose, and those of equal ids of different callers."""
    ids = ["1", 'quoted " and \\', "žluťoučký", "nul \0 in it", "line\nbreak"]
    stored = [(caller, request_id) for request_id in ids for caller in ("agent", "another")]
    with closing(Database(path, [SCHEMA])) as older:
        for seq, (caller, request_id) in enumerate(stored, 3):
            reply = f'{{"to":{json.dumps(request_id)},"of":"{caller}"}}'.encode()
            older.execute(
                "INSERT INTO replies VALUES (?, ?, ?, ?, ?)", (seq, caller, request_id, bytes([seq] * 16), reply)
            )
    for _ in range(2):
        with closing(Database(path, REPLY_LOG_MIGRATIONS)) as database:
            log = ReplyLog(database, LONG_S, 100)
            for seq, (caller, request_id) in enumerate(stored, 3):
                found = log.find(caller, request_id)
                assert found is not None
                assert (found.digest, json.loads(found.reply)) == (bytes([seq] * 16), {"to": request_id, "of": caller})
            assert log.find("agent", "another") is None
            assert rows(path) == [[request_id] for _, request_id in stored]


def test_a_damaged_row_loses_its_own_replies_alone(path: Path) -> None:
    """The agent starts, finds the others, and deletes the row when it expires."""
    with closing(Database(path, REPLY_LOG_MIGRATIONS)) as database:
        log = ReplyLog(database, LONG_S, 100)
        add_each(database, log, "1", "2")
        database.execute("UPDATE replies SET requests = substr(requests, 2) WHERE seq = 1")
        again = ReplyLog(database, 0.0, 100)
        assert again.find("agent", "1") is None
        assert again.find("agent", "2") is not None
        again.forget_old()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM replies").fetchone() == (0,)


def test_a_stored_reply_is_found_for_its_caller_alone(database: Database) -> None:
    """The same id of another caller is another request."""
    log = ReplyLog(database, LONG_S, 100)
    add(database, log, "1")
    assert log.find("agent", "1") == StoredReply(b"digest of 1", b"reply to 1")
    assert log.find("another", "1") is None
    assert log.find("agent", "2") is None


def test_a_reply_is_found_in_the_transaction_that_stores_it(database: Database, path: Path) -> None:
    """Its row comes at the end; a retry in the same batch finds it all the same."""
    log = ReplyLog(database, LONG_S, 100)
    with database.transaction():
        log.add("agent", "1", b"digest", b"reply")
        assert log.find("agent", "1") == StoredReply(b"digest", b"reply")
        assert database.execute("SELECT count(*) FROM replies").fetchone() == (0,)
    assert rows(path) == [["1"]]
    assert log.find("agent", "1") == StoredReply(b"digest", b"reply")


def test_a_reply_whose_savepoint_is_undone_is_not_stored(database: Database, path: Path) -> None:
    """Nor found; the others of the transaction are. A caller all of whose replies are undone has no row."""
    log = ReplyLog(database, LONG_S, 100)

    def failing(caller: str) -> None:
        with database.savepoint():
            log.add(caller, "2", b"digest 2", b"undone")
            raise NotFound("no such agent")

    with database.transaction():
        for caller in ("agent", "another"):
            with pytest.raises(NotFound):
                failing(caller)
        log.add("agent", "1", b"digest 1", b"reply")
        with pytest.raises(NotFound):
            failing("agent")
        assert log.find("agent", "2") is None
        log.add("agent", "3", b"digest 3", b"third")
    assert rows(path) == [["1", "3"]]
    assert [log.find("agent", "1"), log.find("agent", "2"), log.find("agent", "3")] == [
        StoredReply(b"digest 1", b"reply"),
        None,
        StoredReply(b"digest 3", b"third"),
    ]


def test_a_commit_that_fails_stores_no_reply(path: Path) -> None:
    """After the rows were written too: the next transaction has its own alone, and the lost ones take no share."""
    with closing(Database(path, [*REPLY_LOG_MIGRATIONS, CHILDREN])) as database:
        log = ReplyLog(database, LONG_S, 1)

        def failing() -> None:
            with database.transaction():
                log.add("agent", "1", b"digest", b"reply")
                database.execute("INSERT INTO children VALUES (999)")

        with pytest.raises(TransactionLost):
            failing()
        assert (log.find("agent", "1"), len(log)) == (None, 0)
        add(database, log, "2")
        log.forget_old()
        assert rows(path) == [["2"]]


def test_a_stored_reply_survives_a_restart(path: Path) -> None:
    """What was acknowledged before a crash is answered alike after it, and new replies go on in order."""
    with closing(Database(path, REPLY_LOG_MIGRATIONS)) as database:
        add(database, ReplyLog(database, LONG_S, 100), "1", "2")
    with closing(Database(path, REPLY_LOG_MIGRATIONS)) as database:
        log = ReplyLog(database, LONG_S, 100)
        assert len(log) == 2
        add(database, log, "3")
        assert [log.find("agent", id_) for id_ in "123"] == [
            StoredReply(f"digest of {id_}".encode(), f"reply to {id_}".encode()) for id_ in "123"
        ]


def test_a_rolled_back_reply_is_not_kept(database: Database, path: Path) -> None:
    """A reply that nobody was given is not found later."""
    log = ReplyLog(database, LONG_S, 100)

    def failing() -> None:
        with database.transaction():
            log.add("agent", "1", b"", b"")
            raise KeyError("a fault of the program")

    with pytest.raises(KeyError):
        failing()
    assert log.find("agent", "1") is None
    assert (len(log), rows(path)) == (0, [])
    add(database, log, "2", "1")
    assert log.find("agent", "1") == StoredReply(b"digest of 1", b"reply to 1")
    assert rows(path) == [["2", "1"]]


def test_a_reply_is_as_old_as_its_commit(database: Database) -> None:
    """Not as old as an earlier transaction of the same caller, which was rolled back."""
    log = ReplyLog(database, 0.2, 100)

    def failing() -> None:
        with database.transaction():
            log.add("agent", "1", b"", b"")
            raise KeyError("a fault of the program")

    with pytest.raises(KeyError):
        failing()
    failed_at = time.monotonic()
    wait_until(lambda: time.monotonic() > failed_at + 0.2, PATIENCE_S, "a reply of then has expired")
    add(database, log, "1")
    log.forget_old()
    assert log.find("agent", "1") is not None


def test_a_caller_keeps_its_newest_replies(database: Database, path: Path) -> None:
    """The share is per caller, the oldest go first, and their rows are deleted from the file."""
    log = ReplyLog(database, LONG_S, 3)
    add_each(database, log, *"12345")
    add(database, log, "1", caller="another")
    log.forget_old()
    assert [request_id for request_id in "12345" if log.find("agent", request_id)] == ["3", "4", "5"]
    assert log.find("another", "1") is not None
    assert rows(path) == [["3"], ["4"], ["5"], ["1"]]


def test_a_row_is_evicted_once_all_of_it_exceeds_the_limit(database: Database, path: Path) -> None:
    """So a caller keeps at least as many replies as the limit says."""
    log = ReplyLog(database, LONG_S, 3)
    for request_ids in ("12", "34"):
        add(database, log, *request_ids)
        log.forget_old()
    assert rows(path) == [["1", "2"], ["3", "4"]]
    add(database, log, "5")
    log.forget_old()
    assert rows(path) == [["3", "4"], ["5"]]
    assert (len(log), log.find("agent", "2")) == (3, None)


def test_a_callers_replies_take_a_share_of_bytes(path: Path) -> None:
    """The oldest go first, as many as it takes; another caller's stay, and a restart counts the same."""
    with closing(Database(path, REPLY_LOG_MIGRATIONS)) as database:
        log = ReplyLog(database, LONG_S, 100, keep_bytes_per_caller=40)
        add_each(database, log, *"12345")  # 10 bytes each
        add(database, log, "1", caller="another")
        log.forget_old()
        assert rows(path) == [["2"], ["3"], ["4"], ["5"], ["1"]]
    with closing(Database(path, REPLY_LOG_MIGRATIONS)) as database:
        log = ReplyLog(database, LONG_S, 100, keep_bytes_per_caller=40)
        with database.transaction():
            log.add("agent", "6", b"", b"x" * 15)
        log.forget_old()
        assert [request_id for request_id in "23456" if log.find("agent", request_id)] == ["4", "5", "6"]
        assert rows(path) == [["4"], ["5"], ["1"], ["6"]]


def test_a_reply_larger_than_the_share_is_kept_until_the_next(database: Database, path: Path) -> None:
    """Its own retry is answered."""
    log = ReplyLog(database, LONG_S, 100, keep_bytes_per_caller=5)
    for request_id in "12":
        add(database, log, request_id)
        log.forget_old()
        assert rows(path) == [[request_id]]


def test_a_rolled_back_reply_takes_no_bytes(database: Database, path: Path) -> None:
    log = ReplyLog(database, LONG_S, 100, keep_bytes_per_caller=25)
    add(database, log, *"12")

    def failing() -> None:
        with database.transaction():
            log.add("agent", "3", b"", b"x" * 20)
            raise KeyError("a fault of the program")

    with pytest.raises(KeyError):
        failing()
    log.forget_old()
    assert rows(path) == [["1", "2"]]


def test_replies_are_forgotten_after_their_time(database: Database, path: Path) -> None:
    """Past `keep_s`, neither memory nor the file holds them."""
    log = ReplyLog(database, 0.05, 100)
    add(database, log, "1", "2")

    def forgotten() -> bool:
        log.forget_old()
        return len(log) == 0

    wait_until(forgotten, PATIENCE_S, "the replies are forgotten")
    assert log.find("agent", "1") is None
    assert rows(path) == []


def test_replies_within_their_time_are_kept(database: Database, path: Path) -> None:
    """Ten minutes are promised, and a look in between takes nothing."""
    log = ReplyLog(database, LONG_S, 100)
    add(database, log, "1")
    log.forget_old()
    assert log.find("agent", "1") is not None
    assert rows(path) == [["1"]]


def test_a_restart_gives_every_reply_its_whole_time_again(path: Path, database: Database) -> None:
    """Nobody knows how long the agent was away, so nothing is forgotten too early."""
    add(database, ReplyLog(database, LONG_S, 100), "1")
    again = ReplyLog(database, LONG_S, 100)
    again.forget_old()
    assert again.find("agent", "1") is not None


def test_many_old_replies_go_a_portion_at_a_time(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tick is long, and the rest follows with the next ticks."""
    log = ReplyLog(database, LONG_S, 1)
    add_each(database, log, *(str(number) for number in range(50)))
    monkeypatch.setattr(reply_log, "_EVICT_AT_ONCE", 20)
    log.forget_old()
    assert (len(log), len(rows(path))) == (1, 30)
    log.forget_old()
    log.forget_old()
    assert rows(path) == [["49"]]


def test_what_could_not_be_deleted_is_deleted_later(database: Database, path: Path) -> None:
    """A store that fails at the deletion loses nothing and goes on with the next tick."""
    log = ReplyLog(database, LONG_S, 1)
    add_each(database, log, "1", "2")
    database.execute("PRAGMA busy_timeout = 20")
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Exception, match="locked"):
            log.forget_old()
        other.rollback()
    log.forget_old()
    assert rows(path) == [["2"]]


def test_an_id_that_was_forgotten_and_used_again_is_one_reply(path: Path) -> None:
    """The newer reply counts after a restart, although the older one's row was still there; nothing breaks."""
    with closing(Database(path, REPLY_LOG_MIGRATIONS)) as database:
        for seq, reply in ((1, b"older"), (2, b"newer")):
            database.execute("INSERT INTO replies VALUES (?, 'agent', '[[\"1\",5]]', ?, ?)", (seq, reply, reply))
        log = ReplyLog(database, LONG_S, 100)
        assert log.find("agent", "1") == StoredReply(b"newer", b"newer")
        add(database, log, "2")
        short = ReplyLog(database, LONG_S, 1)
        short.forget_old()
        assert short.find("agent", "1") is None
        assert short.find("agent", "2") is not None
    assert rows(path) == [["2"]]


def test_an_agent_of_others_needs_no_migration_of_its_own(path: Path) -> None:
    """Its database has only the first table of replies; what that holds is found, and what is added is too."""
    for expected in (None, "new"):
        with closing(Database(path, [SCHEMA, CHILDREN])) as database:
            if expected is None:
                database.execute("INSERT INTO replies VALUES (1, 'agent', 'old', ?, ?)", (b"digest", b"reply"))
            log = ReplyLog(database, LONG_S, 100)
            assert log.find("agent", "old") == StoredReply(b"digest", b"reply")
            assert (log.find("agent", "new") is None) == (expected is None)
            if expected is None:
                add(database, log, "new")


MOST_MB = 28


@pytest.mark.thorough
def test_the_ids_of_a_caller_take_at_most_28_mb() -> None:
    """As many as the shipped configuration keeps, each as long as it may be, and in a row of its own."""
    kept = load_network_config(DEFAULT_PATH).limits.stored_replies_per_caller
    with closing(Database(IN_MEMORY, REPLY_LOG_MIGRATIONS)) as database:
        log = ReplyLog(database, LONG_S, kept)
        tracemalloc.start()
        try:
            for number in range(kept):
                add(database, log, f"{number:\U0001f600>{MAX_REQUEST_ID_CHARACTERS}}")
            used_mb = tracemalloc.get_traced_memory()[0] / 1e6
        finally:
            tracemalloc.stop()
    assert len(log) == kept
    assert used_mb < MOST_MB


_BURST = """
import os, sys
from pathlib import Path
from twinhost.store.database import IN_MEMORY, Database
from twinhost.store.reply_log import MIGRATION_BY_TRANSACTION, SCHEMA, ReplyLog

def used_mb():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1_024

log = ReplyLog(Database(Path(sys.argv[1]), [SCHEMA, MIGRATION_BY_TRANSACTION]), 0.0, 400_000)
print(used_mb())
for _ in range(1_000):
    with log._database.transaction():
        for _ in range(300):
            log.add("agent", os.urandom(16).hex(), os.urandom(16), bytes(150))
print(used_mb())
while len(log) or log._evicted:
    log.forget_old()
log.forget_old()
print(used_mb())
"""


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory as Linux reports it")
def test_the_memory_of_a_burst_is_given_back(path: Path) -> None:
    """Once its replies are evicted, within 30 % of before."""
    command = [sys.executable, "-c", _BURST, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=10 * PATIENCE_S, check=True)
    before, full, after = map(float, ran.stdout.split())
    assert full > 1.5 * before, "the burst takes memory"
    assert after < 1.3 * before
