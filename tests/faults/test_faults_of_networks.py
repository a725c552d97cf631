"""The network is cut, both ways and one, flaps, loses packets, and the engine takes it away, while clients write."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.cuts import dropped, dropping, why_not
from tests.faults.house import HOSTS, House
from tests.faults.ledger_clients import DEADLINE_S, LedgerClients
from tests.waiting import wait_until

LOSS = 0.05
LONGER_THAN_A_REGISTRATION_S = (16.0, 20.0)  # an agent that is silent for 15 s is NO_RESPONSE
SHORT_S = (2.0, 5.0)

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(150)]


@pytest.fixture
def cuttable(house: House) -> House:
    """The house, where its network can be cut from here."""
    if reason := why_not(house.stack):
        pytest.skip(reason)
    return house


@pytest.mark.parametrize("host", HOSTS)
def test_cut_both_ways(cuttable: House, tmp_path: Path, chance: random.Random, host: str) -> None:
    """For longer than a registration lives; each change that was under way is made after the heal."""
    cut_s = chance.uniform(*LONGER_THAN_A_REGISTRATION_S)

    def cut(clients: LedgerClients) -> None:
        with dropping(cuttable.stack, [host]):
            time.sleep(cut_s)
            assert dropped(cuttable.stack, host) > 0

    cuttable.withstands(f"network cut, both ways: {host}", cut, tmp_path, remark=f"for {cut_s:.0f} s")


@pytest.mark.parametrize(
    ("host", "way"),
    [("mainpc", "hears"), ("mainpc", "says"), ("pc2", "hears"), pytest.param("pc2", "says", marks=pytest.mark.quick)],
)
def test_cut_one_way(cuttable: House, tmp_path: Path, chance: random.Random, host: str, way: str) -> None:
    """What one host sends arrives, and it receives nothing; or the reverse: requests are executed unanswered."""
    cut_s = chance.uniform(*SHORT_S)

    def cut(clients: LedgerClients) -> None:
        with dropping(cuttable.stack, [host], [way]):
            time.sleep(cut_s)
            assert dropped(cuttable.stack, host) > 0

    name = f"network cut, one way: {host} {way} nothing"
    cuttable.withstands(name, cut, tmp_path, remark=f"for {cut_s:.1f} s")


def test_flapping(cuttable: House, tmp_path: Path, chance: random.Random) -> None:
    """Cut and healed again and again, of either host, either way, for moments of chance."""
    flaps = chance.randint(8, 12)

    def flap(clients: LedgerClients) -> None:
        for _ in range(flaps):
            ways = chance.choice((["hears"], ["says"], ["hears", "says"]))
            with dropping(cuttable.stack, [chance.choice(HOSTS)], ways):
                time.sleep(chance.uniform(0.1, 1.5))
            time.sleep(chance.uniform(0.1, 1.0))

    cuttable.withstands("network flapping", flap, tmp_path, remark=f"{flaps} cuts of 0.1 to 1.5 s")


def test_packets_are_lost(cuttable: House, tmp_path: Path) -> None:
    """5 % of what either host receives: slower, and no more than that; neither agent loses the other."""
    lost = {}

    def lose(clients: LedgerClients) -> None:
        with dropping(cuttable.stack, HOSTS, ["hears"], LOSS):
            for _ in range(3):
                clients.wait_for_more(DEADLINE_S)
            wait_until(lambda: all(dropped(cuttable.stack, host) for host in HOSTS), DEADLINE_S, "packets are lost")
            cuttable.wait_until_healthy(DEADLINE_S)
            lost.update({host: dropped(cuttable.stack, host) for host in HOSTS})

    cuttable.withstands("5 % of packets lost", lose, tmp_path, remark="healthy during it too")
    assert all(lost.values())


def test_the_engine_takes_the_link_away(house: House, tmp_path: Path, chance: random.Random) -> None:
    """`docker network disconnect` of pc2: its clients go on writing meanwhile, and the agents find each other again."""
    cut_s = chance.uniform(*SHORT_S)

    def cut(clients: LedgerClients) -> None:
        (link,) = house.stack.networks([f"{house.stack.project}_link"])
        link.disconnect(house.stack.container("pc2"))
        time.sleep(cut_s)
        clients.wait_for_more(DEADLINE_S)
        link.connect(house.stack.container("pc2"), aliases=["pc2"])

    house.withstands("docker network disconnect: pc2", cut, tmp_path, remark="its clients go on")
