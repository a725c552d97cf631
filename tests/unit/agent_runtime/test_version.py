"""The version is in one place, and what can't read it there says the same."""

import tomllib
from pathlib import Path

import zmq

from agent_runtime.health import Health
from agent_runtime.version import VERSION

ROOT = Path(__file__).resolve().parents[3]


def test_the_package_and_the_image_have_the_version_that_the_agents_tell() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    assert f"twinhost:{VERSION}" in (ROOT / "docker-compose.yml").read_text()


def test_the_health_document_tells_versions() -> None:
    version = Health("agent", secure=True).document()["version"]
    assert version == {"twinhost": VERSION, "pyzmq": zmq.pyzmq_version(), "libzmq": zmq.zmq_version()}
