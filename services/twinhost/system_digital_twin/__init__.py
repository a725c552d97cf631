"""The agent on mainpc. It knows the system: its agents, hosts, keys, events, and free memory."""

from typing import Final, Literal, TypedDict

ITSELF: Final = "SystemDigitalTwin"
SUCCESS: Final = "success"  # the status of every reply that is no error; this agent's clients test for it


class Success(TypedDict):
    """A reply that is no error."""

    status: Literal["success"]
