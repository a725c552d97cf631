"""`watch` and `errors`: mainpc's event feed, with the missed events in order and once, and the stored errors."""

from typing import Annotated, Any

import typer

from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, AsJson
from twinhost.cli.connect import load_settings
from twinhost.cli.output import Failure, printable, read, to_json
from twinhost.clients.event_order import TOPICS, EventOrder, Gap, Page, follow
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.system_digital_twin.events.actions import ErrorsCounted

_NOT_SHOWN = frozenset({"seq", "previous_seq", "time", "timestamp", "propagate", "ttl", "written_by"})


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
    feed, show = settings.feed_address(mainpc), _as_json if as_json else _as_text
    order, said = EventOrder(topics, feed.address, since), None
    with settings.client(mainpc) as client:
        for items in follow(order, feed, topics, client.call):
            for item in items:
                if isinstance(item, Gap):
                    output.say("missing:", output.WARN, item.sentence)
                else:
                    show(item.topic, item.fields)
            said = _say(order.fault, said)
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
    """Show the errors that were reported to mainpc: counted and grouped by message, or each, newest first."""
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
        _show_each(Page.of(reply))
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
