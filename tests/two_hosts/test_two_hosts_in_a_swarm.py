"""The same two machines as a Docker Swarm, by its page; and what a swarm does when a container or a node ends."""

import re
from collections.abc import Iterator

import pytest

from tests.containers.stack import REPOSITORY
from tests.two_hosts.machine_room import ADDRESSES, Namespace, why_no_overlay
from tests.two_hosts.site import BACK_WITHIN_S, Site
from tests.waiting import wait_until

PAGE, WITH_STANDBYS = (
    (REPOSITORY / "docs/how-to/deploy-to-a-swarm.md").read_text(encoding="utf-8").split("## With standbys\n")
)
NODE_IS_MISSED_WITHIN_S = 60.0

pytestmark = [pytest.mark.unified_memory_agent, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def swarm(site: Site) -> Iterator[Site]:
    """Both hosts, which ran by Compose, in a swarm; and by Compose again afterwards."""
    if reason := why_no_overlay(site.room.machines["mainpc"]):
        pytest.skip(reason)
    site.walk.follow(PAGE.replace(ADDRESSES["mainpc"], site.addresses["mainpc"]))
    yield site
    manager, worker = site.room.machines["mainpc"], site.room.machines["pc2"]
    manager.docker("stack", "rm", "twinhost")
    for machine in (worker, manager):
        machine.docker("swarm", "leave", "--force")
    for host, machine in site.room.machines.items():
        wait_until(lambda machine=machine: not task(machine), BACK_WITHIN_S, f"{host}'s task has ended")  # type: ignore[misc]
    site.up(*site.checkouts)
    site.wait_until_back()


def task(machine: Namespace) -> str:
    """Return the running container of the stack's service on a machine; empty where there is none."""
    return machine.docker("ps", "--quiet", "--filter", "label=com.docker.stack.namespace=twinhost").stdout.strip()


def test_the_pages_steps_deploy_both(swarm: Site) -> None:
    """Each on the node with its label, and both agents answer the operator, encrypted."""
    status = swarm.walk.last("docker compose run --rm cli status").out
    assert "Link encrypted and authenticated with CURVE" in status
    assert "Registered agents (2)" in status
    for host, machine in swarm.room.machines.items():
        assert machine.docker("inspect", "--format", "{{.Config.Hostname}}", task(machine)).stdout.strip() == host


def test_what_holds_a_container_in_is_as_before(swarm: Site) -> None:
    """A read-only root, no capabilities, limits, a /tmp that runs nothing; not no-new-privileges, as its page says."""
    look = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}"
    for machine in swarm.room.machines.values():
        held = machine.docker("inspect", "--format", look, task(machine)).stdout.strip()
        assert held == f"true [ALL] {512 * 1024 * 1024} 256"
        mounted = machine.docker(
            "exec", task(machine), "sh", "-c", "grep '^tmpfs /tmp ' /proc/mounts; ulimit -n"
        ).stdout
        assert re.match(r"tmpfs /tmp tmpfs rw,nosuid,nodev,noexec,\S*size=16384k\S* 0 0\n16384\n", mounted), mounted


def test_a_killed_container_is_started_again(swarm: Site) -> None:
    """pc2's process ends; the swarm starts another, and nothing that was acknowledged is lost or made twice."""
    pc2 = swarm.room.machines["pc2"]
    with swarm.writing():
        before = task(pc2)
        pc2.docker("kill", before)
        wait_until(lambda: task(pc2) not in {"", before}, BACK_WITHIN_S, "pc2 has another container")
        wait_until(swarm.walk.registered, BACK_WITHIN_S, "pc2's agent is registered again")


def test_a_node_that_was_gone_comes_back(swarm: Site) -> None:
    """pc2's engine ends, the manager sees it down and starts pc2 nowhere else; then it is back, and so is pc2."""
    manager, pc2 = swarm.room.machines["mainpc"], swarm.room.machines["pc2"]
    with swarm.writing():
        pc2.stop_engine()
        try:
            wait_until(lambda: "Down" in states(manager), NODE_IS_MISSED_WITHIN_S, "the manager misses pc2's node")
            wait_until(swarm.walk.gone, BACK_WITHIN_S, "pc2's agent counts as gone")
        finally:
            pc2.start_engine()
        wait_until(lambda: "Down" not in states(manager), BACK_WITHIN_S, "the manager has pc2's node again")
        wait_until(swarm.walk.registered, BACK_WITHIN_S, "pc2's agent is registered again")


def states(manager: Namespace) -> str:
    """Return how the manager sees its nodes."""
    return manager.docker("node", "ls", "--format", "{{.Status}}").stdout
