"""The agent on mainpc. It holds the state of the system: agents, hosts, keys, events, and memory leases."""

from typing import Final, Literal, TypedDict

ITSELF: Final = "SystemDigitalTwin"
SUCCESS: Final = "success"  # the status of every reply that is no error; this agent's clients test for it


class Success(TypedDict):
    """A reply that is no error."""

    status: Literal["success"]
