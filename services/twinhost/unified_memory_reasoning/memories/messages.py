"""What UnifiedMemoryReasoningAgent is told and asked about memories: every field with its type and its bounds.

`memory_id` and `id` are two names of one field, since older clients write both.
"""

from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec

from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning.memories.model import FIRST_STRENGTH, FORGOTTEN_UNDER, MOST_STRENGTH

MAX_CONTENT_CHARACTERS = 65_536
MAX_KEYWORDS = 64
MAX_AT_ONCE = 1_000

CONTENT = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CONTENT_CHARACTERS)]
KEYWORD = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
KEYWORDS = Annotated[list[KEYWORD], msgspec.Meta(max_length=MAX_KEYWORDS)]
SOURCE = Annotated[str, msgspec.Meta(max_length=256)]
MEMORY_ID = Annotated[NAME, msgspec.Meta(examples=["my-memory-id"])]
IDS = Annotated[list[NAME], msgspec.Meta(min_length=1, max_length=MAX_AT_ONCE)]
STRENGTH = Annotated[float, msgspec.Meta(ge=FORGOTTEN_UNDER, le=MOST_STRENGTH)]
ANY_STRENGTH = Annotated[float, msgspec.Meta(ge=0, le=MOST_STRENGTH)]
MOMENT = Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | Annotated[float, msgspec.Meta(ge=0, le=1e11)]
NUMBER = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_AT_ONCE)]


class StoreMemory(Request, tag="store_memory"):
    """Store a memory, or tell one anew: of that, what is not given stays as it is.

    Without an `id`, or `memory_id`, it gets one.
    """

    content: CONTENT
    id: NAME | None = None
    memory_id: NAME | None = None
    keywords: KEYWORDS | None = None
    source: SOURCE | None = None
    strength: STRENGTH | None = None

    def __post_init__(self) -> None:
        _require_one_name(self.memory_id, self.id)

    @property
    def name(self) -> str | None:
        """The id that was told, under either name."""
        return self.memory_id or self.id


class GetMemory(Request, tag="get_memory"):
    """One memory, a forgotten one too; it counts as accessed."""

    memory_id: MEMORY_ID | None = None
    id: NAME | None = None

    def __post_init__(self) -> None:
        _require_one_name(self.memory_id, self.id, needed=True)

    @property
    def name(self) -> str:
        """The id that was told, under either name."""
        return self.memory_id or self.id or ""


class QueryMemory(Request, tag="query_memory"):
    """The memories that every given field fits, newest first; any of `keywords`, in any case of letters, will do.

    Those that are named by id count as accessed. `before` is the `next_before` of the page above. With
    `changed_since`, which goes with `limit` alone, everything that changed after that change, oldest change
    first, forgotten and deleted ones too: what another store is to be told by `sync_memories`.
    """

    memory_id: NAME | None = None
    id: NAME | None = None
    ids: IDS | None = None
    keywords: Annotated[KEYWORDS, msgspec.Meta(min_length=1)] | None = None
    source: SOURCE | None = None
    min_strength: ANY_STRENGTH | None = None
    include_forgotten: bool = False
    limit: LIMIT = 100
    before: NUMBER | None = None
    changed_since: NUMBER | None = None


class ReinforceMemory(Request, tag="reinforce_memory"):
    """Make a memory stronger; a forgotten one is remembered again."""

    memory_id: MEMORY_ID | None = None
    id: NAME | None = None

    def __post_init__(self) -> None:
        _require_one_name(self.memory_id, self.id, needed=True)

    @property
    def name(self) -> str:
        """The id that was told, under either name."""
        return self.memory_id or self.id or ""


class DeleteMemory(Request, tag="delete_memory"):
    """Delete a memory of the caller's own."""

    memory_id: MEMORY_ID | None = None
    id: NAME | None = None

    def __post_init__(self) -> None:
        _require_one_name(self.memory_id, self.id, needed=True)

    @property
    def name(self) -> str:
        """The id that was told, under either name."""
        return self.memory_id or self.id or ""


class ToldMemory(msgspec.Struct, kw_only=True):
    """A memory as another store has it, in the form in which `query_memory` tells it.

    `created` and `revised` are `last_accessed` where they are not told. `forgotten` follows from the strength, and
    `written_by` from the caller: neither is taken from here.
    """

    id: NAME
    content: Annotated[str, msgspec.Meta(max_length=MAX_CONTENT_CHARACTERS, examples=["my content"])] = ""
    keywords: KEYWORDS = []
    source: SOURCE = ""
    strength: ANY_STRENGTH = FIRST_STRENGTH
    created: MOMENT | None = None
    last_accessed: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=64, examples=["2026-11-27T08:00:00+00:00"])]
        | (Annotated[float, msgspec.Meta(ge=0, le=1e11)])
    )
    revised: MOMENT | None = None
    deleted: bool = False

    def __post_init__(self) -> None:
        if not self.deleted and not self.content:
            raise ValueError("`content` must be given, unless `deleted` is true")


class SyncMemories(Request, tag="sync_memories"):
    """Merge another store's memories into this one's."""

    memories: Annotated[list[ToldMemory], msgspec.Meta(max_length=MAX_AT_ONCE)]


class MemoryStatus(Request, tag="memory_status"):
    """How many memories there are, how strong they are, and when the last decay pass was."""


def _require_one_name(memory_id: str | None, other: str | None, *, needed: bool = False) -> None:
    """Raise ValueError, which the decoder turns into a refusal, where no memory is named, or two are."""
    if needed and memory_id is None and other is None:
        raise ValueError("Object missing required field `memory_id`, or `id` - at `$.memory_id`")
    if memory_id is not None and other is not None and memory_id != other:
        raise ValueError("`memory_id` and `id` name two memories; name one, under either name - at `$.id`")


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
