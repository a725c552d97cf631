"""`call`: any action of any agent, and its reply."""

from typing import Annotated

import typer

from operator_cli import output
from operator_cli.arguments import DEADLINE_S, AsJson, Deadline, RequestId, find_agent, parse_fields
from operator_cli.connect import load_settings


def call(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its name, or its host's: mainpc, pc2.")],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="As in the agent's table of actions.")],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields; a value is JSON where it can be, else text."),
    ] = None,
    deadline: Deadline = DEADLINE_S,
    request_id: RequestId = None,
    as_json: AsJson = False,
) -> int:
    """Call an action and print the reply.

    A value that is JSON is sent as such (port=5 a number, tags='["a"]' a list); text that looks
    like JSON needs its quotes: note='"5"'.
    """
    fields = parse_fields(pairs or [])
    settings = load_settings()
    target = find_agent(settings.config, agent)
    with settings.client(target) as client:
        reply = client.call(action, deadline_s=deadline, request_id=request_id, **fields)
    output.show_value(reply, as_json=as_json)
    if str(reply.get("status", "ok")).casefold() == "error":  # a health document, say: an answer, and not good news
        output.say("error:", output.BAD, f"{target.name} answered {action} with status {reply['status']}")
        return 1
    return 0
