"""Damage is found before a database is opened, a damaged one is quarantined whole, and nothing else is damage."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.other_user import not_root
from tests.unit.store.broken import (
    FRAME_BYTES,
    NOTES,
    count,
    files_of,
    flip,
    killed_after,
    no_file_beyond,
    whole,
)
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.backup import STAGED, copy_database, prepare
from twinhost.store.damage import (
    DAMAGED,
    REPLACED,
    acknowledge,
    damage_warning,
    find_damage,
    find_damage_of_rows,
    quarantine,
    quarantined,
    read_wal_index,
    unacknowledged,
)
from twinhost.store.database import Database
from twinhost.store.files import PARTS, part

INDEX = """
CREATE VIRTUAL TABLE words USING fts5 (text, content = '');
CREATE TRIGGER note_added AFTER INSERT ON notes BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END
"""
EMPTIED = "INSERT INTO words (words) VALUES ('delete-all')"
REBUILDS = {"words": (f"{EMPTIED}; INSERT INTO words (rowid, text) SELECT id, text FROM notes",)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


def frame(number: int) -> int:
    """Return the offset of a frame of the log; they begin with 1."""
    return 32 + (number - 1) * FRAME_BYTES


def frames(path: Path) -> int:
    """Return how many frames the log has."""
    return (part(path, "-wal").stat().st_size - 32) // FRAME_BYTES


@pytest.mark.parametrize("checkpoint", ["", "PASSIVE", "TRUNCATE", "RESTART"])
def test_what_a_killed_process_leaves_is_whole(path: Path, checkpoint: str) -> None:
    """And every note is there afterwards; looking changes no byte of the database and of its log."""
    killed_after(path, 20, checkpoint)
    before = files_of(path)
    assert find_damage(path) is None
    assert find_damage(path) is None
    assert files_of(path) == before
    assert count(path) == 20


def test_closed_and_missing_databases_are_not_damaged(path: Path) -> None:
    assert find_damage(path) is None
    whole(path, 20)
    assert find_damage(path) is None
    path.write_bytes(b"")
    assert find_damage(path) is None


@pytest.mark.parametrize(
    "content",
    [b"x", b"not a database, " * 50, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 200, b"SQLite format 3\0"],
)
def test_a_file_that_is_no_database_is_damaged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "not a database" in (find_damage(path) or "")
    assert path.read_bytes() == content


@pytest.mark.parametrize("offset", [0, 18, 19, 47, 100, 4096, -1])
def test_a_broken_page_is_damage(path: Path, offset: int) -> None:
    """In the header, in the schema, in the table's root, and at the end."""
    whole(path, 200)
    if offset == -1:
        os.truncate(path, path.stat().st_size - 4096)
    else:
        flip(path, offset)
    assert find_damage(path) is not None


