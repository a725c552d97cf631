"""What SystemDigitalTwin sends on its feed, by the topic that stands before it."""

from collections.abc import Mapping
from typing import Literal, TypedDict

from twinhost.agent.trust import TRUST_TOPIC
from twinhost.system_digital_twin.events.actions import KeptError, KeptEvent
from twinhost.system_digital_twin.events.events import Topic
from twinhost.system_digital_twin.registry.registry import AGENT_TOPIC


class EventSent(KeptEvent):
    """An event as `get_events` answers it, and the number of the one that was sent before it; 0 for the first."""

    previous_seq: int


class ErrorSent(KeptError):
    """An error as `get_errors` answers it, and the number of the one that was sent before it; 0 for the first."""

    previous_seq: int


class AgentSent(TypedDict):
    """An agent came or went."""

    timestamp: str
    agent_name: str
    what: Literal["registered", "unregistered"]
    registered_by: str


class TrustSent(TypedDict):
    """The list of whom to trust has changed: `get_trust` answers the new one."""

    timestamp: str
    revision: str | None


FEED: Mapping[str, type] = {
    Topic.EVENT.value: EventSent,
    Topic.ERROR.value: ErrorSent,
    AGENT_TOPIC.decode(): AgentSent,
    TRUST_TOPIC.decode(): TrustSent,
}
