"""The detector of shares that are nearly used up: one trouble for each writer, and nothing is said twice."""

from pathlib import Path

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.system_digital_twin.twin import OPERATOR
from twinhost.agent.disk import budget_warnings
from twinhost.secure_zmq.budgets import Used
from twinhost.system_digital_twin.__main__ import NAME, assemble
from twinhost.system_digital_twin.attention.budgets import nearly_used
from twinhost.system_digital_twin.state_files import MIGRATIONS

ROWS = [
    Used("bob", "errors", 100, 100),
    Used("alice", "stored_bytes", 95, 100),
    Used("alice", "names", 81, 100),
    Used("bob", "names", 80, 100),
    Used("carol", "names", 79, 100),
]


def test_each_writer_is_named_with_its_largest_share() -> None:
    alice, bob = nearly_used("mainpc", ROWS)
    assert (alice.id, bob.id) == ("budget_nearly_used:mainpc/alice", "budget_nearly_used:mainpc/bob")
    assert alice.what == "alice uses 95% of its budget stored_bytes on mainpc"
    assert alice.evidence == (("stored_bytes", "95 of 100"), ("names", "81 of 100"))
    assert (alice.members, bob.members) == (("names", "stored_bytes"), ("names",))


def test_a_budget_is_not_told_a_second_time_as_a_warning(tmp_path: Path) -> None:
    with Assembled(NAME, MIGRATIONS, assemble, environment_of(tmp_path, "mainpc")) as agent:
        agent.usage.newest = ROWS
        agent.health.report(lambda: budget_warnings(agent.usage.newest, NAME))  # as the process adds it
        agent.health.warn("other", lambda: ["something else"])
        assert len(list(agent.health.conditions())) == 4
        agent.assembly.on_tick()
        listed = agent.ask("get_attention", OPERATOR)["items"]
        assert {item["id"] for item in listed if "budget" in item["what"]} == {
            "budget_nearly_used:mainpc/alice",
            "budget_nearly_used:mainpc/bob",
        }
        assert "warning:mainpc/other" in {item["id"] for item in listed}, "what mainpc's agent says of itself"
