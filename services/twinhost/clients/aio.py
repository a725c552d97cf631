"""The same for asyncio as `typed`, `events`, and `event_order` have for blocking programs."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

from twinhost.clients.event_order import POLL_S, EventOrder, Item, Steps
from twinhost.clients.events import SystemEvent, checked, typed_events
from twinhost.clients.replies import Reply, read
from twinhost.clients.system_replies import StoredError, StoredEvent
from twinhost.clients.typed import Page, given, new_rows
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES, MAX_WAITING, FeedEvent, Subscriber
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.server_address import ServerAddress

R = TypeVar("R", bound=Reply)
Row = TypeVar("Row")
T = TypeVar("T")


class AsyncTypedClient(AsyncClient):
    """A client whose methods return typed replies, for asyncio."""

    async def _ask(self, kind: type[R], action: str, arguments: Mapping[str, Any]) -> R:
        """Call an action with the arguments of a method; None is a field that is not sent."""
        return read(await self.call(action, **given(arguments)), kind, f"the reply to {action}")

    async def _pages(
        self,
        kind: type[R],
        action: str,
        arguments: Mapping[str, Any],
        cursor: str,
        page_of: Page[R, Row],
        identity: Callable[[Row], Any] | None = None,
    ) -> AsyncIterator[Row]:
        """Yield the rows of every page.

        Args:
            kind: the type of the reply.
            action: what returns a page.
            arguments: those of the method, by name.
            cursor: the field that names the next page.
            page_of: returns a page's rows and the next cursor, None after the last page.
            identity: of a row, by which one that comes a second time is recognised: where a row that is added moves
                those that follow.
        """
        place: Any = None
        seen: set[Any] = set()
        while True:
            rows, place = page_of(await self._ask(kind, action, {**arguments, cursor: place}))
            for row in new_rows(rows, identity, seen):
                yield row
            if place is None:
                return


class AsyncFeedClient(AsyncTypedClient):
    """A client of an agent with an event feed, for asyncio."""

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
    ) -> AsyncIterator[StoredEvent]: ...
    @overload
    def events(
        self, topic: Literal["ERROR:"], /, *, after: int | None = None, allow_gaps: bool = False
    ) -> AsyncIterator[StoredError]: ...
    @overload
    def events(
        self, *topics: str, after: int | None = None, allow_gaps: bool = False
    ) -> AsyncIterator[SystemEvent]: ...
    def events(self, *topics: str, after: int | None = None, allow_gaps: bool = False) -> AsyncIterator[SystemEvent]:
        """Yield the events of the feed as they come; see `SystemDigitalTwin.events`.

        >>> async for event in system.events("EVENT:", after=0):
        ...     if event.event_type == "watered":
        ...         print(event.data)
        ...         break
        {'litres': 4}
        """
        chosen, feed = checked(topics, self._feed)
        order = EventOrder(chosen, feed.address, after)
        return self._events(follow_async(order, feed, chosen, self.call), allow_gaps)

    @staticmethod
    async def _events(found: AsyncGenerator[list[Item], None], allow_gaps: bool) -> AsyncIterator[SystemEvent]:
        async with contextlib.aclosing(found):
            async for items in found:
                for event in typed_events(items, allow_gaps):
                    yield event


async def follow_async(
    order: EventOrder, feed: ServerAddress, topics: Sequence[str], call: Callable[..., Awaitable[Mapping[str, Any]]]
) -> AsyncGenerator[list[Item], None]:
    """Do the same in an event loop."""
    await _answered_async(order.begin(), call)
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    waiting: deque[FeedEvent] = deque(maxlen=MAX_WAITING)  # what is dropped is requested, as its number is missing

    def take(event: FeedEvent) -> None:
        waiting.append(event)
        arrived.set()

    def on_event(event: FeedEvent) -> None:  # on the subscriber's thread
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(take, event)

    subscriber = Subscriber(feed, [each.encode() for each in topics], on_event)
    subscriber.start()
    try:
        while True:
            if not waiting:
                arrived.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(arrived.wait(), POLL_S)
            event = waiting.popleft() if waiting else None
            yield await _answered_async(order.step(event, session=subscriber.session, fault=subscriber.fault), call)
    finally:
        subscriber.stop()


async def _answered_async(steps: Steps[T], call: Callable[..., Awaitable[Mapping[str, Any]]]) -> T:
    try:
        action, fields = next(steps)
        while True:
            try:
                reply = await call(action, **fields)
            except TwinhostError as error:
                action, fields = steps.throw(error)
            else:
                action, fields = steps.send(reply)
    except StopIteration as done:
        result: T = done.value
        return result
