"""A host is measured by its own agent, whichever part that has there, and no machine has the figures of another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.metrics_bench import sample
from tests.unit.system_digital_twin.twin import OPERATOR, SDT, UMRA, Clock
from twinhost.agent.host_sampler import SamplerThread
from twinhost.store.replication.looks import SILENT_AFTER_S, AgentLog, Follower, LogState

AT_PC2 = {"TWINHOST_DATABASE": "postgresql:///twinhost?host=/run", "TWINHOST_PROCESS": "mainpc-standby"}


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Twin]:
    """The agent where its standby was, which has taken over from mainpc."""
    with Twin(environment_of(tmp_path, "mainpc") | AT_PC2, clock) as twin:
        yield twin


def look(twin: Twin, name: str, holder: str, standby: str, said: str = "", silent_s: float = 0.0) -> None:
    """Have one agent's log be seen so, and nothing else."""
    follower = Follower(standby, 0, silent_s, metrics=said)
    twin.log.state = LogState({name: AgentLog(name, 2, holder, 100, 0.0, (follower,))}, 2)
    twin.turn()


def said(ram_used_mb: float) -> str:
    return msgspec.json.encode(msgspec.structs.replace(sample(), ram_used_mb=ram_used_mb)).decode()


def ram(twin: Twin) -> dict[str, Any]:
    hosts = twin.call("get_metrics", OPERATOR)["metrics"]["hosts"]
    return {name: host["ram_usage_mb"] for name, host in hosts.items()}


def test_what_is_away_from_home_measures_no_host(twin: Twin) -> None:
    """Its machine is measured by that one's own agent."""
    (sampler,) = twin.assembly.companions
    assert isinstance(sampler, SamplerThread)
    sampler._take(sample())  # its thread does not run
    twin.turn()
    assert ram(twin) == {"mainpc": None, "pc2": None}


def test_who_stands_by_at_home_measures_its_host(twin: Twin) -> None:
    look(twin, SDT.name, "mainpc-standby", "mainpc", said(100))
    assert ram(twin)["mainpc"] is None, "that may have been written long ago"
    look(twin, SDT.name, "mainpc-standby", "mainpc", said(200))
    assert ram(twin) == {"mainpc": 200, "pc2": None}
    look(twin, UMRA.name, "pc2-standby", "pc2", said(300))
    look(twin, UMRA.name, "pc2-standby", "pc2", said(400))
    assert ram(twin) == {"mainpc": 200, "pc2": 400}


def test_a_host_that_is_off_has_no_figures(twin: Twin, clock: Clock) -> None:
    """Nobody is placed on it; the standby's row stays as it was."""
    look(twin, SDT.name, "mainpc-standby", "mainpc", said(100))
    look(twin, SDT.name, "mainpc-standby", "mainpc", said(200))
    clock.let_pass(16)
    look(twin, SDT.name, "mainpc-standby", "mainpc", said(200))
    assert ram(twin)["mainpc"] is None
    look(twin, SDT.name, "mainpc-standby", "mainpc", said(300), silent_s=SILENT_AFTER_S)
    assert ram(twin)["mainpc"] is None


@pytest.mark.parametrize(("holder", "standby"), [("mainpc", "mainpc-standby"), ("vm", "second")])
def test_a_standby_measures_no_host_of_the_active(twin: Twin, holder: str, standby: str) -> None:
    """Nor where its name does not say on which machine it is."""
    for used_mb in (100, 200):
        look(twin, SDT.name, holder, standby, said(used_mb))
    assert ram(twin)["mainpc"] is None


def test_what_can_not_be_read_is_left_out(twin: Twin) -> None:
    for text in (said(100), '{"wall": 1}', "{"):
        look(twin, SDT.name, "mainpc-standby", "mainpc", text)
    assert ram(twin)["mainpc"] is None


@pytest.mark.parametrize(("silent_s", "missing"), [(0.0, {"metrics_missing:pc2"}), (SILENT_AFTER_S, set())])
def test_an_agent_that_is_away_leaves_its_host_unmeasured(
    twin: Twin, clock: Clock, silent_s: float, missing: set[str]
) -> None:
    """Which is a trouble of its own only while the agent stands by there."""
    twin.call("register_agent", UMRA, agent_name=UMRA.name, status="HEALTHY")
    for _ in range(20):
        twin.call("heartbeat", UMRA, agent_name=UMRA.name, status="HEALTHY")
        look(twin, UMRA.name, "pc2-standby", "pc2", silent_s=silent_s)
        clock.let_pass(1)
    found = {item["id"] for item in twin.call("get_attention", OPERATOR)["items"]}
    assert {trouble for trouble in found if trouble.endswith(":pc2")} == missing
