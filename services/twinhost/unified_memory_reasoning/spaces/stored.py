"""What each identity has stored in the spaces besides the shared one, for its share of the disk."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.damage import connect_to_read
from twinhost.store.database import Database
from twinhost.store.stored_bytes import Stored, StoredBytes
from twinhost.unified_memory_reasoning.spaces.access import owner_of, private_space

_ALL = "SELECT writer, sum(bytes), sum(names) FROM stored_bytes GROUP BY writer"


class StoredInSpaces:
    """The numbers of all spaces: of one that is closed, those when it was closed.

    A private space counts for its owner, whoever wrote it; in a declared one each row counts for its writer.
    """

    def __init__(self, spaces: Mapping[str, Path]) -> None:
        """Read the numbers of the spaces that are stored, which have their database at these paths."""
        self._open: dict[str, StoredBytes] = {}
        self._closed = {name: _read(path, owner_of(name)) for name, path in spaces.items()}
        self._of_writers = {name for name in spaces if owner_of(name) is None}
        self._changes_before = 0  # of those that were closed

    def opened(self, name: str, database: Database) -> None:
        """Count a space in its database from now on."""
        owner = owner_of(name)
        self._open[name] = StoredBytes(database, owner)
        self._closed.pop(name, None)
        if owner is None:
            self._of_writers.add(name)

    def closing(self, name: str) -> None:
        """Keep the numbers of a space whose database will be closed."""
        counted = self._open.pop(name)
        self._changes_before += counted.changes
        self._closed[name] = {}
        with suppress(StoreUnavailable):  # it will be counted when it can be opened again
            self._closed[name] = counted.all()

    def deleted(self, name: str) -> None:
        """Count a closed space no more."""
        self._closed.pop(name, None)
        self._of_writers.discard(name)

    @property
    def changes(self) -> int:
        """A number that grows with every change of a row."""
        return self._changes_before + sum(counted.changes for counted in self._open.values())

    def of(self, name: str) -> Stored:
        """Return what one identity has stored."""
        return _sum(stored for _, stored in self.by_table(name))

    def by_table(self, name: str) -> list[tuple[str, Stored]]:
        """Return what one identity has stored, by space."""
        return [(f"the space {space}", self._of_space(space, name)) for space in self._that_count(name)]

    def all(self) -> dict[str, Stored]:
        """Return what every identity has stored."""
        stored = [*self._closed.values(), *(counted.all() for counted in self._open.values())]
        names = {name for of_space in stored for name in of_space}
        return {name: _sum(of_space[name] for of_space in stored if name in of_space) for name in names}

    def _that_count(self, name: str) -> Iterator[str]:
        """Yield the spaces in which an identity may have something: its own, and the declared ones."""
        own = private_space(name)
        if own in self._open or own in self._closed:
            yield own
        yield from self._of_writers

    def _of_space(self, space: str, name: str) -> Stored:
        counted = self._open.get(space)
        return self._closed[space].get(name, Stored()) if counted is None else counted.of(name)


def _read(path: Path, owner: str | None) -> dict[str, Stored]:
    """Return the numbers of a database; none where it has not been migrated to have them, or can't be read."""
    try:
        with closing(connect_to_read(path)) as connection:
            stored = {writer: Stored(*sums) for writer, *sums in connection.execute(_ALL)}
    except sqlite3.Error:
        return {}
    return stored if owner is None else {owner: _sum(stored.values())}


def _sum(parts: Iterable[Stored]) -> Stored:
    total = Stored()
    for part in parts:
        total = Stored(total.bytes + part.bytes, total.names + part.names)
    return total
