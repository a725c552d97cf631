"""Greeter beside SystemDigitalTwin and UnifiedMemoryReasoningAgent, all three in this process."""

import pytest
from greeter import MIGRATIONS, assemble

from twinhost import NotAuthorized, NotGranted
from twinhost.testing import Stack, wait_until


@pytest.fixture
def stack(twinhost_stack: Stack) -> Stack:
    """The agent beside the two, and a key for Ana's program."""
    twinhost_stack.add("Greeter", MIGRATIONS, assemble, {"agent": ["greet", "who_is"]})
    twinhost_stack.enrol("ana")
    return twinhost_stack


def greeted(stack: Stack) -> list[dict[str, str]]:
    """Return what mainpc has of the agent's events."""
    with stack.client("SystemDigitalTwin") as mainpc:
        return [event["data"] for event in mainpc.call("get_events")["events"] if event["event_type"] == "greeted"]


def test_it_greets(stack: Stack) -> None:
    with stack.client("Greeter", by="ana") as greeter:
        assert greeter.call("greet", name="Ben")["greeting"] == "Hello, Ben!"


def test_its_event_arrives_after_mainpc_was_away(stack: Stack) -> None:
    stack.stop("SystemDigitalTwin")
    with stack.client("Greeter", by="ana") as greeter:
        greeter.call("greet", name="Ben")
    stack.start("SystemDigitalTwin")
    wait_until(lambda: greeted(stack) == [{"name": "Ben", "by": "ana"}], "the event is on mainpc")


def test_it_asks_the_memory_for_its_caller(stack: Stack) -> None:
    with stack.client("UnifiedMemoryReasoningAgent") as memory, stack.client("Greeter", by="ana") as greeter:
        memory.call("update_twin", user_id="Ben", twin_data={"language": "fil"})
        assert greeter.call("who_is", name="Ben")["twin"] == {"language": "fil"}


def test_it_refuses_other_roles_and_revoked_keys(stack: Stack) -> None:
    stack.enrol("guest", role="guest")
    with stack.client("Greeter", by="guest") as guest, pytest.raises(NotGranted):
        guest.call("greet", name="Ben")
    stack.revoke("ana")
    with stack.client("Greeter", by="ana") as ana, pytest.raises(NotAuthorized):
        ana.call("greet", name="Ben")
