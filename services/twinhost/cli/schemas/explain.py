"""`explain`: what an agent can be asked, with which fields.

No agent of this project is asked, and no key is needed; another agent is asked for its schema.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType

from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, PROGRAM, AsJson, find_agent
from twinhost.cli.connect import load_settings
from twinhost.cli.output import printable, to_json
from twinhost.cli.schemas.requests import Field, RequestSchema, schema_from, schema_of_agent
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.secure_zmq.errors import TwinhostError

_WORDS_HELP = "An agent, an action, or both; without any, every action of every agent."
_UNNAMED_DEADLINE_S = 1.0  # for each agent that is asked only because no agent was named


def explain(
    words: Annotated[list[str] | None, typer.Argument(metavar="[AGENT] [ACTION]", help=_WORDS_HELP)] = None,
    as_json: AsJson = False,
) -> int:
    """Show an action's fields and an example, or list the actions.

    A field is shown with its types, bounds, and default.
    """
    schemas, action = _selected(words or [])
    if as_json:
        output.show_value({"status": "ok", "agents": _document(schemas, action)}, as_json=True)
    elif action is None:
        output.show(*(_actions_table(agent, schema) for agent, schema in schemas.items()))
    else:
        for number, (agent, schema) in enumerate(schemas.items()):
            output.show(*([""] if number else []), *_action_view(agent, schema, action))
            output.show_line(printable(example_command(agent, action, schema.example(action))))  # unwrapped, to copy
    return 0


def example_command(agent: str, action: str, fields: Mapping[str, Any]) -> str:
    """Return the command that calls an action with these fields."""
    texts = {name: value if isinstance(value, str) else to_json(value) for name, value in fields.items()}
    return " ".join([PROGRAM, "call", agent, action, *(shlex.quote(f"{name}={text}") for name, text in texts.items())])


def _selected(words: list[str]) -> tuple[dict[str, RequestSchema], str | None]:
    """Return the schemas that the words select, by agent, and the action."""
    if len(words) > 2:
        raise typer.BadParameter(
            f"{words[2]!r} is a third argument; name an agent and an action", param_hint="[AGENT] [ACTION]"
        )
    config = load_network_config()
    found = {name: schema for name in config.agents if (schema := schema_of_agent(name)) is not None}
    found |= _schemas_of_others([agent for name, agent in config.agents.items() if name not in found], config, words)
    action = words[-1] if words else None
    if len(words) == 1 and not any(action in schema.actions for schema in found.values()):
        words, action = [words[0], ""], None  # no action, so it must be an agent
    if len(words) == 2:
        agent = find_agent(config, words[0]).name
        if agent not in found:
            raise typer.BadParameter(f"{agent} returns no schema; see its own documentation", param_hint="AGENT")
        found = {agent: found[agent]}
    if action is None:
        return found, None
    having = {name: schema for name, schema in found.items() if action in schema.actions}
    if not having:
        agent, known = next(iter(found)), ", ".join(next(iter(found.values())).actions)
        raise typer.BadParameter(f"{agent} has no action {action!r}; its actions: {known}", param_hint="ACTION")
    return having, action


def _schemas_of_others(
    agents: Sequence[Agent], config: NetworkConfig, words: Sequence[str]
) -> dict[str, RequestSchema]:
    """Return the schemas of agents outside this project, or of the one that the words name, which must be reachable."""
    found: dict[str, RequestSchema] = {}
    first = words[0].casefold() if words else ""
    named = [each for each in config.agents.values() if first in (each.name.casefold(), each.host.name.casefold())]
    for agent in [each for each in agents if not named or each in named]:
        try:
            with load_settings().client(agent) as client:
                schema = schema_from(client, agent.name, DEADLINE_S if named else _UNNAMED_DEADLINE_S)
        except TwinhostError as error:
            if named:
                raise
            output.say("warning:", output.WARN, f"{agent.name} was not asked for its schema: {error}")
            continue
        if schema is not None:
            found[agent.name] = schema
    return found


def _document(schemas: Mapping[str, RequestSchema], action: str | None) -> dict[str, Any]:
    return {
        agent: {
            name: {
                "description": schema.description(name),
                "fields": [_field_document(field) for field in schema.fields(name)],
                "example": schema.example(name),
            }
            for name in ([action] if action else schema.actions)
        }
        for agent, schema in schemas.items()
    }


def _field_document(field: Field) -> dict[str, Any]:
    document = {"name": field.path, "type": field.types, "bounds": field.bounds, "required": field.required}
    return document if field.default is msgspec.UNSET else {**document, "default": field.default}


def _actions_table(agent: str, schema: RequestSchema) -> RenderableType:
    rows = [(action, schema.description(action).partition("\n")[0]) for action in schema.actions]
    return output.table(f"{agent} ({len(rows)} actions)", ("action", "description"), rows, whole=("description",))


def _action_view(agent: str, schema: RequestSchema, action: str) -> list[RenderableType]:
    rows = [
        (
            field.path,
            field.types,
            field.bounds,
            "required" if field.required else "" if field.default is msgspec.UNSET else to_json(field.default),
        )
        for field in schema.fields(action)
    ]
    return [
        output.lines(output.styled(f"{action} of {agent}", output.HEADING), *schema.description(action).split("\n")),
        output.table("Fields", ("field", "type", "bounds", "default"), rows, whole=("bounds",)),
        output.styled("Example", output.HEADING),
    ]
