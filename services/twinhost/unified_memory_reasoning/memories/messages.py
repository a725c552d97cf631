"""Memories: requests and replies.

`memory_id` and `id` are two names of one field, since older clients use both.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.request_times import ISO_TIME, TIME
from twinhost.secure_zmq.wire import NAME
from twinhost.unified_memory_reasoning.memories.audit import Audited, BriefMemory
from twinhost.unified_memory_reasoning.memories.details import DETAILS, KEY
from twinhost.unified_memory_reasoning.memories.model import (
    FIRST_STRENGTH,
    FORGOTTEN_UNDER,
    MAX_CONTENT_CHARACTERS,
    MOST_STRENGTH,
    is_visible,
)
from twinhost.unified_memory_reasoning.memories.recall import MemoryInBrief, StrengthDocument
from twinhost.unified_memory_reasoning.memories.validity import Marks
from twinhost.unified_memory_reasoning.spaces.access import InSpace

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
NUMBER = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_AT_ONCE)]


class FurtherMemory(msgspec.Struct, kw_only=True):
    """A memory that is stored with another one; it gets an id of its own."""

    content: CONTENT
    keywords: KEYWORDS = []
    source: SOURCE = ""
    key: KEY | None = None
    pin: bool = False

    def __post_init__(self) -> None:
        _require_key(self)


@DETAILS.stored_by
class _StoredMemory(InSpace):
    content: CONTENT
    id: NAME | None = None
    memory_id: NAME | None = None
    keywords: KEYWORDS | None = None
    source: SOURCE | None = None
    strength: STRENGTH | None = None


class StoreMemory(_StoredMemory, tag="store_memory"):
    """Store a memory, or update one: fields that are omitted stay unchanged.

    Without an `id` (or `memory_id`), it gets a new one. `key` names what the fact is about, in any case, and all
    writers share it: a memory with the same key and a later `valid_from` (by default `occurred_at`, or now) follows the
    present one, which stays in the history, and if it is another writer's, that writer's value. `supersedes` names
    memories that this one follows without a key. A memory with `pin` is never forgotten. `also` has further memories,
    which are stored with this one: all of them or none.
    """

    also: Annotated[list[FurtherMemory], msgspec.Meta(max_length=MAX_AT_ONCE)] | None = None

    def __post_init__(self) -> None:
        _require_one_name(self.memory_id, self.id)
        _require_key(self)

    @property
    def name(self) -> str | None:
        """The id, under either name."""
        return self.memory_id or self.id


class _OneMemory(InSpace):
    memory_id: MEMORY_ID | None = None
    id: NAME | None = None

    def __post_init__(self) -> None:
        _require_one_name(self.memory_id, self.id, needed=True)

    @property
    def name(self) -> str:
        """The id, under either name."""
        return self.memory_id or self.id or ""


class GetMemory(_OneMemory, tag="get_memory"):
    """Return one memory, even a forgotten one; this counts as an access, unless the memory is forgotten.

    With `key` it is the present value of the key, the caller's own if it has one. With `as_of` it is the value of the
    key, or of the history of the named memory, that was valid at that time.
    """

    key: KEY | None = None
    as_of: ISO_TIME | None = None

    def __post_init__(self) -> None:
        _require_id_or_key(self.memory_id, self.id, self.key)


class MemoryHistory(InSpace, tag="memory_history"):
    """List all values of a `key`, or the memories that supersede each other and the named one, in their order.

    `skip` is the `next_skip` of the previous page. The request does not count as an access.
    """

    memory_id: NAME | None = None
    id: NAME | None = None
    key: Annotated[KEY, msgspec.Meta(examples=["rent of the box room"])] | None = None
    limit: LIMIT = 100
    skip: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0

    def __post_init__(self) -> None:
        _require_id_or_key(self.memory_id, self.id, self.key)

    @property
    def name(self) -> str | None:
        """The id, under either name."""
        return self.memory_id or self.id


class MemoryAuditRequest(InSpace, tag="memory_audit"):
    """List memories that contradict each other, are duplicates, were never read, have expired, or are due for a review.

    Each list has at most `limit` entries.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class QueryMemory(InSpace, tag="query_memory"):
    """List the memories that match every given field, newest first; one of `keywords` or `keys` is enough, in any case.

    Naming a memory by id counts as an access. `as_of` selects what was valid at that time. `before` is the
    `next_before` of the previous page. `changed_since`, combined with `limit` alone, lists everything that changed
    after that change, oldest change first, with forgotten and deleted memories: the input of another store's
    `sync_memories`. `entities_with` selects the parts of an MCP client's knowledge graph whose entities may have that
    text, in any case. With `brief`, the reply has `brief` in place of `memories`, and no access is counted.
    """

    memory_id: NAME | None = None
    id: NAME | None = None
    ids: IDS | None = None
    keywords: Annotated[KEYWORDS, msgspec.Meta(min_length=1)] | None = None
    source: SOURCE | None = None
    key: KEY | None = None
    as_of: ISO_TIME | None = None
    min_strength: ANY_STRENGTH | None = None
    include_forgotten: bool = False
    limit: LIMIT = 100
    before: NUMBER | None = None
    changed_since: NUMBER | None = None
    keys: Annotated[list[KEY], msgspec.Meta(min_length=1, max_length=MAX_AT_ONCE)] | None = None
    entities_with: CONTENT | None = None
    brief: bool = False

    def __post_init__(self) -> None:
        _require_text(self.key)
        for place, key in enumerate(self.keys or ()):
            _require_text(key, f"keys[{place}]")


