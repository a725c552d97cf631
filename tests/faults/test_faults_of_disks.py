"""Each volume is full for a while: what can't be kept is refused and leaves nothing; what was acknowledged stays."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest

from tests.containers.kept import Kept, kept
from tests.containers.stack import Stack
from tests.faults.house import HOSTS, House
from tests.faults.ledger_clients import DEADLINE_S, LedgerClients
from tests.faults.seen import ROWS
from tests.faults.small_volumes import OVERRIDE, NoLoopDevice, ext4_volumes, fill, give_back, tmpfs_volumes
from tests.identities import new_pair
from tests.waiting import wait_until
from twinhost.secure_zmq.key_writer import render_certificate

HEALTHY_AFTER_FULL_S = 30.0  # the promise
STATE = "/var/lib/twinhost"
LEAST_REFUSALS = 3

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def small(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Both hosts on small volumes."""
    folder = tmp_path_factory.mktemp("small")
    with ExitStack() as ends:
        try:
            settings = ends.enter_context(ext4_volumes(folder))
        except NoLoopDevice:
            settings = tmpfs_volumes()
        stack = Stack(folder, settings, files=("docker-compose.yml", OVERRIDE))
        if "tmpfs" in settings.values():  # somebody has to hold the keys from certs-init's end to the agents' start
            ends.enter_context(kept(stack, "certs-init"))
        yield ends.enter_context(House.built(stack, ROWS))


def kind(house: House, host: str, folder: str) -> str:
    """Return what the file system of a folder is called."""
    done = house.stack.execute(host, "stat", "--file-system", "--format", "%T", folder)
    return "ext4, on a loop device" if done.out.startswith("ext") else done.out.strip()


def put_key(tree: Kept, name: str) -> str:
    """Authorise a fresh key on mainpc and wait until pc2 has it too; return its fingerprint."""
    pair = new_pair(name, "pc3")
    place = f"/certificates/mainpc/enrolled/{name}"
    put = tree.shell(f"cat > {place}.draft && mv {place}.draft {place}.key", render_certificate(pair.certificate))
    assert put.status == 0, put.err
    known = f"test -e /certificates/pc2/trust/{name}.key"
    wait_until(lambda: tree.shell(known).status == 0, DEADLINE_S, "pc2 knows the key")
    return pair.public.fingerprint


@pytest.mark.parametrize("host", HOSTS)
def test_an_agents_volume_is_full(small: House, tmp_path: Path, chance: random.Random, host: str) -> None:
    """Its changes are refused, the other agent's are made; health says so, and is green again afterwards."""
    full_s = chance.uniform(1, 4)

    def fill_it(clients: LedgerClients) -> None:
        fill(small.stack, host, STATE)
        try:
            for client in clients.of(host):
                wait_until(lambda c=client: len(c.refused) >= LEAST_REFUSALS, DEADLINE_S, f"{client.name} is refused")  # type: ignore[misc]
            wait_until(lambda: small.stack.http(host, "/readyz")[0] == 503, DEADLINE_S, "health says so")
            (other,) = set(HOSTS) - {host}
            clients.wait_for_more(DEADLINE_S, clients.of(other))
            time.sleep(full_s)
        finally:
            give_back(small.stack, host, STATE)

    clients = small.withstands(
        f"full disk: {host}'s state",
        fill_it,
        tmp_path,
        within_s=HEALTHY_AFTER_FULL_S,
        refuses=True,
        remark=kind(small, host, STATE),
    )
    (other,) = set(HOSTS) - {host}
    assert not any(client.refused for client in clients.of(other))


def test_the_volume_of_the_keys_is_full(small: House, tmp_path: Path) -> None:
    """Nobody who writes notices; a change of keys is refused with one sentence, and made once there is space."""
    with kept(small.stack, "certs-init") as tree:
        spare = put_key(tree, "spare")
        invite = ("invite", "newcomer", "--host", "pc3", "--role", "agent")

        def fill_it(clients: LedgerClients) -> None:
            fill(small.stack, "mainpc", "/certificates/enrolled")
            try:
                clients.wait_for_more(DEADLINE_S)
                refused = tree.run(*invite)
                assert (refused.status, refused.out) == (1, "")
                assert "No space left on device" in refused.err
                assert len(refused.err.strip().splitlines()) == 1
                revoked = tree.run("revoke", "spare")
                assert (revoked.status, f"revoked: {spare}" in revoked.out) == (1, True)
                assert f"so {spare} is not revoked there; free space" in revoked.err
                assert tree.shell("ls /certificates/*/spare.key /certificates/*/*/spare.key").out == ""
            finally:
                give_back(small.stack, "mainpc", "/certificates/enrolled")

        remark = kind(small, "mainpc", "/certificates")
        small.withstands("full disk: the keys", fill_it, tmp_path, within_s=HEALTHY_AFTER_FULL_S, remark=remark)
        again = tree.run("revoke", "spare")
        assert again.status == 0, again.out + again.err
        invited = tree.run(*invite)
        assert invited.status == 0, invited.err
        verified = tree.run("verify")
        assert verified.status == 0, verified.out
