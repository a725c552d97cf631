"""A real agent whose clocks can be moved, its HTTP port, and a page that shows it: what a test stages is seen on it."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import loads
from tests.ports import free_ports
from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA, Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.http import HttpServer
from twinhost.agent.telemetry import AgentState

PATIENCE_MS = PATIENCE_S * 1_000


PC2 = {"agent_id": UMRA.name, "agent_type": "memory", "host": "pc2", "port": 7230}


class Watched:
    """SystemDigitalTwin without a socket, its HTTP port, and a page that shows it."""

    def __init__(self, twin: Twin, page: Page, clock: Clock, server: HttpServer, port: int) -> None:
        self.twin, self.page, self.clock, self.server, self.port = twin, page, clock, server, port
        self.secure = True
        self.stay()

    def stay(self, **figures: Any) -> None:
        """Both hosts are here and have figures."""
        self.twin.call("register_agent", registration_data=PC2)
        self.twin.measured(cpu_percent=1, latency_ms=1, **figures)
        self.draw()

    def draw(self) -> None:
        """Have a state made, after a second: the attention list is looked at that often."""
        self.clock.let_pass(1)
        keys = self.twin.keys.peers
        self.twin.telemetry.gather(
            AgentState(
                secure=self.secure,
                uptime_s=1,
                store_bytes=1,
                loop_lag_s=0,
                handshakes=self.twin.handshakes.counts(),
                peers=keys.all(),
            )
        )
        self.twin.turn()

    def let_pass(self, seconds: float, **figures: Any) -> None:
        """Let time pass in which both hosts stay."""
        self.clock.let_pass(seconds)
        self.stay(**figures)  # before the first turn, which makes the forecasts of this time
        wait_until(lambda: not mainpc_is_stale(self.twin, self.port), PATIENCE_S, "mainpc has measured itself since")
        self.draw()

    def silence(self, seconds: float) -> None:
        """Let time pass in which pc2 says nothing."""
        self.clock.let_pass(seconds)
        wait_until(lambda: not mainpc_is_stale(self.twin, self.port), PATIENCE_S, "mainpc has measured itself since")
        self.draw()

    def register(self, *names: str, **fields: Any) -> None:
        for name in names:
            self.twin.call("register_agent", OPERATOR, **{"agent_name": name, "status": "HEALTHY", **fields})

    def report(self, severity: str, **fields: Any) -> None:
        error = {"error_id": "x", "agent_id": UMRA.name, "error_type": "disk_full", "message": "m", **fields}
        self.twin.call("report_error", OPERATOR, error={**error, "severity": severity})

    def open(self, address: str) -> None:
        self.page.evaluate("address => { location.hash = address; }", address)
        self.draw()

    def turn_until(self, shown: Locator, words: str) -> None:
        """Let the server's loop turn, in which it answers the page's questions, until the page shows something."""

        def is_shown() -> bool:
            self.twin.turn()
            time.sleep(0.05)
            # At once: a list that is drawn again meanwhile is empty, and only a turn of the server fills it.
            return any(words in text for text in shown.all_inner_texts()[:1])

        wait_until(is_shown, PATIENCE_S, f"the page shows {words}")

    def headline(self, level: str, title: str | re.Pattern[str]) -> None:
        """Expect the first sentence, and how bad it is."""
        expect(self.page.locator("#summary-title")).to_have_text(title, timeout=PATIENCE_MS)
        expect(self.page.locator("#summary")).to_have_attribute("data-level", level)


@contextmanager
def watch(
    page: Page, home: Path, hosts: Sequence[str] = (), *, measured: bool = True, **limits: Any
) -> Iterator[Watched]:
    """Assemble the agent with further hosts, which report nothing, and these limits, and open the page.

    Without `measured`, mainpc does not measure itself.
    """
    clock = Clock()
    (port,) = free_ports(1)
    environment = environment_of(home, "mainpc", **limits)
    document = yaml.safe_load(Path(environment["NETWORK_CONFIG_PATH"]).read_text(encoding="utf-8"))
    document["hosts"] |= {name: {"address": name} for name in hosts}
    (home / "network_config.yaml").write_text(json.dumps(document), encoding="utf-8")
    with Twin({**environment, "NETWORK_CONFIG_PATH": str(home / "network_config.yaml")}, clock) as twin:
        twin.call("register_agent", registration_data=PC2)  # before anybody looks whether it is there
        server = HttpServer(port, dict, bytes, twin.assembly.routes)
        server.start()
        wait_until(lambda: loads(page, f"http://localhost:{port}/"), PATIENCE_S, "the page is open")
        wait_until(lambda: is_live(twin, page), PATIENCE_S, "the page follows the stream")
        (sampler,) = twin.assembly.companions
        if measured:
            sampler.start()
            wait_until(lambda: not mainpc_is_stale(twin, port), PATIENCE_S, "mainpc has measured itself")
        try:
            yield Watched(twin, page, clock, server, port)
        finally:
            page.goto("about:blank")  # the server would wait for its stream to end
            if measured:
                sampler.stop()
            server.stop()


def is_live(twin: Twin, page: Page) -> bool:
    twin.turn()  # makes the state that the stream sends
    # By a locator: an evaluation fails where the page reloads itself meanwhile, as it does without its script.
    return page.locator("html").get_attribute("data-stream") == "live"


def mainpc_is_stale(twin: Twin, port: int) -> bool:
    twin.turn()
    with urlopen(f"http://localhost:{port}/api/state", timeout=PATIENCE_S) as answer:
        return bool(json.load(answer)["hosts"][0]["stale"])
