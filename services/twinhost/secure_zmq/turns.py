"""Whose requests come next, where not all can be answered at once: the loop's time is shared among identities.

Start-time fair queueing: next come the requests of the identity that has used the least time, divided by its budget's
`turns`; those of its connections in turn, of each in their order. Whoever begins to wait counts as having used at least
what the one has that is served at that moment, so that nobody saves time up; and what it has used itself before, while
others wait, so that it gains nothing by asking for little at a time.
"""

from collections import deque
from collections.abc import Iterable

from twinhost.secure_zmq.budgets import Budgets, over_budget
from twinhost.secure_zmq.callers import Caller, name_of
from twinhost.secure_zmq.dispatch import SLICE_S
from twinhost.secure_zmq.framing.inbound import Batch, Inbound, Job, Return, detached

BESIDE_PAYLOAD = 1_024  # bytes that a request takes while it waits, besides its own
_LIMIT = "unhandled_bytes"
_REMEDY = "send fewer at once, and repeat this one, which was not executed"


class _Queue:
    """The requests of one identity that wait, by connection, and how much time it has used."""

    __slots__ = ("begun", "lines", "size", "turns", "used")

    def __init__(self, turns: float, used: float) -> None:
        self.turns = turns
        self.used = used  # seconds, divided by `turns`
        self.size = 0  # bytes
        self.lines: dict[bytes, deque[tuple[Return, Inbound]]] = {}  # by routing-id; the first is next
        self.begun: bytes | None = None  # the line whose first request is done in part: that one is next

    def line(self, back: Return) -> "deque[tuple[Return, Inbound]]":
        """Return what waits of a connection, which is the last one if nothing did."""
        return self.lines.setdefault(back.route[0], deque())

    def take(self, batch: Batch, most: int, max_bytes: int) -> None:
        """Move requests into a batch until that is full: as many of each connection, in turn.

        One that has begun comes first, so that an identity has one at most, and what it holds.
        """
        if self.begun is not None and len(batch.returns) < most and batch.size < max_bytes:
            line, route = self.lines[self.begun], self.begun
            self.begun = None
            self._move(line, batch)
            if not line:
                del self.lines[route]
        share = max(1, (most - len(batch.returns)) // max(1, len(self.lines)))
        while self.lines and len(batch.returns) < most and batch.size < max_bytes:
            route, line = next(iter(self.lines.items()))
            del self.lines[route]
            until = min(most, len(batch.returns) + share)
            while line and len(batch.returns) < until and batch.size < max_bytes:
                self._move(line, batch)
            if line:
                self.lines[route] = line

    def _move(self, line: "deque[tuple[Return, Inbound]]", batch: Batch) -> None:
        back, inbound = line.popleft()
        self.size -= _size_of(inbound)
        batch.add(back, inbound)


class Turns:
    """What waits for its turn, by identity."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._queues: dict[str, _Queue] = {}  # of identities whose requests wait, or who are ahead of those that do
        self._used = 0.0  # by the one that was served last, before that
        self.waiting = 0  # requests

    def only_of(self, caller: Caller | None) -> bool:
        """Return whether all that waits is of this identity."""
        return all(name == name_of(caller) for name, queue in self._queues.items() if queue.lines)

    def keep(self, batch: Batch) -> Batch:
        """Keep what has arrived, behind what its callers have here; return those requests that are refused."""
        refused = Batch()
        for back, inbound in zip(batch.returns, batch.inbounds, strict=True):
            caller = inbound.caller
            if caller is None or inbound.fault is not None or not self._has_room(caller, inbound):
                refused.add(back, inbound)
            else:
                self._append(back, inbound)
        return refused

    def resume(self, batch: Batch) -> None:
        """Keep requests that waited for something else, behind what their connections have here."""
        for back, inbound in zip(batch.returns, batch.inbounds, strict=True):
            self._append(back, inbound)

    def _append(self, back: Return, inbound: Inbound) -> None:
        queue = self._queue_of(inbound.caller)
        queue.line(back).append((back, inbound))
        queue.size += _size_of(inbound)
        self.waiting += 1

    def put_back(self, batch: Batch, begin: int, begun: Job | None = None) -> None:
        """Keep what there was no time for, before what else its callers have here; the first one may have begun."""
        if begun is not None:
            batch.inbounds[begin].begun = begun
        served = {back.route[0] for back in batch.returns[:begin]}
        for place in range(len(batch.returns) - 1, begin - 1, -1):
            back, inbound = batch.returns[place], batch.inbounds[place]
            queue = self._queue_of(inbound.caller)
            queue.line(back).appendleft((back, inbound))
            if inbound.begun is not None and inbound.begun.parts_for is not None:
                queue.begun = back.route[0]
            if (route := back.route[0]) not in served:  # its connection was not reached: it comes before the others
                queue.lines = {route: queue.lines.pop(route), **queue.lines}
            queue.size += _size_of(inbound)
            self.waiting += 1

    def next(self, most: int, max_bytes: int) -> Batch:
        """Return up to `most` requests, and no further one once they have `max_bytes`, of those who used the least.

        Whoever used a slice more than they did is left out, so that their replies don't wait for its slow requests.
        """
        batch = Batch()
        queues = sorted((queue for queue in self._queues.values() if queue.lines), key=lambda queue: queue.used)
        self._used = queues[0].used
        for queue in queues:
            if queue.used - self._used > SLICE_S:
                break
            queue.take(batch, most, max_bytes)
        self.waiting -= len(batch.returns)
        return batch

    def charge(self, spent: Iterable[tuple[Caller | None, float]]) -> None:
        """Note the seconds that identities have used, and forget those of which nothing waits and that used little."""
        for caller, seconds in spent:
            if (queue := self._queues.get(name_of(caller))) is not None:
                queue.used += seconds / queue.turns
        if not self.waiting:
            self._queues = {}
        elif not all(queue.lines for queue in self._queues.values()):
            kept = ((name, queue) for name, queue in self._queues.items() if queue.lines or queue.used > self._used)
            self._queues = dict(kept)

    def waiting_bytes(self) -> dict[str, float]:
        """Return how much waits, by identity."""
        return {name: queue.size for name, queue in self._queues.items()}

    def _queue_of(self, caller: Caller | None) -> _Queue:
        name = name_of(caller)
        queue = self._queues.get(name)
        if queue is None:
            turns = self._budgets.of(caller).turns if caller is not None else 1.0
            queue = self._queues[name] = _Queue(turns, self._used)
        elif not queue.lines:
            queue.used = max(queue.used, self._used)
        return queue

    def _has_room(self, caller: Caller, inbound: Inbound) -> bool:
        queue = self._queues.get(caller.name)
        if queue is None or not queue.lines:
            return True
        most = self._budgets.of(caller).unhandled_bytes
        if queue.size + _size_of(inbound) <= most:
            return True
        inbound.fault = detached(over_budget(caller.name, _LIMIT, queue.size, most, _REMEDY))
        return False


def _size_of(inbound: Inbound) -> int:
    return len(inbound.payload) + BESIDE_PAYLOAD
