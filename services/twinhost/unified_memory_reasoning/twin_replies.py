"""What UnifiedMemoryReasoningAgent answers of a user's twin."""

from typing import Any, Literal, NotRequired, TypedDict


class TwinUpdated(TypedDict):
    """The twin is stored; `revision` counts the updates since it was first stored."""

    status: Literal["ok"]
    user_id: str
    revision: int


class TwinFound(TypedDict):
    """A user's twin, or `{}`, revision 0, and neither writer nor moment (`updated`, ISO-8601) where none is told."""

    status: Literal["ok"]
    twin: dict[str, Any]
    revision: int
    written_by: NotRequired[str]
    updated: NotRequired[str]


class TwinDeleted(TypedDict):
    """The user's twin is forgotten."""

    status: Literal["ok"]
    user_id: str
