"""How much a backup holds and a restore exchanges, told to a person by kind; programs get every table with `--json`."""

from typing import Any

from twinhost.cli import output
from twinhost.cli.memory_transfer import Rows

KINDS = {  # by the table of pc2's database; what its other tables hold follows from these
    "interactions": "interactions",
    "memories": "memories",
    "error_patterns": "error patterns",
    "solution_outcomes": "solution outcomes",
    "unknown_errors": "unknown errors",
    "twins": "twins",
    "operations": "claimed operations",
    "quarantined": "hidden writers",
    "outbox": "owed to mainpc",
}


def told_backup(size: int, rows: Rows) -> str:
    """Return a sentence on a backup of `size` bytes."""
    counts = ", ".join(f"{rows[table]} {kind}" for table, kind in KINDS.items() if rows.get(table))
    return f"{size} bytes; {counts or 'nothing is stored'}"


def exchange_table(rows: dict[str, Rows]) -> Any:
    """Return what a restore brings and what is lost by it, as a table to be shown."""
    columns = ["present", "backup", *(["damaged"] if any("damaged" in each for each in rows.values()) else []), "lost"]
    return output.table(
        "What the backup brings",
        ("kind", *columns),
        [
            (kind, *(_count(column, rows[table].get(column)) for column in columns))
            for table, kind in KINDS.items()
            if table in rows
        ],
    )


def _count(column: str, count: int | None) -> output.Cell:
    return output.styled("?" if count is None else str(count), output.BAD if column == "lost" and count else "")
