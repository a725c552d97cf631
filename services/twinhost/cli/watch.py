"""`watch`, `events`, and `errors`: mainpc's event feed, with missed events in order and once, and the stored errors."""

import socket
import uuid
from typing import Annotated, Any

import typer

from twinhost.cli import output
from twinhost.cli.arguments import AsJson, number, parse_fields
from twinhost.cli.output import Failure, printable, read, to_json
from twinhost.clients.event_order import TOPICS, EventGap, EventOrder, StoredPage, follow
from twinhost.deployment import REGISTRY_AGENT, load_settings
from twinhost.secure_zmq.client import Subscriber
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.system_digital_twin.events.actions import ErrorsCounted

events = typer.Typer(help="The event feed of mainpc: publish an event, or follow all.")
_NOT_SHOWN = frozenset({"seq", "previous_seq", "time", "timestamp", "propagate", "ttl", "written_by"})


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
    if unknown := [name for name in topics if name not in TOPICS]:
        raise typer.BadParameter(f"{unknown[0]!r} is not a topic; use {', '.join(TOPICS)}", param_hint="--topic")
    settings = load_settings()
    mainpc = settings.registry_agent
    feed, show = settings.feed_address(mainpc), _as_json if as_json else _as_text
    order, said = EventOrder(topics, feed.address, since), None
    subscriber = Subscriber(feed, [name.encode() for name in topics])
    with settings.client(mainpc) as client:
        for items in follow(order, subscriber, client.call):
            for item in items:
                if isinstance(item, EventGap):
                    output.say("missing:", output.WARN, item.sentence)
                else:
                    show(item.topic, item.fields)
            said = _say(order.fault, said)
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
    ttl: Annotated[float | None, number("--ttl", "SECONDS", "After them the event expires.", 0)] = None,
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
        reply = client.call("publish_event", event=event)
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
            reply = client.call("get_error_counts", limit=limit, **chosen)
        else:
            chosen |= {"shape_id": shape, "text": text, "acknowledged": None if acknowledged else False}
            reply = client.call("get_errors", limit=limit, **chosen)
    if as_json:
        output.show_value(reply, as_json=True)
    elif "groups" in reply:
        _show_groups(read(reply, ErrorsCounted))
    else:
        _show_each(StoredPage.of(reply))
    return 0


def _say(fault: TwinhostError | None, shown: str | None) -> str | None:
    """Say why no events come, once for each reason; return the reason's code."""
    if fault is None:
        return None
    failure = Failure.of(fault)
    if failure.code != shown:
        output.say("waiting:", output.FAINT, failure.sentence)
    return failure.code


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
            "next:",
            output.FAINT,
            f"--shape ID lists the errors of a group; ./twinhost call {REGISTRY_AGENT} acknowledge_errors shape_id=ID "
            "removes it from here",
        )


def _show_each(page: StoredPage) -> None:
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
