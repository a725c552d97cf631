"""The wall clock of agents is turned by an hour while clients write; the monotonic one goes on."""

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.kept import kept
from tests.containers.stack import IMAGE, REPOSITORY, Stack
from tests.faults.house import HEALTHY_WITHIN_S, HOSTS, House
from tests.faults.ledger_clients import DEADLINE_S, LedgerClients
from tests.faults.seen import ROWS
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, PeerNotLive
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, Validity

HOUR_S = 3_600
TURNED = "/tmp/turned"
TURNED_IMAGE = f"{IMAGE}-turned-clock"
WHOSE = {"mainpc": ("mainpc",), "pc2": ("pc2",), "both": HOSTS}

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def clocked(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Both hosts with clocks that can be turned, and keys that are a day old."""
    recipe = REPOSITORY / "tests/faults/turned_clock.Dockerfile"
    command = ["docker", "build", "--quiet", "--tag", TURNED_IMAGE, "--build-arg", f"IMAGE={IMAGE}", "-"]
    built = subprocess.run(command, input=recipe.read_text(), capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip(f"no image with Debian's libfaketime can be built here: {built.stderr.strip().splitlines()[-1]}")
    files = ("docker-compose.yml", "tests/faults/older_keys.yaml")
    stack = Stack(tmp_path_factory.mktemp("clocked"), {"TWINHOST_IMAGE": TURNED_IMAGE}, files=files)
    with House.built(stack, ROWS) as house:
        yield house
    engine.images.remove(TURNED_IMAGE)


def turn(house: House, host: str, by_s: int) -> None:
    """Let a host's wall clock be ahead by some seconds, from now on."""
    script = f"echo {by_s:+d} > {TURNED}.new && mv {TURNED}.new {TURNED}"
    done = house.stack.execute(host, "sh", "-c", script)
    assert done.status == 0, done.err
    shown = house.stack.execute(host, "python", "-c", "import time; print(time.time())")
    assert abs(float(shown.out) - time.time() - by_s) < PATIENCE_S


@pytest.mark.parametrize("whose", WHOSE)
@pytest.mark.parametrize("hours", [1, -1])
def test_turned(clocked: House, tmp_path: Path, chance: random.Random, whose: str, hours: int) -> None:
    """By an hour, and back: both agents are healthy with the wrong time, and with the right one again."""
    stays_s = chance.uniform(1, 3)

    def turn_them(clients: LedgerClients) -> None:
        for host in WHOSE[whose]:
            turn(clocked, host, hours * HOUR_S)
        try:
            clients.wait_for_more(DEADLINE_S)
            ahead_s = hours * HOUR_S if "mainpc" in WHOSE[whose] else 0
            clocked.wait_until_healthy(HEALTHY_WITHIN_S, clock_is_ahead_s=ahead_s)
            time.sleep(stays_s)
        finally:
            for host in WHOSE[whose]:
                turn(clocked, host, 0)

    clocked.withstands(f"wall clock {hours:+d} h: {whose}", turn_them, tmp_path, remark="healthy during it too")


def test_a_key_that_is_younger_than_the_turn_waits(clocked: House) -> None:
    """An hour back it is not good yet and is refused, others are not; with the right time it comes in again."""
    with kept(clocked.stack, "certs-init") as tree:
        owner = KeyOwner("newcomer", "pc3", frozenset({"agent"}))
        pair = KeyPair.generate(owner, Validity(not_before=int(time.time())))
        place = "/certificates/mainpc/enrolled/newcomer"
        put = tree.shell(f"cat > {place}.draft && mv {place}.draft {place}.key", render_certificate(pair.certificate))
        assert put.status == 0, put.err
        with Client(clocked.stack.secured("mainpc", pair)) as newcomer:

            def comes_in() -> bool:
                try:
                    newcomer.call("ping")
                except (NotAuthorized, PeerNotLive):
                    return False
                return True

            wait_until(comes_in, PATIENCE_S, "the new key is good")
            turn(clocked, "mainpc", -HOUR_S)
            try:
                assert not comes_in()
                clocked.wait_until_healthy(HEALTHY_WITHIN_S, clock_is_ahead_s=-HOUR_S)
            finally:
                turn(clocked, "mainpc", 0)
            wait_until(comes_in, HEALTHY_WITHIN_S, "the new key is good again")
