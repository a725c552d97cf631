"""The events of mainpc's feed in their order, each once: sequence numbers show what was missed, which is requested.

`EventOrder` decides, and asks by yielding an action and its fields; what calls the agent, blocking or not, is outside.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import msgspec

from twinhost.clients.replies import read
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.client import DEFAULT_DEADLINE_S, FeedEvent, Subscriber
from twinhost.secure_zmq.errors import (
    ConfigurationError,
    MalformedRequest,
    NotAuthorized,
    NotGranted,
    SecurityMismatch,
    TwinhostError,
    UnexpectedReply,
    UnknownAction,
    WrongServerKey,
)

KEPT = {"EVENT:": "get_events", "ERROR:": "get_errors"}  # stored topics, and the action that returns them
TOPICS = (*KEPT, "AGENT:", "TRUST:")
POLL_S = 0.5
_PAGE = 500
_ASK_EVERY_S = 1.0  # if the last event is lost, no later one shows the gap
_NO_SESSION_AFTER_S = 10.0  # without a session with the feed, while mainpc answers: a handshake may take 4
_FATAL = (ConfigurationError, MalformedRequest, NotAuthorized, NotGranted, UnexpectedReply, UnknownAction)
_FATAL_AT_FIRST = (SecurityMismatch, WrongServerKey)  # later on it may be a server that is being replaced

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event, as the feed or the stored events have it."""

    topic: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventGap:
    """Why events are missing that nobody has any more, and the number after which they are."""

    sentence: str
    after: int


FeedItem: TypeAlias = ReceivedEvent | EventGap
Ask: TypeAlias = tuple[str, dict[str, Any]]  # an action and its fields
Steps: TypeAlias = Generator[Ask, Mapping[str, Any], T]


class StoredPage(msgspec.Struct, frozen=True):
    """The reply to `get_events` or `get_errors`, newest first; an older mainpc has no `let_go_to`."""

    entries: tuple[dict[str, Any], ...]
    more: bool
    last_seq: int  # of everything that was ever stored
    let_go_to: int = 0  # the newest that retention deleted
    next_before: int | None = None

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> "StoredPage":
        """Return the reply as a page, whichever of the two it is."""
        entries = reply.get("events", reply.get("errors"))
        return read({**reply, "entries": entries}, cls, "the page of stored events")


