"""`make screenshots`: the page of a healthy, a troubled, and an attacked deployment, at three sizes, for the documents.

The agent is real, its store too; the machines, the other agents, and what happens to them are staged, in a few minutes
of a clock that is moved.
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
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA
from twinhost.agent.host_metrics import HostSample
from twinhost.agent.host_sampler import SamplerThread
from twinhost.agent.state_folder import ASSETS_VARIABLE
from twinhost.secure_zmq.peers import Outcome

SIZES = {"desk": (1_440, 1_000), "tablet": (820, 1_100), "phone": (390, 844)}
STEP_S = 5.0
AGENTS = {
    "planner": "mainpc",
    "vision": "pc2",
    "speech": "pc2",
    "archivist": "pc2",
    "home-assistant": "mainpc",
    "code-reviewer": "mainpc",
}
UNIT_MB = 1_024


class Stage:
    """Two machines with six agents; each step is STEP_S."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.pc2_lives = True
        self.free_mb = 61_440
        self._steps = 0
        self._random = random.Random(7)
        for name, host in AGENTS.items():
            watched.register(name, location=host, agent_type="assistant")

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._steps += 1
            self.watched.clock.let_pass(STEP_S)
            self._mainpc()
            if self.pc2_lives:
                self._pc2()
            for name, host in AGENTS.items():
                if host == "mainpc" or self.pc2_lives:
                    self.watched.twin.call("heartbeat", OPERATOR, agent_name=name)
            self.watched.draw()

    def _mainpc(self) -> None:
        (sampler,) = self.watched.twin.assembly.companions
        assert isinstance(sampler, SamplerThread)
        sample = self._sample(18, 24, 21_300, 65_536, self.free_mb, latency_ms=None)
        sampler._take(msgspec.convert({**sample, "wall": self.watched.clock.time()}, HostSample))
        sampler._taken_at = self.watched.clock.monotonic()

    def _pc2(self) -> None:
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
        totals = {"vram_used_mb": used_mb, "vram_total_mb": 24_564, "gpus": [card]}
        sample = self._sample(41, 16, 38_900, 131_072, 401_408, latency_ms=0.7 + self._random.random() / 4)
        self.watched.twin.call("heartbeat", agent_name=UMRA.name)
        self.watched.twin.measured(**{**sample, **totals})

    def _sample(
        self, cpu: float, cpus: int, ram_mb: float, total_mb: int, free_mb: int, latency_ms: float | None
    ) -> dict[str, Any]:
        busy = cpu + 9 * math.sin(self._steps / 6 + cpu) + 4 * self._random.random()
        disk = {"name": "state", "used_mb": 98 * UNIT_MB - free_mb, "free_mb": free_mb, "total_mb": 98 * UNIT_MB}
        if free_mb > 98 * UNIT_MB:
            disk |= {"used_mb": 524_288, "total_mb": 524_288 + free_mb}
        return {
            "cpu_percent": round(busy, 1),
            "ram_used_mb": ram_mb + 300 * math.sin(self._steps / 14),
            "ram_total_mb": total_mb,
            "latency_ms": latency_ms,
            "machine": {
                "cpus": cpus,
                "load": [round(cpus * busy / 100 * part, 2) for part in (1.1, 1.0, 0.9)],
                "disks": [disk],
                "network": {"received_bytes_per_s": 48_200, "sent_bytes_per_s": 31_500},
                "temperature_c": 52,
            },
        }


def healthy(stage: Stage) -> None:
    """Nothing is wrong; two agents have leased memory."""
    stage.run(64)
    for amount_mb in (4_096, 2_048):
        stage.watched.twin.call("reserve_vram", amount_mb=amount_mb, host="pc2", ttl_s=1_800)


def troubled(stage: Stage) -> None:
    """mainpc's disk is full, and pc2 is silent with its agents; planner reports errors, and is not well."""
    stage.run(36)
    stage.free_mb = 0
    for severity, error_type in (("critical", "checkpoint_lost"), ("error", "disk_full"), ("error", "disk_full")):
        fields = {"agent_id": "planner", "error_type": error_type, "message": "no space left on device"}
        stage.watched.report(severity, **fields)
    stage.watched.twin.health.add("disk", lambda: "the disk has 0 MB free of 98 GB", essential=True)
    stage.pc2_lives = False
    stage.run(27)
    stage.watched.register("planner", location="mainpc", status="DEGRADED")
    stage.run(1)


def attacked(stage: Stage) -> None:
    """Somebody tries keys against mainpc, and an expired and a revoked key are still in use."""
    stage.run(40)
    refused = stage.watched.twin.handshakes.refused
    for number in range(250):
        refused(Outcome.KEY_NOT_AUTHORIZED, address="192.168.1.66", fingerprint=f"SHA256:{number:043}")
        if number % 10 == 0:
            stage.run(1)
    for outcome in (Outcome.KEY_EXPIRED, Outcome.KEY_REVOKED, Outcome.NOT_ZMTP):
        refused(outcome, address="192.168.1.71")
    stage.run(1)


STAGES: dict[str, Callable[[Stage], None]] = {"healthy": healthy, "troubled": troubled, "attacked": attacked}


def take(page: Page, stage: Stage, folder: Path, name: str) -> None:
    """Take a picture at each size, and one in the dark theme."""
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark") if size == "desk" else ("light",):
            page.emulate_media(color_scheme="dark" if theme == "dark" else "light", reduced_motion="reduce")
            stage.run(1)
            page.wait_for_timeout(1_000)
            suffix = "-dark" if theme == "dark" else ""
            page.screenshot(path=folder / f"{name}-{size}{suffix}.png")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, stage_it in STAGES.items():
            page = browser.new_page()
            with tempfile.TemporaryDirectory() as home, watch(page, Path(home), measured=False) as watched:
                stage = Stage(watched)
                stage_it(stage)
                take(page, stage, folder, name)
                if name == "troubled":
                    page.set_viewport_size({"width": 1_440, "height": 1_000})
                    page.locator(".trouble > summary").first.click()
                    stage.run(1)
                    page.wait_for_timeout(1_000)
                    page.screenshot(path=folder / "trouble-open.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    if ASSETS_VARIABLE not in os.environ:
        sys.exit(f"run it with: make screenshots ({ASSETS_VARIABLE} is not set)")
    main(Path(sys.argv[1]))
