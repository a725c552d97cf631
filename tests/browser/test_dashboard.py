"""The dashboard of a running system, in a real browser: what happens while it is open is seen on it."""

import re
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Page, Request, expect
from playwright.sync_api import TimeoutError as NotInTime

from tests.browser.conftest import NETWORK_CHANGED, loads
from tests.containers.stack import HTTP_PORTS, Stack
from tests.identities import new_pair
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused

UMRA = "UnifiedMemoryReasoningAgent"
SOON_MS = 5_000
SILENT_MS = 40_000  # a registration's TTL of 15 s, and what a paused container takes
PATIENCE_MS = PATIENCE_S * 1_000
HOSTILE = '<img src=x onerror="document.title=1">\u202eevil'
WIDTHS = [380, 1_440]
THEMES = ["light", "dark"]


class Open:
    """A page, and all that it said and asked for."""

    def __init__(self, browser: Browser, stack: Stack) -> None:
        self.url = f"http://{stack.published('mainpc', HTTP_PORTS['mainpc'])}"
        self.context = browser.new_context()
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[Request] = []
        self.page.on("console", lambda message: self._complain(message.text))
        self.page.on("pageerror", lambda error: self._complain(str(error)))
        self.page.on("request", self._ask)

    def load(self, width: int = 1_440, theme: str = "light") -> None:
        """Load the page again in a window of this width."""
        self.page.goto("about:blank")  # from its overview
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        wait_until(self._loads_undisturbed, PATIENCE_S, "a load that no change of the host's network breaks off")
        self.wait_until_live()

    def _ask(self, request: Request) -> None:
        self.asked.append(request)

    def _complain(self, words: str) -> None:
        if NETWORK_CHANGED not in words:  # what Chromium reports about the host, not the page about itself
            self.complaints.append(words)

    def _loads_undisturbed(self) -> bool:
        self.complaints.clear()
        self.asked.clear()
        failures = (request.failure or "" for request in self.asked)
        return loads(self.page, self.url) and not any(NETWORK_CHANGED in failure for failure in failures)

    def open(self, address: str) -> None:
        self.page.evaluate("address => { location.hash = address; }", address)

    def wait_until_live(self) -> None:
        try:
            self.page.wait_for_selector("html[data-stream=live] #hosts > *", timeout=PATIENCE_MS)
        except NotInTime as error:
            stream = self.page.evaluate("document.documentElement.dataset.stream")
            asked = [f"{request.url} {request.failure or request.timing['responseEnd']}" for request in self.asked]
            shown = self.page.inner_text("body")
            raise AssertionError(f"{stream}; console: {self.complaints}; asked: {asked}; shown: {shown}") from error

    def close(self) -> None:
        self.context.close()


@pytest.fixture(scope="module")
def window(browser: Browser, stack: Stack) -> Iterator[Open]:
    """One page for all tests of the secured stack: each context that is opened costs a process of Chromium."""
    with closing(Open(browser, stack)) as window:
        yield window


@pytest.fixture
def opened(window: Open) -> Open:
    """The page, loaded again."""
    window.load()
    return window


def test_it_shows_the_system_as_it_is(opened: Open) -> None:
    """Both machines, their agents and identities; the link is encrypted; nothing is made up where there is no GPU."""
    page = opened.page
    for host in ("mainpc", "pc2"):
        expect(page.locator("#hosts").get_by_text(host, exact=True).first).to_be_visible()
    expect(page.locator("#hosts")).to_contain_text("Encrypted")
    expect(page.locator("#hosts")).to_contain_text("no GPU")
    expect(page.locator("#hosts canvas").first).to_be_visible()
    for address, section in (("/agents", "agents"), ("/keys", "identities")):
        opened.open(address)
        for name in ("SystemDigitalTwin", UMRA):
            expect(page.locator(f"#{section}-table")).to_contain_text(name)


