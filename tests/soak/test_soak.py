"""What `make soak` concludes: a leak is seen through noise, and noise is no leak."""

import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.soak.growth import fit
from tests.soak.plot import svg

SECONDS = [5.0 * number for number in range(120)]
CHANCE = random.Random(1)
NOISE = [CHANCE.gauss(0, 1.5) for _ in SECONDS]


def sloping(a_minute: float) -> list[float]:
    """Return a series that changes by so much a minute, under noise."""
    return [100 + a_minute * second / 60 + noise for second, noise in zip(SECONDS, NOISE, strict=True)]


@pytest.mark.parametrize("a_minute", [0.0, -1.0])
def test_what_does_not_grow_is_steady(a_minute: float) -> None:
    """Noise about a level, and a fall."""
    found = fit(SECONDS, sloping(a_minute), 3)
    assert not found.grows


def test_a_warm_up_is_no_growth() -> None:
    """What fills in the first third, and then stays."""
    found = fit(SECONDS, [60 + min(second, 150) + noise for second, noise in zip(SECONDS, NOISE, strict=True)], 3)
    assert not found.grows


@pytest.mark.parametrize("a_minute", [1.0, 5.0])
def test_a_leak_is_seen(a_minute: float) -> None:
    """A megabyte a minute, under noise of one and a half."""
    found = fit(SECONDS, sloping(a_minute), 3)
    assert found.grows
    assert found.growth == pytest.approx(a_minute * (SECONDS[-1] * 2 / 3) / 60, abs=2.5)


def test_one_thread_more_is_seen() -> None:
    """Counts have no noise to hide in."""
    assert fit(SECONDS, [16 + (second > 400) for second in SECONDS], 0.9).grows
    assert not fit(SECONDS, [16.0 for _ in SECONDS], 0.9).grows


def test_the_picture_is_one(tmp_path: Path) -> None:
    """Well-formed, with a line for each agent in each chart."""
    picture = svg("a < b", SECONDS, {"memory, MB": {"one & two": NOISE, "other": NOISE}, "files": {"x": SECONDS}})
    root = ElementTree.fromstring(picture)
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 3
