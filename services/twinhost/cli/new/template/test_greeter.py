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
        return [each["data"] for each in mainpc.call("get_events")["events"] if each["event_type"] == "greeted"]


def test_it_greets_whom_it_is_asked_to(stack: Stack) -> None:
    with stack.client("Greeter", by="ana") as greeter:
        assert greeter.call("greet", whom="Ben")["greeting"] == "Hello, Ben!"


def test_its_event_arrives_after_mainpc_was_away(stack: Stack) -> None:
    stack.stop("SystemDigitalTwin")
    with stack.client("Greeter", by="ana") as greeter:
        greeter.call("greet", whom="Ben")
    stack.start("SystemDigitalTwin")
    wait_until(lambda: greeted(stack) == [{"whom": "Ben", "by": "ana"}], "the event is on mainpc")


def test_it_asks_the_memory_for_its_caller(stack: Stack) -> None:
    with stack.client("UnifiedMemoryReasoningAgent") as memory, stack.client("Greeter", by="ana") as greeter:
        memory.call("update_twin", user_id="Ben", twin_data={"language": "fil"})
        assert greeter.call("who_is", whom="Ben")["twin"] == {"language": "fil"}


def test_it_serves_whom_it_should_and_nobody_else(stack: Stack) -> None:
    stack.enrol("guest", role="guest")
    with stack.client("Greeter", by="guest") as guest, pytest.raises(NotGranted):
        guest.call("greet", whom="Ben")
    stack.revoke("ana")
    with stack.client("Greeter", by="ana") as ana, pytest.raises(NotAuthorized):
        ana.call("greet", whom="Ben")
