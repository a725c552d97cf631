"""The outbox on a real database, without a link; a restart keeps what is on disk and nothing else."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from twinhost.agent.membership.delivery import Kind, Undelivered
from twinhost.agent.membership.outbox import MAX_ROWS, MAX_TOTAL_BYTES, MIGRATION, Outbox
from twinhost.store.database import Database

AGENT = "UnifiedMemoryReasoningAgent"


class OutboxBench:
    """One outbox; `enqueue` adds a request in its own transaction, like a batch of one request."""

    def __init__(self, path: Path, most: int = MAX_ROWS, most_bytes: int = MAX_TOTAL_BYTES) -> None:
        self._path, self._most, self._most_bytes = path, most, most_bytes
        self.open()

    def open(self) -> None:
        """Begin as a process does."""
        self.database = Database(self._path, [MIGRATION])
        self.outbox = Outbox(self.database, AGENT, max_rows=self._most, max_total_bytes=self._most_bytes)
        self.queue = self.outbox.queue

    def restart(self) -> None:
        """End as a process that is killed does, and begin again."""
        self.database.close()
        self.open()

    def enqueue(self, kind: Kind, name: str = "n", **fields: Any) -> None:
        with self.database.transaction():
            self.outbox.add(kind, f"{kind.value}_action", {"name": name, **fields})

    def waiting(self) -> list[str]:
        """Return the names of what the link would send, in its order, without sending it."""
        return [queued.fields["name"] for queued in self.queue._waiting.values()]

    def send(self, count: int = 1, refuse: Callable[[Undelivered], str | None] = lambda _: None) -> list[Undelivered]:
        """Do what the link does with the oldest ones; return them."""
        sent = []
        for _ in range(count):
            queued = self.queue.oldest()
            assert queued is not None
            code = refuse(queued)
            if code is None:
                self.queue.delivered(queued)
            else:
                self.queue.refused(queued, code)
            sent.append(queued)
        return sent

    def rows(self) -> list[tuple[Any, ...]]:
        """Return kind and size of every row on disk, oldest first."""
        rows: list[tuple[Any, ...]] = self.database.execute(
            "SELECT kind, length(fields) + 256 FROM outbox ORDER BY seq"
        ).fetchall()
        return rows

    def counts_are_right(self) -> bool:
        """Whether what is counted in memory is what is on disk."""
        rows = self.rows()
        on_disk = Counter(kind for kind, _ in rows), sum(size for _, size in rows)
        held = self.outbox._usage
        counted = Counter({kind.value: each.rows for kind, each in held.items() if each.rows})
        return on_disk == (counted, sum(each.size for each in held.values()))

    def __enter__(self) -> "OutboxBench":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()