def test_one_cursor_is_over_all_charts(opened: Open) -> None:
    """Pointing at a moment in one machine's chart shows what the other one measured then."""
    area = opened.page.locator("#hosts .host .u-over").first
    expect(area).to_be_visible()
    box = area.bounding_box()
    assert box
    area.hover(position={"x": box["width"] - 4, "y": box["height"] / 2})
    for at in range(2):
        pointed = opened.page.locator("#hosts .host").nth(at).locator(".metric-value .at").first
        expect(pointed).to_have_text(re.compile(r" at \d\d:\d\d:\d\d"))


def test_the_page_loads_only_from_mainpc_without_errors(opened: Open) -> None:
    """No other site, no console message: the strict policy blocks nothing of its own."""
    opened.page.wait_for_timeout(2_000)
    assert {request.url.split("/")[2] for request in opened.asked} == {opened.url.split("/")[2]}
    assert opened.complaints == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_every_width_in_both_themes(window: Open, width: int, theme: str) -> None:
    """Nothing is wider than the window, and the background is the theme's."""
    window.load(width, theme)
    page = window.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3)")
    assert (sum(map(float, channels)) / 3 > 128) == (theme == "light")


def test_it_is_used_by_keyboard(opened: Open) -> None:
    """The first stop leads past the navigation, every stop is visible, and no stop is a trap."""
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#content"
    seen = []
    for _ in range(60):
        style = page.evaluate("(e => [getComputedStyle(e).outlineStyle, e.outerHTML])(document.activeElement)")
        if style[1].startswith("<body"):
            break
        assert style[0] != "none", style[1]
        seen.append(style[1])
        page.keyboard.press("Tab")
    assert len(seen) > 8
    assert len(set(seen)) == len(seen)


def test_a_screen_reader_finds_its_way(opened: Open) -> None:
    """Landmarks, headings in order, tables with captions and headers, and a text for every chart."""
    expect(opened.page.locator("#hosts canvas").first).to_be_visible()
    found = opened.page.evaluate(
        """() => ({
            language: document.documentElement.lang,
            landmarks: ['header', 'nav', 'main', 'footer'].map(name => document.querySelectorAll(name).length),
            levels: [...document.querySelectorAll('h1,h2,h3')].map(heading => Number(heading.tagName[1])),
            charts: [...document.querySelectorAll('canvas')].map(canvas =>
                !!canvas.closest('[role=img][aria-label], [aria-hidden=true], figure')),
            live: document.querySelector('#announce').getAttribute('aria-live'),
        })"""
    )
    assert (found["language"], found["live"]) == ("en", "polite")
    assert all(found["landmarks"])
    assert found["levels"][0] == 1
    assert all(after - before <= 1 for before, after in zip(found["levels"], found["levels"][1:], strict=False))
    assert found["charts"]
    assert all(found["charts"])
    opened.open("/agents")
    expect(opened.page.locator("#agents-table table")).to_be_visible()
    tables = opened.page.evaluate(
        """() => [...document.querySelectorAll('table')].filter(table => !table.closest('[hidden]')).map(table =>
            [!!table.caption, [...table.querySelectorAll('thead th')].every(cell => cell.scope === 'col')])"""
    )
    assert tables
    assert all(caption and headers for caption, headers in tables)


def test_a_registered_agents_hostile_name_is_shown_as_text(opened: Open, stack: Stack) -> None:
    """Within seconds, without a reload; what it is called is shown and not run."""
    opened.open("/agents")
    with stack.client("mainpc") as client:
        client.call("register_agent", agent_name=HOSTILE, status="HEALTHY")
        cell = opened.page.locator("#agents-table tbody tr").filter(has_text="<img src=x")
        expect(cell).to_be_visible(timeout=SOON_MS)
        assert opened.page.locator("#agents-table img").count() == 0
        assert opened.page.title() != "1"
        client.call("unregister", agent_name=HOSTILE)
        expect(cell).to_be_hidden(timeout=SOON_MS)
    assert opened.complaints == []


