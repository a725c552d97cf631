"""How fast the page is with 300 agents and 10,000 events, while agents go on: in a browser that has nothing of it yet.

Other programs may have the processors, so the best of some loads has to keep what is promised; and a machine on which
Chromium paints one word late, each time, has as much longer.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser

from tests.browser.watched import PATIENCE_MS
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, Clock
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.framing.inbound import Inbound

AGENTS, EVENTS, BATCH = 298, 10_000, 100
LOADS, WATCHED_S = 8, 3
NAMES = [f"agent-{number:03}" for number in range(AGENTS)]
# When it was live, and how long the longest task took that began before or after.
MEASURE = """
    window.longest = 0;
    new PerformanceObserver(list => {
        window.longest = Math.max(window.longest, ...list.getEntries().map(task => task.duration));
    }).observe({ type: "longtask", buffered: true });
    new MutationObserver(() => {
        if (document.documentElement?.dataset.stream === "live") window.liveAt ??= performance.now();
    }).observe(document, { subtree: true, attributeFilter: ["data-stream"] });
"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
MEASURED = f"[{PAINTED}, window.liveAt, window.longest]"
ONE_WORD = "data:text/html,<p>word"


class Load(NamedTuple):
    """A load of the page, and some seconds after it; or the best of several, each figure for itself."""

    paint_ms: float
    live_ms: float
    longest_task_ms: float
    bytes_a_second: float
    word_ms: float = math.inf  # until Chromium paints one word

    @property
    def is_promised(self) -> bool:
        slower = max(1.0, self.word_ms / WORD_MS)
        times = zip(self[:3], PROMISED[:3], strict=True)
        return all(ms <= slower * most for ms, most in times) and self.bytes_a_second <= PROMISED.bytes_a_second


PROMISED = Load(200, 400, 100, 10_000)
WORD_MS = 60  # 44 to 72 on two idle cores


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path) as hosts:
        with Twin(hosts.environment(SDT), Clock()) as twin:  # the store, before its agent has it
            for name in NAMES:
                twin.call("register_agent", OPERATOR, agent_name=name, status="HEALTHY", location="pc2")
            for first in range(0, EVENTS, BATCH):
                requests = [{"action": "publish_event", "event": event_of(first + at)} for at in range(BATCH)]
                replies = twin.answer([Inbound(json.dumps(request).encode(), OPERATOR) for request in requests])
                assert {reply["status"] for reply in replies} == {"success"}
        hosts.start_both()
        yield hosts


def event_of(number: int) -> dict[str, Any]:
    data = {"step": number, "to": "x" * 60}
    return {"event_id": f"e{number}", "event_type": "moved", "source_agent": UMRA, "data": data}


def test_a_crowded_page_is_there_at_once(browser: Browser, crowded: Hosts) -> None:
    """Painted and live, without a task that holds up who types, and with little sent."""
    url, best = f"http://localhost:{crowded.config.agent(SDT).http_port}/", Load(*[math.inf] * 4)
    with crowded.client(SDT) as client:
        go_on(client, 0, range(AGENTS))
        for number in range(LOADS):
            best = Load(*map(min, best, load(browser, url, client, number)))
            if best.is_promised:
                break
    assert best.is_promised, best
    assert best.bytes_a_second > 0


def load(browser: Browser, url: str, client: Client, number: int) -> Load:
    context = browser.new_context()
    page, sizes = context.new_page(), list[int]()
    page.goto(ONE_WORD)
    word_ms = page.wait_for_function(PAINTED, timeout=PATIENCE_MS).json_value()
    page.close()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.on("Network.dataReceived", lambda event: sizes.append(event["encodedDataLength"]))
    session.send("Network.enable")
    page.add_init_script(MEASURE)
    page.goto(url)
    page.wait_for_selector("html[data-stream=live] #hosts > *", timeout=PATIENCE_MS)
    page.wait_for_timeout(1_000)  # in which it draws its charts
    sizes.clear()
    for second in range(WATCHED_S):
        end = time.monotonic() + 1
        go_on(client, 1 + WATCHED_S * number + second, range(second, AGENTS, WATCHED_S))
        page.wait_for_timeout(max(0.0, 1_000 * (end - time.monotonic())))
    sent = sum(sizes) / WATCHED_S
    for view, shown in (("agents", "#agents-table tbody tr"), ("events", "#events-table .records li")):
        page.evaluate(f"location.hash = '#/{view}'")
        page.wait_for_selector(shown, timeout=PATIENCE_MS)
    paint_ms, live_ms, longest_task_ms = page.evaluate(MEASURED)
    context.close()
    return Load(paint_ms, live_ms, longest_task_ms, sent, word_ms)


def go_on(client: Client, second: int, agents: range) -> None:
    """Have some agents send heartbeats, and ten events be published."""
    for number in agents:
        client.call("heartbeat", agent_name=NAMES[number])
    for number in range(10):
        client.call("publish_event", event=event_of(EVENTS + 10 * second + number))
