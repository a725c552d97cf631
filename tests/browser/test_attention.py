"""What is wrong, on the page: the server's list, drawn by a real browser from a real agent with clocks to move."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.watched import PATIENCE_MS, Watched, watch
from tests.staged_troubles import stage_log
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA
from twinhost.secure_zmq.peers import Outcome
from twinhost.system_digital_twin.http import state as state_module

SILENT_S = 20.0  # longer than a registration's TTL
SILENT = re.compile("^pc2 does not respond")
PHONE, DESK = 390, 1_440
HOSTILE = [
    "visitor",
    "it's \u202e $(reboot) `x` \"y\" \\ \U0001f600 <img src=x onerror='document.title=1'>",
    "-x'; reboot; '",
]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One page for all tests: each shows another agent, on a port of its own, and so another origin."""
    with closing(browser.new_context(permissions=["clipboard-read", "clipboard-write"])) as context:
        yield context.new_page()


@pytest.fixture
def watched(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Watched]:
    """A test may name further hosts, which are configured and report nothing."""
    monkeypatch.setattr(state_module, "COUNT_EVERY_S", 0.0)
    page.set_viewport_size({"width": DESK, "height": 900})
    with watch(page, tmp_path, getattr(request, "param", ())) as watched:
        yield watched


def words_of(command: str) -> list[str]:
    """Return the words of a command as a shell passes them on."""
    told = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True, timeout=10)
    return told.stdout.decode().split("\0")[:-1]


def acknowledge(watched: Watched, command: str) -> None:
    """Do what the page says."""
    *verb, name = words_of(command)
    assert verb == ["./twinhost", "attention", "acknowledge"]
    watched.twin.call("acknowledge_trouble", OPERATOR, id=name)
    watched.draw()


def test_a_page_without_its_script_reloads(watched: Watched) -> None:
    """A browser aborts its requests when the network changes, and the page would show "Connecting" forever."""
    watched.page.route("**/text.js", lambda route: route.abort(), times=2)  # the preload, and the import
    watched.page.reload()
    expect(watched.page.locator("html")).to_have_attribute("data-stream", "connecting")
    expect(watched.page.locator("html")).to_have_attribute("data-stream", "live", timeout=PATIENCE_MS)


def test_all_is_well_where_nothing_is_wrong(watched: Watched) -> None:
    watched.headline("well", "All is well.")
    expect(watched.page.locator("#troubles")).to_be_hidden()
    expect(watched.page.locator("#acknowledged")).to_be_hidden()


@pytest.mark.parametrize("watched", [("attic", "annex")], indirect=True, ids=["four hosts"])
def test_further_hosts_have_rows_below_the_first_two(watched: Watched) -> None:
    """In the order of the configuration, below one another in a narrow window; the link is that of the first two."""
    page = watched.page
    names = page.locator("#hosts .host h3")
    expect(names).to_have_text(["mainpc", "pc2", "attic", "annex"])
    expect(page.locator("#hosts .link")).to_have_attribute("data-link", "encrypted")
    expect(page.locator("#hosts .link")).to_contain_text("Only these machines can read the traffic.")
    places = """each => each.map(one => one.getBoundingClientRect())
        .map(box => [box.left, box.right, box.top, box.bottom])"""
    for width in (DESK, PHONE):
        page.set_viewport_size({"width": width, "height": 900})
        mainpc, pc2, attic, annex = page.locator("#hosts .host").evaluate_all(places)
        below = (mainpc, pc2) if width == DESK else (mainpc, mainpc)
        assert [attic[:2], annex[:2]] == [below[0][:2], below[1][:2]]
        assert attic[2] > max(mainpc[3], pc2[3])
        assert annex[2] == attic[2] if width == DESK else annex[2] > attic[3]


def test_the_headline_and_the_list_are_the_servers(watched: Watched) -> None:
    """In its order and its words, the list on the first screen, before the machines."""
    watched.twin.health.warn("meaning", lambda: ["a key ends soon"])
    watched.silence(SILENT_S)
    attention = watched.twin.state()["attention"]
    watched.headline("broken", attention["headline"])
    assert attention["headline"].startswith("pc2 does not respond")
    shown = watched.page.locator("#troubles .trouble-what")
    expect(shown).to_have_text([item["what"] for item in attention["items"]])
    expect(shown.first).to_be_in_viewport()
    expect(watched.page).to_have_title(SILENT)
    expect(watched.page.locator("#announce")).to_have_text(attention["headline"])


