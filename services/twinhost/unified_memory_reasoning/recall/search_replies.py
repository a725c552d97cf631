"""What UnifiedMemoryReasoningAgent answers to a search."""

from typing import Literal, TypedDict


class FoundDocument(TypedDict):
    """One result, whose `score` is from 0 to 1, and which was stored at `timestamp` (ISO-8601).

    An interaction's `id` is a number; of a memory `session_id` and `speaker` are null, as `speaker` is where none was
    told. Where `content` is `cut`, `content_bytes` is still the size of the whole.
    """

    id: int | str
    kind: Literal["interaction", "memory"]
    session_id: str | None
    speaker: str | None
    content: str
    content_bytes: int
    cut: bool
    importance: float
    strength: float
    timestamp: str
    score: float
    written_by: str


class SearchResults(TypedDict):
    """The best results, best first, whether there are more, and the query's words: searched for, and left out."""

    status: Literal["ok"]
    results: list[FoundDocument]
    more: bool
    words: list[str]
    words_left_out: list[str]
