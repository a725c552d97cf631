"""`explain`: what an agent can be asked, with which fields.

No agent of this project is asked, and no key is needed; another agent is asked for its schema.
"""

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType

from twinhost.agent.state_folder import assets_folder
from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, AsJson, find_agent
from twinhost.cli.connect import load_settings
from twinhost.cli.output import printable, to_json
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import RequestError, TwinhostError

_WORDS_HELP = "An agent, an action, or both; without any, every action of every agent."
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
_UNNAMED_DEADLINE_S = 1.0  # for each agent that is asked only because no agent was named
_NO_FIELDS = frozenset({"action", "request_id", "accepts", "traceparent"})  # of the message, not of what is asked


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a request, or of an object in it: `event.event_id`, `memories[].id`, `loaded_models.*.device`."""

    path: str
    types: str
    bounds: str
    required: bool
    default: Any  # msgspec.UNSET if there is none


class RequestSchema:
    """The requests of one agent, from the JSON Schema that the image's build writes, or that the agent returns."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._definitions: Mapping[str, Any] = document["$defs"]
        self._of_action: Mapping[str, str] = document["discriminator"]["mapping"]

    @property
    def actions(self) -> list[str]:
        return sorted(self._of_action)

    def description(self, action: str) -> str:
        """Return the docstring of the request's type, each paragraph on one line."""
        paragraphs = str(self._definition(action).get("description", "")).split("\n\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    def fields(self, action: str) -> list[Field]:
        """Return the fields; those of a nested object follow it."""
        return list(self._fields(self._definition(action), ""))

    def unknown(self, action: str, given: Mapping[str, Any]) -> list[str]:
        """Return the paths of the fields that the agent would ignore."""
        return list(self._unknown(self._definition(action), dict(given), ""))

    def not_texts(self, action: str, given: Mapping[str, Any]) -> dict[str, str]:
        """Return the types of those fields that are given a text and don't take any."""
        nodes = self._definition(action)["properties"]
        return {
            field.path: field.types
            for field in self.fields(action)
            if "string" not in field.types
            and isinstance(text := given.get(field.path), str)
            and not self._takes(nodes[field.path], text)
        }

    def typed(self, action: str, name: str, text: str, value: Any) -> Any:
        """Return the text if the field wants a text, else `value`, which is the text read as JSON."""
        node = self._definition(action)["properties"].get(name)
        return text if node is not None and not self._takes(node, value) and self._takes(node, text) else value

    def example(self, action: str) -> dict[str, Any]:
        """Return valid fields: the required ones, and those for which the schema has an example."""
        return self._example_of(self._definition(action))

    def _definition(self, action: str) -> dict[str, Any]:
        return self._resolved({"$ref": self._of_action[action]})

    def _resolved(self, node: Mapping[str, Any]) -> dict[str, Any]:
        if "$ref" in node:
            definition: dict[str, Any] = self._definitions[str(node["$ref"]).rpartition("/")[2]]
            return definition
        return dict(node)

    def _kinds(self, node: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [self._resolved(each) for each in node.get("anyOf", (node,))]

    def _fields(
        self, definition: Mapping[str, Any], path: str, outer: tuple[Mapping[str, Any], ...] = ()
    ) -> Iterator[Field]:
        required, outer = definition.get("required", ()), (*outer, definition)
        for name, node in definition["properties"].items():
            if name in _NO_FIELDS and not path:
                continue
            kinds = self._kinds(node)
            bounds = "; ".join(filter(None, (_bounds(kind) for kind in kinds)))
            types = " or ".join(dict.fromkeys(self._word(kind) for kind in kinds))
            yield Field(f"{path}{name}", types, bounds, name in required, node.get("default", msgspec.UNSET))
            for kind in kinds:
                step, inner = self._inner(kind)
                if "properties" in inner and inner not in outer:  # a type may have fields of itself
                    yield from self._fields(inner, f"{path}{name}{step}.", outer)

    def _inner(self, kind: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the definition of what a value contains, and the next step of its path."""
        if "items" in kind:
            return "[]", self._resolved(kind["items"])
        if isinstance(kind.get("additionalProperties"), dict):
            return ".*", self._resolved(kind["additionalProperties"])
        return "", dict(kind)

    def _word(self, kind: Mapping[str, Any]) -> str:
        if "enum" in kind:
            return "/".join(dict.fromkeys(_word_of(each) for each in kind["enum"]))
        if kind.get("type") == "array" and "items" in kind:
            return f"array of {' or '.join(self._word(each) for each in self._kinds(kind['items']))}"
        return str(kind.get("type", "any JSON"))

    def _unknown(self, definition: Mapping[str, Any], given: Any, path: str) -> Iterator[str]:
        for name, value in given.items():
            node = definition["properties"].get(name)
            if node is None:
                yield f"{path}{name}"
                continue
            for kind in self._kinds(node):
                step, inner = self._inner(kind)
                if "properties" not in inner:
                    continue
                for key, each in _within(step, value):
                    if isinstance(each, dict):
                        yield from self._unknown(inner, each, f"{path}{name}{key}.")

    def _takes(self, node: Mapping[str, Any], value: Any) -> bool:
        return any(_fits(kind, value) for kind in self._kinds(node))

    def _example_of(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        required = definition.get("required", ())
        return {
            name: self._value(name, node)
            for name, node in definition["properties"].items()
            if name != "action" and (name in required or any("examples" in kind for kind in self._kinds(node)))
        }

    def _value(self, name: str, node: Mapping[str, Any]) -> Any:
        kind = next((each for each in self._kinds(node) if "examples" in each), self._kinds(node)[0])
        if given := kind.get("examples", kind.get("enum")):
            return given[0]
        word = f"my-{name.replace('_', '-')}"
        match kind.get("type"):
            case "integer" | "number":
                return max(1, kind.get("minimum", 1), kind.get("exclusiveMinimum", 0) + 1)
            case "boolean":
                return True
            case "array":
                return [self._value(name, kind.get("items", {}))]
            case "object":
                inner = kind.get("additionalProperties")
                own = {word: self._value(name, inner)} if isinstance(inner, dict) and inner else {}
                return self._example_of(kind) if "properties" in kind else own
            case _:
                return base64.b64encode(word.encode()).decode() if "contentEncoding" in kind else word


def schema_of_agent(agent: str) -> RequestSchema | None:
    """Return the schema of an agent's requests; None for an agent that is not part of this project.

    It is a file in the image; without one it is generated from the agents' types, as the image's build does.
    """
    path = assets_folder() / "schema" / f"{agent}.json"
    try:
        return RequestSchema(msgspec.json.decode(path.read_bytes(), type=dict[str, Any]))
    except FileNotFoundError:
        from twinhost.schema import AGENTS, schema_of  # noqa: PLC0415 - it imports both agents

        return RequestSchema(schema_of(agent)) if agent in AGENTS else None


def schema_from(client: Client, deadline_s: float = DEADLINE_S) -> RequestSchema | None:
    """Ask an agent of somebody else for its schema; None if it refuses, or knows no such action.

    Raises:
        ConnectionRefused: it can't be reached.
    """
    try:
        reply = client.call("get_schema", deadline_s=deadline_s)
        return RequestSchema(msgspec.convert(reply["requests"], dict[str, Any]))
    except (RequestError, KeyError, TypeError, msgspec.ValidationError):
        return None


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
    return " ".join(
        ["./twinhost call", agent, action, *(shlex.quote(f"{name}={text}") for name, text in texts.items())]
    )


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
                schema = schema_from(client, DEADLINE_S if named else _UNNAMED_DEADLINE_S)
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


def _within(step: str, value: Any) -> Iterator[tuple[str, Any]]:
    if step == "[]" and isinstance(value, list):
        yield from ((f"[{number}]", each) for number, each in enumerate(value))
    elif step.startswith(".") and isinstance(value, dict):
        yield from ((f".{key}", each) for key, each in value.items())
    elif not step:
        yield "", value


def _fits(kind: Mapping[str, Any], value: Any) -> bool:
    if "enum" in kind:
        return value in kind["enum"] and not isinstance(value, bool)
    if "type" not in kind:
        return True
    return isinstance(value, _TYPES[kind["type"]]) and (not isinstance(value, bool) or kind["type"] == "boolean")


def _word_of(value: Any) -> str:
    return next(word for word, types in _TYPES.items() if type(value) in types)


def _bounds(kind: Mapping[str, Any]) -> str:
    """Return the bounds of a value in words."""
    if "enum" in kind:
        return f"one of {', '.join(map(str, kind['enum']))}"
    found = []
    for least, most, unit in (("minLength", "maxLength", " characters"), ("minItems", "maxItems", " items")):
        found.append(_range(kind.get(least), kind.get(most), unit))
    found.append(_range(kind.get("minimum"), kind.get("maximum"), ""))
    if "exclusiveMinimum" in kind:
        found.append(f"more than {_number(kind['exclusiveMinimum'])}")
    if "maxProperties" in kind:
        found.append(f"at most {kind['maxProperties']:,} keys")
    if "contentEncoding" in kind:
        found.append(str(kind["contentEncoding"]))
    return ", ".join(filter(None, found))


def _range(least: float | None, most: float | None, unit: str) -> str:
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}{unit}"
    if most is not None:
        return f"at most {_number(most)}{unit}"
    return f"at least {_number(least)}{unit}" if least is not None else ""


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"
