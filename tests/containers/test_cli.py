"""The operator's commands in their container: what they show, and their exit statuses."""

import json

from tests.containers.stack import Stack


def test_status_shows_both_agents_and_who_they_are(stack: Stack) -> None:
    """Health, keys, and registrations on one page."""
    done = stack.run("cli", "status")
    assert done.status == 0, done.err
    for word in ("SystemDigitalTwin", "UnifiedMemoryReasoningAgent", "operator", "CURVE", "HEALTHY"):
        assert word in done.out
    assert stack.keys("pc2").own_keys.public.fingerprint in done.out


def test_agents_is_json_for_programs(stack: Stack) -> None:
    """`--json` prints one document."""
    done = stack.run("cli", "agents", "--json")
    assert done.status == 0, done.err
    assert {agent["name"] for agent in json.loads(done.out)["agents"]} >= {"SystemDigitalTwin"}


def test_ping_reaches_both(stack: Stack) -> None:
    """An authenticated round trip to each agent."""
    done = stack.run("cli", "ping", "--count", "3")
    assert done.status == 0, done.err
    assert "SystemDigitalTwin" in done.out
    assert "UnifiedMemoryReasoningAgent" in done.out


def test_call_passes_typed_fields(stack: Stack) -> None:
    """A value that is JSON goes as what it is, any other as a text."""
    stored = stack.run("cli", "call", "UnifiedMemoryReasoningAgent", "update_twin", "user_id=cli", 'twin_data={"n": 1}')
    assert stored.status == 0, stored.err
    done = stack.run("cli", "call", "UnifiedMemoryReasoningAgent", "get_twin", "user_id=cli", "--json")
    reply = json.loads(done.out)
    assert (reply["twin"], reply["written_by"]) == ({"n": 1}, "operator")


def test_a_refused_call_ends_with_1_and_one_sentence(stack: Stack) -> None:
    """What the agent refuses is one sentence on standard error."""
    done = stack.run("cli", "call", "SystemDigitalTwin", "get_agent_info", "agent_name=Nobody")
    assert done.status == 1
    assert "no agent 'Nobody' is registered" in done.err
    assert "Traceback" not in done.err


def test_a_wrong_usage_ends_with_2(stack: Stack) -> None:
    """An agent that the configuration does not know is the caller's slip."""
    done = stack.run("cli", "call", "Nobody", "ping")
    assert done.status == 2
    assert "Traceback" not in done.err
