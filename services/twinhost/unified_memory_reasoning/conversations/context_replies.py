"""What UnifiedMemoryReasoningAgent answers of what was said."""

from typing import Literal, TypedDict


class InteractionAdded(TypedDict):
    """The interaction's number, its importance from 0 to 1, and how many places the session's window has."""

    status: Literal["ok"]
    interaction_id: int
    importance: float
    window_size: int


class ErrorDocument(TypedDict):
    """An error that was told of: what it says, and its `type`: timeout, connection, permission, or other."""

    type: str
    message: str


class SummaryDocument(TypedDict):
    """What is left of a session as it ages: lines of code and conversation, errors, and decisions, oldest first."""

    code_context: str
    conversation_summary: str
    errors_encountered: list[ErrorDocument]
    key_decisions: list[str]


class WindowDocument(TypedDict):
    """How many places a window has, and how many items are in it that may be seen."""

    size: int
    items: int


class ContextDocument(SummaryDocument):
    """What a session has in mind; `last_updated` (ISO-8601) is null where nothing was said.

    `stored` counts the session's interactions, `dropped` those that are not in `text`; `dropped_ids` names the newest
    of these, `cut_ids` what is told in part.
    """

    last_updated: str | None
    text: str
    tokens: int
    max_tokens: int
    window: WindowDocument
    stored: int
    dropped: int
    dropped_ids: list[int]
    cut_ids: list[int]


class ContextFound(TypedDict):
    """What a session, or one speaker in it, has in mind."""

    status: Literal["ok"]
    session_id: str
    context: ContextDocument


class ContextCleared(TypedDict):
    """How many interactions of the session were removed."""

    status: Literal["ok"]
    session_id: str
    cleared: int
