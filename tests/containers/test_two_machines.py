"""Two machines, by the pages alone: two checkouts that share nothing but each other's addresses."""

import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.checkout import Machine
from tests.containers.stack import REPOSITORY
from tests.containers.walk import TWO_MACHINES, UMRA, Walk, shown_settings

KEYS = (REPOSITORY / "docs/how-to/manage-keys.md").read_text(encoding="utf-8")
NAMED = {"SystemDigitalTwin", UMRA, "operator", "Watcher"}

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent]


@pytest.fixture
def walk(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Walk]:
    """Two checkouts, each with the `.env` of the page; the bridge's address is used for both machines."""
    address = engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    shown = shown_settings()
    settings = {name: address for name in shown if name != "TWINHOST_HOST"}
    settings |= {"MAINPC_ZMQ_PORT": "7120", "MAINPC_EVENTS_PORT": "7150", "PC2_ZMQ_PORT": "7230"}  # the configuration's
    machines = {host: Machine(tmp_path / host, {**settings, "TWINHOST_HOST": host}) for host in ("mainpc", "pc2")}
    yield Walk(machines)
    for machine in machines.values():
        machine.remove()


def test_two_machines_are_set_up_by_their_page(walk: Walk) -> None:
    """Each makes its own secret, one line travels, and both agents answer the operator on mainpc."""
    walk.follow(TWO_MACHINES)
    status = walk.last("docker compose run --rm cli status")
    assert "Registered agents (2)" in status.out
    listing = (
        walk.machines["pc2"].run("docker compose run --rm -T --no-deps --entrypoint find certs-init /certificates").out
    )
    assert "client.key_secret" in listing
    assert "server.key_secret" not in listing
    assert "operator.key_secret" not in listing


def test_the_life_of_a_key_by_its_page(walk: Walk) -> None:
    """Invite, join, use, rotate, revoke, come back, and all of it is in the audit log, which is whole."""
    walk.follow(KEYS)
    mainpc = walk.machines["mainpc"]
    output = mainpc.run("docker compose run --rm -T --no-deps cli audit tail --lines 1000 --json").out
    happened = [
        (line["event"], line.get("name")) for line in map(json.loads, output.splitlines()) if line.get("name") in NAMED
    ]
    for steps in (
        {("key_authorized", "operator"), ("invitation_made", UMRA)},  # which may be there at the agent's first look
        {
            ("key_authorized", UMRA),
            ("invitation_used", UMRA),
        },  # logged as it takes effect, which may come after its cause
        {("key_rotated", "SystemDigitalTwin")},
        {("key_rotated", UMRA)},
        {("key_rotated", "operator")},
        {("key_revoked", UMRA)},
        {("invitation_made", UMRA)},
        {("key_authorized", UMRA), ("invitation_used", UMRA)},
        {("key_authorized", "Watcher")},
    ):
        assert steps <= set(happened), f"{steps} is not in the log after what came before it: {happened}"
        happened = happened[max(happened.index(step) for step in steps) + 1 :]
    verified = mainpc.run("docker compose run --rm -T --no-deps cli audit verify")
    assert verified.status == 0, verified.out
    for machine in walk.machines.values():
        found = machine.run("docker compose run --rm -T certs-init verify")
        assert found.status == 0, found.out
