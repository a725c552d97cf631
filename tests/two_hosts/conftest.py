"""Two machines, for all tests of this folder; where there can't be two, the tests are skipped and say why."""

import os
from collections.abc import Iterator
from contextlib import closing

import docker
import pytest

from tests.containers.conftest import engine
from tests.containers.stack import IMAGE
from tests.containers.walk import TWO_MACHINES
from tests.two_hosts.machine_room import MachineRoom, why_not
from tests.two_hosts.site import Site

__all__ = ["engine", "room", "site"]

# These take this folder beyond the four minutes that the whole suite has for it.
collect_ignore = (
    []
    if os.environ.get("TWINHOST_TWO_HOSTS") == "all"
    else [
        "test_foreign_database.py",
        "test_three_machines.py",
        "test_two_machines_alone.py",
        "test_two_hosts_in_a_swarm.py",
        "test_two_hosts_messages.py",
        "test_two_hosts_moved.py",
    ]
)


@pytest.fixture(scope="package")
def room(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachineRoom]:
    """Two machines and a cable, with the project's image on both."""
    if reason := why_not():
        pytest.skip(reason)
    with closing(MachineRoom(tmp_path_factory.mktemp("room"))) as room:
        room.open(IMAGE)
        yield room


@pytest.fixture(scope="package")
def site(room: MachineRoom, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The page on two machines, followed once; each test leaves both hosts as well as it found them."""
    site = Site(room, tmp_path_factory.mktemp("site"))
    site.walk.follow(TWO_MACHINES)
    return site  # and all of it goes with the room
