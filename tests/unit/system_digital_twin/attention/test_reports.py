"""Heartbeats bring what the hosts' agents say of themselves; nobody else's is kept."""

from pathlib import Path

import pytest

from tests.unit.system_digital_twin.twin import UMRA, Clock, Twin
from twinhost.agent.clocks import ClockReport
from twinhost.agent.conditions import MAX_CHARACTERS, MAX_CONDITIONS, Condition
from twinhost.system_digital_twin.attention.reports import Reports
from twinhost.system_digital_twin.registry.actions import Heartbeat

FULL = Condition(name="disk", what="it is full")
AHEAD = ClockReport(ahead_s=1.0, within_s=0.1)


def test_only_agents_of_the_configuration_are_heard() -> None:
    """So that what is kept is bounded by it."""
    reports = Reports(lambda: {"umra"}, Clock())
    for name in ("umra", "another"):
        reports.take(Heartbeat(agent_name=name, conditions=[FULL], clock=AHEAD))
    assert reports.conditions("umra") == [FULL]
    assert (reports.conditions("another"), reports.clock("another")) == ((), None)


def test_what_is_too_much_is_refused_by_its_field(tmp_path: Path) -> None:
    """An agent of the framework sends less; an older one sends nothing, and is served."""
    with Twin(tmp_path / "twin.sqlite3", Clock()) as twin:
        twin.register()
        assert twin.ask("heartbeat", agent_name=UMRA.name)["status"] == "success"
        said = [{"name": "disk", "what": "it is full"}] * (MAX_CONDITIONS + 1)
        for conditions in (said, [{"name": "disk", "what": "x" * (MAX_CHARACTERS + 1)}], [{"name": "disk"}]):
            reply = twin.ask("heartbeat", agent_name=UMRA.name, conditions=conditions)
            assert (reply["code"], "$.conditions" in reply["error"]) == ("malformed_request", True)
        for clock in ({"ahead_s": 1}, {"ahead_s": 1, "within_s": -1}, {"ahead_s": 1e300, "within_s": 0}):
            reply = twin.ask("heartbeat", agent_name=UMRA.name, clock=clock)
            assert (reply["code"], "$.clock" in reply["error"]) == ("malformed_request", True)


def test_a_later_heartbeat_withdraws_what_it_does_not_say() -> None:
    reports = Reports(lambda: {"umra"}, Clock())
    reports.take(Heartbeat(agent_name="umra", conditions=[FULL], clock=AHEAD))
    assert reports.has_reported("umra")
    reports.take(Heartbeat(agent_name="umra"))
    assert (reports.conditions("umra"), reports.clock("umra")) == ((), None)


def test_a_clock_is_kept_with_mainpcs_when_it_was_measured() -> None:
    """Which was the heartbeat before the one that reports it."""
    clock = Clock()
    reports = Reports(lambda: {"umra"}, clock)
    reports.take(Heartbeat(agent_name="umra"))
    clock.set_wall_clock(7_200)
    reports.take(Heartbeat(agent_name="umra", clock=AHEAD))
    heard = reports.clock("umra")
    assert heard is not None
    assert heard.own_set_by_s == pytest.approx(0, abs=0.1)
    reports.take(Heartbeat(agent_name="umra", clock=AHEAD))
    heard = reports.clock("umra")
    assert heard is not None
    assert heard.own_set_by_s == pytest.approx(7_200, abs=0.1)
