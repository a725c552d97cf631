"""Agents are killed, stopped and restarted while clients write."""

import random
import time
from pathlib import Path
from signal import Signals

import pytest

from tests.faults.house import HOSTS, House
from tests.faults.ledger_clients import Batches, LedgerClients
from tests.waiting import PATIENCE_S, wait_until

BOTH = "both"
HOSTS_OF = {"mainpc": ("mainpc",), "pc2": ("pc2",), BOTH: HOSTS}

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(120)]


@pytest.mark.parametrize("target", ["mainpc", "pc2", pytest.param(BOTH, marks=pytest.mark.quick)])
def test_killed(house: House, tmp_path: Path, chance: random.Random, target: str) -> None:
    """kill -9 of the main process, once or twice; the engine starts it again."""
    kills = chance.randint(1, 2)

    def kill(clients: LedgerClients) -> None:
        for number in range(kills):
            if number:
                clients.wait_for_more(PATIENCE_S)
            time.sleep(chance.uniform(0, 0.3))  # the moment of chance
            for host in HOSTS_OF[target]:
                house.signal(host, Signals.SIGKILL)

    house.withstands(f"kill -9: {target}", kill, tmp_path, remark=f"{kills}×")


@pytest.mark.parametrize("target", HOSTS_OF)
def test_stopped_and_continued(house: House, tmp_path: Path, chance: random.Random, target: str) -> None:
    """SIGSTOP, for longer than a watchdog's patience of 5 s or not; SIGCONT."""
    stopped_s = chance.uniform(3, 8)

    def stop(clients: LedgerClients) -> None:
        for host in HOSTS_OF[target]:
            house.signal(host, Signals.SIGSTOP)
        time.sleep(stopped_s)
        for host in HOSTS_OF[target]:
            house.signal(host, Signals.SIGCONT)

    house.withstands(f"SIGSTOP, SIGCONT: {target}", stop, tmp_path, remark=f"for {stopped_s:.1f} s")


def test_paused(house: House, tmp_path: Path, chance: random.Random) -> None:
    """`docker pause` of one of them: its whole container is frozen, its network goes on."""
    host, paused_s = chance.choice(HOSTS), chance.uniform(2, 3)

    def pause(clients: LedgerClients) -> None:
        container = house.stack.container(host)
        container.pause()
        time.sleep(paused_s)
        container.unpause()

    house.withstands("docker pause: one of them", pause, tmp_path, remark=f"{host} for {paused_s:.1f} s")


@pytest.mark.parametrize("target", ["mainpc", pytest.param("pc2", marks=pytest.mark.quick), BOTH])
def test_restarted_in_mid_batch(house: House, tmp_path: Path, target: str) -> None:
    """`docker compose restart` while a batch of changes is in flight."""

    def restart(clients: LedgerClients) -> None:
        flying = [client for client in clients.all if isinstance(client, Batches) and client.host in HOSTS_OF[target]]
        for client in flying:
            wait_until(lambda client=client: client.in_flight, PATIENCE_S, "a batch is in flight")  # type: ignore[misc]
        done = house.stack.compose("restart", *HOSTS_OF[target])
        assert done.status == 0, done.err

    house.withstands(f"docker compose restart in mid-batch: {target}", restart, tmp_path)
