"""The same for asyncio as `typed`, `events`, and `event_order` have for blocking programs."""

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial, wraps
from types import GenericAlias
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast, get_args, overload

from twinhost.clients.event_order import EventOrder, FeedItem, Patience, Steps
from twinhost.clients.events import FeedClient, SystemEvent, checked, typed_events
from twinhost.clients.replies import Reply, read
from twinhost.clients.system_replies import StoredError, StoredEvent
from twinhost.clients.typed import (
    SCHEMA_ACTION,
    Asking,
    CallResults,
    PageReader,
    asking_unknown,
    given,
    new_rows,
    require_known,
)
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES, MAX_WAITING, FeedEvent, Subscriber
from twinhost.secure_zmq.errors import RequestError, TwinhostError
from twinhost.secure_zmq.framing.exchange import closed, request_ids, require_in_flight
from twinhost.secure_zmq.server_address import ServerAddress

R = TypeVar("R", bound=Reply)
Row = TypeVar("Row")
T = TypeVar("T")
P = ParamSpec("P")


def awaited(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return a blocking client's method, which returns what `_ask` or `call` does, for one where that is awaited."""

    @wraps(method)
    async def asked(self: Any, /, *args: P.args, **fields: P.kwargs) -> T:
        result: Any = method(self, *args, **fields)
        return cast(T, await result)

    return asked


def iterated(method: Callable[Concatenate[Any, P], Iterator[T]]) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """Return the iterator over pages of a blocking client for one whose `_pages` is iterated with `async for`."""

    @wraps(method)
    def pages(self: Any, /, *args: P.args, **fields: P.kwargs) -> AsyncIterator[T]:
        return cast(AsyncIterator[T], method(self, *args, **fields))

    signature = inspect.signature(method)
    rows = GenericAlias(AsyncIterator, get_args(signature.return_annotation))
    vars(pages)["__signature__"] = signature.replace(return_annotation=rows)
    return pages


class AsyncTypedClient(AsyncClient):
    """A client whose methods return typed replies, for asyncio."""

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        super().__init__(server, max_payload_bytes=max_payload_bytes)
        self._confirmed: set[Asking] = set()

    async def call(
        self, action: str, /, *, deadline_s: float | None = None, request_id: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Return the reply to one action, as `AsyncClient.call`; no field is sent that the agent does not know.

        >>> (await system.call("get_ok_agents"))["status"]
        'success'
        """
        if (unknown := asking_unknown(type(self), action, fields)) and unknown not in self._confirmed:
            try:
                schema = await super().call(SCHEMA_ACTION, deadline_s=deadline_s)
            except RequestError:  # it is not granted, or the agent is older and knows less
                schema = {}
            require_known(type(self), self._agent_name, action, fields, schema)
            self._confirmed.add(unknown)
        return await super().call(action, deadline_s=deadline_s, request_id=request_id, **fields)

    async def _ask(self, kind: type[R], action: str, arguments: Mapping[str, Any]) -> R:
        """Call an action with the arguments of a method; None is a field that is not sent."""
        return read(await self.call(action, **given(arguments)), kind, f"the reply to {action}")

    async def _ask_many(
        self,
        kind: type[R],
        action: str,
        items: Iterable[Mapping[str, Any]],
        return_exceptions: bool,
        *,
        in_flight: int,
        deadline_s: float | None,
        request_id: str | None,
    ) -> list[Any]:
        """Do what `TypedClient._ask_many` does."""
        require_in_flight(in_flight)
        results, ids = CallResults(kind, action, items, return_exceptions), request_ids(request_id)
        waiting: deque[asyncio.Task[Mapping[str, Any]]] = deque()
        try:
            for _, fields in results.requests:
                call = self.call(action, deadline_s=deadline_s, request_id=next(ids), **fields)
                waiting.append(asyncio.ensure_future(call))
                if len(waiting) == in_flight:  # the server answers one half while the other is read
                    await _take(results, waiting, in_flight // 2)
            await _take(results, waiting, 0)
        except TwinhostError as error:
            results.end(error)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return results.results

    async def _pages(
        self,
        kind: type[R],
        action: str,
        arguments: Mapping[str, Any],
        cursor: str,
        page_of: PageReader[R, Row],
        identity: Callable[[Row], Any] | None = None,
    ) -> AsyncIterator[Row]:
        """Do what `TypedClient._pages` does."""
        place: Any = None
        seen: set[Any] = set()
        while True:
            rows, place = page_of(await self._ask(kind, action, {**arguments, cursor: place}))
            for row in new_rows(rows, identity, seen):
                yield row
            if place is None:
                return


async def _take(results: CallResults[R], waiting: deque[asyncio.Task[Mapping[str, Any]]], left: int) -> None:
    """Take the replies of the first calls, until so many are left."""
    while len(waiting) > left:
        try:
            reply: Mapping[str, Any] | RequestError = await waiting[0]
        except RequestError as error:
            reply = error
        results.take(reply)
        waiting.popleft()


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
        self._followed: set[_LoopSubscriber] = set()  # by the iterators that run

    publish = awaited(FeedClient.publish)

    def close(self) -> None:
        """Close the connection; calls in flight end with ConnectionRefused, and the iterators of `events` end."""
        super().close()
        for subscriber in tuple(self._followed):
            subscriber.request_stop()

    @overload
    def events(
        self,
        topic: Literal["EVENT:"],
        /,
        *,
        after: int | None = None,
        timeout: float | None = None,
        allow_gaps: bool = False,
    ) -> AsyncIterator[StoredEvent]: ...
    @overload
    def events(
        self,
        topic: Literal["ERROR:"],
        /,
        *,
        after: int | None = None,
        timeout: float | None = None,
        allow_gaps: bool = False,
    ) -> AsyncIterator[StoredError]: ...
    @overload
    def events(
        self, *topics: str, after: int | None = None, timeout: float | None = None, allow_gaps: bool = False
    ) -> AsyncIterator[SystemEvent]: ...
    def events(
        self, *topics: str, after: int | None = None, timeout: float | None = None, allow_gaps: bool = False
    ) -> AsyncIterator[SystemEvent]:
        """Yield the events of the feed as they come; see `SystemDigitalTwin.events`.

        `close`, or a cancellation of the task, ends the iteration.

        >>> async for event in system.events("EVENT:", after=0):
        ...     if event.event_type == "watered":
        ...         print(event.data)
        ...         break
        {'litres': 4}
        """
        if self._closed:
            raise closed()
        chosen, feed = checked(topics, self._feed, timeout)
        return self._events(EventOrder(chosen, feed.address, after), feed, chosen, timeout, allow_gaps)

    async def _events(
        self,
        order: EventOrder,
        feed: ServerAddress,
        topics: Sequence[str],
        timeout: float | None,
        allow_gaps: bool,
    ) -> AsyncIterator[SystemEvent]:
        if self._closed:
            return
        subscriber = _LoopSubscriber(feed, topics)
        self._followed.add(subscriber)
        try:
            async with contextlib.aclosing(follow_async(order, subscriber, self.call, timeout)) as batches:
                async for items in batches:
                    for event in typed_events(items, allow_gaps):
                        yield event
                        if self._closed:
                            return
        except TwinhostError:
            if not self._closed:
                raise
        finally:
            self._followed.discard(subscriber)


class _LoopSubscriber:
    """Hands the events that a subscriber receives on its thread to the event loop."""

    def __init__(self, feed: ServerAddress, topics: Sequence[str]) -> None:
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        self._waiting = deque[FeedEvent](maxlen=MAX_WAITING)  # what is dropped is requested, as its number is missing
        self.thread = Subscriber(feed, [topic.encode() for topic in topics], self._on_event)

    async def get(self, timeout_s: float) -> FeedEvent | None:
        """Return the next event; None where none came in time, or the subscriber is stopped."""
        if not self._waiting and not self.thread.stopping:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
        return self._waiting.popleft() if self._waiting else None

    def request_stop(self) -> None:
        """Ask the thread to end; whoever waits for an event gets None."""
        self.thread.request_stop()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._arrived.set()

    def _on_event(self, event: FeedEvent) -> None:  # on the subscriber's thread
        with contextlib.suppress(RuntimeError):  # as above
            self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: FeedEvent) -> None:
        self._waiting.append(event)
        self._arrived.set()


async def follow_async(
    order: EventOrder,
    subscriber: _LoopSubscriber,
    call: Callable[..., Awaitable[Mapping[str, Any]]],
    timeout_s: float | None,
) -> AsyncGenerator[list[FeedItem], None]:
    """Do the same as `follow` in an event loop."""
    patience, thread = Patience(timeout_s), subscriber.thread
    ask = partial(call, deadline_s=patience.deadline_s)
    await _answered_async(order.begin(), ask)
    thread.start()
    try:
        patience.renew()
        while not thread.stopping:
            event = await subscriber.get(patience.left_s)
            items = await _answered_async(order.step(event, session=thread.session, fault=thread.fault), ask)
            yield items
            if items:
                patience.renew()
            elif patience.ends(order.fault):
                return
    finally:
        thread.stop()


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