def test_a_trouble_opens_to_its_cause_and_commands(watched: Watched) -> None:
    """Since when, why, on which host to run what; what it explains and what was seen; a copy is what is seen."""
    watched.register("planner", location="pc2")
    watched.clock.let_pass(5)
    watched.twin.call("heartbeat", OPERATOR, agent_name="planner")
    watched.silence(SILENT_S)
    trouble = watched.page.locator(".trouble").first
    expect(trouble.locator(".trouble-body")).to_be_hidden()
    trouble.locator("summary").click()
    body = trouble.locator(".trouble-body")
    for words in ("its agent sends no heartbeats", "planner on pc2 does not respond", UMRA.name):
        expect(body).to_contain_text(words)
    assert re.search(r"\d\d:\d\d:\d\d \(\d+ s ago\)", body.inner_text())
    remedy = body.locator(".remedies .remedy").first
    expect(remedy.locator(".remedy-on")).to_have_text("On pc2")
    expect(remedy.locator("code")).to_have_text("docker compose up -d pc2")
    remedy.get_by_role("button").click()
    expect(remedy.get_by_role("button")).to_have_text("Copied")
    assert watched.page.evaluate("navigator.clipboard.readText()") == "docker compose up -d pc2"


def test_an_open_trouble_is_in_the_address(watched: Watched) -> None:
    """So it can be linked to, and is open again after a reload."""
    watched.silence(SILENT_S)
    watched.page.locator(".trouble summary").first.click()
    expect(watched.page).to_have_url(re.compile(r"#/\?item=host_silent%3Apc2$"))
    watched.page.reload()
    expect(watched.page.locator(".trouble[open] .trouble-what")).to_have_text("pc2 does not respond")


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_acknowledged_comes_last_and_folded(watched: Watched, name: str) -> None:
    """By the command that the page shows, whatever is in it; and nobody's words become markup."""
    watched.twin.health.add(name, lambda: f"{name} is wrong", essential=False)
    watched.draw()
    expect(watched.page.locator("#troubles li")).to_have_count(1)
    watched.page.locator("#troubles summary").click()
    command = watched.page.locator(".acknowledge code").inner_text()
    assert command.isascii()
    acknowledge(watched, command)
    watched.headline("well", "Nothing new is wrong; 1 trouble acknowledged.")
    expect(watched.page.locator("#troubles")).to_be_hidden()
    old = watched.page.locator("#acknowledged")
    expect(old.locator(".trouble")).to_be_hidden()
    old.locator("summary").first.click()
    expect(old.locator(".trouble-what")).to_be_visible()
    old.locator(".trouble summary").click()
    expect(old.locator(".trouble-body")).to_contain_text(f"by {OPERATOR.name} at ")
    assert watched.page.locator("main img").count() == 0
    assert "\u202e" not in watched.page.locator("main").inner_text()


@pytest.mark.parametrize("is_well", [True, False], ids=["well", "troubled"])
def test_a_stale_page_says_until_when_it_was_told(watched: Watched, is_well: bool) -> None:
    """Never that all is well; what was known last stays, grey; and the page goes on when mainpc is back."""
    if not is_well:
        watched.silence(SILENT_S)
        watched.headline("broken", SILENT)
    watched.server.stop()
    title = watched.page.locator("#summary-title")
    expected = r"Was well until \d\d:\d\d" if is_well else r"Connection to mainpc lost at \d\d:\d\d"
    expect(title).to_have_text(re.compile(expected), timeout=PATIENCE_MS)
    expect(watched.page.locator("#summary")).to_have_attribute("data-level", "unknown")
    expect(watched.page.locator("#announce")).to_contain_text("Connection to mainpc lost at ")
    assert (watched.page.locator("#troubles li").count() == 0) is is_well
    assert watched.page.evaluate("getComputedStyle(document.querySelector('main')).filter") == "grayscale(1)"
    watched.open("/agents")
    expect(watched.page.locator("#level")).to_contain_text(re.compile(expected))


