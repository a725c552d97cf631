"""The client of mainpc follows its event feed: `events`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, overload

from twinhost.clients.event_order import KEPT, TOPICS, EventGap, EventOrder, FeedItem, follow
from twinhost.clients.replies import read
from twinhost.clients.system_replies import AgentEvent, EventStored, StoredError, StoredEvent, TrustEvent
from twinhost.clients.typed import TypedClient, given
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES, Subscriber
from twinhost.secure_zmq.errors import ConfigurationError, EventsLost, TwinhostError
from twinhost.secure_zmq.framing.exchange import closed
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
        self._followed: set[Subscriber] = set()  # by the iterators that run

    def publish(
        self,
        event_type: str,
        data: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
        propagate: bool | None = None,
        ttl: float | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> EventStored:
        """Publish an event under this program's name: mainpc stores it, and sends it on the feed.

        Args:
            event_type: what happened.
            data: a JSON object.
            event_id: the default is a unique one, which the reply has.
            propagate: False: it is stored, and not sent.
            ttl: the event expires so many seconds after it arrived; the default, and 0, is never.
            deadline_s: seconds, as of `call`.
            request_id: only to repeat an earlier call.

        Raises:
            MalformedRequest: also where mainpc is older, and wants an id and a source: use `publish_event`.
            ConnectionRefused, RequestError: as of `call`.

        >>> system.publish("thing_moved", {"thing": "rake", "to": "shed"}).message
        'event ... stored'
        """
        return self._ask(EventStored, "publish_event", published(locals()))

    def close(self) -> None:
        """Close the connection, as the end of a `with` block does; from any thread, or from a signal handler.

        A call that waits meanwhile ends with ConnectionRefused, and the iterators of `events` end.
        """
        super().close()
        for subscriber in tuple(self._followed):
            subscriber.request_stop()  # without waiting, which a signal handler must not do; the iterator does

    @overload
    def events(
        self,
        topic: Literal["EVENT:"],
        /,
        *,
        after: int | None = None,
        timeout: float | None = None,
        allow_gaps: bool = False,
    ) -> Iterator[StoredEvent]: ...
    @overload
    def events(
        self,
        topic: Literal["ERROR:"],
        /,
        *,
        after: int | None = None,
        timeout: float | None = None,
        allow_gaps: bool = False,
    ) -> Iterator[StoredError]: ...
    @overload
    def events(
        self, *topics: str, after: int | None = None, timeout: float | None = None, allow_gaps: bool = False
    ) -> Iterator[SystemEvent]: ...
    def events(
        self, *topics: str, after: int | None = None, timeout: float | None = None, allow_gaps: bool = False
    ) -> Iterator[SystemEvent]:
        """Yield the events of the feed as they come, until the client is closed; a lost connection is made again.

        Events and errors come in the order of their `seq`, each once, and none is missing: those that were sent while
        there was no connection are requested. Those of `AGENT:` and `TRUST:` are not stored, and are missing then.
        `close` ends the iteration, also from another thread.

        Args:
            topics: of `EVENT:`, `ERROR:`, `AGENT:` and `TRUST:`; by default the first two.
            after: begin after this `seq`, with stored events; by default with the first event after the first `next`.
            timeout: end after so many seconds without an event; by default, wait without an end. The time that the
                program spends between two events does not count.
            allow_gaps: go on where EventsLost would be raised.

        Raises:
            ValueError: `timeout` is negative.
            EventsLost: stored events were deleted by retention before they were received, or the store is a new one.
            ConfigurationError: a topic is unknown, or the address of the feed is not configured.
            NotAuthorized, NotGranted: the key may not subscribe, or not read what is stored.
            ConnectionRefused: the client is closed already.
            ServerUnreachable: only with `timeout`: when it has passed, mainpc can't be reached.

        >>> for event in system.events("EVENT:", after=0):
        ...     if event.event_type == "watered":
        ...         print(event.data)
        ...         break
        {'litres': 4}
        """
        if self._closing:
            raise closed()
        chosen, feed = checked(topics, self._feed, timeout)
        subscriber = Subscriber(feed, [topic.encode() for topic in chosen])
        return self._events(EventOrder(chosen, feed.address, after), subscriber, timeout, allow_gaps)

    def _events(
        self, order: EventOrder, subscriber: Subscriber, timeout: float | None, allow_gaps: bool
    ) -> Iterator[SystemEvent]:
        self._followed.add(subscriber)  # before the first look at `_closing`: from now on, `close` stops it
        try:
            for items in () if self._closing else follow(order, subscriber, self.call, timeout):
                for event in typed_events(items, allow_gaps):
                    yield event
                    if self._closing:
                        return
        except TwinhostError:
            if not self._closing:
                raise
        finally:
            self._followed.discard(subscriber)


def published(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `publish_event` for those of `publish`."""
    own = given(arguments)
    return {name: own.pop(name) for name in ("deadline_s", "request_id") if name in own} | {"event": own}


def checked(
    topics: Sequence[str], feed: ServerAddress | None, timeout: float | None
) -> tuple[Sequence[str], ServerAddress]:
    """Return the topics to follow, and the address of the feed; raise ConfigurationError, or ValueError."""
    if timeout is not None and not timeout >= 0:  # True for nan
        raise ValueError(f"timeout is {timeout}; choose 0 s or more, or None to wait without an end")
    if unknown := [topic for topic in topics if topic not in TOPICS]:
        raise ConfigurationError(f"{unknown[0]!r} is not a topic of the feed; use {', '.join(TOPICS)}")
    if feed is None:
        raise ConfigurationError(
            "this client has no address of the event feed; make it with twinhost.connect('SystemDigitalTwin'), "
            "with `events` among the agent's ports in network_config.yaml"
        )
    return topics or tuple(KEPT), feed


def typed_events(items: Sequence[FeedItem], allow_gaps: bool) -> Iterator[SystemEvent]:
    """Yield the events as their types; raise EventsLost for a gap."""
    for item in items:
        if isinstance(item, EventGap):
            if not allow_gaps:
                raise EventsLost(
                    f"{item.sentence}; to go on with the events that are left, use "
                    f"events(after={item.after}, allow_gaps=True)",
                    item.after,
                )
            continue
        yield read(item.fields, _TYPES[item.topic], f"an event of {item.topic}")