def test_events_errors_and_leases_appear(opened: Open, stack: Stack) -> None:
    """As they come."""
    event = {"event_id": "e", "event_type": "browser_saw", "source_agent": "operator", "data": {"<b>": "</b>"}}
    error = {"error_id": "x", "agent_id": "operator", "severity": "critical", "error_type": "test", "message": "<i>"}
    with stack.client("mainpc") as client:
        client.call("publish_event", event=event)
        client.call("report_error", error=error)
        lease = client.call("reserve_ram", amount_mb=7, ttl_s=60)["lease_id"]
        for address, words in (("events", "browser_saw"), ("errors", "<i>")):
            opened.open(f"/{address}")
            expect(opened.page.locator(f"#{address}-table")).to_contain_text(words, timeout=SOON_MS)
        opened.open("/leases")
        expect(opened.page.locator("#leases-table")).to_contain_text("7 MB", timeout=SOON_MS)
        client.call("release_lease", lease_id=lease)
        expect(opened.page.locator("#leases-table")).not_to_contain_text("7 MB", timeout=SOON_MS)


def test_a_refused_intruder_shows(opened: Open, stack: Stack) -> None:
    """Among the refused, with the cause in plain words and one more than before."""

    def unknown_keys() -> int:
        text = opened.page.locator("#refused-table tr").filter(has_text="The key is not authorised").all_inner_texts()
        return int(re.findall(r"\d+", text[0])[0]) if text else 0

    opened.open("/refused")
    expect(opened.page.locator("#refused-table > *")).to_be_visible()
    before = unknown_keys()
    with Client(stack.secured("mainpc", new_pair("intruder"))) as intruder, pytest.raises(ConnectionRefused):
        intruder.call("ping")
    expect(opened.page.locator("#refused-table")).to_contain_text("The key is not authorised", timeout=SOON_MS)
    wait_until(lambda: unknown_keys() > before, PATIENCE_S, "it is counted")


def test_a_paused_agent_turns_grey_and_comes_back(opened: Open, stack: Stack) -> None:
    """In words and not in colour alone; the other machine's stays as it is."""
    opened.open("/agents")
    row = opened.page.locator("#agents-table tbody tr").filter(has_text=UMRA)
    expect(row).to_contain_text("Healthy", timeout=PATIENCE_MS)
    container = stack.container("pc2")
    container.pause()
    try:
        expect(row).to_contain_text("No response", timeout=SILENT_MS)
        expect(row).to_have_attribute("data-state", "silent")
        mainpc = opened.page.locator("#agents-table tbody tr").filter(has_text="SystemDigitalTwin").first
        expect(mainpc).to_contain_text("Healthy")
    finally:
        container.unpause()
    expect(row).to_contain_text("Healthy", timeout=PATIENCE_MS)


def test_it_outlives_a_restart_of_mainpc(opened: Open, stack: Stack) -> None:
    """It says that what it shows is old, and goes on by itself when mainpc is back."""
    stack.container("mainpc").stop()
    lost = re.compile("^Connection to mainpc lost at|^Was well until")
    expect(opened.page.locator("#summary-title")).to_have_text(lost, timeout=PATIENCE_MS)
    stack.container("mainpc").start()
    stack.wait_until_ready()
    opened.wait_until_live()
    expect(opened.page.locator("#summary-title")).not_to_have_text(lost, timeout=PATIENCE_MS)
    expect(opened.page.locator("#hosts")).to_contain_text(UMRA)


def test_an_open_link_is_called_open(browser: Browser, open_stack: Stack) -> None:
    """SECURE_ZMQ=0: between the machines, in words and in a colour that is not the encrypted link's."""
    with closing(Open(browser, open_stack)) as opened:
        opened.load()
        link = opened.page.locator("#hosts .link")
        expect(link).to_contain_text("Not encrypted")
        expect(link).to_contain_text("Anybody on the network can read and change the traffic.")
        red, green, blue = map(
            float,
            opened.page.evaluate(
                "getComputedStyle(document.querySelector('.link-word')).color.match(/[0-9.]+/g).slice(0, 3)"
            ),
        )
        assert red > green + 20
        assert red > blue + 20
        expect(opened.page.locator("#hosts")).not_to_contain_text("Encrypted", use_inner_text=True)
