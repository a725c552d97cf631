"""Rounds: in each, every workload asks its contenders in turn; what others disturbed is measured again."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.benchmarks.speed.contention import ALLOWED, Contention
from tests.benchmarks.speed.field import Field
from tests.benchmarks.speed.processes import Failed
from tests.benchmarks.speed.workloads import Workload

_REPEATS = 2  # of a contended turn, unless there is only one round; then it is kept, and counted
_SETTLE_S = 0.2


@dataclass(slots=True)
class Measured:
    """Figures by `workload/contender`, one a round; who could not be measured, and why; and how quiet it was."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    contended: int = 0
    turns: int = 0

    def add(self, name: str, value: float, kind: str) -> None:
        self.figures.setdefault(name, []).append(value)
        self.kinds[name] = kind


def run(field_of_contenders: Field, workloads: Sequence[Workload], rounds: int) -> Measured:
    """Measure every workload so many times.

    Raises:
        Failed: a contender that runs did not carry its load.
    """
    measured = Measured(missing=dict(field_of_contenders.missing))
    repeats = _REPEATS if rounds > 1 else 0
    for number in range(rounds):
        for workload in workloads:
            print(f"round {number + 1} of {rounds}: {workload.name}", file=sys.stderr)
            for name in workload.contenders:
                if name in field_of_contenders.contenders:
                    value = _turn(field_of_contenders, workload, name, measured, repeats)
                    measured.add(f"{workload.name}/{name}", value, workload.kind.value)
    return measured


def idle_connections(field_of_contenders: Field, count: int, measured: Measured) -> None:
    """Measure what a server grows by a connection, of this project's server and of one without ZAP."""
    for name in ("ours", "pyzmq"):
        server = field_of_contenders.servers.get(name)
        if server is None:
            continue
        before = server.rss_kb
        with field_of_contenders.holding(name, count) as holder:
            holder.answer()
            time.sleep(_SETTLE_S)
            measured.add(f"idle/{name}", (server.rss_kb - before) / count, "KB")


def _turn(contenders: Field, workload: Workload, name: str, measured: Measured, repeats: int) -> float:
    for attempt in range(repeats + 1):
        watch, began = Contention(contenders.pids()), time.monotonic()
        try:
            outcome = contenders.contenders[name].run(workload.task)
        except Failed as error:
            raise Failed(f"{workload.name}, {name}: {error}") from None
        contended = watch.share(time.monotonic() - began) > ALLOWED
        if not contended:
            break
        measured.repeated += attempt < repeats
    measured.turns += 1
    measured.contended += contended
    return workload.figure(outcome)
