"""What UnifiedMemoryReasoningAgent answers of who wrote what; moments are in ISO-8601.

A row is told with the fields that it is stored with. Where it is too large for a reply, what clients told at length is
absent: all that is NotRequired here may be.
"""

from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar


class WrittenRow(TypedDict):
    """A row by its number; one that is too large for a reply names what is absent of it, and its size in bytes."""

    number: int
    left_out: NotRequired[list[str]]
    size_bytes: NotRequired[int]


class WrittenInteraction(WrittenRow):
    """An interaction; `speaker` is empty where none was told."""

    id: int
    session_id: NotRequired[str]
    speaker: NotRequired[str]
    kind: Literal["code", "user_query", "system_response", "error"]
    content: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    importance: float
    strength: float
    created: str
    tier: int
    written_by: str


class WrittenMemory(WrittenRow):
    """A memory, a forgotten one too, and never a deleted one."""

    id: NotRequired[str]
    content: NotRequired[str]
    keywords: NotRequired[tuple[str, ...]]
    source: NotRequired[str]
    strength: float
    created: str
    last_accessed: str
    revised: str
    deleted: Literal[False]
    written_by: str


class OutcomeCounts(TypedDict):
    """How often a solution helped, and how often not."""

    successes: int
    failures: int


class WrittenErrorPattern(WrittenRow):
    """An error pattern; `solution` is null where none was told, `last_seen` where it never answered."""

    pattern_id: int
    error_type: NotRequired[str]
    pattern: NotRequired[str]
    solution: NotRequired[str | None]
    occurrence_count: int
    last_seen: str | None
    created: str
    updated: str
    written_by: str
    score: OutcomeCounts


class WrittenOutcome(WrittenRow):
    """What a reporter said of a pattern's solution; `note` is null where it never gave one."""

    pattern_id: int
    score: OutcomeCounts
    note: NotRequired[str | None]
    updated: str
    written_by: str


class WrittenUnknownError(WrittenRow):
    """What was sent of one shape of errors that no pattern knows."""

    pattern: NotRequired[str]
    seen: int
    last_seen: str
    example: NotRequired[str]
    written_by: str


class WrittenTwin(WrittenRow):
    """A user's twin, by who wrote it last."""

    user_id: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    revision: int
    updated: str


class WrittenClaim(WrittenRow):
    """A claim on an operation, by who holds it."""

    op_id: NotRequired[str]
    priority: int
    since: str
    holder: str


Row = TypeVar("Row")


class WrittenPage(TypedDict, Generic[Row]):
    """Rows of one kind, newest first; `next_before` is null where there are no more."""

    entries: list[Row]
    more: bool
    next_before: int | None


class Written(TypedDict):
    """A page of each kind, or of the one that was asked for."""

    interactions: NotRequired[WrittenPage[WrittenInteraction]]
    memories: NotRequired[WrittenPage[WrittenMemory]]
    error_patterns: NotRequired[WrittenPage[WrittenErrorPattern]]
    solution_outcomes: NotRequired[WrittenPage[WrittenOutcome]]
    unknown_errors: NotRequired[WrittenPage[WrittenUnknownError]]
    twins: NotRequired[WrittenPage[WrittenTwin]]
    operations: NotRequired[WrittenPage[WrittenClaim]]


class MemoryWritten(TypedDict):
    """What a caller wrote, and whether it is in quarantine."""

    status: Literal["ok"]
    name: str
    quarantined: bool
    written: Written


class MemoryQuarantined(TypedDict):
    """What the name wrote and will write is hidden; `new` is false where it was before."""

    status: Literal["ok"]
    name: str
    new: bool


class MemoryReleased(TypedDict):
    """What the name wrote is shown again."""

    status: Literal["ok"]
    name: str


class QuarantinedDocument(TypedDict):
    """A name that is hidden, since when, by whom, and why; `reason` is empty where none was told."""

    name: str
    since: str
    quarantined_by: str
    reason: str


class QuarantineList(TypedDict):
    """Whose rows are hidden, the newest first."""

    status: Literal["ok"]
    quarantined: list[QuarantinedDocument]
