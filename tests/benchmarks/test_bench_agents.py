"""The load generator brings agents up, keeps them, and sees them come back; of its figures nothing is required here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
AGENTS, AWAY_S, SECONDS = 15, 0.5, 1.5
COMMAND = ["-m", "tests.benchmarks.bench_agents", "--agents", str(AGENTS), "--processes", "2", "--json"]
QUICK = ["--seconds", str(SECONDS), "--heartbeat", "0.5", "--away", str(AWAY_S), "--subscribed"]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The report of one quick run, from the documented command."""
    command, environment = [sys.executable, *COMMAND, *QUICK], {"PYTHONPATH": "services"}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (only,) = json.loads(ran.stdout)
    return dict(only)


def test_every_agent_comes_and_none_fails(report: dict[str, Any]) -> None:
    """Each registers once over a handshake of its own; beside them there are the operator's connections."""
    came = report["bring_up"]
    assert report["agents"] == AGENTS
    assert came["register"]["calls"] == AGENTS
    assert came["failures"] == {}
    assert set(came["handshakes"]) == {"accepted"}
    assert came["handshakes"]["accepted"] >= 2 * AGENTS  # requests and the feed
    assert 0 < came["idle_mb"] <= came["rss_mb"]


def test_heartbeats_go_on_and_nobody_is_held_for_gone(report: dict[str, Any]) -> None:
    """Every agent sends some, and none of them fails."""
    stayed = report["steady"]
    assert stayed["failures"] == stayed["no_response"] == 0
    assert stayed["heartbeat"]["calls"] >= AGENTS
    for latency in (stayed["heartbeat"], stayed["register"]):
        assert 0 < latency["p50"] <= latency["p99"] <= latency["most"]


def test_all_are_back_after_a_restart(report: dict[str, Any]) -> None:
    """The seconds in which they came add up to all of them, and no handshake was refused."""
    (restart,) = report["restarts"]
    assert restart["away_s"] == AWAY_S
    assert sum(restart["by_second"]) == AGENTS
    assert restart["half_back_s"] <= restart["all_back_s"]
    assert restart["most_in_a_slice"] <= AGENTS
    assert restart["failed_after"] == 0
    assert set(restart["handshakes"]) <= {"accepted", "broken_off_or_plain_client", "timed_out"}
    assert restart["handshakes"]["accepted"] >= AGENTS


def test_further_figures_are_reported(report: dict[str, Any]) -> None:
    """A new key reaches all; and what is read has a size and a time."""
    assert report["key_change"]["document_bytes"] > 200 * AGENTS  # a key file each
    assert {"get_all_agents", "get_peers", "/api/state"} <= set(report["reads"])
    assert all(size > 0 and ms > 0 for size, ms in report["reads"].values())
