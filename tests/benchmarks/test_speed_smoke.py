"""The speed benchmark runs to its end; of the figures nothing is required but that they are there."""

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks.speed.goals import GOALS, Goal
from tests.benchmarks.speed.plot import svg
from tests.benchmarks.speed.report import Line

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMES = ("ours-map", "ours-map-alone", "ours-aio", "ours-aio-alone")
# Of this project and bare pyzmq; `make bench-smoke` has every row.
FIGURES = {
    *(f"sequential/{name}" for name in ("ours", "ours-open", "ours-aio", "pyzmq", "pyzmq-open")),
    *(f"in flight/{name}" for name in (*FRAMES, "pyzmq")),
    *(f"durable/{name}" for name in FRAMES),
    "mixed load/ours-beside-others",
    *(f"{name}/ours-aio" for name in ("clients", "clients in flight")),
    "clients in flight/ours-aio-alone",
    *(f"connect/{name}-connecting" for name in ("ours", "zap", "pyzmq")),
    *(f"{size}/{name}" for size in ("64 KiB", "1 MiB") for name in ("ours", "pyzmq")),
    *(f"idle/{name}" for name in ("ours", "pyzmq")),
}


def test_every_row_is_produced(tmp_path: Path) -> None:
    """As CSV, table, and plot, with the project's own server and bare pyzmq; the rest is said to be missing."""
    command = [sys.executable, "-m", "tests.benchmarks.speed", "--out", str(tmp_path), "--rounds", "1"]
    options = ["--seconds", "0.02", "--authorised", "20", "--without-stack", "--only", "pyzmq"]
    environment = {"PYTHONPATH": "services:.", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    ran = subprocess.run(
        [*command, *options], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    with (tmp_path / "rounds.csv").open() as stream:
        assert {row["figure"]: float(row["value"]) > 0 for row in csv.DictReader(stream)} == dict.fromkeys(
            FIGURES, True
        )
    with (tmp_path / "goals.csv").open() as stream:
        rows = {(row["row"], row["measure"]): row["reached"] for row in csv.DictReader(stream)}
    assert rows.keys() == {(goal.row, goal.text) for goal in GOALS}
    for goal in GOALS:
        sides = {goal.figure, goal.beside or goal.figure}
        assert (rows[goal.row, goal.text] != "missing") == (sides <= FIGURES)
        assert goal.row in ran.stdout
    assert (tmp_path / "benchmarks.svg").read_text().rstrip().endswith("</svg>")


@pytest.mark.parametrize("at_most", [True, False])
@pytest.mark.parametrize(
    ("values", "verdicts"),
    [
        ([], ("missing", "missing")),
        ([0.7, 0.8, 0.9], ("yes", "no")),
        ([1.1, 1.2, 1.3], ("no", "yes")),
        ([0.8, 0.9, 1.2], ("undecided", "undecided")),
        ([0.8, 1.1, 1.2], ("undecided", "undecided")),
    ],
)
def test_a_bound_within_the_spread_is_undecided(
    values: Sequence[float], verdicts: tuple[str, str], at_most: bool
) -> None:
    """Whichever side of it the median is on; the plot has a colour of its own for it."""
    line = Line(Goal("row", "measure", "workload/contender", None, 1.0, at_most), values)
    verdict = verdicts[0 if at_most else 1]
    assert line.verdict == line.cells()[-1] == verdict
    colours = {"yes": "#2a7f62", "no": "#c0563b", "undecided": "#b8892b"}
    assert {each for each, colour in colours.items() if colour in svg([line], "title")} == {verdict} & colours.keys()
