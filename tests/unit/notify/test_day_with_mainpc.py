"""What mainpc's attention list tells over simulated time, from a trouble that is found to the message."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.system_digital_twin.attention.test_attention import FULL, SILENT, Bench
from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.troubles import Trouble
from twinhost.notify.rules import RETURN_S, Memory, Message, Policy, Rules, View

TOLD_WITHIN_S = 15.0  # after it was found, which takes a TTL at most: 30 s together
DAY_S = 86_400


class House:
    """mainpc's list, and the process that asks for it every other second."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.rules = Rules(Policy(), Memory(), bench.clock.time())
        self.sent: list[tuple[float, Message]] = []
        self.passes(RETURN_S + 2)

    def passes(self, seconds: float, *found: Trouble) -> None:
        for second in range(round(seconds)):
            self.bench.passes(1, *found)
            now = self.bench.clock.time()
            if second % 2:
                self.rules.see(View(self.bench.attention.document()["items"]), now)
            if (message := self.rules.due(now)) is not None:
                self.sent.append((now, message))

    @property
    def titles(self) -> list[str]:
        return [message.title for _, message in self.sent]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    bench = Bench(tmp_path / "twin.sqlite3", Clock())
    yield House(bench)
    bench.database.close()


def test_a_trouble_is_told_in_time_and_so_is_its_end(house: House) -> None:
    begun = house.bench.clock.time()
    house.passes(240, SILENT)
    house.passes(60)
    assert house.titles == ["pc2 does not respond", "Mended after 4 min: pc2 does not respond"]
    assert house.sent[0][0] - begun <= TOLD_WITHIN_S


def test_a_cause_and_its_consequence_are_one_message(house: House) -> None:
    """Also if the consequence is found first."""
    house.passes(3, SILENT)
    house.passes(120, SILENT, FULL)
    house.passes(60)
    assert house.titles == ["mainpc's disk is full", "Mended after 2 min: mainpc's disk is full"]


@pytest.mark.thorough
def test_a_day_with_nothing_that_lasts_sends_nothing(house: House) -> None:
    """A host that is late by three seconds, every ten minutes, is no trouble; nor is mainpc's restart."""
    for _ in range(DAY_S // 600):
        house.passes(3, SILENT)
        house.passes(597)
    house.bench.restart()
    house.passes(60)
    assert house.titles == []