class ReinforceMemory(_OneMemory, tag="reinforce_memory"):
    """Make a memory stronger by a fifth, at most 5; a forgotten one is recovered.

    With `pin` true the memory is never forgotten, false ends that; only its writer or an operator may set it.
    """

    pin: bool | None = None


class RestoreMemory(_OneMemory, tag="restore_memory"):
    """Keep a memory of your own as your value, which another writer's has ended; an operator may restore any.

    From then on nobody else ends it, but an operator.
    """


class DeleteMemory(_OneMemory, tag="delete_memory"):
    """Delete a memory of your own; an operator may delete any."""


class StoredBefore(msgspec.Struct, kw_only=True):
    """What another store has stored where its reply shows a computed value."""

    strength: ANY_STRENGTH
    valid_until: TIME | None = None


@DETAILS.synced_by
class _SyncedMemory(msgspec.Struct, kw_only=True):
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


class SyncedMemory(_SyncedMemory, kw_only=True):
    """A memory of another store, as `query_memory` returns it.

    `created` and `revised` default to `last_accessed`. `forgotten`, `superseded_by`, `written_by` and the like are
    ignored: they follow from the other memories and from the caller. `as_stored`, if present, replaces `strength` and
    `valid_until`.
    """

    as_stored: StoredBefore | None = None

    def __post_init__(self) -> None:
        if not self.deleted and not self.content:
            raise ValueError("`content` must be given, unless `deleted` is true")


class SyncMemories(InSpace, tag="sync_memories"):
    """Merge another store's memories into this one, at most 1,000."""

    memories: Annotated[list[SyncedMemory], msgspec.Meta(max_length=MAX_AT_ONCE)]


class MemoryStatus(InSpace, tag="memory_status"):
    """Count the memories by strength, and show the last decay pass."""


def _require_one_name(memory_id: str | None, other: str | None, *, needed: bool = False) -> None:
    """Raise ValueError, which refuses the request, if no memory is named, or two are."""
    if needed and memory_id is None and other is None:
        raise ValueError("Object missing required field `memory_id`, or `id` - at `$.memory_id`")
    if memory_id is not None and other is not None and memory_id != other:
        raise ValueError("`memory_id` and `id` name different memories; leave one of them out - at `$.id`")


