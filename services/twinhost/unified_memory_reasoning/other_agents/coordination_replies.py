"""What UnifiedMemoryReasoningAgent answers of other agents and of conflicts between them."""

from typing import Literal, TypedDict


class OtherAgentsAnswer(TypedDict):
    """The other agent's answer as that one gave it, with whatever fields it has beside its `status`."""

    status: str


class ConflictResolved(TypedDict):
    """Whether the claim won (`resolved`), and who holds the operation now, at which priority (1 to 10), since when."""

    status: Literal["ok"]
    op_id: str
    resolved: bool
    holder: str
    priority: int
    since: str
