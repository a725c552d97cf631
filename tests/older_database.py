"""A database as an earlier version left it."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from twinhost.store.database import Database
from twinhost.store.reply_log import MIGRATION_BY_TRANSACTION, SCHEMA

REPLY_LOG_MIGRATIONS = (SCHEMA, MIGRATION_BY_TRANSACTION)
SCHEMAS = ("main", "newer")


def downgrade(path: Path, migrations: Sequence[str]) -> None:
    """Give a closed database the schema of these migrations; rows keep the columns that this schema has.

    A table whose columns were replaced since has no rows.
    """
    older = path.with_suffix(".older")
    with closing(Database(older, migrations)):
        pass
    with closing(sqlite3.connect(older)) as database:
        database.execute("ATTACH ? AS newer", (str(path),))
        tables = database.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns, newer = (
                [row[1] for row in database.execute(f"PRAGMA {schema}.table_info({table})")] for schema in SCHEMAS
            )
            database.execute(f"DELETE FROM main.{table}")
            if not set(columns) <= set(newer):
                continue
            names = ", ".join(columns)
            database.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM newer.{table}")
        database.commit()
        database.execute("DETACH newer")
    for left in (path, *(path.with_name(path.name + ending) for ending in ("-wal", "-shm"))):
        left.unlink(missing_ok=True)
    older.rename(path)