def _require_id_or_key(memory_id: str | None, other: str | None, key: str | None) -> None:
    if memory_id is None and other is None and key is None:
        raise ValueError("Object missing required field `memory_id`, `id`, or `key` - at `$.memory_id`")
    _require_one_name(memory_id, other)
    _require_text(key)
    if key is not None and (memory_id or other) is not None:
        raise ValueError("`key` and an id name a memory twice; leave one of them out - at `$.key`")


def _require_key(memory: Any) -> None:
    _require_text(memory.key)


def _require_text(key: str | None, path: str = "key") -> None:
    if key is not None and not is_visible(key):
        raise ValueError(f"a key can't be blank; name what the fact is about - at `$.{path}`")


class AsStored(TypedDict):
    """What is stored where the memory shows a computed value; for another store's `sync_memories`."""

    strength: float
    valid_until: str | None


@DETAILS.shown_by
class _ShownMemory(TypedDict):
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


class MemoryDocument(_ShownMemory, Marks):
    """A memory; a tombstone has `deleted` and an empty body.

    `strength` is the present one. `valid_until` is when the memory ceases to be valid, and `superseded_by` the memory
    that follows it; `superseding_writer` has written that one, if another has. `disputed_by` are other writers that
    have another value of its key. Fields without a value are absent, and so is `as_stored` if what is shown is what is
    stored.
    """

    as_stored: NotRequired[AsStored]


class MemoryStored(TypedDict):
    """The memory's id, whether it is new, and its strength; `message` is for people.

    `conflicts` lists at most 10 memories that contradict it: neither has a key, and neither is superseded. `also` has
    the ids of the further memories, if the request had any. `disputed_by` are other writers that have another value of
    its key: readers get the later one, and those writers theirs.
    """

    status: Literal["ok"]
    message: str
    memory_id: str
    new: bool
    strength: float
    conflicts: list[BriefMemory]
    also: NotRequired[list[str]]
    disputed_by: NotRequired[list[str]]


class MemoryFound(TypedDict):
    """The requested memory."""

    status: Literal["ok"]
    memory_id: str
    memory: MemoryDocument


class MemoriesFound(TypedDict):
    """A page of `count` memories; `more` is true if there are others.

    `next_before` is null on the last page. With `changed_since` there is `last_change` instead: the `changed_since` of
    the next request. `brief` is in the reply to a request with `brief`, and `memories` is then empty.
    """

    status: Literal["ok"]
    memories: list[MemoryDocument]
    count: int
    more: bool
    next_before: NotRequired[int | None]
    last_change: NotRequired[int]
    brief: NotRequired[list[MemoryInBrief]]


class HistoryFound(TypedDict):
    """The values in the order of their validity; `next_skip` is null on the last page."""

    status: Literal["ok"]
    memories: list[MemoryDocument]
    count: int
    more: bool
    next_skip: int | None


class MemoryAuditDocument(Audited):
    """Memories that need attention; `more` names the lists that have further entries.

    `contradictory` has pairs and `duplicates` groups of memories with the same text, neither with a key. `never_read`
    begins with the longest unread one; `expired` depends on `valid_until`, `review_due` on `review_at`. `disputed` has
    groups of values that several writers have of one key, and pairs of a memory and another writer's that supersedes
    it.
    """

    status: Literal["ok"]


class MemoryReinforced(TypedDict):
    """How strong the memory is now, and whether it had been forgotten (`recovered`)."""

    status: Literal["ok"]
    message: str
    memory_id: str
    strength: float
    forgotten: bool
    recovered: bool


class MemoryRestored(TypedDict):
    """The memory as it is now; `message` is for people."""

    status: Literal["ok"]
    message: str
    memory_id: str
    memory: MemoryDocument


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
    """When a decay pass began, how many memories it weakened and forgot; with the rule `days` it weakens none."""

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
