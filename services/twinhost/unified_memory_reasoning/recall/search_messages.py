"""What UnifiedMemoryReasoningAgent is asked to search for: every field with its type and its bounds."""

from typing import Annotated

import msgspec

from twinhost.secure_zmq.wire import NAME, Request

MAX_QUERY_BYTES = 4_096
MAX_LIMIT = 100


class SearchMemory(Request, tag="search_memory"):
    """What is remembered, best first; `query` is words, and nothing in it is syntax."""

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUERY_BYTES)]
    session_id: NAME | None = None
    speaker: NAME | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 10
