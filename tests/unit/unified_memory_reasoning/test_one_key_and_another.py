"""What one ordinary key does to another's memories and sessions, with the shipped grants."""

from typing import Any

from tests.unit.agent.assembled import Assembled
from twinhost.secure_zmq.callers import Caller

VICTIM = Caller("victim", "pc3", frozenset({"agent"}), "SHA256:of-the-victim")
ATTACKER = Caller("attacker", "pc4", frozenset({"agent"}), "SHA256:of-the-attacker")
MAY = "2026-05-01T00:00:00Z"


def found(agent: Assembled, query: str) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in agent.ask("search_memory", VICTIM, query=query)["results"]}


def test_it_clears_no_session_of_another(agent: Assembled) -> None:
    """What it said there itself is gone; what another said stays."""
    for caller in (VICTIM, ATTACKER):
        said = {"session_id": "s", "interaction_type": "user_query", "content": f"said by {caller.name}"}
        assert agent.ask("add_interaction", caller, **said)["status"] == "ok"
    assert agent.ask("clear_context", ATTACKER, session_id="s")["status"] == "ok"
    left = agent.ask("get_interactions", VICTIM, session_id="s")["interactions"]
    assert [each["written_by"] for each in left] == ["victim"]


def test_it_ends_no_fact_of_another_by_its_key(agent: Assembled) -> None:
    """The writer reads its own value, which a search finds where it was, marked."""
    agent.ask("store_memory", VICTIM, id="v", content="the rent is 340", key="rent", valid_from=MAY)
    agent.ask("store_memory", ATTACKER, id="x", content="the rent is 999", key="rent")
    read = agent.ask("get_memory", VICTIM, key="rent")["memory"]
    assert (read["content"], read["disputed_by"]) == ("the rent is 340", ["attacker"])
    result = found(agent, "rent")["v"]
    assert (result["score"], result["superseding_writer"]) == (result["similarity"], "attacker")


def test_it_ends_no_fact_of_another_by_superseding_it(agent: Assembled) -> None:
    """It is marked, and one call restores it."""
    agent.ask("store_memory", VICTIM, id="v", content="the rent is 340", key="rent", valid_from=MAY)
    agent.ask("store_memory", ATTACKER, id="x", content="the rent is 999", supersedes=["v"])
    result = found(agent, "rent")["v"]
    assert (result["score"], result["superseding_writer"]) == (result["similarity"], "attacker")
    assert agent.ask("get_memory", VICTIM, key="rent")["memory"]["id"] == "v"
    restored = agent.ask("restore_memory", VICTIM, memory_id="v")["memory"]
    assert "superseded_by" not in restored
    again = agent.ask("store_memory", ATTACKER, content="the rent is 999", supersedes=["v"])
    assert again["code"] == "not_granted"


def test_a_taken_id_names_who_has_it(agent: Assembled) -> None:
    """So the owner knows that what it reads there is not its own, and what to do."""
    agent.ask("store_memory", ATTACKER, id="plan", content="of the attacker")
    refused = agent.ask("store_memory", VICTIM, id="plan", content="of the victim")
    assert refused["code"] == "not_granted"
    assert "memory 'plan' belongs to attacker, and not to victim; choose another id" in refused["error"]
    mine = agent.ask("store_memory", VICTIM, content="of the victim")["memory_id"]
    assert agent.ask("get_memory", VICTIM, memory_id=mine)["memory"]["written_by"] == "victim"
    assert agent.ask("delete_memory", VICTIM, memory_id=mine)["status"] == "ok"


def test_it_deletes_no_twin_of_another(agent: Assembled) -> None:
    agent.ask("update_twin", VICTIM, user_id="ana", twin_data={"a": 1})
    assert agent.ask("delete_twin", ATTACKER, user_id="ana")["code"] == "not_granted"
    assert agent.ask("get_twin", VICTIM, user_id="ana")["twin"] == {"a": 1}


def test_it_dismisses_no_proposal_for_anothers_error(agent: Assembled) -> None:
    for _ in range(3):
        reply = agent.ask("get_error_solution", VICTIM, error_message="the zebra of the attic is out of hay")
    assert agent.ask("dismiss_pattern_proposal", ATTACKER, proposal_id=reply["proposal_id"])["code"] == "not_granted"
    assert len(agent.ask("get_pattern_proposals", VICTIM)["proposals"]) == 1
