"""What UnifiedMemoryReasoningAgent answers of memories; moments are in ISO-8601, strengths from 0 to 5."""

from typing import Literal, NotRequired, TypedDict


class MemoryDocument(TypedDict):
    """A memory as another store may take it; `deleted` is there on a tombstone alone, whose body is empty."""

    id: str
    content: str
    keywords: list[str]
    source: str
    strength: float
    created: str
    last_accessed: str
    forgotten: bool
    revised: str
    written_by: str
    deleted: NotRequired[Literal[True]]


class MemoryStored(TypedDict):
    """The memory's id, whether it is new, and its strength; `message` says it in a sentence."""

    status: Literal["ok"]
    message: str
    memory_id: str
    new: bool
    strength: float


class MemoryFound(TypedDict):
    """The memory that was named."""

    status: Literal["ok"]
    memory_id: str
    memory: MemoryDocument


class MemoriesFound(TypedDict):
    """A page of memories, `count` of them; `more` says that it is not the last.

    `next_before` is null on the last page. A request with `changed_since` is answered `last_change` in its place: the
    number from which to ask on.
    """

    status: Literal["ok"]
    memories: list[MemoryDocument]
    count: int
    more: bool
    next_before: NotRequired[int | None]
    last_change: NotRequired[int]


class MemoryReinforced(TypedDict):
    """How strong the memory is now, and whether it had been forgotten (`recovered`)."""

    status: Literal["ok"]
    message: str
    memory_id: str
    strength: float
    forgotten: bool
    recovered: bool


class MemoryDeleted(TypedDict):
    """The memory is deleted; `message` says it in a sentence."""

    status: Literal["ok"]
    message: str
    memory_id: str


class MergeCounts(TypedDict):
    """How many of the records that were told had which outcome."""

    added: int
    changed: int
    unchanged: int
    refused: int


class MemoriesMerged(MergeCounts):
    """What became of the records, and what is stored of them now; `left_out` names what had no room in `memories`."""

    status: Literal["ok"]
    message: str
    refused_ids: list[str]
    memories: list[MemoryDocument]
    left_out: list[str]


class StrengthDocument(TypedDict):
    """How strong the memories are, null where there is none; `bands` counts them by strength."""

    mean: float | None
    least: float | None
    greatest: float | None
    bands: dict[str, int]


class DecayDocument(TypedDict):
    """When a decay pass began, how many memories it made weaker, and how many of these were forgotten by it."""

    time: str
    decayed: int
    forgotten: int


class MemoryStatusDocument(TypedDict):
    """How many memories there are and how strong they are; `last_decay` is null before the first pass."""

    status: Literal["ok"]
    total_memories: int
    remembered: int
    forgotten: int
    strength: StrengthDocument
    last_decay: DecayDocument | None
