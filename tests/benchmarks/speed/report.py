"""What was measured, as CSV, as a table for the terminal, and as a table for the page."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.speed.goals import GOALS, Goal
from tests.benchmarks.speed.runner import Measured
from twinhost.secure_zmq.framing.messages import MESSAGES

_HEAD = ("row", "measure", "goal", "median", "least", "most", "rounds", "reached")


@dataclass(frozen=True, slots=True)
class Line:
    """One goal and what came of it; no values where a side of it is missing."""

    goal: Goal
    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """`undecided` where some rounds reach the goal and others do not."""
        if not self.values:
            return "missing"
        reached = {self.goal.reached(value) for value in self.values}
        return "undecided" if len(reached) > 1 else "yes" if reached.pop() else "no"

    def cells(self) -> tuple[str, ...]:
        goal = f"{'≤' if self.goal.at_most else '≥'} {self.goal.bound:g}"
        spread = (
            [f"{each:.3g}" for each in (self.median, min(self.values), max(self.values))] if self.values else [""] * 3
        )
        return (self.goal.row, self.goal.text, goal, *spread, str(len(self.values)), self.verdict)


def lines(measured: Measured) -> list[Line]:
    return [Line(goal, goal.values(measured.figures)) for goal in GOALS]


def figure_rows(measured: Measured) -> list[tuple[str, ...]]:
    """Return every figure: what, of which server, its unit, median, least, most, and rounds."""
    rows = []
    for name, values in measured.figures.items():
        spread = [f"{each:.4g}" for each in (statistics.median(values), min(values), max(values))]
        rows.append((*name.split("/"), measured.kinds[name], *spread, str(len(values))))
    return rows


def remarks(measured: Measured) -> list[str]:
    """Return who is missing with the reason, and how quiet the machine was."""
    missing = [f"missing: {name}: {why}" for name, why in measured.missing.items()]
    quiet = (
        f"{measured.turns} turns; {measured.repeated} were repeated because others used the machine, "
        f"and {measured.contended} were kept although they did"
    )
    return [*missing, quiet, f"our servers receive and send {MESSAGES}"]


def write_csv(measured: Measured, folder: Path) -> None:
    """Write `goals.csv`, `figures.csv`, and every single value into `rounds.csv`."""
    _write(folder / "goals.csv", _HEAD, [line.cells() for line in lines(measured)])
    _write(
        folder / "figures.csv",
        ("workload", "contender", "unit", "median", "least", "most", "rounds"),
        figure_rows(measured),
    )
    single = [
        (name, str(place + 1), f"{value:.6g}")
        for name, values in measured.figures.items()
        for place, value in enumerate(values)
    ]
    _write(folder / "rounds.csv", ("figure", "round", "value"), single)


def table(measured: Measured) -> str:
    """Return the goals for a terminal."""
    rows = [_HEAD, *(line.cells() for line in lines(measured))]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*text, "", *remarks(measured)])


def markdown(measured: Measured) -> str:
    """Return the goals and the figures as the tables of NOTES.md, beside this module."""
    goals = [_HEAD, *(line.cells() for line in lines(measured))]
    figures = [("workload", "contender", "unit", "median", "least", "most", "rounds"), *figure_rows(measured)]
    return "\n\n".join([_markdown(goals), _markdown(figures), "\n".join(f"- {remark}" for remark in remarks(measured))])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *others])


def _write(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])