class EventOrder:
    """Keeps the order over all topics, and what was received to the last number."""

    def __init__(self, topics: Sequence[str], feed_at: str, after: int | None, clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin after a number, or with the next event; `feed_at` is the feed's address, for error sentences."""
        self._monotonic = clock.monotonic
        self.fault: TwinhostError | None = None  # why no events come, while that is so
        self._kept = [topic for topic in topics if topic in KEPT]
        self._feed_at = feed_at
        self._last = dict.fromkeys(self._kept, after or 0)
        self._begins_now = after is None
        self._fatal: TwinhostError | None = None
        self._answered = False
        self._topics = list(topics)
        self._refused: NotGranted | None = None  # by the feed, in the session that was checked last
        self._session, self._checked_session, self._had_session = 0, 0, False
        self._ask_at, self._session_at = 0.0, self._monotonic()

    def begin(self) -> Steps[None]:
        """Learn the present numbers.

        Raises:
            TwinhostError: mainpc can't be asked.
        """
        for topic in self._kept if self._begins_now else ():
            page = yield from self._page(topic, 0, 1)
            self._last[topic] = page.last_seq
        self._session_at = self._monotonic()

    def step(self, event: FeedEvent | None, *, session: int, fault: TwinhostError | None) -> Steps[list[FeedItem]]:
        """Return what follows, in order, after an event was received or the time for one has passed.

        Args:
            event: what was received.
            session: the number of the session with the feed; 0 if there is none.
            fault: why there is none.

        Raises:
            TwinhostError: mainpc does not authorise or grant it, or is another server; its feed never held a session.
        """
        if self._fatal is not None:
            raise self._fatal
        items: list[FeedItem] = []
        try:
            if event is not None:  # before mainpc is asked, which may fail: not every event is stored
                yield from self._take(event, items)
            if session not in {0, self._session} or self._monotonic() >= self._ask_at:
                yield from self._catch_up(items)
                yield from self._check_subscription(session)
                self._answered, self._ask_at = True, self._monotonic() + _ASK_EVERY_S
            if event is not None or session == self._session != 0:  # still: the feed may end it at once
                self._had_session, self._session_at = True, self._monotonic()
            self._session, self.fault = session, fault or self._refused
            if fault is None and self._refused is None and self._monotonic() - self._session_at > _NO_SESSION_AFTER_S:
                self.fault = refused = self._feed_refuses(
                    "keeps no session with this key; "
                    "grant it `subscribe` for these topics in network_config.yaml, or open the port"
                )
                self._fatal = None if self._had_session else refused
        except TwinhostError as error:
            fatal = isinstance(error, _FATAL) or (isinstance(error, _FATAL_AT_FIRST) and not self._answered)
            self._fatal = error if fatal else None
            self._session, self.fault = 0, error
            self._session_at = self._monotonic()  # mainpc can't be reached, nor its feed
        if self._fatal is not None:
            self.fault = None
            if not items:  # else in the next step
                raise self._fatal
        return items

    def _check_subscription(self, session: int) -> Steps[None]:
        """Learn whether the feed refuses a topic, which it does without a word; once a session, as grants end it."""
        if session in {0, self._checked_session}:
            return
        self._refused = None
        try:
            yield "check_subscription", {"topics": self._topics}
        except NotGranted as error:
            self._refused = self._feed_refuses(f"refuses a topic: {error}")
        except UnknownAction:  # an older mainpc, whose feed keeps no session then
            pass
        if self._checked_session == 0:  # in a later session it was granted once, and may be again
            self._fatal = self._refused
        self._checked_session = session

    def _feed_refuses(self, what: str) -> NotGranted:
        return NotGranted(f"mainpc answers, but its event feed at {self._feed_at} {what}")

    def _take(self, event: FeedEvent, items: list[FeedItem]) -> Steps[None]:
        topic, fields = event.topic.decode("ascii", "replace"), _fields(event)
        seq, previous = fields.get("seq"), fields.pop("previous_seq", 0)
        if topic not in self._last or not isinstance(seq, int) or not isinstance(previous, int):
            items.append(ReceivedEvent(topic, fields))
            return
        if seq <= self._last[topic]:
            return  # returned already, when mainpc was asked
        if previous > self._last[topic] or (self._follows_all and seq > max(self._last.values()) + 1):
            yield from self._catch_up(items)  # an earlier one, of this topic or another, is missing
            return
        self._last[topic] = seq
        items.append(ReceivedEvent(topic, fields))

    @property
    def _follows_all(self) -> bool:
        """Whether every missing number is of a topic that is followed."""
        return len(self._last) == len(KEPT)

    def _catch_up(self, items: list[FeedItem]) -> Steps[None]:
        """Return what mainpc has stored since the last events, in the order of their numbers."""
        if not self._last:  # nothing to ask for, except whether mainpc answers and authorises us
            yield "ping", {}
            return
        pages: dict[str, StoredPage] = {}
        for topic, since in self._last.items():
            pages[topic] = yield from self._page(topic, since, 1)
        newest = min(page.last_seq for page in pages.values())  # what was stored between two requests waits
        if newest < max(self._last.values()):  # its store is new, and so are its numbers
            items.append(EventGap("mainpc has a new store, without the earlier events; numbers start again", 0))
            self._last = dict.fromkeys(self._last, 0)
        for topic, page in pages.items():
            last = self._last[topic]
            if page.let_go_to > last > 0:
                items.append(
                    EventGap(f"some of {topic} after {last} was deleted by retention", min(self._last.values()))
                )
        missed: list[ReceivedEvent] = []
        for topic, since in self._last.items():
            if since < newest:
                entries = yield from self._missed(topic, newest)
                missed += [ReceivedEvent(topic, fields) for fields in entries]
        for event in sorted(missed, key=lambda event: int(event.fields["seq"])):
            if event.fields.get("propagate", True):  # what was not sent to the feed is not returned later either
                items.append(event)
        self._last = dict.fromkeys(self._last, newest)

    def _missed(self, topic: str, newest: int) -> Steps[list[dict[str, Any]]]:
        before = newest + 1
        entries: list[dict[str, Any]] = []
        while True:
            page = yield from self._page(topic, self._last[topic], _PAGE, before)
            entries += page.entries
            if not page.more:
                return entries
            before = int(page.entries[-1]["seq"])

    @staticmethod
    def _page(topic: str, since: int, limit: int, before: int | None = None) -> Steps[StoredPage]:
        reply = yield KEPT[topic], {"since": since, "limit": limit, "before": before}
        return StoredPage.of(reply)


class Patience:
    """How long an iteration waits for its next event."""

    def __init__(self, timeout_s: float | None, clock: Clock = SYSTEM_CLOCK) -> None:
        """Wait without an end if there is no timeout."""
        self._monotonic = clock.monotonic
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self.deadline_s = min(DEFAULT_DEADLINE_S, max(self._timeout_s, _ASK_EVERY_S))  # of a request meanwhile
        self.renew()

    def renew(self) -> None:
        """Begin to wait for the next event."""
        self._until = self._monotonic() + self._timeout_s

    @property
    def left_s(self) -> float:
        """How long to wait before mainpc may have to be asked, at most until the end."""
        return min(POLL_S, max(0.0, self._until - self._monotonic()))

    def ends(self, fault: TwinhostError | None) -> bool:
        """Return whether the time has passed; raise what prevents events from being received then."""
        if self._monotonic() < self._until:
            return False
        if fault is not None:
            raise fault
        return True


def follow(
    order: EventOrder,
    subscriber: Subscriber,
    call: Callable[..., Mapping[str, Any]],
    timeout_s: float | None = None,
) -> Iterator[list[FeedItem]]:
    """Yield what follows: one list after each event, and at least every POLL_S, until the subscriber is stopped.

    Args:
        order: what to begin with.
        subscriber: of the feed, not started.
        call: calls an action of mainpc.
        timeout_s: end after so many seconds without an event.

    Raises:
        TwinhostError: as of `EventOrder.step`; also the fault that there is when the timeout has passed.
    """
    patience = Patience(timeout_s)
    ask = partial(call, deadline_s=patience.deadline_s)
    answered(order.begin(), ask)
    subscriber.start()
    try:
        patience.renew()
        while not subscriber.stopping:
            event = subscriber.get(patience.left_s)
            items = answered(order.step(event, session=subscriber.session, fault=subscriber.fault), ask)
            yield items
            if items:
                patience.renew()
            elif patience.ends(order.fault):
                return
    finally:
        subscriber.stop()


def answered(steps: Steps[T], call: Callable[..., Mapping[str, Any]]) -> T:
    """Run the steps, and answer what they ask."""
    try:
        action, fields = next(steps)
        while True:
            try:
                reply = call(action, **fields)
            except TwinhostError as error:
                action, fields = steps.throw(error)
            else:
                action, fields = steps.send(reply)
    except StopIteration as done:
        result: T = done.value
        return result


def _fields(event: FeedEvent) -> dict[str, Any]:
    try:
        return msgspec.json.decode(event.payload, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"unreadable": event.payload.decode("utf-8", "replace")}
