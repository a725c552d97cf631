"""The memory that vectors take: a share for each writer, over all databases that are open, and a total.

Texts of a writer whose share is used up, and all texts once the total is, get no further vectors: they are found by
their words. Vectors that are on disk, such as those of a space that is opened, are read as long as there is room.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

MOST_BYTES = 192 * 2**20  # of all vectors: four writers' shares, in a container of 512 MiB
BESIDE_BYTES = 36  # of a vector: its numbers, its length, and its place in the order


class Holding(Protocol):
    """What has the vectors of one database."""

    held: Mapping[str, int]  # bytes of each writer; replaced, never changed


class VectorMemory:
    """What the vectors of all open databases take. `held` is for the loop's thread, the rest for any."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.full = frozenset[str]()  # writers whose share is used up; the loop replaces it
        self.databases = set[Holding]()
        self._most = most
        self._taken = WeakKeyDictionary[object, int]()  # by matrix
        self._partial = WeakSet[object]()  # matrices that had no room for some vectors
        self._lock = threading.Lock()

    def take(self, matrix: object, size: int) -> bool:
        """Have a matrix take so many bytes, instead of those before; return False if that would be too many."""
        with self._lock:
            others = sum(taken for other, taken in self._taken.items() if other is not matrix)
            if others + size > self._most:
                return False
            self._taken[matrix] = size
            return True

    def note(self, matrix: object, *, whole: bool) -> None:
        """Note whether a matrix has all vectors of its database."""
        with self._lock:
            (self._partial.discard if whole else self._partial.add)(matrix)

    @property
    def crowded(self) -> bool:
        """Whether there was no room for some vectors."""
        return len(self._partial) > 0

    def held(self) -> Mapping[str, float]:
        """Return the bytes of each writer's vectors."""
        held = Counter[str]()
        for database in self.databases:
            held.update(database.held)
        return held

    def warnings(self) -> list[str]:
        """Return what an operator should know, on any thread."""
        sentences = [
            f"{writer} has used up its budget vector_bytes: more of its texts are found by words alone; have it "
            "delete some, or raise the limit in network_config.yaml (limits.budgets)"
            for writer in sorted(self.full)
        ]
        if self.crowded:
            sentences.append(
                f"the vectors take the {self._most} bytes of memory that they may: more texts are found by words "
                "alone; delete some, or have a shorter vector for each (recall.embeddings)"
            )
        return sentences
