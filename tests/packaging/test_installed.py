"""The distribution as a user installs it: into an empty venv, with nothing of the checkout on the path."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = """
from importlib.metadata import entry_points
from importlib.resources import files
import twinhost
from twinhost import AsyncClient, Client, NotAuthorized, connect
from twinhost.secure_zmq import Server
from main_pc_code.src.network.secure_zmq import configure_secure_server, start_auth
from main_pc_code.utils.network_utils import load_network_config
assert entry_points(group="pytest11")["twinhost"].value == "twinhost.testing.plugin"
assert "SystemDigitalTwin" in (files("twinhost") / "testing/network_config.yaml").read_text()
assert (files("twinhost") / "cli/new/template/greeter.py").is_file()
print(twinhost.__file__)
"""


def makes_venvs(python: str) -> bool:
    return subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0


FOUND = [sys.executable, *filter(None, (shutil.which(f"python3.{minor}") for minor in (11, 12, 13)))]
PYTHONS = [each for each in FOUND if makes_venvs(each)]  # at least the one that runs this


def run(command: Sequence[str | Path], folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the distribution is made of, since a build writes beside it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "services", folder / "services", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("python", PYTHONS, ids=[Path(each).name for each in PYTHONS])
def test_pip_install_gives_a_working_client(python: str, source: Path, tmp_path: Path) -> None:
    """Clients and the older imports work without PYTHONPATH, and what only an agent needs is not brought along."""
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    installed = tmp_path / "venv" / "bin" / "python"
    subprocess.run([installed, "-m", "pip", "install", "--quiet", source], check=True, timeout=120)
    done = run([installed, "-c", PROGRAM], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    names = subprocess.check_output([installed, "-m", "pip", "list", "--format", "freeze"], text=True).lower()
    assert "pyzmq" in names
    for other in ("typer", "uvicorn", "starlette", "prometheus", "psutil"):
        assert other not in names
    done = run([tmp_path / "venv" / "bin" / "twinhost", "status"], tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "twinhost: the package typer is not installed; run: pip install 'twinhost[cli]'\n"
