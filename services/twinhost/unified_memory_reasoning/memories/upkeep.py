"""What happens to memories between requests: accesses are written, decay passes run, older texts are indexed."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.audit import MemoryAudit
from twinhost.unified_memory_reasoning.memories.model import PASS_EVERY_S, Fading, Idle, Kept, next_pass_in_s, now_ms
from twinhost.unified_memory_reasoning.memories.rows import DecayPass, MemoryRows, Place

_WRITE_ACCESSES_EVERY_S = 5.0
_RETRY_S = 1.0  # after a failed write
_BATCH = 1_000  # memories that are written in one tick of the server: about 25 ms
_MOST_FORGOTTEN = 50  # in one tick: each leaves the full-text index, which takes about 0.3 ms
_BYTES_FORGOTTEN = 100_000  # in one tick, of their contents: about 12 ms


class _UnderWay(NamedTuple):
    """A pass that is not finished; `next_at` (monotonic) is when the next one is due."""

    done: DecayPass
    next_at: float
    idle_since: float
    after: Place


class MemoryUpkeep:
    """The accesses that are not on disk yet, the decay passes, and the texts that have no claims yet."""

    def __init__(self, database: Database, rows: MemoryRows, fading: Fading, audit: MemoryAudit) -> None:
        self._database = database
        self._rows = rows
        self._fading = fading
        self._audit = audit
        self._accessed: dict[str, float] = {}  # times by id
        self._last_pass = rows.last_pass()
        self._under_way: _UnderWay | None = None
        self._clock = database.clock
        ran = self._last_pass.ran if self._last_pass is not None else None
        self._decay_at = self._clock.monotonic() + next_pass_in_s(ran, self._clock.time())
        self._write_accesses_at = self._clock.monotonic() + _WRITE_ACCESSES_EVERY_S

    @property
    def last_pass(self) -> DecayPass | None:
        """What the last decay pass did; None before the first."""
        return self._last_pass

    def recover_by_rule(self) -> None:
        """Recover memories that the configured rule does not forget; at a start, since the rule may have changed."""
        now = now_ms(self._clock)
        self._rows.recover(lambda idle: self._fading.idle_forgotten(idle, now))

    def access(self, entries: Iterable[Kept]) -> list[Kept]:
        """Note that memories were accessed, unless they are forgotten; return them with the new time."""
        now, accessed = now_ms(self._clock), list(entries)
        self.note(entry.memory.id for entry in accessed if not self._fading.forgotten(self.fresh(entry).memory, now))
        return [self.fresh(entry) for entry in accessed]

    def note(self, memory_ids: Iterable[str]) -> None:
        """Note that memories that are not forgotten were accessed now; they are written within 5 s."""
        now = now_ms(self._clock)
        for memory_id in memory_ids:
            self._accessed[memory_id] = max(now, self._accessed.get(memory_id, 0.0))

    def fresh(self, entry: Kept) -> Kept:
        """Return a row with its access that is not on disk yet."""
        accessed = self._accessed.get(entry.memory.id)
        if accessed is None or entry.memory.deleted or accessed <= entry.memory.last_accessed:
            return entry
        memory = msgspec.structs.replace(entry.memory, last_accessed=accessed)
        return Kept(memory, entry.number, entry.written_by)

    def on_tick(self) -> None:
        """Write accesses and run a decay pass if they are due; on the thread that owns the database.

        Raises:
            StoreUnavailable: not on disk yet; the next call tries again.
        """
        self.decay_if_due()
        self._audit.index_older()
        if self._clock.monotonic() >= self._write_accesses_at:
            self.write_accesses()

    def decay_if_due(self) -> None:
        """Run a decay pass every 300 s: 1,000 memories in each call, so that no request waits for all.

        Raises:
            StoreUnavailable: these did not decay; the next call tries again.
        """
        monotonic = self._clock.monotonic()
        if monotonic < self._decay_at:
            return
        self._decay_at = monotonic + _RETRY_S
        if self._under_way is None:
            now = now_ms(self._clock)
            self._under_way = _UnderWay(
                DecayPass(now), monotonic + PASS_EVERY_S, self._fading.idle_since(now), (-1.0, 0)
            )
        begun = self._under_way
        idle = self._rows.idle(begun.idle_since, begun.after, _BATCH)
        faded, read, leaving = self._faded(idle, begun)
        done = DecayPass(
            begun.done.ran,
            begun.done.decayed + (len(faded) if self._fading.half_life_days is None else 0),
            begun.done.forgotten + sum(gone for _, gone, _ in faded),
        )
        ended = read == len(idle) < _BATCH
        if faded or ended:  # a slice that changes nothing costs no commit
            with self._database.transaction():
                self._rows.fade(faded, leaving)
                self._rows.note_pass(done)
        self._last_pass = done
        if ended:
            self._under_way, self._decay_at = None, begun.next_at
        else:
            after_last = (idle[read - 1].last_accessed, idle[read - 1].number)
            self._under_way, self._decay_at = begun._replace(done=done, after=after_last), monotonic

    def _faded(self, idle: Sequence[Idle], begun: _UnderWay) -> tuple[list[tuple[float, bool, int]], int, int]:
        """Return what the pass changes of idle memories, how many it took, in their order, and the bytes gone."""
        faded: list[tuple[float, bool, int]] = []
        gone = leaving = 0
        for place, row in enumerate(idle):
            if gone == _MOST_FORGOTTEN or leaving >= _BYTES_FORGOTTEN:
                return faded, place, leaving
            accessed = row._replace(last_accessed=self._last_access(row))
            if accessed.last_accessed > begun.idle_since:
                continue
            if (after := self._fading.after_pass(accessed, begun.done.ran)) is not None:
                faded.append((*after, row.number))
                if after[1]:
                    gone += 1
                    leaving += self._rows.size(row.number)
        return faded, len(idle), leaving

    def _last_access(self, idle: Idle) -> float:
        return max(idle.last_accessed, self._accessed.get(idle.id, 0.0))

    def write_accesses(self) -> None:
        """Write when memories were last accessed, 1,000 of them in each call.

        Raises:
            StoreUnavailable: not on disk yet; the next call tries again.
        """
        self._write_accesses_at = self._clock.monotonic() + _RETRY_S
        some = list(itertools.islice(self._accessed.items(), _BATCH))
        if some:
            with self._database.transaction():
                self._rows.touch(some)
            for memory_id, _ in some:
                del self._accessed[memory_id]
        self._write_accesses_at = self._clock.monotonic() + (0.0 if self._accessed else _WRITE_ACCESSES_EVERY_S)

    def on_stop(self) -> None:
        """Write all accesses, before the database is closed.

        Raises:
            StoreUnavailable: the rest is lost.
        """
        while self._accessed:
            self.write_accesses()
