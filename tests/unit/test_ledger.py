"""The ledger's checker finds what it is there to find."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ledger import Ledger, check


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Three calls: two acknowledged, one whose acknowledgement never came."""
    path = tmp_path / "ledger.jsonl"
    book = Ledger(path)
    for call in ("a", "b", "c"):
        book.sent(call)
    for call in ("a", "b"):
        book.acknowledged(call)
    book.close()
    return path


@pytest.mark.parametrize("times_of_c", [0, 1])
def test_a_whole_ledger_passes(ledger: Path, times_of_c: int) -> None:
    """Acknowledged calls are there once; one without an acknowledgement may be there or not."""
    verdict = check(ledger, {"a": 1, "b": 1, "c": times_of_c})
    assert verdict.whole
    assert verdict.acknowledged == 2


def test_a_lost_call_is_found(ledger: Path) -> None:
    """An acknowledged call that is not there is a loss."""
    verdict = check(ledger, {"a": 1})
    assert not verdict.whole
    assert verdict.lost == ["b"]


@pytest.mark.parametrize("call", ["a", "c"])
def test_a_doubled_call_is_found(ledger: Path, call: str) -> None:
    """A call that took effect twice is found, acknowledged or not."""
    verdict = check(ledger, {"a": 1, "b": 1, "c": 1} | {call: 2})
    assert not verdict.whole
    assert verdict.doubled == [call]


def test_a_call_that_nobody_sent_is_found(ledger: Path) -> None:
    """An effect without a cause is not whole either."""
    verdict = check(ledger, {"a": 1, "b": 1, "x": 1})
    assert not verdict.whole
    assert verdict.unknown == ["x"]


@pytest.mark.parametrize(("observed", "status"), [({"a": 1, "b": 1}, 0), ({"a": 1}, 1), ({"a": 1, "b": 2}, 1)])
def test_the_tool_reports_by_its_exit_status(
    ledger: Path, tmp_path: Path, observed: dict[str, int], status: int
) -> None:
    """`python -m tests.ledger` ends with 0 for a whole ledger and with 1 for any other."""
    seen = tmp_path / "observed.json"
    seen.write_text(json.dumps(observed))
    done = subprocess.run(
        [sys.executable, "-m", "tests.ledger", str(ledger), str(seen)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert ("NOT WHOLE" in done.stdout) == bool(status)
