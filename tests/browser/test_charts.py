"""The charts of the machines: what is stored over a range, and what clocks that jump do to it."""

import re
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.watched import PATIENCE_MS, Watched, watch
from tests.unit.system_digital_twin.http.test_history import store_month
from tests.waiting import PATIENCE_S, wait_until


@pytest.fixture
def watched(browser: Browser, tmp_path: Path) -> Iterator[Watched]:
    with (
        closing(browser.new_context(timezone_id="UTC")) as context,
        watch(context.new_page(), tmp_path, measured=False) as watched,
    ):
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


DRAWN = """
    window.drawn = [];
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
        const plot = this.canvas.parentElement.querySelector(".u-over").clientWidth * devicePixelRatio;
        drawn.push([text, this.getTransform().e + x, this.measureText(text).width, plot]);
        return fillText.apply(this, arguments);
    };
"""


@pytest.mark.parametrize("width", [390, 1_440])
@pytest.mark.parametrize(
    ("title", "words", "tick"),
    [
        ("1 day", "1 day", r"\d\d:00"),
        ("7 days", "7 days", r"\d+ [A-Z][a-z]+"),
        ("30 days", "30 days", r"\d+ [A-Z][a-z]+"),
    ],
    ids=["1d", "7d", "30d"],
)
def test_a_long_range_has_round_ticks(watched: Watched, title: str, words: str, tick: str, width: int) -> None:
    """Of a month that is stored: ticks that don't overlap, and stay within the chart."""
    page = watched.page
    watched.clock.let_pass(86_460 - watched.clock.time() % 86_400)  # just after midnight, which has a tick
    store_month(watched.twin.database)
    watched.stay()
    page.add_init_script(DRAWN)
    page.set_viewport_size({"width": width, "height": 900})
    page.reload()
    watched.open("/host/pc2")
    chosen = page.get_by_role("button", name=title, exact=True)
    watched.turn_until(chosen, title)
    chosen.click()
    label = re.compile(rf"last {words}, between [4-9]\d % and [4-9]\d %")

    def is_there() -> bool:
        watched.draw()  # which answers what the page asked
        cpu = chart(watched, "CPU")
        return cpu.count() == 1 and bool(label.search(str(cpu.get_attribute("aria-label"))))

    def is_drawn_again() -> bool:
        watched.draw()
        return bool(page.evaluate("drawn.length > 0"))

    wait_until(is_there, PATIENCE_S, "the range is drawn")
    if not page.evaluate("'uPlot' in window"):
        pytest.skip("needs the chart library, as `make test` installs it")
    page.evaluate("drawn.length = 0")
    wait_until(is_drawn_again, PATIENCE_S, "the range is drawn again")
    ticks = [drawn for drawn in page.evaluate("drawn") if re.fullmatch(tick, drawn[0])]
    last = next((at for at in range(1, len(ticks)) if ticks[at][1] <= ticks[at - 1][1]), len(ticks))
    of_a_chart = ticks[:last]
    assert len(of_a_chart) >= 3, ticks
    assert len({text for text, *_ in of_a_chart}) == len(of_a_chart)
    for (_, x, size, _), (_, next_x, next_size, _) in pairwise(of_a_chart):
        assert x + size / 2 < next_x - next_size / 2
    assert all(size / 2 <= x <= plot - size / 2 for _, x, size, plot in of_a_chart), of_a_chart
