"""The charts of the machines: what is stored over a range, and what clocks that jump do to it."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.watched import PATIENCE_MS, Watched, watch
from tests.waiting import PATIENCE_S, wait_until


@pytest.fixture
def watched(browser: Browser, tmp_path: Path) -> Iterator[Watched]:
    with closing(browser.new_context()) as context, watch(context.new_page(), tmp_path, measured=False) as watched:
        yield watched


def chart(watched: Watched, title: str) -> Locator:
    return watched.page.locator(f".chart[aria-label^='Chart: {title} of pc2']")


def measure(watched: Watched, *figures: float, every_s: float = 5) -> None:
    for cpu in figures:
        watched.clock.let_pass(every_s)
        watched.twin.measured(cpu_percent=cpu)
    watched.draw()


@pytest.mark.parametrize("by_s", [-7_200, 7_200], ids=["back", "forward"])
def test_a_clock_that_jumps_flattens_no_chart(watched: Watched, by_s: float) -> None:
    """Five minutes later it has what came after, and nothing that the clock dated before or later."""
    measure(watched, *[90] * 20)
    expect(chart(watched, "CPU")).to_have_attribute("aria-label", re.compile(r"last 5 min, between \S+ % and 90 %"))
    watched.clock.set_wall_clock(by_s)
    measure(watched, *[20, 30, 40] * 22)
    label = re.compile(r"last 5 min, between 20 % and 40 %")
    expect(chart(watched, "CPU")).to_have_attribute("aria-label", label, timeout=PATIENCE_MS)


def test_a_range_shows_what_is_stored(watched: Watched) -> None:
    """The range is in the address; its buttons say which one it is."""
    measure(watched, *[10, 20, 80] * 15, every_s=60)
    watched.open("/host/pc2")
    watched.page.get_by_role("button", name="1 h", exact=True).click()

    def is_there() -> bool:
        watched.draw()  # which answers what the page asked
        return chart(watched, "CPU").count() == 1 and "last 1 h" in str(
            chart(watched, "CPU").get_attribute("aria-label")
        )

    wait_until(is_there, PATIENCE_S, "the hour is drawn")
    expect(chart(watched, "CPU")).to_have_attribute("aria-label", re.compile(r"between \S+ % and 80 %"))
    expect(watched.page).to_have_url(re.compile(r"#/host/pc2\?range=1h$"))
    expect(watched.page.locator(".ranges [aria-pressed=true]")).to_have_text("1 h")
    watched.page.reload()
    wait_until(is_there, PATIENCE_S, "the hour is drawn again")
