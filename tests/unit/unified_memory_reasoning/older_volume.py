"""A volume as an older version left it: its rows, and its index over whole texts, which that version filled."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.unit.unified_memory_reasoning.bench import migrations_before
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.index_tables import PASSAGES_MIGRATION

TEXTS = 12  # interactions, and as many memories
MAY = 1_777_888_800.0  # 2026-05-04
INTERACTION = (
    "INSERT INTO interactions (id, session_id, speaker, type, content, metadata, importance, strength, created, tier, "
    "written_by) VALUES (?, ?, 'Felix', 'code', ?, x'7b7d', 0.5, 1.0, ?, 0, 'A')"
)
MEMORY = (
    "INSERT INTO memories (number, id, content, keywords, source, strength, created, last_accessed, forgotten, "
    "written_by) VALUES (?, ?, ?, x'5b226c616d70225d', '', 1.0, 1.7e9, 1.7e9, ?, 'A')"
)
DETAILS = "INSERT INTO memory_details (number, id, written_by, starts, details) VALUES (?, ?, 'A', 1.7e9, ?)"
PASSAGES = PASSAGES_MIGRATION


CONTENTS = tuple(f"gateway number{number}" for number in range(1, TEXTS + 1))


def make_older_volume(
    path: Path, before: str = PASSAGES_MIGRATION, contents: Sequence[str] = CONTENTS, memories: int = TEXTS
) -> None:
    """Make the database of the version before a migration, with interactions and memories, one of them forgotten."""
    with closing(Database(path, migrations_before(before))) as database:
        fill_older(database, contents, memories)


def fill_older(database: Database, contents: Sequence[str] = CONTENTS, memories: int = TEXTS) -> None:
    """Put interactions and memories in, in turns."""
    for number in range(1, max(len(contents), memories) + 1):
        if number <= len(contents):
            content = contents[number - 1]
            database.execute(INTERACTION, (number, f"s{number}", content, number * 86_400.0))
        if number <= memories:
            database.execute(MEMORY, (number, f"m{number}", f"memory{number}", number == 4))


def occur(database: Database, number: int, moment: float) -> None:
    """Say when a memory occurred."""
    database.execute(DETAILS, (number, f"m{number}", json.dumps({"occurred_at": moment})))


def break_index(path: Path, index: str) -> None:
    """Take from an index what it says it has."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"DELETE FROM {index}_data WHERE id > 10")
