"""The tests that have one marker: run them, and print their result in one line.

The documented scripts run one marker's tests by `run_marked`. `.ci/run`, which runs every test anyway, loads this
module as a pytest plugin: its summary then has the same lines, and a script that would fail fails the run.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
QUICK = "--quick"
SUBJECTS = {"sdt_security": "SystemDigitalTwin security", "unified_memory_agent": "UnifiedMemoryReasoningAgent"}


class _Tally:
    """A pytest plugin: a marker's tests by their outcome. It is no dataclass, since pytest hashes its plugins."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.skipped: set[str] = set()

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Take the outcomes from pytest's own summary: a set-up or tear-down that breaks fails the test."""
        by_outcome = {
            category: {
                report.nodeid
                for report in terminalreporter.stats.get(category, [])
                if self._marker in getattr(report, "keywords", ())
            }
            for category in ("passed", "failed", "error", "skipped")
        }
        self.failed = by_outcome["failed"] | by_outcome["error"]
        self.passed, self.skipped = by_outcome["passed"] - self.failed, by_outcome["skipped"]

    @property
    def succeeded(self) -> bool:
        return bool(self.passed) and not self.failed

    def verdict(self) -> str:
        """Return one line; a test that was skipped checked nothing."""
        subject = SUBJECTS[self._marker]
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        if self.failed:
            return f"{subject} FAILED: {len(self.failed)} of {len(self.passed | self.failed)}{skipped}"
        if not self.passed:
            return f"{subject} FAILED: nothing was checked{skipped}"
        return f"{subject}: {len(self.passed)} checks passed{skipped}"


def run_marked(marker: str, arguments: Sequence[str]) -> int:
    """Run the tests with a marker, name each as it ends, print a verdict last, and return the exit status.

    Args:
        marker: a marker of pyproject.toml.
        arguments: pytest's; without any, several processes share the tests. `--quick`: those without containers.
    """
    subject = SUBJECTS[marker]
    if importlib.util.find_spec("pytest") is None:
        print(f"{subject}: {sys.executable} has no pytest; run: make venv, then use .venv/bin/python", file=sys.stderr)
        return 1
    import pytest  # noqa: PLC0415  (a development dependency: its absence is an error message, not a traceback)

    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # the reaper's image needs a registry
    os.chdir(REPOSITORY)
    tally = _Tally(marker)
    chosen = [argument for argument in arguments if argument != QUICK]
    if not chosen:
        chosen = ["-v", "-n", str(min(12, 3 * (os.cpu_count() or 1)))]  # as `make test` shares them
    if QUICK in arguments:
        from tests.side_by_side import CONTAINERS  # noqa: PLC0415  (it needs pytest too)

        chosen += [f"--ignore={folder}" for folder in CONTAINERS]
    else:
        print(f"{subject}: with containers, this takes minutes; {QUICK} runs the checks without them", flush=True)
    status = int(pytest.main(["-m", marker, *chosen], plugins=[tally]))
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(tally.verdict())
    else:
        print(f"{subject} FAILED: pytest ended with status {status}")
    return status if status or tally.passed else 1


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Write every script's verdict over the tests of this run."""
    terminalreporter.section("what the documented scripts check")
    for tally in _tallies(terminalreporter):
        terminalreporter.write_line(tally.verdict(), red=not tally.succeeded)


def pytest_sessionfinish(session: "pytest.Session") -> None:
    """Fail a run that passed and in which a script would have checked nothing."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and session.exitstatus == 0 and not all(tally.succeeded for tally in _tallies(terminal)):
        session.exitstatus = 1


def _tallies(terminal: "pytest.TerminalReporter") -> list[_Tally]:
    tallies = [_Tally(marker) for marker in SUBJECTS]
    for tally in tallies:
        tally.pytest_terminal_summary(terminal)
    return tallies