HIDE = """value => {
    Object.defineProperty(document, "visibilityState", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_hidden_page_no_longer_says_that_all_is_well(watched: Watched) -> None:
    """It disconnects after a while, shortened here, and follows again once it is seen."""
    page = watched.page

    def shortened(route: Route) -> None:
        route.fulfill(body=route.fetch().text().replace("60_000", "200"), content_type="text/javascript")

    page.route("**/stream.js", shortened)
    page.reload()
    watched.headline("well", "All is well.")
    page.evaluate(HIDE, "hidden")
    watched.headline("unknown", re.compile(r"^Was well until \d\d:\d\d"))
    page.evaluate(HIDE, "visible")
    watched.headline("well", "All is well.")
    page.unroute("**/stream.js")


def test_a_full_disk_is_no_forecast(watched: Watched) -> None:
    disk = {"name": "state", "used_mb": 98_000, "free_mb": 0, "total_mb": 98_000}
    watched.twin.measured(machine={"disks": [disk]})
    watched.draw()
    expect(watched.page.locator(".host-forecast").last).to_have_text("The disk of its state is full.")


def test_every_page_says_what_is_wrong(watched: Watched) -> None:
    """In its header, which leads to the list."""
    watched.open("/keys")
    expect(watched.page.locator("#level")).to_have_text("All is well")
    watched.silence(SILENT_S)
    expect(watched.page.locator("#level")).to_have_text(SILENT, timeout=PATIENCE_MS)
    expect(watched.page.locator("#level")).to_have_attribute("data-level", "broken")
    watched.page.locator("#level").click()
    expect(watched.page.locator("#summary-title")).to_be_visible()


def test_the_overview_shows_where_each_agent_is_active(watched: Watched) -> None:
    """With what follows it, the copies, of which one is red, and the witness; nothing where there is no log."""
    section = watched.page.locator("#failover")
    expect(section).to_be_hidden()
    stage_log(watched.twin.live, watched.twin.log, behind=7)
    watched.draw()
    row = section.get_by_role("row").filter(has_text="SystemDigitalTwin")
    for words in ("mainpc", "3", "4,711", "mainpc-standby 7 transactions behind"):
        expect(row).to_contain_text(words)
    expect(section.locator(".badge.good")).to_have_text(["2 copies", "Witness well"])
    stage_log(watched.twin.live, watched.twin.log, copies=1, silent=("SystemDigitalTwin",), fault="timed out")
    watched.draw()
    expect(section.locator(".badge.bad")).to_have_text("1 copy")
    expect(section.locator("p .badge.warn")).to_have_text("Witness silent")
    expect(row.locator(".badge.warn")).to_have_text("none follows")


def test_a_lease_shows_its_card(watched: Watched) -> None:
    """Its index and its UUID, which another host reports and the page never takes for markup."""
    uuid = "GPU-<img src=x>\u202e1"
    card = {"index": 1, "name": "card", "uuid": uuid, "used_mb": 0, "total_mb": 1_000, "utilisation_percent": 37}
    watched.twin.measured(gpus=[card])
    watched.twin.call("reserve_vram", amount_mb=7, host="pc2", ttl_s=60)
    watched.draw()
    expect(watched.page.locator(".metric-detail > span", has_text="card")).to_have_text("card busy 37 %")
    watched.open("/leases")
    table = watched.page.locator("#leases-table")
    expect(table).to_contain_text("GPU 1 GPU-<img src=x>", timeout=PATIENCE_MS)
    expect(table).to_contain_text(re.compile(r"5\d s"))
    assert "\u202e" not in table.inner_text()
    assert watched.page.locator("#leases-table img").count() == 0


@pytest.mark.parametrize("name", [*HOSTILE, "42"], ids=range(len(HOSTILE) + 1))
def test_an_agent_gone_for_long_has_its_command(watched: Watched, name: str) -> None:
    """It is in a group of its own, and the command unregisters it and does nothing else, whatever its name."""
    watched.register(name)
    watched.open("/agents")
    expect(watched.page.locator("#gone")).to_be_hidden(timeout=PATIENCE_MS)
    watched.let_pass(state_module.RECENT_S + 1)
    command = watched.page.locator("#gone-table code")
    expect(command).to_have_count(1, timeout=PATIENCE_MS)
    expect(watched.page.locator("#agents-count")).to_have_text("2")
    *verb, agent = words_of(command.inner_text())
    assert verb[:3] == ["./twinhost", "agents", "unregister"]
    assert agent == name
    watched.twin.call("unregister", OPERATOR, agent_name=agent)
    watched.draw()
    expect(watched.page.locator("#gone")).to_be_hidden(timeout=PATIENCE_MS)


def test_many_agents_are_searched_and_paged(watched: Watched) -> None:
    """25 to a page, on a phone too; the search and the page are in the address, and there after a reload."""
    watched.register(*(f"agent-{number:03}" for number in range(298)))
    watched.draw()
    page = watched.page
    page.set_viewport_size({"width": PHONE, "height": 844})
    watched.open("/agents")
    rows = page.locator("#agents-table tbody tr")
    expect(rows).to_have_count(25)
    assert page.evaluate("document.documentElement.scrollHeight") < 8_000
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".pager span")).to_have_text("26 to 50 of 300")
    expect(page).to_have_url(re.compile(r"#/agents\?page=2$"))
    page.get_by_label("Search").fill("agent-29")
    expect(rows).to_have_count(8)
    expect(page).to_have_url(re.compile(r"#/agents\?q=agent-29$"))
    page.reload()
    expect(rows).to_have_count(8)
    expect(page.get_by_label("Search")).to_have_value("agent-29")
    rows.first.get_by_role("link").first.click()
    expect(page.locator("h2").first).to_have_text("agent-290")
    page.go_back()
    expect(rows).to_have_count(8)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_an_agents_page_has_what_is_its(watched: Watched, name: str) -> None:
    """Its status, errors, and leases, by its name in the address."""
    watched.register(name, location="pc2")
    watched.report("error", agent_id=name)
    watched.report("error", agent_id="another", error_type="of_another")
    watched.open("/agents")
    watched.page.locator("#agents-table tbody tr", has_text=name[:4]).get_by_role("link").first.click()
    expect(watched.page.locator("#errors-table li")).to_have_count(1)
    expect(watched.page.locator("#errors-table")).to_contain_text("disk_full")
    expect(watched.page.locator("#about-table")).to_contain_text("pc2")
    watched.page.reload()
    expect(watched.page.locator("#errors-table li")).to_have_count(1)
    assert watched.page.locator("main img").count() == 0


def test_a_key_has_a_page(watched: Watched) -> None:
    """From the list of keys, and from its address."""
    watched.open("/keys")
    watched.page.locator("#identities-table tr", has_text=UMRA.name).locator(".fingerprint").click()
    expect(watched.page.locator("h2").first).to_have_text(f"Key of {UMRA.name}")
    expect(watched.page.locator("#about-table")).to_contain_text("Valid until")
    watched.page.reload()
    expect(watched.page.locator("h2").first).to_have_text(f"Key of {UMRA.name}")


def test_a_refusal_is_named_in_words(watched: Watched) -> None:
    watched.twin.handshakes.refused(Outcome.KEY_REVOKED)
    watched.open("/refused")
    expect(watched.page.locator("#refused-table")).to_contain_text("The key is revoked")
    expect(watched.page.locator("#refused-count")).to_have_text("1")


def test_an_unknown_address_leads_back(watched: Watched) -> None:
    watched.open("/nonsense")
    watched.page.get_by_role("link", name="Go to the overview").click()
    expect(watched.page.locator("#summary-title")).to_be_visible(timeout=PATIENCE_MS)


def test_a_severe_error_comes_first_among_errors(watched: Watched) -> None:
    """However many lesser ones of another shape come after it."""
    watched.report("critical", message="no space left on device")
    for _ in range(60):
        watched.report("info", error_type="noise")
    watched.open("/errors")
    watched.turn_until(watched.page.locator("#shapes-table tbody tr"), "disk_full")
