"""Run the tests that carry one marker, and say in one line what came of them."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


class _Tally:
    """A pytest plugin: the tests by their outcome. It is no dataclass, since pytest hashes its plugins."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.skipped: set[str] = set()

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Take the outcomes from pytest's own summary: a set-up or tear-down that breaks fails the test."""
        found = {
            category: {report.nodeid for report in terminalreporter.stats.get(category, [])}
            for category in ("passed", "failed", "error", "skipped")
        }
        self.failed = found["failed"] | found["error"]
        self.passed, self.skipped = found["passed"] - self.failed, found["skipped"]

    def verdict(self, subject: str) -> str:
        """Return one line; a test that was skipped checked nothing."""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        if self.failed:
            return f"{subject} FAILED: {len(self.failed)} of {len(self.passed | self.failed)}{skipped}"
        if not self.passed:
            return f"{subject} FAILED: nothing was checked{skipped}"
        return f"{subject}: {len(self.passed)} checks passed{skipped}"


def run_marked(marker: str, subject: str, arguments: Sequence[str]) -> int:
    """Run the tests with a marker, print a verdict last, and return the exit status.

    Args:
        marker: a marker of pyproject.toml.
        subject: what the verdict is about.
        arguments: more arguments for pytest.
    """
    if importlib.util.find_spec("pytest") is None:
        print(f"{subject}: {sys.executable} has no pytest; run: make setup, then use .venv/bin/python", file=sys.stderr)
        return 1
    import pytest  # noqa: PLC0415  (a development dependency: its absence is an answer, not a traceback)

    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # the reaper's image needs a registry
    os.chdir(REPOSITORY)
    tally = _Tally()
    status = int(pytest.main(["-m", marker, *arguments], plugins=[tally]))
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(tally.verdict(subject))
    else:
        print(f"{subject} FAILED: pytest ended with status {status}")
    return status if status or tally.passed else 1
