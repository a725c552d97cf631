"""Faults of pc2's program, as mainpc's operators hear of them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.membership.outbox_bench import OutboxBench
from tests.unit.unified_memory_reasoning.memory import SDT
from twinhost.agent.conditions import LINK_CHECK
from twinhost.agent.health import Health
from twinhost.agent.membership.member import FaultReports, registry_status
from twinhost.secure_zmq.errors import InternalError, NotFound, NotGranted, RequestError


@pytest.fixture
def bench(tmp_path: Path) -> OutboxBench:
    return OutboxBench(tmp_path / "outbox.sqlite3")


def reports(bench: OutboxBench) -> list[dict[str, Any]]:
    bench.outbox.tick()
    return [queued.fields["error"] for queued in bench.queue._waiting.values()]


@pytest.mark.parametrize("in_transaction", [True, False], ids=["amid a batch that writes", "amid reads"])
def test_a_fault_of_the_program_is_reported(bench: OutboxBench, in_transaction: bool) -> None:
    """Once for an action, however often it comes at once, with who met it."""
    faults = FaultReports(bench.outbox)

    def meet() -> None:
        for _ in range(100):
            faults.on_refusal(SDT, "get_context", InternalError("the agent failed on this request"))

    if in_transaction:
        with bench.database.transaction():
            meet()
    else:
        meet()
    reported = reports(bench)
    assert 1 <= len(reported) < 100
    assert (reported[0]["error_type"], reported[0]["severity"]) == ("InternalError", "error")
    assert reported[0]["context"] == {"action": "get_context", "caller": SDT.name, "not_reported_before": 0}


@pytest.mark.parametrize("error", [NotFound("x"), NotGranted("x")])
def test_a_refusal_is_no_fault(bench: OutboxBench, error: RequestError) -> None:
    FaultReports(bench.outbox).on_refusal(SDT, "get_twin", error)
    assert reports(bench) == []


def test_heartbeats_say_what_health_says_but_for_the_link() -> None:
    """Whether it is in touch mainpc sees by itself."""
    faults: dict[str, str | None] = dict.fromkeys((LINK_CHECK, "store", "metrics"))
    health = Health("agent", secure=True)
    for name in faults:
        health.add(name, partial(faults.get, name), essential=name == "store")
    status = partial(registry_status, health)
    assert status() == "HEALTHY"
    faults[LINK_CHECK] = "not registered yet"
    assert status() == "HEALTHY"
    faults["metrics"] = "the sampler is silent"
    assert status() == "DEGRADED"
    faults["store"] = "disk full"
    assert status() == "ERROR"
