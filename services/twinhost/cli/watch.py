"""`watch`: what was missed of mainpc's event feed, and then what comes; nothing lost, nothing twice."""

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
import typer

from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.connect import load_settings
from twinhost.cli.documents import Happenings, read
from twinhost.cli.failures import Failure
from twinhost.cli.printable import printable, to_json
from twinhost.secure_zmq.client import Client, FeedEvent, Subscriber
from twinhost.secure_zmq.errors import NotAuthorized, NotGranted, TwinhostError

KEPT = {"EVENT:": "get_events", "ERROR:": "get_errors"}  # topics that mainpc keeps, and what it is asked for them
TOPICS = (*KEPT, "AGENT:", "TRUST:")
_PAGE = 500
_LOOK_EVERY_S = 0.5
_ASK_EVERY_S = 1.0  # the last event may have got lost, and none follows that shows it
_DEAF_AFTER_S = 10.0  # without a session with the feed, while mainpc answers: a handshake may take 4
_NOT_SHOWN = frozenset({"seq", "previous_seq", "time", "timestamp", "propagate", "ttl", "written_by"})

Show = Callable[[str, dict[str, Any]], None]


def watch(
    topic: Annotated[
        list[str] | None, typer.Option("--topic", metavar="TOPIC", help=f"Of {', '.join(TOPICS)}; all of them without.")
    ] = None,
    since: Annotated[
        int | None, typer.Option("--since", metavar="SEQ", min=0, help="Show what was kept after that number first.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Follow the event feed of mainpc, until Ctrl-C.

    Where the connection is lost, what came meanwhile is shown when it is back. With --json one line of JSON each.
    """
    topics = topic or list(TOPICS)
    if unknown := [each for each in topics if each not in TOPICS]:
        raise typer.BadParameter(f"{unknown[0]!r} is no topic; there are: {', '.join(TOPICS)}", param_hint="--topic")
    settings = load_settings()
    mainpc = settings.registry_agent
    feed_at = settings.feed_address(mainpc)
    subscriber = Subscriber(feed_at, [each.encode() for each in topics])
    with settings.client(mainpc) as client:
        kept, show = [each for each in topics if each in KEPT], _as_json if as_json else _as_text
        watcher = Watcher(client, feed_at.address, kept, show, since)
        subscriber.start()
        try:
            watcher.follow(subscriber)
        finally:
            subscriber.stop()
    return 0


class Watcher:
    """Keeps the order over all topics: by the numbers in what comes it knows what it missed, and asks for that."""

    def __init__(self, client: Client, feed_at: str, kept: list[str], show: Show, since: int | None) -> None:
        """Begin after `since`, or with what comes from now on; `feed_at` is named where nothing is heard of it.

        Raises:
            TwinhostError: mainpc can't be asked.
        """
        self._client = client
        self._feed_at = feed_at
        self._show = show
        self._last = {topic: self._ask(topic, 0, 1).last_seq if since is None else since for topic in kept}

    def follow(self, subscriber: Subscriber) -> None:
        """Show events until the program is interrupted.

        Raises:
            TwinhostError: mainpc refuses for good, or its feed never held a session.
        """
        connected, look_at, told = False, 0.0, None
        hears, heard_at = False, time.monotonic()
        while True:
            event = subscriber.get(_LOOK_EVERY_S)
            try:
                if event is not None:  # before mainpc is asked: what nobody keeps must not get lost where that fails
                    self._take(event)
                if (subscriber.connected and not connected) or time.monotonic() >= look_at:
                    self._catch_up()
                    look_at = time.monotonic() + _ASK_EVERY_S
                if event is not None or (connected and subscriber.connected):  # twice: the feed may hang up at once
                    hears, heard_at = True, time.monotonic()
                connected = subscriber.connected
                fault: TwinhostError | None = subscriber.fault
                if fault is None and time.monotonic() - heard_at > _DEAF_AFTER_S:
                    fault = NotGranted(
                        f"mainpc answers and its event feed at {self._feed_at} holds no session with this key; "
                        "grant it `subscribe` of these topics in network_config.yaml, or open the port"
                    )
                    if not hears:
                        raise fault
                told = self._tell(fault, told)
            except TwinhostError as error:
                if isinstance(error, NotAuthorized | NotGranted):
                    raise
                connected, told = False, self._tell(error, told)
                heard_at = time.monotonic()  # mainpc is away, and its feed with it

    def _take(self, event: FeedEvent) -> None:
        topic, fields = event.topic.decode("ascii", "replace"), _fields(event)
        seq, previous = fields.get("seq"), fields.pop("previous_seq", 0)
        if topic not in self._last or not isinstance(seq, int) or not isinstance(previous, int):
            self._show(topic, fields)
            return
        if seq <= self._last[topic]:
            return  # shown already, when it was asked for
        if previous > self._last[topic] or (self._follows_all and seq > max(self._last.values()) + 1):
            self._catch_up()  # one before it, of this topic or of another, did not come
            return
        self._last[topic] = seq
        self._show(topic, fields)

    @property
    def _follows_all(self) -> bool:
        """Whether a number that is left out is of a topic that is shown."""
        return len(self._last) == len(KEPT)

    def _catch_up(self) -> None:
        """Show what mainpc has kept since the last ones that were shown, in the order of their numbers."""
        if not self._last:  # nothing to ask for: whether it is there, and lets us in
            self._client.call("ping")
            return
        pages = {topic: self._ask(topic, since, 1) for topic, since in self._last.items()}
        newest = min(page.last_seq for page in pages.values())  # what came between two questions is for the next time
        if newest < max(self._last.values()):  # its store was made anew, and its numbers with it
            output.say("missing:", output.WARN, "mainpc's numbers begin anew; what it kept before is gone")
            self._last = dict.fromkeys(self._last, 0)
        for topic, page in pages.items():
            if page.let_go_to > self._last[topic] > 0:
                output.say("missing:", output.WARN, f"some of {topic} after {self._last[topic]} gave way to newer ones")
        behind = [topic for topic, since in self._last.items() if since < newest]
        missed = [(topic, fields) for topic in behind for fields in self._missed(topic, newest)]
        for topic, fields in sorted(missed, key=lambda each: int(each[1]["seq"])):
            self._last[topic] = int(fields["seq"])
            if fields.get("propagate", True):  # what was kept off the feed is no part of it afterwards either
                self._show(topic, fields)
        self._last = dict.fromkeys(self._last, newest)

    def _missed(self, topic: str, newest: int) -> Iterator[dict[str, Any]]:
        before = newest + 1
        while True:
            page = self._ask(topic, self._last[topic], _PAGE, before)
            yield from page.entries
            if not page.more:
                return
            before = int(page.entries[-1]["seq"])

    def _ask(self, topic: str, since: int, limit: int, before: int | None = None) -> Happenings:
        reply = self._client.call(KEPT[topic], since=since, limit=limit, before=before)
        return read({**reply, "entries": reply.get("events", reply.get("errors"))}, Happenings)

    def _tell(self, fault: TwinhostError | None, told: str | None) -> str | None:
        """Say why nothing comes, once for each reason; return what was said."""
        if fault is None:
            return None
        failure = Failure.of(fault)
        if failure.code != told:
            output.say("waiting:", output.FAINT, failure.sentence)
        return failure.code


def _fields(event: FeedEvent) -> dict[str, Any]:
    try:
        return msgspec.json.decode(event.payload, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"unreadable": event.payload.decode("utf-8", "replace")}


def _as_json(topic: str, fields: dict[str, Any]) -> None:
    output.show_line(to_json({"topic": topic, **fields}, ascii_only=True))


def _as_text(topic: str, fields: dict[str, Any]) -> None:
    moment = fields.get("time") or fields.get("timestamp") or ""
    number = f"{fields['seq']}  " if "seq" in fields else ""
    rest = " ".join(
        f"{name}={value if isinstance(value, str) else to_json(value)}"
        for name, value in fields.items()
        if name not in _NOT_SHOWN and value not in (None, "")
    )
    output.show_line(printable(f"{number}{moment}  {topic}  {rest}"))
