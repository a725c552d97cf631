"""The version is in one place, and what can't read it there says the same."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import zmq

from twinhost.agent.health import Health
from twinhost.version import VERSION

ROOT = Path(__file__).resolve().parents[2]


def test_package_image_and_agents_have_one_version() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    assert f"twinhost:{VERSION}" in (ROOT / "docker-compose.yml").read_text()


def test_the_health_document_has_versions() -> None:
    version = Health("agent", secure=True).document()["version"]
    assert version == {"twinhost": VERSION, "pyzmq": zmq.pyzmq_version(), "libzmq": zmq.zmq_version()}


@pytest.mark.parametrize("module", ["twinhost.cli", "twinhost.cli.certs_init", "twinhost.cli.archive"])
def test_every_command_shows_its_version(module: str, tmp_path: Path) -> None:
    """Also where nothing is configured: no keys, and no network configuration."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "services"), "NETWORK_CONFIG_PATH": str(tmp_path / "none")}
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    expected = f"twinhost {VERSION}, pyzmq {zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_the_image_is_labelled() -> None:
    """With title, description, version, and base; with no licence, which only its owner can choose."""
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', (ROOT / "Dockerfile").read_text()))
    assert set(labels) == {"title", "description", "version", "base.name"}
    assert (labels["title"], labels["version"], labels["base.name"]) == ("twinhost", VERSION, "${BASE_IMAGE}")
