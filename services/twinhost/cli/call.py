"""`call`: any action of any agent, and its reply."""

from functools import partial
from typing import Annotated, Any

import msgspec
import typer

from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, AsJson, Deadline, RequestId, find_agent, parse_fields
from twinhost.cli.connect import load_settings
from twinhost.cli.explain import schema_of_agent


def call(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its name, or its host's: mainpc, pc2.")],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="`./twinhost explain AGENT` lists them.")],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="`./twinhost explain ACTION` lists the fields."),
    ] = None,
    deadline: Deadline = DEADLINE_S,
    request_id: RequestId = None,
    as_json: AsJson = False,
) -> int:
    """Call an action and print the reply.

    A value is sent as the type that the action's field has: user_id=42 as text, port=42 as a number,
    tags='["a"]' as a list. A field that the action does not have is sent, with a warning.
    """
    fields = parse_fields(pairs or [])  # before anything is read, to report what is no key=value
    settings = load_settings()
    target = find_agent(settings.config, agent)
    schema = schema_of_agent(target.name) if fields else None
    if schema is not None and action in schema.actions:
        fields = parse_fields(pairs or [], partial(schema.typed, action))
        _warn_of_bad_json(fields, schema.not_texts(action, fields))
        if unknown := schema.unknown(action, fields):
            advice = f"./twinhost explain {target.name} {action} lists the fields"
            sentence = f"{action} has no field {', '.join(unknown)}; {target.name} ignores it; {advice}"
            output.say("warning:", output.WARN, sentence)
    with settings.client(target) as client:
        reply = client.call(action, deadline_s=deadline, request_id=request_id, **fields)
    output.show_value(reply, as_json=as_json)
    if str(reply.get("status", "ok")).casefold() == "error":  # such as a health document: a reply, and bad news
        output.say("error:", output.BAD, f"{target.name} answered {action} with status {reply['status']}")
        return 1
    return 0


def _warn_of_bad_json(fields: dict[str, Any], wanted: dict[str, str]) -> None:
    """Name the JSON error: the agent, which gets the value as a text, can only say that a text is not wanted."""
    for name, types in wanted.items():
        try:
            msgspec.json.decode(fields[name])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            output.say("warning:", output.WARN, f"{name} takes {types}, and its value is no such JSON: {error}")
