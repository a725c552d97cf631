"""What UnifiedMemoryReasoningAgent is told and asked about what was said: every field with its type and its bounds."""

from typing import Annotated, Any, Literal

import msgspec

from twinhost.secure_zmq.wire import NAME, Request

MAX_CONTENT_BYTES = 65_536  # in UTF-8
MAX_METADATA_BYTES = 16_384  # of JSON
MAX_METADATA_DEPTH = 16
MAX_TOKENS = 100_000

KIND = Literal["code", "user_query", "system_response", "error"]
CONTENT = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CONTENT_BYTES)]
SPEAKER = Annotated[str, msgspec.Meta(max_length=256)]  # an empty one is none
TOKENS = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]


class AddInteraction(Request, tag="add_interaction"):
    """Something was said in a session."""

    session_id: NAME
    interaction_type: KIND
    content: CONTENT
    speaker: SPEAKER | None = None
    metadata: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        size = len(self.content.encode())
        if size > MAX_CONTENT_BYTES:
            raise ValueError(
                f"Expected at most {MAX_CONTENT_BYTES} bytes of UTF-8, got {size}; send it in parts - at `$.content`"
            )
        _require_small(self.metadata)


class GetContext(Request, tag="get_context"):
    """What a session, or one speaker in it, has in mind, in at most `max_tokens` tokens of text."""

    session_id: NAME
    max_tokens: TOKENS = 2_000
    speaker: SPEAKER | None = None


class ClearContext(Request, tag="clear_context"):
    """Forget a session, or what one speaker said in it."""

    session_id: NAME
    speaker: SPEAKER | None = None


def _require_small(metadata: dict[str, Any] | None) -> None:
    """Raise ValueError, which the decoder turns into a refusal, where the metadata is too large or too deep."""
    level: list[Any] = [metadata] if metadata else []
    for _ in range(MAX_METADATA_DEPTH):
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
    if level:
        raise ValueError(f"Expected objects nested at most {MAX_METADATA_DEPTH} deep - at `$.metadata`")
    size = len(msgspec.json.encode(metadata))
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"Expected at most {MAX_METADATA_BYTES} bytes of JSON, got {size} - at `$.metadata`")
