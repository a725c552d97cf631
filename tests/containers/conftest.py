"""Stacks that the container tests share: one secured, one open."""

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.stack import IMAGE, Stack

_OURS = ("SECURE_ZMQ", "MAINPC_IP", "PC2_IP", "TWINHOST_", "MAINPC_HTTP_PORT", "COMPOSE_")


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[docker.DockerClient]:
    """A container engine with the project's image; without one these tests can't show anything."""
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]  # a developer's own settings are not the stack's under test
    try:
        client = docker.from_env()
        client.images.get(IMAGE)
    except docker.errors.DockerException as error:
        pytest.fail(f"no engine with {IMAGE} answers ({error}); run: make test", pytrace=False)
    yield client
    client.close()


def _running(folder: Path, settings: dict[str, str]) -> Iterator[Stack]:
    stack = Stack(folder, settings)
    try:
        stack.start()
        stack.wait_until_ready()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="session")
def stack(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Both hosts with SECURE_ZMQ=1, ready."""
    yield from _running(tmp_path_factory.mktemp("secured"), {"SECURE_ZMQ": "1"})


@pytest.fixture(scope="session")
def open_stack(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Both hosts with SECURE_ZMQ=0, ready."""
    yield from _running(tmp_path_factory.mktemp("open"), {"SECURE_ZMQ": "0"})
