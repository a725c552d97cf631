"""The page's first sentence and its order, drawn by a real browser from a real agent whose clocks a test can move."""

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import loads
from tests.ports import free_ports
from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA, Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.http import HttpServer
from twinhost.agent.telemetry import AgentState
from twinhost.cli.arguments import parse_fields
from twinhost.secure_zmq.peers import Outcome
from twinhost.system_digital_twin.http import state as state_module
from twinhost.system_digital_twin.http.state import RECENT_S

PATIENCE_MS = PATIENCE_S * 1_000
COMMAND = "docker compose run --rm cli call SystemDigitalTwin unregister "


class Watched:
    """SystemDigitalTwin without a socket, its HTTP port, and a page that shows it."""

    def __init__(self, twin: Twin, page: Page, clock: Clock, port: int) -> None:
        self.twin, self.page, self.clock, self._port = twin, page, clock, port
        self._stay()

    def _stay(self, **figures: Any) -> None:
        """Both hosts are here and have figures."""
        self.twin.call("register_agent", agent_name=UMRA.name, status="HEALTHY")
        self.twin.measured(cpu_percent=1, latency_ms=1, **figures)
        self.draw()

    def draw(self) -> None:
        counts = self.twin.handshakes.counts()
        self.twin.telemetry.gather(AgentState(secure=True, uptime_s=1, store_bytes=1, loop_lag_s=0, handshakes=counts))
        self.twin.turn()

    def let_pass(self, seconds: float, **figures: Any) -> None:
        self.clock.let_pass(seconds)
        self._stay(**figures)  # before the first turn, which makes the forecasts of this time
        wait_until(lambda: not mainpc_is_stale(self.twin, self._port), PATIENCE_S, "mainpc has measured itself since")
        self.draw()

    def headline(self, level: str, title: str, text: str) -> None:
        """Expect the first sentence, the one below it, and how bad they are."""
        expect(self.page.locator("#summary-title")).to_have_text(title, timeout=PATIENCE_MS)
        expect(self.page.locator("#summary")).to_have_attribute("data-level", level)
        expect(self.page.locator("#summary-text")).to_contain_text(text)


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One page for all tests: each shows another agent, on a port of its own, and so another origin."""
    with closing(browser.new_context()) as context:
        yield context.new_page()


@pytest.fixture
def watched(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Watched]:
    """A test may name further hosts, which are configured and report nothing."""
    clock = Clock()
    monkeypatch.setattr(state_module, "COUNT_EVERY_S", 0.0)
    (port,) = free_ports(1)
    environment = environment_of(tmp_path, "mainpc")
    document = yaml.safe_load(Path(environment["NETWORK_CONFIG_PATH"]).read_text(encoding="utf-8"))
    document["hosts"] |= {name: {"address": name} for name in getattr(request, "param", ())}
    (tmp_path / "network_config.yaml").write_text(json.dumps(document), encoding="utf-8")
    twin = Twin({**environment, "NETWORK_CONFIG_PATH": str(tmp_path / "network_config.yaml")}, clock)
    with twin:
        server = HttpServer(port, dict, bytes, twin.assembly.routes)
        server.start()
        wait_until(lambda: loads(page, f"http://localhost:{port}/"), PATIENCE_S, "the page is open")

        def is_live() -> bool:
            twin.turn()  # makes the state that the stream sends
            # By a locator: an evaluation fails where the page reloads itself meanwhile, as it does without its script.
            return page.locator("html").get_attribute("data-stream") == "live"

        wait_until(is_live, PATIENCE_S, "the page follows the stream")
        (sampler,) = twin.assembly.companions
        sampler.start()
        wait_until(lambda: not mainpc_is_stale(twin, port), PATIENCE_S, "mainpc has measured itself")
        yield Watched(twin, page, clock, port)
        sampler.stop()
        server.stop()


def mainpc_is_stale(twin: Twin, port: int) -> bool:
    twin.turn()
    with urlopen(f"http://localhost:{port}/api/state", timeout=PATIENCE_S) as answer:
        return bool(json.load(answer)["hosts"][0]["stale"])


def report(twin: Twin, severity: str, **fields: Any) -> None:
    error = {"error_id": "x", "agent_id": UMRA.name, "error_type": "disk_full", "message": "m", **fields}
    twin.call("report_error", error={**error, "severity": severity})


def test_a_page_without_its_script_reloads(watched: Watched) -> None:
    """A browser aborts its requests when the network changes, and the page would show "Connecting" forever."""
    watched.page.route("**/text.js", lambda route: route.abort(), times=1)
    watched.page.reload()
    expect(watched.page.locator("html")).to_have_attribute("data-stream", "connecting")
    expect(watched.page.locator("html")).to_have_attribute("data-stream", "live", timeout=PATIENCE_MS)


def test_all_is_well_where_nothing_happened(watched: Watched) -> None:
    """A lesser error and an accepted handshake change nothing."""
    report(watched.twin, "warning")
    watched.twin.handshakes.accepted("operator", "SHA256:x", "127.0.0.1")
    watched.draw()
    watched.headline("good", "All is well.", "2 machines and 2 agents respond")
    expect(watched.page.locator("#refused-count")).to_have_text("0")


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
    for width in (1_440, 380):
        page.set_viewport_size({"width": width, "height": 900})
        mainpc, pc2, attic, annex = page.locator("#hosts .host").evaluate_all(places)
        below = (mainpc, pc2) if width > 380 else (mainpc, mainpc)
        assert [attic[:2], annex[:2]] == [below[0][:2], below[1][:2]]
        assert attic[2] > max(mainpc[3], pc2[3])
        assert annex[2] == attic[2] if width > 380 else annex[2] > attic[3]


@pytest.mark.parametrize("severity", ["error", "critical"])
def test_a_severe_error_is_the_headline(watched: Watched, severity: str) -> None:
    """However many lesser ones come after it, and in the list it is the first."""
    report(watched.twin, severity)
    for _ in range(60):
        report(watched.twin, "info", error_type="noise")
    watched.draw()
    title = f"1 error in the last 24 hours, the newest disk_full from {UMRA.name}."
    watched.headline("bad", title, "Everything else is well.")
    expect(watched.page.locator("#errors-list li").first).to_contain_text("disk_full")


def test_a_refusal_is_in_the_headline_for_a_day(watched: Watched) -> None:
    """Below a severe error; its cause is named."""
    watched.twin.handshakes.refused(Outcome.KEY_REVOKED)
    watched.twin.handshakes.refused(Outcome.KEY_NOT_AUTHORIZED)
    watched.twin.handshakes.refused(Outcome.KEY_NOT_AUTHORIZED)
    watched.draw()
    refused = "3 connections refused since mainpc’s start: unauthorised key and revoked key."
    watched.headline("warn", refused, "Everything else is well.")
    report(watched.twin, "critical")
    watched.draw()
    watched.headline("bad", f"1 error in the last 24 hours, the newest disk_full from {UMRA.name}.", refused)
    for _ in range(2):
        watched.let_pass(RECENT_S)
    watched.headline("good", "All is well.", "2 machines")
    expect(watched.page.locator("#refused-count")).to_have_text("3")


def test_what_is_full_soon_is_in_the_headline(watched: Watched) -> None:
    """The machine's section shows the time, and the list of events the announcement."""
    expect(watched.page.locator(".host-forecast").last).to_contain_text("No forecast: ")
    now = time.time()
    for minutes in range(1, 64):  # an hour of history
        used_mb, age_s = 980 - 5 * minutes, 60 * minutes
        watched.twin.measured(ram_used_mb=used_mb, wall=now - age_s, late_by_s=age_s)
    for used_mb in (980, 985, 990):  # a host at a time, once a minute
        watched.let_pass(61, ram_used_mb=used_mb)
    watched.draw()
    watched.headline("warn", "RAM of pc2 will be full within an hour.", "Everything else is well.")
    forecast = watched.page.locator(".host-forecast").last
    expect(forecast).to_contain_text("RAM will be full in about ")
    expect(watched.page.locator("#events-list")).to_contain_text("resource_full_soon")


