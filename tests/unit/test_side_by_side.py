"""How tests are shared out among processes: what belongs together, what is first, and what is alone."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.side_by_side import (
    BY_TEST,
    LONG,
    NICENESS,
    OPEN_STACK,
    OPEN_STACK_UNIT,
    PATIENT,
    STANDBYS,
    STANDBYS_UNIT,
    order,
    runs_alone,
    turn,
    unit_of,
)

TESTS = Path(__file__).resolve().parents[1]


def test_a_file_is_a_unit_unless_its_tests_are() -> None:
    """A parameter with a slash or with colons is no part of a path."""
    assert unit_of("tests/unit/a/test_b.py::test_c[GET /d::e]") == "tests/unit/a/test_b.py"
    alone = "tests/loopback/test_partition.py::test_c[/d]"
    assert unit_of(alone) == alone
    assert unit_of("tests/browser/test_charts.py::test_a") == OPEN_STACK_UNIT
    assert unit_of("tests/containers/test_database.py::test_a") == STANDBYS_UNIT
    assert unit_of("tests/unit/cli/test_refusals.py::test_a") == "tests/unit/cli/test_refusals.py"


def test_long_units_come_first_and_those_that_run_alone_last() -> None:
    """Whatever else is said of them; and the patient, which may run beside those, behind them."""
    patient, alone = f"tests/unit/{PATIENT[0]}", "tests/adversary/test_a.py"
    short, long = "tests/unit/test_b.py", "tests/loopback/test_partition.py::test_c"
    units = [patient, alone, short, long]
    assert sorted(units, key=order) == [long, short, alone, patient]
    assert sorted(units, key=lambda unit: order(unit, short_first=True)) == [short, long, alone, patient]


def test_every_file_that_is_named_is_there() -> None:
    """A name that nobody has any more makes the run longer, and nobody would notice."""
    there = {path.name for path in TESTS.rglob("test_*.py")} | {"open stack", "standbys"}
    assert {name.partition("::")[0] for name in (*LONG, *BY_TEST, *OPEN_STACK, *STANDBYS, *PATIENT)} <= there


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


def test_the_patient_wait_for_nobody(tmp_path: Path) -> None:
    """They run beside one that runs alone, and leave it the processors."""
    code = f"""
import os
from pathlib import Path
from tests.side_by_side import turn
lock = Path({str(tmp_path / "turn")!r})
with turn("tests/adversary/test_a.py::test_b", lock), turn("tests/unit/{PATIENT[0]}::test_c", lock):
    print(os.nice(0))
"""
    root = TESTS.parent
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True, text=True).stdout
    assert int(printed) == NICENESS
