"""A stack that is well says so, for a whole day."""

import math
from pathlib import Path

import pytest

from tests.staged_troubles import HOUR_S, SILENT_S, Deployment
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, Clock
from twinhost.agent.troubles import AttentionList
from twinhost.system_digital_twin.attention.attention import BEGAN

STEP_S = 10.0  # less than any agent may be silent, or unmeasured
STEPS = round(24 * HOUR_S / STEP_S)


def listed(twin: Twin) -> AttentionList:
    reply: AttentionList = twin.call("get_attention", OPERATOR)  # type: ignore[assignment]
    return reply


@pytest.mark.thorough
def test_all_is_well_for_a_day(tmp_path: Path) -> None:
    """With heartbeats and samples that come, memory that is used more by day, and nothing that anybody is told."""
    clock = Clock()
    with Twin(Deployment.environment(tmp_path), clock) as twin:
        deployment = Deployment(twin, clock, tmp_path)
        for step in range(STEPS):
            by_day = 1 - math.cos(2 * math.pi * step / STEPS)
            deployment.ram_used_mb = 300 + 100 * by_day + step % 7
            deployment.figures = {"ram_used_mb": 400 + 100 * by_day + step % 5, "ram_total_mb": 1_000}
            deployment.beat()
            deployment.turn(STEP_S)
            said = listed(twin)
            assert (said["headline"], said["items"]) == ("All is well.", []), f"after {step * STEP_S:.0f} s"
        assert twin.call("get_events", OPERATOR)["events"] == []
        deployment.silence_pc2(2 * SILENT_S)
        assert deployment.ids() == ["host_silent:pc2"]  # it would have been told
        (event,) = twin.call("get_events", OPERATOR)["events"]
        assert event["event_type"] == BEGAN
