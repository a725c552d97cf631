"""Every page holds the rules of axe-core, at three widths, in both themes, with troubles on it; and moves nothing."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.firefox import FIREFOX, Firefox, firefox
from tests.browser.watched import Watched, watch
from tests.staged_troubles import stage_log
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.peers import Outcome

MEMORY = {
    **dict.fromkeys(("memories", "interactions", "sessions", "twins", "error_patterns", "all_writers"), 7),
    "writers": [{"name": "planner", "stored_bytes": 70_000}, {"name": "vision", "stored_bytes": 300}],
    "quarantined": [{"name": "vision", "since": "2026-11-01T08:00:00.000+00:00", "by": "operator"}],
    "all_quarantined": 1,
    "usage": [{"name": "planner", "limit": "stored_bytes", "used": 70_000, "most": 80_000, "share": 0.875}],
}
AXE = Path("build/tools/axe/node_modules/axe-core/axe.min.js")
WIDTHS = [390, 820, 1_440]
PAGES = [
    "/",
    "/?item=host_silent%3Apc2",
    "/host/pc2",
    "/host/pc2?range=1h",
    "/agents",
    "/agents?page=2",
    "/agent/agent-000",
    "/keys",
    "/errors",
    "/errors?severity=critical&shape_id=SHAPE",
    "/events",
    "/refused",
    "/leases",
    "/budgets",
    "/memory",
    "/audit",
    "/audit?event=handshake_refused&since=2026-01-01T00%3A00%3A00.000Z",
    "/nonsense",
]
THEMES = ["light", "dark"]
VIOLATIONS = """axe.run(document).then(({ violations }) => violations.map(({ id, help, nodes }) =>
    [id, help, ...nodes.slice(0, 3).map(node => node.html + ' ' + node.failureSummary)]))"""
LOADED = """document.documentElement.dataset.view === 'VIEW' && document.querySelector('#content .view > *')
    && !document.querySelector('main').innerText.includes('Loading')"""


@pytest.fixture(scope="module")
def troubled(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """An agent with troubles, one of them acknowledged, and something on every page."""
    if not AXE.exists():
        pytest.skip("needs axe-core, as `make test` installs it")
    with closing(browser.new_context()) as context, watch(context.new_page(), tmp_path_factory.mktemp("home")) as it:
        it.register(*(f"agent-{number:03}" for number in range(40)), location="pc2", agent_type="worker")
        it.twin.measured(gpus=[{"index": 0, "name": "card", "uuid": "GPU-1", "used_mb": 9, "total_mb": 1_000}])
        it.twin.call("reserve_vram", amount_mb=7, host="pc2", ttl_s=600)
        it.twin.wait("reserve_vram", amount_mb=900, host="pc2", wait_s=600, ttl_s=60)
        it.report("critical", agent_id="agent-000", message="no space left " * 20, context={"a": 1})
        event = {"event_id": "e", "event_type": "moved", "source_agent": "agent-000", "data": {"to": "x" * 300}}
        it.twin.call("publish_event", OPERATOR, event=event)
        it.twin.call("heartbeat", agent_name=UMRA.name, memory=MEMORY)
        stage_log(it.twin.live, it.twin.log, copies=1, silent=("SystemDigitalTwin",))
        it.twin.handshakes.refused(Outcome.KEY_NOT_AUTHORIZED)
        it.twin.health.warn("meaning", lambda: ["a key ends soon"])
        it.silence(20)
        items = it.twin.state()["attention"]["items"]
        (warning,) = (item["id"] for item in items if item["kind"] == "warning")
        it.twin.call("acknowledge_trouble", OPERATOR, id=warning)
        it.draw()
        yield it


def check(troubled: Watched, window: Page | Firefox, width: int) -> None:
    """Fail unless every page holds the rules, at this width, with all that opens open, and is no wider."""
    window.set_viewport_size({"width": width, "height": 900})
    shape = troubled.twin.call("get_error_counts", OPERATOR)["groups"][0]["shape_id"]
    for address in PAGES:
        window.evaluate(f"location.hash = {address.replace('SHAPE', shape)!r}")
        loaded = LOADED.replace("VIEW", re.split("[/?]", address)[1] or "overview")

        def is_loaded(loaded: str = loaded) -> bool:
            troubled.twin.turn()  # which answers what the page asked
            return bool(window.evaluate(loaded))

        wait_until(is_loaded, PATIENCE_S, f"{address} is loaded")
        window.evaluate("document.querySelectorAll('main details').forEach(each => { each.open = true; })")
        assert window.evaluate(VIOLATIONS) == [], address
        assert window.evaluate("document.documentElement.scrollWidth") <= width, address
        tallest = "Math.max(...['h1', '.live'].map(name => document.querySelector(name).offsetHeight))"
        assert window.evaluate(tallest) < 40, address


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_violates_a_rule_of_axe(troubled: Watched, width: int, theme: Any) -> None:
    """Contrast, names, order of headings, and the rest."""
    troubled.page.emulate_media(color_scheme=theme)
    troubled.page.reload()
    troubled.page.evaluate(AXE.read_text("utf-8"))
    check(troubled, troubled.page, width)


@pytest.mark.parametrize("theme", THEMES)
def test_nor_in_firefox(troubled: Watched, tmp_path: Path, theme: str) -> None:
    if FIREFOX is None:
        pytest.skip("needs Firefox (Debian: firefox-esr), as `make test` installs it")
    with firefox(tmp_path, theme) as window:
        window.goto(f"http://localhost:{troubled.port}/")
        window.run(AXE.read_text("utf-8"))
        assert window.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (theme == "dark")
        for width in WIDTHS:
            check(troubled, window, width)
            assert window.evaluate("document.getAnimations().length") == 0


def test_it_is_used_by_keyboard_alone(troubled: Watched) -> None:
    """A trouble opens, its command is copied, and a page of the navigation has the focus where it begins."""
    page = troubled.page
    page.set_viewport_size({"width": 1_440, "height": 900})
    troubled.open("/")
    page.locator(".trouble > summary").filter(has_text="pc2 ").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".trouble[open]").first).to_be_visible()
    for name in ("pc2", "Copy: docker compose up -d pc2"):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
        )
        assert focused == name
    page.keyboard.press("Enter")
    expect(page.locator(".trouble[open] .copy").first).to_have_text("Copied")
    page.get_by_role("link", name="Keys", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#identities-table")).to_contain_text(UMRA.name)
    assert page.evaluate("document.activeElement.id") == "content"


def test_turning_pages_by_keyboard_keeps_the_focus(troubled: Watched) -> None:
    """Also at the last page, which has no next one."""
    page = troubled.page
    troubled.open("/agents")
    shown, focused = page.locator(".pager span"), page.locator(":focus")
    page.get_by_role("button", name="Next").focus()
    for _ in range(2):
        page.keyboard.press("Enter")
        expect(shown).to_have_text("26 to 42 of 42")
        expect(focused).to_have_text("Next")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(shown).to_have_text("1 to 25 of 42")
    expect(focused).to_have_text("Back")


def test_nothing_moves_where_a_reader_asked_for_that(troubled: Watched) -> None:
    """No animation runs, and no scrolling is smooth."""
    page = troubled.page
    page.emulate_media(reduced_motion="reduce")
    troubled.open("/")
    page.wait_for_selector("#hosts > *")
    assert page.evaluate("document.getAnimations().length") == 0
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.emulate_media(reduced_motion="no-preference")