FILLS_TOO = """async (sizes) => {
    const { drawSummary } = await import("/assets/summary.js");
    const state = await (await fetch("/api/state")).json();
    state.hosts.forEach((host, at) => {
        host.same_machine = state.hosts.map((each) => each.name).filter((name) => name !== host.name);
        host.forecasts = [{ resource: "disk", name: "state", total_mb: sizes[at], time_to_full_s: 60 }];
    });
    drawSummary(state);
    return document.getElementById("summary-title").textContent;
}"""


def test_a_disk_of_one_machine_is_named_once(watched: Watched) -> None:
    """Whichever of its hosts have it; two disks of one machine are two."""
    titles = [watched.page.evaluate(FILLS_TOO, sizes) for sizes in ([900.0, 900.01], [900.0, 500.0])]
    names = ["Disk (state) of mainpc", "Disk (state) of mainpc and Disk (state) of pc2"]
    assert titles == [f"{name} will be full within an hour." for name in names]


def test_an_acknowledged_error_is_no_headline(watched: Watched) -> None:
    report(watched.twin, "critical")
    watched.twin.call("acknowledge_errors", OPERATOR, error_id="x")
    watched.draw()
    watched.headline("good", "All is well.", "2 machines")
    expect(watched.page.locator("#errors-list li")).to_have_count(1)


