"""A pytest plugin for CI: a test that fails is run again, alone, and the run fails only where it fails twice.

`.ci/run` loads it with `-p scripts.second_try`. After the last test, each one that failed is run in a pytest process of
its own, with fixtures of its own. Where that passes, the failure no longer fails the run, and the test is listed
above the last line: each of them is a defect to fix. Everything else stays as pytest does it, also its exit
status when it collects nothing, is interrupted, or crashes. With `-n` the tests run in several processes; the second
tries follow once all of those have ended, and a test whose process crashed gets none.
"""

import subprocess
import sys
from collections.abc import Generator

import pytest

GIVE_UP_AFTER = 5  # tests that failed twice: the run has failed by then, and further tries would only take time
LONGEST_TRY_S = 600  # beyond pytest's own limit for a test, whose fixtures may start a stack
_CATEGORY = "passed at the second try"  # as the last line counts it
_CRASHED = "???"  # pytest-xdist's phase for a process that ended during a test, in place of set-up, call, or tear-down

_reports: list[pytest.TestReport] = []  # of the first try, with what failed


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Run the tests, then those that failed once more."""
    result = yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return result
    failures = [*terminal.stats.get("failed", []), *terminal.stats.get("error", [])]
    twice = 0
    crashed = {report.nodeid for report in failures if report.when == _CRASHED}
    for nodeid in dict.fromkeys(report.nodeid for report in failures if report.nodeid not in crashed):
        if twice == GIVE_UP_AFTER:
            terminal.write_line(f"{twice} tests failed twice: the others that failed are not run again", red=True)
            break
        if _passes_alone(session.config, terminal, nodeid):
            _count_as_passed(terminal, nodeid)
        else:
            twice += 1
    session.testsfailed = sum(len(terminal.stats.get(category, [])) for category in ("failed", "error"))
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Show after everything else what failed at the first try, and list those tests."""
    yield
    if not _reports:
        return
    for report in _reports:
        terminalreporter.section(f"first try of {report.nodeid}, {report.when}", sep="_", red=True)
        terminalreporter.write_line(report.longreprtext)
        for title, content in report.sections:
            terminalreporter.write_line(f"-- {title} --\n{content}")
    terminalreporter.section("tests that needed a second try; each is a defect to fix", yellow=True)
    for nodeid in dict.fromkeys(report.nodeid for report in _reports):
        terminalreporter.write_line(nodeid)


def _passes_alone(config: pytest.Config, terminal: pytest.TerminalReporter, nodeid: str) -> bool:
    plugins = ("-p", f"no:{__name__}", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", "--rootdir", str(config.rootpath), *plugins, nodeid]
    # The node's id is pytest's own, and no shell reads it.
    try:
        again = subprocess.run(  # noqa: S603
            command, cwd=config.rootpath, capture_output=True, text=True, check=False, timeout=LONGEST_TRY_S
        )
    except subprocess.TimeoutExpired:
        terminal.write_line(f"second try of {nodeid}: not finished within {LONGEST_TRY_S} s", red=True)
        return False
    passed = again.returncode == pytest.ExitCode.OK and " passed" in again.stdout
    terminal.write("\n")  # the line of dots may not be complete; with several processes pytest doesn't know
    terminal.write_line(f"second try of {nodeid}: {'passed' if passed else 'failed'}", green=passed, red=not passed)
    if not passed:
        terminal.write_line(again.stdout + again.stderr)
    return passed


def _count_as_passed(terminal: pytest.TerminalReporter, nodeid: str) -> None:
    """Count a test as one that passed, and keep what failed at its first try."""
    for category in ("failed", "error"):
        reports = terminal.stats.get(category, [])
        _reports.extend(report for report in reports if report.nodeid == nodeid)
        terminal.stats[category] = [report for report in reports if report.nodeid != nodeid]
        if not terminal.stats[category]:
            del terminal.stats[category]  # pytest colours the last line by the keys
    mine = [report for report in _reports if report.nodeid == nodeid]
    terminal.stats.setdefault(_CATEGORY, []).append(mine[0])
    if all(report.nodeid != nodeid for report in terminal.stats.get("passed", [])):
        terminal.stats.setdefault("passed", []).append(mine[0])
