"""What UnifiedMemoryReasoningAgent is asked: every field with its type and its bounds."""

from typing import Any, Final

import msgspec

from twinhost.secure_zmq.wire import NAME, Request

DEFAULT_USER = "default"
SUCCESS: Final = "ok"  # the word that this agent's clients test for
MAX_TWIN_BYTES = 262_144  # of JSON


class UpdateTwin(Request, tag="update_twin"):
    """Store a user's twin in place of the one there is."""

    twin_data: dict[str, Any]
    user_id: NAME = DEFAULT_USER

    def __post_init__(self) -> None:
        size = len(msgspec.json.encode(self.twin_data))
        if size > MAX_TWIN_BYTES:
            raise ValueError(
                f"Expected at most {MAX_TWIN_BYTES} bytes of JSON, got {size}; leave some out - at `$.twin_data`"
            )


class GetTwin(Request, tag="get_twin"):
    """A user's twin, `{}` where there is none."""

    user_id: NAME = DEFAULT_USER


class DeleteTwin(Request, tag="delete_twin"):
    """Forget a user's twin."""

    user_id: NAME = DEFAULT_USER
