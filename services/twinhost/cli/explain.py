"""`explain`: what an agent may be asked, and with which fields; no agent is asked for it, and no key is needed."""

import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType

from twinhost.cli import output
from twinhost.cli.arguments import AsJson, find_agent
from twinhost.cli.printable import printable, to_json
from twinhost.cli.request_schema import Field, RequestSchema, schema_of_agent
from twinhost.network_config import load_network_config

WORDS_HELP = "An agent, an action, or both; without any, every action of every agent."


def explain(
    words: Annotated[list[str] | None, typer.Argument(metavar="[AGENT] [ACTION]", help=WORDS_HELP)] = None,
    as_json: AsJson = False,
) -> int:
    """Show an action's fields with types, bounds, and defaults, and an example; or which actions there are."""
    schemas, action = _wanted(words or [])
    if as_json:
        output.show_value({"status": "ok", "agents": _document(schemas, action)}, as_json=True)
    elif action is None:
        output.show(*(_actions_table(agent, schema) for agent, schema in schemas.items()))
    else:
        for number, (agent, schema) in enumerate(schemas.items()):
            output.show(*([""] if number else []), *_action_view(agent, schema, action))
            output.show_line(printable(example_command(agent, action, schema.example(action))))  # whole, to be copied
    return 0


def example_command(agent: str, action: str, fields: Mapping[str, Any]) -> str:
    """Return the line that calls an action with these fields."""
    words = [shlex.quote(f"{name}={_typed(value)}") for name, value in fields.items()]
    return " ".join(["./twinhost call", agent, action, *words])


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


def _wanted(words: list[str]) -> tuple[dict[str, RequestSchema], str | None]:
    """Return the schemas that are asked for, by agent, and the action."""
    if len(words) > 2:
        raise typer.BadParameter(
            f"{words[2]!r} is too much; name an agent and an action", param_hint="[AGENT] [ACTION]"
        )
    config = load_network_config()
    found = {name: schema for name in config.agents if (schema := schema_of_agent(name)) is not None}
    action = words[-1] if words else None
    if len(words) == 1 and not any(action in schema.actions for schema in found.values()):
        words, action = [words[0], ""], None  # no action, so an agent
    if len(words) == 2:
        agent = find_agent(config, words[0]).name
        if agent not in found:
            raise typer.BadParameter(
                f"this image has no schema of {agent}; see its own documentation", param_hint="AGENT"
            )
        found = {agent: found[agent]}
    if action is None:
        return found, None
    having = {name: schema for name, schema in found.items() if action in schema.actions}
    if not having:
        agent, known = next(iter(found)), ", ".join(next(iter(found.values())).actions)
        raise typer.BadParameter(f"{agent} has no action {action!r}; there are: {known}", param_hint="ACTION")
    return having, action


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
    return output.table(f"{agent} ({len(rows)} actions)", ("action", "what it is for"), rows, whole=("what it is for",))


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
    columns = ("field", "type", "bounds", "default")
    return [
        output.lines(output.styled(f"{action} of {agent}", output.HEADING), *schema.description(action).split("\n")),
        output.table("Fields", columns, rows, whole=("bounds",)),
        output.styled("Example", output.HEADING),
    ]
