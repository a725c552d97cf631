"""The requests that an agent's schema describes: fields, types, bounds, and an example."""

import base64
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from twinhost.agent.state_folder import assets_folder
from twinhost.cli.schemas.document import checked_requests
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import RequestError
from twinhost.secure_zmq.wire import OWN_NAME_KEYWORD

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
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
        self.definitions: Mapping[str, Any] = document["$defs"]
        self._of_action: Mapping[str, str] = document["discriminator"]["mapping"]

    @property
    def actions(self) -> list[str]:
        return sorted(self._of_action)

    def description(self, action: str) -> str:
        """Return the docstring of the request's type, each paragraph on one line."""
        paragraphs = str(self._definition(action).get("description", "")).split("\n\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    def properties(self, action: str) -> dict[str, Any]:
        """Return the types of an action's own fields, required and optional, as the schema has them."""
        properties = self._definition(action)["properties"]
        return {name: node for name, node in properties.items() if name not in _NO_FIELDS}

    def required(self, action: str) -> Collection[str]:
        """Return the names of the fields that a request must have."""
        return frozenset(self._definition(action).get("required", ()))

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

    def example(self, action: str, own_name: str | None = None) -> dict[str, Any]:
        """Return valid fields: the required ones, and those for which the schema has an example.

        Args:
            action: its name.
            own_name: what a field has that takes the caller's own name.
        """
        return self._example_of(self._definition(action), own_name)

    def _definition(self, action: str) -> dict[str, Any]:
        return self._resolved({"$ref": self._of_action[action]})

    def _resolved(self, node: Mapping[str, Any]) -> dict[str, Any]:
        if "$ref" in node:
            definition: dict[str, Any] = self.definitions[str(node["$ref"]).rpartition("/")[2]]
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

    def _example_of(
        self, definition: Mapping[str, Any], own_name: str | None, outer: tuple[Mapping[str, Any], ...] = ()
    ) -> dict[str, Any]:
        required, outer = definition.get("required", ()), (*outer, definition)
        return {
            name: self._value(name, node, own_name, outer)
            for name, node in definition["properties"].items()
            if name != "action" and (name in required or any("examples" in kind for kind in self._kinds(node)))
        }

    def _value(
        self, name: str, node: Mapping[str, Any], own_name: str | None, outer: tuple[Mapping[str, Any], ...]
    ) -> Any:
        kind = next((each for each in self._kinds(node) if "examples" in each), self._kinds(node)[0])
        if own_name is not None and kind.get(OWN_NAME_KEYWORD):
            return own_name
        if given := kind.get("examples", kind.get("enum")):
            return given[0]
        return self._made_up(name, kind, own_name, outer)

    def _made_up(
        self, name: str, kind: Mapping[str, Any], own_name: str | None, outer: tuple[Mapping[str, Any], ...]
    ) -> Any:
        word = f"my-{name.replace('_', '-')}"
        match kind.get("type"):
            case "integer" | "number":
                return max(1, kind.get("minimum", 1), kind.get("exclusiveMinimum", 0) + 1)
            case "boolean":
                return True
            case "array":
                inner = kind.get("items", {})
                return [] if self._resolved(inner) in outer else [self._value(name, inner, own_name, outer)]
            case "object" if "properties" in kind:
                return {} if kind in outer else self._example_of(kind, own_name, outer)
            case "object":
                inner = kind.get("additionalProperties")
                return {word: self._value(name, inner, own_name, outer)} if isinstance(inner, dict) and inner else {}
        return base64.b64encode(word.encode()).decode() if "contentEncoding" in kind else word


def schema_of_agent(agent: str) -> RequestSchema | None:
    """Return the schema of an agent's requests; None for an agent that is not part of this project.

    It is a file in the image; without one it is generated from the agents' types, as the image's build does. A client
    without the extra `agent` has neither, so None is returned, and the agent is asked.
    """
    path = assets_folder() / "schema" / f"{agent}.json"
    try:
        return RequestSchema(msgspec.json.decode(path.read_bytes(), type=dict[str, Any]))
    except FileNotFoundError:
        from twinhost.schema import AGENTS, schema_of  # noqa: PLC0415 - it imports both agents

        try:
            return RequestSchema(schema_of(agent)) if agent in AGENTS else None
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "twinhost":
                raise
            return None


def schema_from(client: Client, agent: str, deadline_s: float | None = None) -> RequestSchema | None:
    """Ask an agent of somebody else for its schema; None if it refuses, or knows no such action.

    Raises:
        ConnectionRefused: it can't be reached.
        UnexpectedReply: the schema is not valid.
    """
    try:
        reply = client.call("get_schema", deadline_s=deadline_s)
    except RequestError:
        return None
    return RequestSchema(checked_requests(agent, reply.get("requests")))


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
    if kind.get(OWN_NAME_KEYWORD):
        found.append("the caller's own name")
    return ", ".join(filter(None, found))


def _range(least: float | None, most: float | None, unit: str) -> str:
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}{unit}"
    if most is not None:
        return f"at most {_number(most)}{unit}"
    return f"at least {_number(least)}{unit}" if least is not None else ""


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"
