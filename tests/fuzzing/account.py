"""The account of one run: how many inputs, a hash of them, the slowest, and what memory grew by."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

INPUT_WITHIN_S = 1.0  # one input, in this process; beyond it, it counts as a hang
MOST_GROWTH_MB = 48.0  # from the first quarter of a run to its end
_SETTLED_AFTER = 4  # the first quarter fills caches


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one target."""

    target: str
    engine: str
    seed: int
    inputs: int
    corpus_sha256: str
    inputs_sha256: str
    slowest_ms: float
    growth_mb: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        return (
            f"{self.target}: {self.inputs:,} inputs ({self.engine}, seed {self.seed}) in {self.seconds:.0f} s, slowest "
            f"{self.slowest_ms:.0f} ms, memory {self.growth_mb:+.1f} MB, corpus {self.corpus_sha256[:16]}, "
            f"inputs {self.inputs_sha256[:16]}"
        )


class Account:
    """Counts inputs as they are taken; whatever they raise comes out."""

    def __init__(self, target: str, engine: str, seed: int, corpus: list[bytes], inputs: int) -> None:
        self._name = target, engine, seed, hash_of(corpus)
        self._inputs = inputs
        self._process = psutil.Process()
        self._digest = hashlib.sha256()
        self._began = time.monotonic()
        self._slowest_s, self._settled_mb = 0.0, 0.0
        self.count = 0

    def take(self, take: Callable[[bytes], None], content: bytes) -> None:
        """Take one input.

        Raises:
            TimeoutError: it took longer than INPUT_WITHIN_S.
        """
        self._digest.update(len(content).to_bytes(4, "big") + content)
        began = time.process_time()  # a busy machine is no hang; that which never ends is ended from outside
        try:
            take(content)
        except Exception as error:
            error.add_note(f"the input: {content!r}")
            raise
        took = time.process_time() - began
        self._slowest_s = max(self._slowest_s, took)
        if took > INPUT_WITHIN_S:
            raise TimeoutError(f"an input took {took:.1f} s: {content!r}")
        self.count += 1
        if self.count == self._inputs // _SETTLED_AFTER:
            self._settled_mb = self._memory_mb()

    def report(self) -> Report:
        """Return the account so far.

        Raises:
            MemoryError: it grew by more than MOST_GROWTH_MB.
        """
        growth = self._memory_mb() - self._settled_mb
        if growth > MOST_GROWTH_MB:
            raise MemoryError(f"memory grew by {growth:.0f} MB over the last three quarters of {self.count:,} inputs")
        seconds = time.monotonic() - self._began
        return Report(
            *self._name[:3],
            self.count,
            self._name[3],
            self._digest.hexdigest(),
            round(1_000 * self._slowest_s, 2),
            round(growth, 1),
            round(seconds, 1),
        )

    def _memory_mb(self) -> float:
        return float(self._process.memory_info().rss / 2**20)


def hash_of(corpus: list[bytes]) -> str:
    """Return the SHA-256 of some inputs in their order, each with its length."""
    digest = hashlib.sha256()
    for content in corpus:
        digest.update(len(content).to_bytes(4, "big") + content)
    return digest.hexdigest()
