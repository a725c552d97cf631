"""`make screenshots`: the page of a healthy, a troubled, and an attacked deployment, at three sizes, for the documents.

The agent is real, its store too; the machines, the other agents, and what happens to them are staged, after an hour of
a clock that is moved.
"""

import math
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.watched import Watched, watch
from tests.identities import authorize, new_pair
from tests.staged_troubles import BEAT_S, DISK_BYTES, MB, STAGINGS, Deployment
from tests.unit.system_digital_twin.twin import OPERATOR
from twinhost.agent.host_metrics import HostSample
from twinhost.agent.state_folder import ASSETS_VARIABLE
from twinhost.secure_zmq.callers import Caller

SIZES = {"desk": (1_440, 1_000), "tablet": (820, 1_100), "phone": (390, 844)}
HOUR_STEPS = 3_600 // BEAT_S + 10
AGENTS = {
    "planner": "mainpc",
    "vision": "pc2",
    "speech": "pc2",
    "archivist": "pc2",
    "home-assistant": "mainpc",
    "code-reviewer": "mainpc",
}
INSIDER = "code-reviewer"
BUDGETS = {"names": {INSIDER: {"stored_bytes": 60_000}}}
WORDS = "a review " * 250
STAGED = {staging.name: staging.stage for staging in STAGINGS}


class Stage(Deployment):
    """Two machines with six agents; each step is BEAT_S."""

    def __init__(self, watched: Watched, home: Path) -> None:
        self._steps = 0
        self._random = random.Random(7)
        super().__init__(watched.twin, watched.clock, home)
        self.watched = watched
        self.twin.usage.register("stored_bytes", self.twin.disk.stored_bytes)
        for name, host in AGENTS.items():
            watched.register(name, location=host, agent_type="assistant")
        self.run(HOUR_STEPS)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.beat()
            self.turn(BEAT_S)

    def turn(self, seconds: float = 1.0) -> None:
        self.twin.usage.refresh(self.clock.monotonic())
        super().turn(seconds)

    def beat(self) -> None:
        self._steps += 1
        used_mb = 11_800 + 900 * math.sin(self._steps / 9)
        card = {
            "index": 0,
            "name": "NVIDIA RTX 4090",
            "uuid": "GPU-5f2c",
            "used_mb": round(used_mb),
            "total_mb": 24_564,
            "utilisation_percent": 71,
            "temperature_c": 64,
        }
        sample = _sample(self._busy(41), 16, 38_900 + self._wave(), 131_072, 392 * 2**30, 904 * 2**30)
        totals = {"vram_used_mb": used_mb, "vram_total_mb": 24_564, "gpus": [card]}
        self.figures = {**sample, **totals, "latency_ms": 0.7 + self._random.random() / 4}
        super().beat()
        for name, host in AGENTS.items() if hasattr(self, "watched") else ():
            if host == "mainpc" or self.pc2_answers:
                self.twin.call("heartbeat", OPERATOR, agent_name=name)

    def measure(self) -> HostSample:
        sample = _sample(self._busy(18), 24, 21_300 + self._wave(), 65_536, self.free_bytes, DISK_BYTES)
        return msgspec.convert({**sample, "wall": self.clock.time()}, HostSample)

    def _busy(self, percent: float) -> float:
        return percent + 9 * math.sin(self._steps / 6 + percent) + 4 * self._random.random()

    def _wave(self) -> float:
        return 300 * math.sin(self._steps / 14)


def _sample(busy: float, cpus: int, ram_mb: float, total_mb: int, free_bytes: int, disk_bytes: int) -> dict[str, Any]:
    free_mb, disk_mb = free_bytes // MB, disk_bytes // MB
    return {
        "cpu_percent": round(busy, 1),
        "ram_used_mb": ram_mb,
        "ram_total_mb": total_mb,
        "machine": {
            "cpus": cpus,
            "load": [round(cpus * busy / 100 * part, 2) for part in (1.1, 1.0, 0.9)],
            "disks": [{"name": "state", "used_mb": disk_mb - free_mb, "free_mb": free_mb, "total_mb": disk_mb}],
            "network": {"received_bytes_per_s": 48_200, "sent_bytes_per_s": 31_500},
            "temperature_c": 52,
        },
    }


def healthy(stage: Stage) -> None:
    """Nothing is wrong; two agents have leased memory."""
    for amount_mb in (4_096, 2_048):
        stage.twin.call("reserve_vram", amount_mb=amount_mb, host="pc2", ttl_s=1_800)


def troubled(stage: Stage) -> None:
    """planner reports errors, and is not well; mainpc's disk is full, so that nothing of pc2 is stored."""
    for error_type, message in (("checkpoint_lost", "the last step was not saved"), ("timeout", "no answer in 30 s")):
        stage.watched.report("error", agent_id="planner", error_type=error_type, message=message)
    stage.watched.register("planner", location="mainpc", status="DEGRADED")
    STAGED["a full disk and the silence that it causes"](stage)
    stage.run(20)


def attacked(stage: Stage) -> None:
    """Somebody tries keys, an agent stores more than it may, and a line of the audit log is changed."""
    pair = new_pair(INSIDER, "mainpc")
    authorize(stage.home / "certificates/mainpc", pair)
    stage.twin.keys.peers.reload()
    insider = Caller(INSIDER, "mainpc", frozenset({"agent"}), pair.certificate.public.fingerprint)
    replies = []
    for number in range(100):
        event = {
            "event_id": f"e{number}",
            "event_type": "review",
            "source_agent": INSIDER,
            "data": {"text": "x" * 2_000},
        }
        replies.append(stage.twin.ask("publish_event", insider, event=event))
    assert "over_budget" in {reply.get("code") for reply in replies}
    stage.run(2)
    STAGED["brute force"](stage)
    STAGED["a line of the audit log was changed"](stage)
    stage.run(20)


STAGES: dict[str, Callable[[Stage], None]] = {"healthy": healthy, "troubled": troubled, "attacked": attacked}


def take(page: Page, stage: Stage, folder: Path, name: str) -> None:
    """Take a picture at each size, and one in the dark theme."""
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark") if size == "desk" else ("light",):
            page.emulate_media(color_scheme="dark" if theme == "dark" else "light", reduced_motion="reduce")
            picture(page, stage, folder / f"{name}-{size}{'-dark' if theme == 'dark' else ''}.png")


def picture(page: Page, stage: Stage, path: Path) -> None:
    stage.run(1)
    page.wait_for_timeout(1_000)
    page.screenshot(path=path)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, stage_it in STAGES.items():
            page = browser.new_page()
            with (
                tempfile.TemporaryDirectory() as home,
                watch(page, Path(home), measured=False, budgets=BUDGETS) as watched,
            ):
                stage = Stage(watched, Path(home))
                stage_it(stage)
                take(page, stage, folder, name)
                if name == "troubled":
                    width, height = SIZES["desk"]
                    page.set_viewport_size({"width": width, "height": height})
                    page.locator(".trouble > summary").first.click()
                    picture(page, stage, folder / "trouble-open.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    if ASSETS_VARIABLE not in os.environ:
        sys.exit(f"run it with: make screenshots ({ASSETS_VARIABLE} is not set)")
    main(Path(sys.argv[1]))