def test_errors_and_refusals_come_before_the_agents(watched: Watched) -> None:
    """In the document's order, which a screen reader follows, and so on the screen."""
    sections = ["machines", "errors", "refused", "agents", "identities"]
    order = watched.page.evaluate("[...document.querySelectorAll('main section[id]')].map(each => each.id)")
    assert order[: len(sections)] == sections
    errors, agents = (watched.page.locator(f"#{name}").bounding_box() for name in ("errors", "agents"))
    assert errors
    assert agents
    assert errors["y"] + errors["height"] <= agents["y"]


def test_a_lease_shows_its_card(watched: Watched) -> None:
    """Its index and its UUID, which another host reports and the page never takes for markup."""
    uuid = "GPU-<img src=x>\u202e1"
    card = {"index": 1, "name": "card", "uuid": uuid, "used_mb": 0, "total_mb": 1_000, "utilisation_percent": 37}
    watched.twin.measured(gpus=[card])
    watched.twin.call("reserve_vram", amount_mb=7, host="pc2", ttl_s=60)
    watched.draw()
    table = watched.page.locator("#leases-table")
    expect(table).to_contain_text("GPU 1 GPU-<img src=x>", timeout=PATIENCE_MS)
    assert "\u202e" not in table.inner_text()
    assert watched.page.locator("#leases-table img").count() == 0
    expect(watched.page.locator(".metric-detail > span", has_text="card")).to_have_text("card busy 37 %")


NAMES = ["visitor", "42", 'it\'s \u202e $(reboot) `x` "y" \\ \U0001f600', "-x'; reboot; '"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_agent_gone_for_long_leaves_the_headline(watched: Watched, name: str) -> None:
    """It moves to a group of its own, with the command that unregisters it and does nothing else, whatever its name."""
    watched.twin.call("register_agent", OPERATOR, agent_name=name, status="HEALTHY")
    watched.let_pass(RECENT_S - 60)
    expect(watched.page.locator("#summary-title")).to_contain_text("No response from 1 agent", timeout=PATIENCE_MS)
    expect(watched.page.locator("#gone")).to_be_hidden(timeout=PATIENCE_MS)
    watched.let_pass(61)
    watched.headline("good", "All is well.", "2 agents respond")
    expect(watched.page.locator("#agents-count")).to_have_text("2")
    watched.page.locator("#gone summary").click()
    command = watched.page.locator("#gone-table code").inner_text()
    assert command.startswith(COMMAND)
    assert command.isascii()
    words = shlex.split(command.removeprefix(COMMAND))
    assert parse_fields(words) == {"agent_name": name}
    watched.twin.call("unregister", OPERATOR, **parse_fields(words))
    watched.draw()
    expect(watched.page.locator("#gone")).to_be_hidden(timeout=PATIENCE_MS)
