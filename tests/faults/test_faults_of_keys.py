"""A writer's key is revoked while it writes; both agents' keys are rotated while others write."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.kept import ANOTHER_TREE, kept
from tests.containers.stack import AGENTS, Stack
from tests.containers.test_keys_out import REVOKED_WITHIN_S, Site
from tests.containers.test_keys_rotation import COMMANDS, Keys, Pins
from tests.faults.house import HOSTS, House
from tests.faults.ledger_clients import LedgerClients, times_made
from tests.faults.seen import ROWS
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.server_address import FollowedAddress

THIRD = "third"

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def rotating(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Both hosts, with keys that change, and an operator who follows them."""
    folder = tmp_path_factory.mktemp("rotating")
    stack = Stack(folder, {})
    try:
        stack.start()
        stack.wait_until_ready()
        keys = Keys(stack, folder)
        operator = keys.pair("operator")
        pins = {host: Pins(keys, AGENTS[host]) for host in HOSTS}
        addresses = {
            host: FollowedAddress(stack.zmq_address(host), lambda: operator, lambda host=host: pins[host].now)  # type: ignore[misc]
            for host in HOSTS
        }
        house = House(stack, ROWS, addresses)
        yield house
        house.close()
        for pin in pins.values():
            pin.stop()
    finally:
        stack.stop()


def test_the_key_of_one_who_writes_is_revoked(house: House, tmp_path: Path, chance: random.Random) -> None:
    """What was acknowledged is stored once; a second after the command nothing more is; others notice nothing."""
    stack, later_s = house.stack, chance.uniform(0, 1)
    with kept(stack, "certs-init") as tree, kept(stack, "certs-init", *ANOTHER_TREE) as other_machine:
        site = Site(stack, tree, other_machine, tmp_path / "copies")
        site.enrol(THIRD)
        pair = site.pair(THIRD)
        site.known_everywhere(pair)
        addresses = {host: stack.secured(host, pair) for host in HOSTS}
        with LedgerClients(addresses, tmp_path / THIRD, THIRD) as thirds:

            def revoke(_: LedgerClients) -> None:
                thirds.wait_for_more(PATIENCE_S)
                time.sleep(later_s)
                site.revoke(THIRD)
                for client in thirds.all:
                    wait_until(lambda c=client: c.locked_out, REVOKED_WITHIN_S, f"{client.name} is locked out")  # type: ignore[misc]

            house.withstands("the key of one who writes is revoked", revoke, tmp_path / "others")
    assert thirds.failures == []
    assert all(client.locked_out for client in thirds.all)
    made = times_made({host: house.client(host) for host in HOSTS}, THIRD)
    assert thirds.require_whole(made) > 0


@pytest.mark.parametrize("host", HOSTS)
def test_an_agents_key_is_rotated(rotating: House, tmp_path: Path, host: str) -> None:
    """`certs-init rotate`, while everybody writes: no call fails."""

    def rotate(_: LedgerClients) -> None:
        rotated = rotating.stack.run("certs-init", *COMMANDS[host])
        assert rotated.status == 0, rotated.out + rotated.err
        assert "proven" in rotated.out

    rotating.withstands(f"certs-init {' '.join(COMMANDS[host][:2])}", rotate, tmp_path)
    verified = rotating.stack.run("certs-init", "verify")
    assert (verified.status, "remark" in verified.out) == (0, False), verified.out
