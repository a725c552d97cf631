"""Events reach the feed where somebody subscribes to them, and are not even made where nobody does."""

import json
from typing import Any, cast

import pytest

from twinhost.agent.assembly import Publisher
from twinhost.secure_zmq.feed import Feed


class Listened:
    """A feed with subscribers to some topics."""

    def __init__(self, *topics: bytes) -> None:
        self._topics = topics
        self.published: list[tuple[bytes, dict[str, Any]]] = []

    def wants(self, topic: bytes) -> bool:
        return topic.startswith(self._topics)

    def publish(self, topic: bytes, payload: bytes, _publisher: str) -> None:
        self.published.append((topic, json.loads(payload)))


@pytest.mark.parametrize(("topics", "published"), [([b"EVENT:"], 1), ([b""], 1), ([b"ERROR:", b"EVENT:x"], 0), ([], 0)])
def test_an_event_is_made_where_somebody_wants_it(topics: list[bytes], published: int) -> None:
    """With the moment, and its fields; before the feed is bound, nobody can."""
    feed, publisher = Listened(*topics), Publisher()
    publisher.publish(b"EVENT:", number=0)
    publisher.feed = cast(Feed, feed)
    publisher.publish(b"EVENT:", number=1)
    assert [(topic, fields["number"]) for topic, fields in feed.published] == [(b"EVENT:", 1)] * published
    assert all("timestamp" in fields for _, fields in feed.published)
