"""mainpc goes to the other engine with all its state, by the page; whoever asked it follows by configuration alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.checkout import Machine, commands_of
from tests.containers.stack import REPOSITORY, ZMQ_PORTS
from tests.containers.walk import UMRA, Walk
from tests.two_hosts.machine_room import PREFIX_BITS
from tests.two_hosts.site import BACK_WITHIN_S, Site
from tests.waiting import wait_until

PAGE = (REPOSITORY / "docs/how-to/back-up-mainpc.md").read_text(encoding="utf-8")
NEW_ADDRESS = "192.0.2.21"
BACKUP = "mainpc.backup"

pytestmark = [pytest.mark.sdt_security, pytest.mark.timeout(300)]


@pytest.fixture
def new(site: Site, tmp_path: Path) -> Iterator[Machine]:
    """A third checkout, with the old machine's settings but for its address; its engine is the one that runs pc2."""
    engine = site.room.machines["pc2"]
    engine.enter("ip", "address", "add", f"{NEW_ADDRESS}/{PREFIX_BITS}", "dev", engine.interface)
    own = {"COMPOSE_PROJECT_NAME": "twinhost-moved", "MAINPC_IP": NEW_ADDRESS, "TWINHOST_PUBLISH_ADDRESS": NEW_ADDRESS}
    machine = Machine(tmp_path / "new", {**site.checkouts["mainpc"].variables, **own}, engine.docker_host)
    yield machine
    machine.remove()


def test_mainpc_moves_to_the_other_engine(site: Site, new: Machine) -> None:
    """Registry, events, audit and keys are there; the client's pin and account hold; pc2 registers there by itself."""
    old, pc2 = site.checkouts["mainpc"], site.checkouts["pc2"]
    fingerprints = site.fingerprints()
    with site.writing() as client:
        pass
    machines = {"old": old, "new": new}
    for prompt, command in commands_of(PAGE):
        if prompt == "new" and not (new.folder / BACKUP).exists():
            (old.folder / BACKUP).rename(new.folder / BACKUP)
        if "up -d mainpc" in command:
            pc2.set({"MAINPC_IP": NEW_ADDRESS})
            site.up("pc2")
        done = machines[prompt].run(command)
        assert done.status == 0, f"{prompt}$ {command}\n{done.out}\n{done.err}"
    moved = Walk({"mainpc": new, "pc2": pc2})
    wait_until(moved.registered, BACK_WITHIN_S, f"{UMRA} is registered with the moved mainpc")
    listed = json.loads(new.run("docker compose run --rm -T cli keys list --json").out)["keys"]
    assert {key["name"]: key["fingerprint"] for key in listed} == fingerprints
    client.endpoints["mainpc"] = f"tcp://{NEW_ADDRESS}:{ZMQ_PORTS['mainpc']}"
    client.require_whole()
