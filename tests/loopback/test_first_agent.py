"""docs/tutorial/your-first-agent.md and docs/how-to/test-an-agent.md: the commands and the code of both pages work.

The tutorial's commands with containers are tested in tests/containers/test_add_an_agent.py.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TUTORIAL = (REPOSITORY / "docs/tutorial/your-first-agent.md").read_text(encoding="utf-8")
HOW_TO = (REPOSITORY / "docs/how-to/test-an-agent.md").read_text(encoding="utf-8")
TYPED = """
import subprocess, sys
from test_greeter import Stack, stack

def test_the_program_runs_with_the_client_of_the_command(stack: Stack, monkeypatch) -> None:
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "twinhost.cli", "client", "Greeter", "--out", "greeter_client.py"]
    subprocess.run(command, check=True)
    done = subprocess.run([sys.executable, "typed.py"], check=True, capture_output=True, text=True)
    assert done.stdout == "Hello, Ana!\\n1\\n"
"""


def run(command: list[str], folder: Path) -> str:
    """Run a command as an author does, whose .venv has the package; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "services"), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr
    return done.stdout


def test_the_tutorial_goes_from_nothing_to_an_agent_with_state(tmp_path: Path) -> None:
    """Every command in its order, in one shell; the generated tests pass, and so does the one that the page adds."""
    checkout = tmp_path / "twinhost"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(REPOSITORY / ".venv")
    (difference,) = re.findall(r"```diff\n(.*?)```", TUTORIAL, re.S)
    blocks = re.findall(r"```console\n(.*?)```", TUTORIAL, re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    patch = next(number for number, line in enumerate(lines) if line.startswith("patch"))
    lines.insert(patch, f"cat >count.diff <<'END'\n{difference}END")
    printed = run(["bash", "-e", "-c", "\n".join(lines)], checkout)
    assert re.findall(r"(\d+) passed", printed) == ["4", "5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["greeter", "twinhost"]
    (program,) = re.findall(r"```python\n(.*?)```", TUTORIAL, re.S)
    (tmp_path / "greeter/typed.py").write_text(program)
    (tmp_path / "greeter/test_typed.py").write_text(TYPED)
    assert "1 passed" in run([sys.executable, "-m", "pytest", "test_typed.py"], tmp_path / "greeter")


def test_the_how_to_pages_tests_pass(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", HOW_TO, re.S)
    (tmp_path / "test_page.py").write_text(code)
    assert "2 passed" in run([sys.executable, "-m", "pytest", "--rootdir", str(tmp_path)], tmp_path)
