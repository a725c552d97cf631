"""`watch`, `events`, and `errors`: mainpc's event feed, with missed events in order and once, and the stored errors."""

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
import typer

from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, AsJson, parse_fields
from twinhost.cli.connect import load_settings
from twinhost.cli.output import Failure, printable, read, to_json
from twinhost.secure_zmq.client import Client, FeedEvent, Subscriber
from twinhost.secure_zmq.errors import NotAuthorized, NotGranted, TwinhostError
from twinhost.system_digital_twin.events.actions import ErrorsCounted

events = typer.Typer(help="The event feed of mainpc: publish an event, or follow all.")
KEPT = {"EVENT:": "get_events", "ERROR:": "get_errors"}  # stored topics, and the action that returns them
TOPICS = (*KEPT, "AGENT:", "TRUST:")
_PAGE = 500
_POLL_S = 0.5
_ASK_EVERY_S = 1.0  # if the last event is lost, no later one shows the gap
_NO_SESSION_AFTER_S = 10.0  # without a session with the feed, while mainpc answers: a handshake may take 4
_NOT_SHOWN = frozenset({"seq", "previous_seq", "time", "timestamp", "propagate", "ttl", "written_by"})

Show = Callable[[str, dict[str, Any]], None]


@events.command("watch")
def watch(
    topic: Annotated[
        list[str] | None,
        typer.Option(
            "--topic", metavar="TOPIC", help=f"One of {', '.join(TOPICS)}, repeatable; all of them if omitted."
        ),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option("--since", metavar="SEQ", min=0, help="First show the stored events after this number."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Follow the event feed of mainpc, until Ctrl-C.

    After a lost connection, the events that were missed are shown. With --json each event is one line of JSON.
    """
    topics = topic or list(TOPICS)
    if unknown := [each for each in topics if each not in TOPICS]:
        raise typer.BadParameter(f"{unknown[0]!r} is not a topic; use {', '.join(TOPICS)}", param_hint="--topic")
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


@events.command("publish")
def publish(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="What happened, such as backup_finished.")],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="The event's data; a value may be JSON.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The event's id; a new one if omitted.")
    ] = None,
    ttl: Annotated[
        float | None, typer.Option("--ttl", metavar="SECONDS", min=0, help="After them the event expires.")
    ] = None,
    stored_only: Annotated[bool, typer.Option("--stored-only", help="Keep it off the feed.")] = False,
    as_json: AsJson = False,
) -> int:
    """Publish an event: mainpc stores it and sends it."""
    settings = load_settings()
    own = settings.certificates.own_keys.certificate.owner.name if settings.certificates else socket.gethostname()
    event = {
        "event_id": event_id or uuid.uuid4().hex,
        "event_type": event_type,
        "source_agent": own,
        "data": parse_fields(pairs or [], reserved={}),
        "propagate": not stored_only,
        "ttl": ttl,
    }
    with settings.client(settings.registry_agent) as client:
        reply = client.call("publish_event", deadline_s=DEADLINE_S, event=event)
    output.show_done(reply, f"event {event['event_id']} is stored with the number {reply['seq']}", as_json=as_json)
    return 0


def errors(
    error_type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only errors of this type.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Only errors of this agent.")] = None,
    severity: Annotated[
        str | None, typer.Option("--severity", metavar="LEVEL", help="info, warning, error, or critical.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From then on, ISO-8601; 24 hours ago if omitted.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before then, ISO-8601.")] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", metavar="ID", help="List the errors of this group, at any time.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="List the errors with this text, at any time.")
    ] = None,
    acknowledged: Annotated[bool, typer.Option("--all", help="Acknowledged errors too.")] = False,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=200, help="Groups, or errors.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Show the errors that were reported to mainpc.

    They are counted and grouped by message; with --shape or --text each is listed, newest first.
    """
    chosen: dict[str, Any] = {"type": error_type, "agent": agent, "severity": severity, "since": since, "until": until}
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        if shape is None and text is None:
            chosen |= {"acknowledged": acknowledged}
            reply = client.call("get_error_counts", deadline_s=DEADLINE_S, limit=limit, **chosen)
        else:
            chosen |= {"shape_id": shape, "text": text, "acknowledged": None if acknowledged else False}
            reply = client.call("get_errors", deadline_s=DEADLINE_S, limit=limit, **chosen)
    if as_json:
        output.show_value(reply, as_json=True)
    elif "groups" in reply:
        _show_groups(read(reply, ErrorsCounted))
    else:
        _show_each(read({**reply, "entries": reply["errors"]}, Page))
    return 0


class Page(msgspec.Struct, frozen=True):
    """The reply to `get_events` or `get_errors`, newest first; an older mainpc has no `let_go_to`."""

    entries: tuple[dict[str, Any], ...]
    more: bool
    last_seq: int  # of everything that was ever stored
    let_go_to: int = 0  # the newest that retention deleted
    next_before: int | None = None


class Watcher:
    """Keeps the order over all topics: sequence numbers show what was missed, which is then requested."""

    def __init__(self, client: Client, feed_at: str, kept: list[str], show: Show, since: int | None) -> None:
        """Begin after `since`, or with the next event; `feed_at` is the feed's address, for error sentences.

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
            TwinhostError: mainpc does not authorise or grant it, or its feed never held a session.
        """
        connected, ask_at, shown = False, 0.0, None
        had_session, session_at = False, time.monotonic()
        while True:
            event = subscriber.get(_POLL_S)
            try:
                if event is not None:  # before mainpc is asked, which may fail: not every event is stored
                    self._take(event)
                if (subscriber.connected and not connected) or time.monotonic() >= ask_at:
                    self._catch_up()
                    ask_at = time.monotonic() + _ASK_EVERY_S
                if event is not None or (connected and subscriber.connected):  # twice: the feed may disconnect at once
                    had_session, session_at = True, time.monotonic()
                connected = subscriber.connected
                fault: TwinhostError | None = subscriber.fault
                if fault is None and time.monotonic() - session_at > _NO_SESSION_AFTER_S:
                    fault = NotGranted(
                        f"mainpc answers, but its event feed at {self._feed_at} keeps no session with this key; "
                        "grant it `subscribe` for these topics in network_config.yaml, or open the port"
                    )
                    if not had_session:
                        raise fault
                shown = self._say(fault, shown)
            except TwinhostError as error:
                if isinstance(error, NotAuthorized | NotGranted):
                    raise
                connected, shown = False, self._say(error, shown)
                session_at = time.monotonic()  # mainpc can't be reached, nor its feed

    def _take(self, event: FeedEvent) -> None:
        topic, fields = event.topic.decode("ascii", "replace"), _fields(event)
        seq, previous = fields.get("seq"), fields.pop("previous_seq", 0)
        if topic not in self._last or not isinstance(seq, int) or not isinstance(previous, int):
            self._show(topic, fields)
            return
        if seq <= self._last[topic]:
            return  # shown already, when mainpc was asked
        if previous > self._last[topic] or (self._follows_all and seq > max(self._last.values()) + 1):
            self._catch_up()  # an earlier one, of this topic or another, is missing
            return
        self._last[topic] = seq
        self._show(topic, fields)

    @property
    def _follows_all(self) -> bool:
        """Whether every missing number is of a topic that is shown."""
        return len(self._last) == len(KEPT)

    def _catch_up(self) -> None:
        """Show what mainpc has stored since the last shown events, in the order of their numbers."""
        if not self._last:  # nothing to ask for, except whether mainpc answers and authorises us
            self._client.call("ping")
            return
        pages = {topic: self._ask(topic, since, 1) for topic, since in self._last.items()}
        newest = min(page.last_seq for page in pages.values())  # what was stored between two requests waits
        if newest < max(self._last.values()):  # its store is new, and so are its numbers
            output.say(
                "missing:", output.WARN, "mainpc has a new store, without the earlier events; numbers start again"
            )
            self._last = dict.fromkeys(self._last, 0)
        for topic, page in pages.items():
            if page.let_go_to > self._last[topic] > 0:
                sentence = f"some of {topic} after {self._last[topic]} was deleted by retention"
                output.say("missing:", output.WARN, sentence)
        behind = [topic for topic, since in self._last.items() if since < newest]
        missed = [(topic, fields) for topic in behind for fields in self._missed(topic, newest)]
        for topic, fields in sorted(missed, key=lambda each: int(each[1]["seq"])):
            self._last[topic] = int(fields["seq"])
            if fields.get("propagate", True):  # what was not sent to the feed is not shown later either
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

    def _ask(self, topic: str, since: int, limit: int, before: int | None = None) -> Page:
        reply = self._client.call(KEPT[topic], since=since, limit=limit, before=before)
        return read({**reply, "entries": reply.get("events", reply.get("errors"))}, Page)

    def _say(self, fault: TwinhostError | None, shown: str | None) -> str | None:
        """Say why no events come, once for each reason; return the reason's code."""
        if fault is None:
            return None
        failure = Failure.of(fault)
        if failure.code != shown:
            output.say("waiting:", output.FAINT, failure.sentence)
        return failure.code


def _fields(event: FeedEvent) -> dict[str, Any]:
    try:
        return msgspec.json.decode(event.payload, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"unreadable": event.payload.decode("utf-8", "replace")}


def _show_groups(counted: ErrorsCounted) -> None:
    rows = [
        (
            (group["last"], f"{group['count']}", group["severity"], group["error_type"], group["agent_id"]),
            output.words(output.styled(group["shape_id"], output.FAINT), group["message"]),
        )
        for group in counted["groups"]
    ]
    title = f"Errors ({counted['total']}) since {counted['since']}"
    output.show(output.records(title, ("last", "number", "severity", "type", "agent"), rows))
    if counted["shapes"] > len(rows):
        output.say("more:", output.FAINT, f"there are {counted['shapes']} groups; raise -n")
    if rows:
        output.say(
            "next:", output.FAINT, "--shape ID lists the errors of a group; acknowledge_errors removes it from here"
        )


def _show_each(page: Page) -> None:
    for fields in page.entries:
        _as_text("ERROR:", fields)
    if page.more:
        output.say(
            "more:",
            output.FAINT,
            f"there are older errors; raise -n, or call get_errors with before={page.next_before}",
        )


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
