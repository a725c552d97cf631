"""The client of mainpc follows its event feed: `events`."""

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, overload

from twinhost.clients.event_order import KEPT, TOPICS, EventOrder, Gap, Item, follow
from twinhost.clients.replies import read
from twinhost.clients.system_replies import AgentEvent, StoredError, StoredEvent, TrustEvent
from twinhost.clients.typed import TypedClient
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES
from twinhost.secure_zmq.errors import ConfigurationError, EventsLost
from twinhost.secure_zmq.server_address import ServerAddress

SystemEvent: TypeAlias = StoredEvent | StoredError | AgentEvent | TrustEvent
_TYPES: dict[str, type[SystemEvent]] = {
    "EVENT:": StoredEvent,
    "ERROR:": StoredError,
    "AGENT:": AgentEvent,
    "TRUST:": TrustEvent,
}


class FeedClient(TypedClient):
    """A client of an agent with an event feed."""

    def __init__(
        self,
        server: ServerAddress,
        *,
        feed: ServerAddress | None = None,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    ) -> None:
        """Connect with the first call; `feed` is the address of the event feed, which `events` follows."""
        super().__init__(server, max_payload_bytes=max_payload_bytes)
        self._feed = feed

    @overload
    def events(
        self, topic: Literal["EVENT:"], /, *, after: int | None = None, allow_gaps: bool = False
    ) -> Iterator[StoredEvent]: ...
    @overload
    def events(
        self, topic: Literal["ERROR:"], /, *, after: int | None = None, allow_gaps: bool = False
    ) -> Iterator[StoredError]: ...
    @overload
    def events(self, *topics: str, after: int | None = None, allow_gaps: bool = False) -> Iterator[SystemEvent]: ...
    def events(self, *topics: str, after: int | None = None, allow_gaps: bool = False) -> Iterator[SystemEvent]:
        """Yield the events of the feed as they come, without an end; a lost connection is made again.

        Events and errors come in the order of their `seq`, each once, and none is missing: those that were sent while
        there was no connection are requested. Those of `AGENT:` and `TRUST:` are not stored, and are missing then.

        Args:
            topics: of `EVENT:`, `ERROR:`, `AGENT:` and `TRUST:`; by default the first two.
            after: begin after this `seq`, with stored events; by default with the first event after the first `next`.
            allow_gaps: go on where EventsLost would be raised.

        Raises:
            EventsLost: stored events were deleted by retention before they were received, or the store is a new one.
            ConfigurationError: a topic is unknown, or the address of the feed is not configured.
            NotAuthorized, NotGranted: the key may not subscribe, or not read what is stored.

        >>> for event in system.events("EVENT:", after=0):
        ...     if event.event_type == "watered":
        ...         print(event.data)
        ...         break
        {'litres': 4}
        """
        chosen, feed = checked(topics, self._feed)
        order = EventOrder(chosen, feed.address, after)
        return (event for items in follow(order, feed, chosen, self.call) for event in typed_events(items, allow_gaps))


def checked(topics: Sequence[str], feed: ServerAddress | None) -> tuple[Sequence[str], ServerAddress]:
    """Return the topics to follow, and the address of the feed; raise ConfigurationError."""
    if unknown := [each for each in topics if each not in TOPICS]:
        raise ConfigurationError(f"{unknown[0]!r} is not a topic of the feed; use {', '.join(TOPICS)}")
    if feed is None:
        raise ConfigurationError(
            "this client has no address of the event feed; make it with twinhost.connect('SystemDigitalTwin'), "
            "with `events` among the agent's ports in network_config.yaml"
        )
    return topics or tuple(KEPT), feed


def typed_events(items: Sequence[Item], allow_gaps: bool) -> Iterator[SystemEvent]:
    """Yield the events as their types; raise EventsLost for a gap."""
    for item in items:
        if isinstance(item, Gap):
            if not allow_gaps:
                raise EventsLost(
                    f"{item.sentence}; to go on with the events that are left, use "
                    f"events(after={item.after}, allow_gaps=True)",
                    item.after,
                )
            continue
        yield read(item.fields, _TYPES[item.topic], f"an event of {item.topic}")
