"""Which topics of the event feed a caller may subscribe to: the answer that the feed's own socket can't give."""

from typing import Annotated, Literal, TypedDict

import msgspec

from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import CHECK_SUBSCRIPTION, Caller, Grants
from twinhost.secure_zmq.feed import MAX_TOPIC_BYTES, MAX_TOPICS
from twinhost.secure_zmq.wire import Request

PREFIX = Annotated[str, msgspec.Meta(max_length=MAX_TOPIC_BYTES, examples=["EVENT:"])]


class CheckSubscription(Request, tag=CHECK_SUBSCRIPTION):
    """Check whether the caller may subscribe to topics of the event feed; an error names those that are refused.

    Topics are prefixes. Ask again after each new connection to the feed, which ends connections whose grants change.
    """

    topics: Annotated[tuple[PREFIX, ...], msgspec.Meta(min_length=1, max_length=MAX_TOPICS)]

    def __post_init__(self) -> None:
        for number, topic in enumerate(self.topics):
            if len(topic.encode()) > MAX_TOPIC_BYTES:  # the schema counts characters, the feed bytes
                raise ValueError(f"a topic has at most {MAX_TOPIC_BYTES} bytes - at `$.topics[{number}]`")


class SubscriptionChecked(TypedDict):
    """The topics, all of which are granted."""

    status: Literal["ok", "success"]
    topics: list[str]


class SubscriptionActions(Feature):
    """The action of an agent with an event feed."""

    def __init__(self, grants: Grants, success: Literal["ok", "success"]) -> None:
        """Judge by the grants that the feed has; `success` is the `status` of a successful reply."""
        self._grants = grants
        self._success: Literal["ok", "success"] = success

    @action()
    def check_subscription(self, request: CheckSubscription, caller: Caller) -> SubscriptionChecked:
        self._grants.require_topics(caller, request.topics)
        return {"status": self._success, "topics": list(request.topics)}
