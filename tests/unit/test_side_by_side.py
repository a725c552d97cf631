"""How tests are shared out among processes: what belongs together, what is first, and what is alone."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.side_by_side import BY_TEST, LONG, OPEN_STACK, OPEN_STACK_UNIT, order, runs_alone, turn, unit_of

TESTS = Path(__file__).resolve().parents[1]


def test_a_file_is_a_unit_unless_its_tests_are() -> None:
    """A parameter with a slash or with colons is no part of a path."""
    assert unit_of("tests/unit/a/test_b.py::test_c[GET /d::e]") == "tests/unit/a/test_b.py"
    alone = "tests/loopback/test_partition.py::test_c[/d]"
    assert unit_of(alone) == alone
    assert unit_of("tests/browser/test_headline.py::test_a") == OPEN_STACK_UNIT
    assert unit_of("tests/unit/cli/test_refusals.py::test_a") == "tests/unit/cli/test_refusals.py"


def test_long_units_come_first_and_those_that_run_alone_last() -> None:
    """Whatever else is said of them."""
    units = ["tests/adversary/test_a.py", "tests/unit/test_b.py", "tests/loopback/test_partition.py::test_c"]
    assert sorted(units, key=order) == units[::-1]
    last_process = sorted(units, key=lambda unit: order(unit, short_first=True))
    assert last_process == [units[1], units[2], units[0]]


def test_every_file_that_is_named_is_there() -> None:
    """A name that nobody has any more makes the run longer, and nobody would notice."""
    there = {path.name for path in TESTS.rglob("test_*.py")} | {"open stack"}
    assert {name.partition("::")[0] for name in (*LONG, *BY_TEST, *OPEN_STACK)} <= there


def test_what_runs_alone_waits_for_the_others(tmp_path: Path) -> None:
    """And the others for it; several of them run at one time."""
    lock, alone = tmp_path / "turn", "tests/adversary/test_a.py::test_b"
    assert runs_alone(alone)
    take = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), int(sys.argv[2]) | fcntl.LOCK_NB)"

    def another_gets(kind: int) -> bool:
        done = subprocess.run([sys.executable, "-c", take, str(lock), str(kind)], capture_output=True, check=False)
        return done.returncode == os.EX_OK

    with turn("tests/unit/test_a.py::test_b", lock):
        assert (another_gets(fcntl.LOCK_SH), another_gets(fcntl.LOCK_EX)) == (True, False)
    with turn(alone, lock):
        assert (another_gets(fcntl.LOCK_SH), another_gets(fcntl.LOCK_EX)) == (False, False)
    assert another_gets(fcntl.LOCK_EX)
