"""CI's second try: a tiny suite whose tests fail by chance, always, or in a way that is pytest's own end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts.second_try import GIVE_UP_AFTER

pytestmark = pytest.mark.thorough

REPOSITORY = Path(__file__).resolve().parents[2]
FLAKY = """
from pathlib import Path

MARK = Path(__file__).with_name("was-here")

def test_flaky():
    first = not MARK.exists()
    MARK.touch()
    assert not first, "by chance"
"""
FLAKY_TEARDOWN = FLAKY.replace("def test_flaky():", "import pytest\n\n@pytest.fixture\ndef ends():\n    yield") + (
    "\ndef test_flaky_end(ends): pass\n"
)
NO_SETUP = "def pytest_runtest_setup(item): raise KeyboardInterrupt\n"
PASSES = "def test_good(): pass\n"
FAILS = "def test_bad(): raise AssertionError('for a reason')\n"
LEANS = "import sys\n\ndef test_first(): sys.leans = 1\n\ndef test_leans(): assert not hasattr(sys, 'leans')\n"
PLUGINS = ("-p", "xdist.plugin", "-p", "scripts.second_try", "-p", "no:cacheprovider")
LAST_LINE = re.compile(r"=+ (.*) in [\d.]+s.* =+")


def run(folder: Path, *options: str, **files: str) -> tuple[int, list[str]]:
    """Run a suite as CI does; return the exit status and the lines of the output."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, *options],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # no other plugin is needed, and each takes time to import
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def summary(lines: list[str]) -> str:
    """Return what pytest's last line counts."""
    match = LAST_LINE.fullmatch(lines[-1])
    assert match is not None, lines[-1]
    return match[1]


@pytest.mark.parametrize(("flaky", "name"), [(FLAKY, "test_flaky"), (FLAKY_TEARDOWN, "test_flaky_end")])
def test_a_flaky_test_does_not_fail_the_run(tmp_path: Path, flaky: str, name: str) -> None:
    """The run passes, and its last lines name the test and show its first failure."""
    status, lines = run(tmp_path, test_one=flaky + PASSES)
    assert status == 0
    assert summary(lines) == "2 passed, 1 passed at the second try"
    assert lines[-2] == f"test_one.py::{name}"
    assert "each is a defect to fix" in lines[-3]
    assert any("by chance" in line for line in lines)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two"])
def test_a_constant_failure_fails_the_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Beside a flaky one, which is listed as such and does not count as failed."""
    status, lines = run(tmp_path, *options, test_one=FLAKY + FAILS)
    assert status == 1
    assert summary(lines) == "1 failed, 1 passed, 1 passed at the second try"
    assert "test_one.py::test_flaky" in lines[-2]
    assert "second try of test_one.py::test_bad: failed" in lines


def test_the_second_try_is_alone(tmp_path: Path) -> None:
    """What the tests before it left in the process is gone."""
    status, lines = run(tmp_path, test_one=LEANS)
    assert (status, lines[-2]) == (0, "test_one.py::test_leans")


def test_a_crash_of_one_process_of_several_fails_the_run(tmp_path: Path) -> None:
    """Though the test would pass at its second try: what broke the process may break anything."""
    crash = "    import os\n    first or os.abort()\n"
    status, lines = run(tmp_path, "-n", "2", test_one=FLAKY.replace("    assert", f"{crash}    assert") + PASSES)
    assert (status, summary(lines)) == (1, "1 failed, 1 passed")


def test_a_suite_that_passes_is_as_before(tmp_path: Path) -> None:
    """No list, and no mention of a second try."""
    status, lines = run(tmp_path, test_one=PASSES)
    assert (status, summary(lines)) == (0, "1 passed")
    assert not any("second try" in line for line in lines)


def test_many_constant_failures_end_the_second_tries(tmp_path: Path) -> None:
    """The run has failed by then; all of them count as failed."""
    tests = "".join(FAILS.replace("bad", f"bad_{number}") for number in range(GIVE_UP_AFTER + 2))
    status, lines = run(tmp_path, test_one=tests)
    assert (status, summary(lines)) == (1, f"{GIVE_UP_AFTER + 2} failed")
    assert len([line for line in lines if line.startswith("second try of")]) == GIVE_UP_AFTER


@pytest.mark.parametrize(
    ("files", "status", "last"),
    [
        ({"test_one": "this is no Python\n"}, 2, "1 error"),
        (
            {"test_one": PASSES, "conftest": NO_SETUP},
            2,
            "no tests ran",
        ),
        ({"test_one": PASSES, "conftest": "def pytest_runtest_protocol(item): raise OSError\n"}, 3, "no tests ran"),
        ({"test_one": FLAKY, "conftest": "def pytest_sessionfinish(): raise OSError\n"}, 1, ""),
        ({"test_one": PASSES, "conftest": "this is no Python\n"}, 4, ""),
        ({"test_one": PASSES, "conftest": "import pytest\ndef pytest_configure(): raise pytest.UsageError\n"}, 4, ""),
        ({}, 5, "no tests ran"),
        ({"test_one": "def test_crash():\n    import os\n    os.abort()\n"}, -6, ""),
    ],
)
def test_a_crash_of_pytest_fails_the_run(tmp_path: Path, files: dict[str, str], status: int, last: str) -> None:
    """With pytest's own exit status, and its last line wherever pytest prints one."""
    ended, lines = run(tmp_path, **files)
    assert ended == status
    if last:
        assert summary(lines) == last