def test_a_log_that_is_broken_in_its_midst_is_damage(path: Path) -> None:
    """SQLite takes it for the log's end, and what was committed after it would be lost silently."""
    killed_after(path, 20)
    flip(part(path, "-wal"), frame(frames(path) // 2) + 500)
    assert "committed frames" in (find_damage(path) or "")
    assert count(path) < 20  # what SQLite makes of it


def test_a_log_broken_in_the_middle_is_damage(path: Path) -> None:
    """A frame that follows a later commit was written after that commit was on disk."""
    killed_after(path, 20)
    flip(part(path, "-wal"), frame(frames(path) // 2) + 500)
    part(path, "-shm").unlink()
    assert "is broken between frame" in (find_damage(path) or "")


@pytest.mark.parametrize("number", [1, -1])
def test_a_broken_first_or_last_commit_is_damage(path: Path, number: int) -> None:
    """The last one can be found by the index alone, which says how many frames were committed."""
    killed_after(path, 20)
    flip(part(path, "-wal"), frame(number if number > 0 else frames(path)) + 500)
    assert "committed frames" in (find_damage(path) or "")


def test_a_log_cut_short_is_damage(path: Path) -> None:
    killed_after(path, 20)
    os.truncate(part(path, "-wal"), frame(frames(path)))
    assert "committed frames" in (find_damage(path) or "")


def test_a_log_without_its_header_is_damage(path: Path) -> None:
    killed_after(path, 20)
    flip(part(path, "-wal"), 9)
    assert "the header of its write-ahead log can't be read" in (find_damage(path) or "")


def test_a_log_that_is_gone_is_damage(path: Path) -> None:
    """Unless all of it was in the database already."""
    killed_after(path, 20)
    part(path, "-wal").unlink()
    assert "its write-ahead log is missing" in (find_damage(path) or "")


def test_a_log_that_is_gone_after_a_checkpoint_is_none(path: Path) -> None:
    killed_after(path, 20, "PASSIVE")
    part(path, "-wal").unlink()
    assert find_damage(path) is None
    assert count(path) == 20


def test_a_log_whose_database_is_gone_is_damage(path: Path) -> None:
    """SQLite would delete it."""
    killed_after(path, 20)
    path.unlink()
    assert find_damage(path) == "the database is missing and its write-ahead log exists"


@pytest.mark.parametrize("torn", [1, 23, 24, 2_000, FRAME_BYTES - 1, FRAME_BYTES])
def test_the_torn_end_of_a_write_is_no_damage(path: Path, torn: int) -> None:
    """A process that is killed in the midst of a transaction leaves frames that were never acknowledged."""
    killed_after(path, 20)
    with part(path, "-wal").open("ab") as log:
        log.write(os.urandom(torn))
    assert find_damage(path) is None
    assert count(path) == 20


def test_a_rolled_back_transaction_in_the_log_is_no_damage(path: Path) -> None:
    """Its frames lie behind the last commit with the log's own salts, and a shorter one was written over their head."""
    database = Database(path, [NOTES])
    database.execute("PRAGMA cache_size = 10")
    for notes, lasts in ((200, False), (1, True), (200, False), (2, True)):
        database.execute("BEGIN")
        for _ in range(notes):
            database.execute("INSERT INTO notes (text) VALUES (?)", ("x" * 3_000,))
        database.execute("COMMIT" if lasts else "ROLLBACK")
    index = read_wal_index(part(path, "-shm"))
    assert index is not None
    assert frames(path) > index.frames
    content = files_of(path)
    database.close()
    for suffix, each in content.items():
        part(path, suffix).write_bytes(each)
    assert find_damage(path) is None
    assert count(path) == 3


def test_a_newer_schema_is_no_damage_and_is_refused(path: Path) -> None:
    """The file is left where it is."""
    with closing(Database(path, [NOTES, "CREATE TABLE more (a)"])):
        pass
    prepare(path)
    with pytest.raises(ConfigurationError, match="has schema version 2 and this program knows 1"):
        Database(path, [NOTES])
    assert quarantined(path, DAMAGED) == []


def test_a_file_that_may_not_be_read_is_no_damage(path: Path) -> None:
    whole(path, 1)
    path.chmod(0)
    with not_root():
        assert not os.access(path, os.R_OK)
        assert find_damage(path) is None


def test_a_damaged_database_is_quarantined_complete(path: Path) -> None:
    """Byte for byte, with its log; reported until somebody acknowledges it, across every start."""
    killed_after(path, 20)
    flip(part(path, "-wal"), frame(5) + 500)
    before = files_of(path)
    prepare(path)
    assert count(path) == 0
    (damaged,) = quarantined(path, DAMAGED)
    assert files_of(path.with_name(damaged.name)) == before
    assert damaged.size_bytes >= sum(map(len, before.values()))
    prepare(path)
    sentence = damage_warning(path)
    assert sentence is not None
    assert damaged.name in sentence
    assert f"damaged databases take {damaged.size_bytes} bytes" in sentence
    assert "restore a backup: ./twinhost memory restore - --yes < FILE, " in sentence
    assert sentence.endswith("./twinhost call UnifiedMemoryReasoningAgent acknowledge_damage")
    assert acknowledge(path) == [damaged]
    assert (damage_warning(path), acknowledge(path), quarantined(path, DAMAGED)) == (None, [], [damaged])


def test_a_second_damage_in_the_same_second_overwrites_nothing(path: Path) -> None:
    """And is reported although the first was acknowledged."""
    for content in (b"first", b"second", b"third"):
        path.write_bytes(content)
        quarantine(path, DAMAGED, 1_000_000_000.0)
        if content == b"first":
            acknowledge(path)
    names = [each.name for each in quarantined(path, DAMAGED)]
    assert sorted(path.with_name(name).read_bytes() for name in names) == [b"first", b"second", b"third"]
    assert names[0] == "db.damaged-20010909T014640Z"
    assert [each.name for each in unacknowledged(path)] == names[1:]


def indexed(path: Path, notes: int) -> None:
    """Make a database with some notes, closed in order, whose index of their words lacks what it says it has."""
    with closing(Database(path, [NOTES, INDEX])) as database:
        with database.transaction():
            for number in range(notes):
                database.execute("INSERT INTO notes (text) VALUES (?)", (f"note{number} " + f"{number:03}" * 1_000,))
        database.execute("DELETE FROM words_data WHERE id > 10")  # its segments; below are its totals and its structure


def found(path: Path, word: str) -> list[int]:
    """Return the notes that have a word, by the index."""
    with closing(Database(path, [NOTES, INDEX])) as database:
        return [number for (number,) in database.execute("SELECT rowid FROM words WHERE words MATCH ?", (word,))]


def test_a_broken_index_alone_is_rebuilt_from_the_rows(path: Path) -> None:
    """No row leaves its place, and nobody has a loss to acknowledge."""
    indexed(path, 20)
    assert find_damage(path) == "malformed inverted index for FTS5 table main.words"
    assert find_damage_of_rows(path) is None
    prepare(path, REBUILDS)
    assert find_damage(path) is None
    assert (found(path, "note7"), len(found(path, "note*"))) == ([8], 20)
    assert (quarantined(path, DAMAGED), damage_warning(path)) == ([], None)


@pytest.mark.parametrize(
    "rebuilds", [{}, {"words": "SELECT 1"}, {"words": f"{EMPTIED}; INSERT INTO words SELECT a FROM nothing"}]
)
def test_an_index_that_stays_broken_is_damage(path: Path, rebuilds: dict[str, str]) -> None:
    """Nobody knows how it is made, what makes it changes nothing, or that fails."""
    indexed(path, 20)
    before = path.read_bytes()
    prepare(path, rebuilds)
    (damaged,) = quarantined(path, DAMAGED)
    assert path.with_name(damaged.name).read_bytes() == before


@pytest.mark.parametrize("where", ["page", "log"])
def test_a_damaged_index_with_other_damage_is_quarantined(path: Path, where: str) -> None:
    """A rebuild would write over what the log has, or upon pages that can't be trusted."""
    indexed(path, 200)
    if where == "page":
        flip(path, 4096 + 7)  # how much of it lies idle in bits
    else:
        database = Database(path, [NOTES, INDEX])
        for number in range(20):
            database.execute("UPDATE notes SET text = text || '!' WHERE id = ?", (number + 1,))
        content = files_of(path)
        database.close()
        for suffix, each in content.items():
            part(path, suffix).write_bytes(each)
        flip(part(path, "-wal"), frame(frames(path) // 2) + 500)
    before = files_of(path)
    why = find_damage_of_rows(path)
    assert why is not None
    assert "malformed inverted index" in why
    prepare(path, REBUILDS)
    (damaged,) = quarantined(path, DAMAGED)
    assert before.items() <= files_of(path.with_name(damaged.name)).items()  # SQLite makes an empty log at a look


def test_an_index_of_a_newer_program_is_left_alone(path: Path) -> None:
    """Its script may be another one: the database is opened, which says that it is newer, and no byte is changed."""
    indexed(path, 20)
    before = path.read_bytes()
    prepare(path, REBUILDS, newest=1)
    assert (path.read_bytes(), quarantined(path, DAMAGED)) == (before, [])
    with pytest.raises(ConfigurationError, match="schema version 2 and this program knows 1"):
        Database(path, [NOTES])
    prepare(path, REBUILDS, newest=2)
    assert find_damage(path) is None


def test_no_space_to_rebuild_an_index_stops_the_start(path: Path) -> None:
    """And no database is quarantined for it: the next start, with some space, has every row."""
    indexed(path, 20)
    with no_file_beyond(40_000), pytest.raises(ConfigurationError, match=r"can't be rebuilt.*free space"):
        prepare(path, REBUILDS)
    assert quarantined(path, DAMAGED) == []
    prepare(path, REBUILDS)
    assert (find_damage(path), len(found(path, "note*"))) == (None, 20)


def test_a_staged_backup_with_a_damaged_index_is_rebuilt(path: Path) -> None:
    """It was a copy of a database that is in use: the index alone stops no backup."""
    indexed(path, 20)
    copy_database(path, part(path, STAGED))
    prepare(path, REBUILDS)
    assert (find_damage(path), len(found(path, "note*"))) == (None, 20)
    assert (len(quarantined(path, REPLACED)), quarantined(path, DAMAGED), quarantined(part(path, STAGED), DAMAGED)) == (
        1,
        [],
        [],
    )


@pytest.mark.parametrize("word", [DAMAGED, REPLACED])
def test_a_quarantined_file_is_readable_by_its_owner_only(path: Path, word: str) -> None:
    """With its log, and where an older version made it with another mode."""
    killed_after(path, 3)
    for suffix in PARTS:
        part(path, suffix).chmod(0o644)
    aside = quarantine(path, word)
    assert [part(aside, suffix).stat().st_mode & 0o777 for suffix in PARTS] == [0o600] * 3


def test_a_restored_database_is_its_owners_alone(path: Path) -> None:
    """The staged one, the one in use after it, and the one that gave way."""
    before = os.umask(0)
    try:
        whole(path, 3)
        copy_database(path, part(path, STAGED))
        assert part(path, STAGED).stat().st_mode & 0o777 == 0o600
        prepare(path)
        assert count(path) == 3
    finally:
        os.umask(before)
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}
    assert len(quarantined(path, REPLACED)) == 1


def test_a_staged_backup_takes_the_place_of_the_database(path: Path) -> None:
    """Which is kept whole, with its log; a damage before it counts as known."""
    whole(path, 3)
    copy_database(path, part(path, STAGED))
    path.write_bytes(b"damaged")
    damaged = quarantine(path, DAMAGED)
    killed_after(path, 20)
    before = files_of(path)
    prepare(path)
    assert count(path) == 3
    (replaced,) = quarantined(path, REPLACED)
    assert files_of(path.with_name(replaced.name)) == before
    assert not part(path, STAGED).exists()
    assert damage_warning(path) is None
    assert damaged.read_bytes() == b"damaged"


@pytest.mark.parametrize("moved", [("-shm",), ("-shm", "-wal"), ("-shm", "-wal", "")])
def test_an_exchange_that_was_cut_short_is_completed(path: Path, moved: tuple[str, ...]) -> None:
    """Files that were moved and files that were not come together under one name."""
    whole(path, 3)
    copy_database(path, part(path, STAGED))
    killed_after(path, 20)
    before = files_of(path)
    twin = path.with_name("twin")
    for suffix in ("", "-wal", "-shm"):
        part(path, suffix).rename(part(twin, suffix))
    stamp = quarantine(path, REPLACED, part(path, STAGED).stat().st_mtime).name  # moves nothing
    for suffix in ("", "-wal", "-shm"):
        there = path.with_name(stamp) if suffix in moved else path
        part(twin, suffix).rename(part(there, suffix))
    prepare(path)
    assert count(path) == 3
    (replaced,) = quarantined(path, REPLACED)
    assert files_of(path.with_name(replaced.name)) == before


def test_a_staged_backup_that_is_damaged_is_not_put_in_place(path: Path) -> None:
    """The database in use stays, and the broken backup is kept."""
    whole(path, 3)
    staged = part(path, STAGED)
    staged.write_bytes(b"broken")
    prepare(path)
    assert count(path) == 3
    (broken,) = quarantined(staged, DAMAGED)
    assert path.with_name(broken.name).read_bytes() == b"broken"


@settings(max_examples=40)
@given(st.data())
@pytest.mark.thorough
def test_no_flipped_byte_silently_loses_an_acknowledged_note(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Of a log as a killed process leaves it: the damage is found, or every note is there."""
    path = tmp_path_factory.mktemp("flip") / "db"
    killed_after(path, 8)
    flip(part(path, "-wal"), data.draw(st.integers(0, frame(frames(path) + 1) - 1)))
    assert find_damage(path) is not None or count(path) == 8
