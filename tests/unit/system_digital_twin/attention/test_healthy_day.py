"""A stack that is well says so, for a whole day, and sends nobody a message."""

import math
from pathlib import Path

import pytest

from tests.staged_troubles import HOUR_S, SILENT_S
from tests.unit.notify.test_fourteen import notified
from tests.unit.system_digital_twin.twin import OPERATOR
from twinhost.system_digital_twin.attention.attention import BEGAN

STEP_S = 10.0  # less than any agent may be silent, or unmeasured
STEPS = round(24 * HOUR_S / STEP_S)


@pytest.mark.thorough
def test_all_is_well_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With heartbeats and samples that come, memory that is used more by day, and nothing that anybody is told.

    Once an hour pc2 is late by two seconds, which is shown, and is nothing to be told of.
    """
    with notified(tmp_path, monkeypatch) as deployment:
        twin = deployment.twin
        for step in range(STEPS):
            by_day = 1 - math.cos(2 * math.pi * step / STEPS)
            deployment.ram_used_mb = 300 + 100 * by_day + step % 7
            deployment.figures = {"ram_used_mb": 400 + 100 * by_day + step % 5, "ram_total_mb": 1_000}
            deployment.beat()
            deployment.turn(STEP_S)
            said = twin.call("get_attention", OPERATOR)
            assert (said["headline"], said["items"]) == ("All is well.", []), f"after {step * STEP_S:.0f} s"
            if step % (HOUR_S / STEP_S) == 0:
                deployment.silence_pc2(7)
                assert deployment.ids() == ["host_silent:pc2"]
                deployment.pc2_answers = True
        assert (twin.call("get_events", OPERATOR)["events"], deployment.told) == ([], [])
        deployment.silence_pc2(2 * SILENT_S)
        assert deployment.ids() == ["host_silent:pc2"]
        (event,) = twin.call("get_events", OPERATOR)["events"]  # it would have been told
        assert event["event_type"] == BEGAN
        assert [told.title for told in deployment.told] == ["pc2 does not respond"]
