"""After a takeover, what the list advises works on the machine where the agent is active."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import environment_of
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA, Clock
from twinhost.store.replication.looks import AgentLog, LogState

WITH_STANDBY = {"TWINHOST_DATABASE": "postgresql:///twinhost?host=/run"}
ERROR = {"error_id": "e", "agent_id": UMRA.name, "severity": "critical", "error_type": "T", "message": "it failed"}
NOT_APPLIED = {"name": "not_applied", "what": "it has another port", "command": "docker compose restart pc2"}


@pytest.fixture(params=[("mainpc", "mainpc"), ("mainpc-standby", "pc2")], ids="/".join)
def active(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[tuple[Twin, str]]:
    """mainpc's agent at home, and on its standby's machine; the machine besides."""
    process, machine = request.param
    environment = environment_of(tmp_path, "mainpc") | WITH_STANDBY | {"TWINHOST_PROCESS": process}
    with Twin(environment, clock) as twin:
        yield twin, machine


def item_of(twin: Twin, clock: Clock, trouble: str) -> dict[str, Any]:
    clock.let_pass(1)
    items: list[dict[str, Any]] = twin.call("get_attention", OPERATOR)["items"]
    (item,) = (item for item in items if item["id"] == trouble)
    return item


def test_commands_of_operators_are_for_where_it_is_active(active: tuple[Twin, str], clock: Clock) -> None:
    twin, machine = active
    twin.call("report_error", UMRA, error=ERROR)
    remedies = item_of(twin, clock, "errors")["remedies"]
    assert {remedy["command"].split()[0] for remedy in remedies} == {"./twinhost"}
    assert {remedy["on"] for remedy in remedies} == {machine}


@pytest.mark.parametrize(
    ("process", "machine"), [("pc2", "pc2"), ("pc2-standby", "mainpc"), ("", "pc2")], ids=["home", "away", "unknown"]
)
def test_commands_for_an_agent_are_for_its_active_process(
    active: tuple[Twin, str], clock: Clock, process: str, machine: str
) -> None:
    twin, _ = active
    twin.log.state = LogState({UMRA.name: AgentLog(UMRA.name, 2, process, 100, 0.0, ())}, 2)
    twin.call("register_agent", UMRA, agent_name=UMRA.name, status="HEALTHY")
    twin.call("heartbeat", UMRA, agent_name=UMRA.name, status="HEALTHY", conditions=[NOT_APPLIED])
    item = item_of(twin, clock, "warning:pc2/not_applied")
    remedies = [(remedy["on"], remedy["command"]) for remedy in item["remedies"]]
    assert (item["host"], remedies) == (machine, [(machine, f"docker compose restart {process or 'pc2'}")])


def test_commands_for_itself_are_for_its_active_process(active: tuple[Twin, str], clock: Clock) -> None:
    twin, machine = active
    twin.health.add("part", lambda: "it is broken", essential=False)
    item = item_of(twin, clock, "check_failed:mainpc/part")
    service = "mainpc" if machine == "mainpc" else "mainpc-standby"
    remedies = [(remedy["on"], remedy["command"]) for remedy in item["remedies"]]
    assert (item["host"], remedies) == (machine, [(machine, f"docker compose logs {service}")])
