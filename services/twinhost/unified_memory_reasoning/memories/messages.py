"""Memories: requests and replies.

`memory_id` and `id` are two names of one field, since older clients use both.
"""

from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec

from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning.memories.model import FIRST_STRENGTH, FORGOTTEN_UNDER, MOST_STRENGTH
from twinhost.unified_memory_reasoning.memories.recall import StrengthDocument

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
TIME = Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | Annotated[float, msgspec.Meta(ge=0, le=1e11)]
NUMBER = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_AT_ONCE)]


class StoreMemory(Request, tag="store_memory"):
    """Store a memory, or update one: fields that are omitted stay as they are.

    Without an `id` (or `memory_id`), it gets a new one.
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
        """The id, under either name."""
        return self.memory_id or self.id


class _OneMemory(Request):
    memory_id: MEMORY_ID | None = None
    id: NAME | None = None

    def __post_init__(self) -> None:
        _require_one_name(self.memory_id, self.id, needed=True)

    @property
    def name(self) -> str:
        """The id, under either name."""
        return self.memory_id or self.id or ""


class GetMemory(_OneMemory, tag="get_memory"):
    """Return one memory, also a forgotten one; this counts as an access."""


class QueryMemory(Request, tag="query_memory"):
    """List the memories that match every given field, newest first; one of `keywords` is enough, ignoring case.

    Naming a memory by id counts as an access. `before` is the `next_before` of the previous page. `changed_since`,
    combined with `limit` alone, lists everything that changed after that change, oldest change first, with forgotten
    and deleted memories: the input of another store's `sync_memories`.
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


class ReinforceMemory(_OneMemory, tag="reinforce_memory"):
    """Make a memory stronger by a fifth, at most 5; a forgotten one is recovered."""


class DeleteMemory(_OneMemory, tag="delete_memory"):
    """Delete a memory of your own; an operator may delete any."""


class SyncedMemory(msgspec.Struct, kw_only=True):
    """A memory of another store, as `query_memory` returns it.

    `created` and `revised` default to `last_accessed`. `forgotten` and `written_by` are ignored: they follow from the
    strength and from the caller.
    """

    id: NAME
    content: Annotated[str, msgspec.Meta(max_length=MAX_CONTENT_CHARACTERS, examples=["my content"])] = ""
    keywords: KEYWORDS = []
    source: SOURCE = ""
    strength: ANY_STRENGTH = FIRST_STRENGTH
    created: TIME | None = None
    last_accessed: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=64, examples=["2026-11-27T08:00:00+00:00"])]
        | (Annotated[float, msgspec.Meta(ge=0, le=1e11)])
    )
    revised: TIME | None = None
    deleted: bool = False

    def __post_init__(self) -> None:
        if not self.deleted and not self.content:
            raise ValueError("`content` must be given, unless `deleted` is true")


class SyncMemories(Request, tag="sync_memories"):
    """Merge another store's memories into this one, at most 1,000."""

    memories: Annotated[list[SyncedMemory], msgspec.Meta(max_length=MAX_AT_ONCE)]


class MemoryStatus(Request, tag="memory_status"):
    """Count the memories by strength, and show the last decay pass."""


def _require_one_name(memory_id: str | None, other: str | None, *, needed: bool = False) -> None:
    """Raise ValueError, which refuses the request, if no memory is named, or two are."""
    if needed and memory_id is None and other is None:
        raise ValueError("Object missing required field `memory_id`, or `id` - at `$.memory_id`")
    if memory_id is not None and other is not None and memory_id != other:
        raise ValueError("`memory_id` and `id` name different memories; leave one of them out - at `$.id`")


class MemoryDocument(TypedDict):
    """A memory; a tombstone has `deleted` and an empty body."""

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
    """The memory's id, whether it is new, and its strength; `message` is for people."""

    status: Literal["ok"]
    message: str
    memory_id: str
    new: bool
    strength: float


class MemoryFound(TypedDict):
    """The requested memory."""

    status: Literal["ok"]
    memory_id: str
    memory: MemoryDocument


class MemoriesFound(TypedDict):
    """A page of `count` memories; `more` is true if there are others.

    `next_before` is null on the last page. With `changed_since` there is `last_change` instead: the `changed_since` of
    the next request.
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
    """The memory is deleted; `message` is for people."""

    status: Literal["ok"]
    message: str
    memory_id: str


class MergeCounts(TypedDict):
    """How many records had which outcome."""

    added: int
    changed: int
    unchanged: int
    refused: int


class MemoriesMerged(MergeCounts):
    """The outcomes, and what is stored now; `left_out` names memories that didn't fit in `memories`."""

    status: Literal["ok"]
    message: str
    refused_ids: list[str]
    memories: list[MemoryDocument]
    left_out: list[str]


class DecayDocument(TypedDict):
    """When a decay pass began, how many memories it weakened, and how many of these it forgot."""

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
