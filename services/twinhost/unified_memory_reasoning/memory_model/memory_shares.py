"""How many rows each writer has: counted in memory, so that no write counts rows, and undone with its transaction."""

from collections.abc import Iterable

from twinhost.store.database import Database


class Shares:
    """Rows by writer; `total` is that of all, for any thread to read."""

    def __init__(self, database: Database, counted: Iterable[tuple[str, int]]) -> None:
        """Begin with what is stored.

        Args:
            counted: every writer once, and how many rows it has.
        """
        self._database = database
        self._rows = dict(counted)
        self.total = sum(self._rows.values())

    def of(self, writer: str) -> int:
        """Return how many rows a writer has."""
        return self._rows.get(writer, 0)

    def move(self, before: str | None, after: str | None) -> None:
        """Count a row that was one writer's and is another's now; None: it was not there, or is not any more."""
        self._shift(before, after)
        self._database.on_rollback(lambda: self._shift(after, before))

    def _shift(self, before: str | None, after: str | None) -> None:
        self._add(before, -1)
        self._add(after, 1)

    def _add(self, writer: str | None, change: int) -> None:
        if writer is None:
            return
        self.total += change
        rows = self.of(writer) + change
        if rows:
            self._rows[writer] = rows
        else:
            self._rows.pop(writer, None)
