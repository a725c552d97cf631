"""What a load process is asked to do, what it found, and the loops that all loads share."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

WARM_UP_S = 0.2
ANSWER_WITHIN_S = 30.0
ID_CHARACTERS = 32  # of a request_id, as the product's clients make it


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement: connections, requests that each keeps in flight, seconds, and bytes that pad a request."""

    action: str = "get_agent_endpoint"
    clients: int = 1
    in_flight: int = 1
    seconds: float = 0.5
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was counted; the latencies include the wait in the queue where several are in flight."""

    calls: int
    failures: int
    seconds: float
    p50_us: float
    p99_us: float = 0.0  # of the loads in Python

    @property
    def per_s(self) -> float:
        return self.calls / self.seconds

    @classmethod
    def of(cls, took: Sequence[float], seconds: float) -> "Outcome":
        """Return the outcome of calls that took so many seconds each, and all together `seconds`."""
        ordered = [1e6 * each for each in sorted(took)]
        p50, p99 = (ordered[len(ordered) * percent // 100] if ordered else 0.0 for percent in (50, 99))
        return cls(len(took), 0, seconds, p50, p99)


def one_by_one(call: Callable[[], Any], seconds: float) -> Outcome:
    """Call, wait, call again, for so many seconds."""
    _repeat(call, min(WARM_UP_S, seconds))
    began = time.perf_counter()
    took = _repeat(call, seconds)
    return Outcome.of(took, time.perf_counter() - began)


async def side_by_side(calls: Sequence[Callable[[], Awaitable[Any]]], in_flight: int, seconds: float) -> Outcome:
    """Keep `in_flight` calls of each connection under way, for so many seconds."""
    took: list[float] = []

    async def worker(call: Callable[[], Awaitable[Any]], until: float) -> None:
        sent = time.perf_counter()
        while sent < until:
            await call()
            took.append((now := time.perf_counter()) - sent)
            sent = now

    async def all_until(until: float) -> None:
        await asyncio.gather(*(worker(call, until) for call in calls for _ in range(in_flight)))

    await all_until(time.perf_counter() + min(WARM_UP_S, seconds))
    took.clear()
    began = time.perf_counter()
    await all_until(began + seconds)
    return Outcome.of(took, time.perf_counter() - began)


def _repeat(call: Callable[[], Any], seconds: float) -> list[float]:
    took: list[float] = []
    sent = time.perf_counter()
    until = sent + seconds
    while sent < until:
        call()
        took.append((now := time.perf_counter()) - sent)
        sent = now
    return took
