"""The requests that an agent's schema describes: fields, types, bounds, and an example."""

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from twinhost.agent.state_folder import assets_folder
from twinhost.cli.schemas.document import Node, Schema, checked, invalid, shown
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import RequestError

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


class _Discriminator(msgspec.Struct, frozen=True):
    mapping: dict[str, str]


class RequestSchema(Schema, frozen=True):
    """The requests of one agent, from the JSON Schema that the image's build writes, or that the agent returns."""

    WHAT = "requests"

    discriminator: _Discriminator

    def by_action(self) -> Mapping[str, Node]:
        return {action: Node(ref=reference) for action, reference in self.discriminator.mapping.items()}

    @property
    def actions(self) -> list[str]:
        return sorted(self.discriminator.mapping)

    def description(self, action: str) -> str:
        """Return the docstring of the request's type, each paragraph on one line."""
        paragraphs = str(self._definition(action).description or "").split("\n\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    def properties_of(self, action: str) -> dict[str, Node]:
        """Return the types of an action's own fields, required and optional, as the schema has them."""
        return {name: node for name, node in _properties(self._definition(action)) if name not in _NO_FIELDS}

    def required(self, action: str) -> Collection[str]:
        """Return the names of the fields that a request must have."""
        return frozenset(self._definition(action).required or ())

    def fields(self, action: str) -> list[Field]:
        """Return the fields; those of a nested object follow it."""
        return list(self._fields(self._definition(action), ""))

    def unknown(self, action: str, sent: Mapping[str, Any]) -> list[str]:
        """Return the paths of the fields that the agent would ignore."""
        return list(self._unknown(self._definition(action), sent, ""))

    def not_texts(self, action: str, sent: Mapping[str, Any]) -> dict[str, str]:
        """Return the types of those fields that are given a text and don't take any."""
        nodes = dict(_properties(self._definition(action)))
        return {
            field.path: field.types
            for field in self.fields(action)
            if "string" not in field.types
            and isinstance(text := sent.get(field.path), str)
            and not self._takes(nodes[field.path], text)
        }

    def typed(self, action: str, name: str, text: str, value: Any) -> Any:
        """Return the text if the field wants a text, else `value`, which is the text read as JSON."""
        node = dict(_properties(self._definition(action))).get(name)
        return text if node is not None and not self._takes(node, value) and self._takes(node, text) else value

    def example(self, action: str, own_name: str | None = None) -> dict[str, Any]:
        """Return valid fields: the required ones, and those for which the schema has an example.

        A field that takes the caller's own name has `own_name`.
        """
        return self._example_of(self._definition(action), own_name)

    def _definition(self, action: str) -> Node:
        return self.resolved(self.by_action()[action])

    def _fields(self, definition: Node, path: str, outer: tuple[Node, ...] = ()) -> Iterator[Field]:
        required, outer = definition.required or (), (*outer, definition)
        for name, node in _properties(definition):
            if name in _NO_FIELDS and not path:
                continue
            kinds = self.kinds(node)
            bounds = "; ".join(filter(None, map(_bounds, kinds)))
            types = " or ".join(dict.fromkeys(map(self._word, kinds)))
            yield Field(f"{path}{name}", types, bounds, name in required, node.default)
            for kind in kinds:
                step, inner = self.inside(kind)
                if inner not in outer:  # a type may have fields of itself
                    yield from self._fields(inner, f"{path}{name}{step}.", outer)

    def _word(self, kind: Node) -> str:
        if kind.enum:
            return "/".join(dict.fromkeys(map(_word_of, kind.enum)))
        if kind.type == "array" and kind.element is not None:
            return f"array of {' or '.join(map(self._word, self.kinds(kind.element)))}"
        return str(kind.type or "any JSON")

    def _unknown(self, definition: Node, sent: Mapping[str, Any], path: str) -> Iterator[str]:
        known = dict(_properties(definition))
        for name, value in sent.items():
            if name not in known:
                yield f"{path}{name}"
                continue
            for kind in self.kinds(known[name]):
                step, inner = self.inside(kind)
                if inner.properties is UNSET:
                    continue
                for key, part in _within(step, value):
                    if isinstance(part, dict):
                        yield from self._unknown(inner, part, f"{path}{name}{key}.")

    def _takes(self, node: Node, value: Any) -> bool:
        return any(_fits(kind, value) for kind in self.kinds(node))

    def _example_of(self, definition: Node, own_name: str | None, outer: tuple[Node, ...] = ()) -> dict[str, Any]:
        required, outer = definition.required or (), (*outer, definition)
        return {
            name: self._value(name, node, own_name, outer)
            for name, node in _properties(definition)
            if name != "action" and (name in required or any(kind.examples for kind in self.kinds(node)))
        }

    def _value(self, name: str, node: Node, own_name: str | None, outer: tuple[Node, ...]) -> Any:
        kinds = self.kinds(node)
        kind = next((kind for kind in kinds if kind.examples), kinds[0])
        if own_name is not None and kind.own_name:
            return own_name
        if values := kind.examples or kind.enum:
            return values[0]
        return self._made_up(name, kind, own_name, outer)

    def _made_up(self, name: str, kind: Node, own_name: str | None, outer: tuple[Node, ...]) -> Any:
        word = f"my-{name.replace('_', '-')}"
        match kind.type:
            case "integer" | "number":
                return max(1, kind.minimum or 1, (kind.exclusive_minimum or 0) + 1)
            case "boolean":
                return True
            case "array":
                inner = kind.element or Node()
                return [] if self.resolved(inner) in outer else [self._value(name, inner, own_name, outer)]
            case "object" if kind.properties is not UNSET:
                return {} if kind in outer else self._example_of(kind, own_name, outer)
            case "object":
                return {} if kind.value in (None, Node()) else {word: self._value(name, kind.value, own_name, outer)}
        return base64.b64encode(word.encode()).decode() if kind.content_encoding else word


def _properties(node: Node) -> Iterable[tuple[str, Node]]:
    return (node.properties or {}).items()


def checked_requests(agent: str, document: Any) -> RequestSchema:
    """Return the schema of an agent's requests, as the agent returned it.

    Raises:
        UnexpectedReply: it is not valid, or too large.
    """
    requests = checked(agent, document, RequestSchema)
    for action, node in requests.by_action().items():
        if not requests.resolved(node).properties:
            raise invalid(agent, f"the request of {shown(action)} has no properties")
    return requests


def schema_of_agent(agent: str) -> RequestSchema | None:
    """Return the schema of an agent's requests; None for an agent that is not part of this project.

    It is a file in the image; without one it is generated from the agents' types, as the image's build does. A client
    without the extra `agent` has neither, so None is returned, and the agent is asked.
    """
    path = assets_folder() / "schema" / f"{agent}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=RequestSchema)
    except FileNotFoundError:
        from twinhost.schema import AGENTS, schema_of  # noqa: PLC0415 - it imports both agents

        try:
            return msgspec.convert(schema_of(agent), RequestSchema) if agent in AGENTS else None
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
    return checked_requests(agent, reply.get("requests"))


def _within(step: str, value: Any) -> Iterator[tuple[str, Any]]:
    if step == "[]" and isinstance(value, list):
        yield from ((f"[{number}]", element) for number, element in enumerate(value))
    elif step.startswith(".") and isinstance(value, dict):
        yield from ((f".{key}", part) for key, part in value.items())
    elif not step:
        yield "", value


def _fits(kind: Node, value: Any) -> bool:
    if kind.enum:
        return value in kind.enum and not isinstance(value, bool)
    if not kind.type:
        return True
    return isinstance(value, _TYPES[kind.type]) and (not isinstance(value, bool) or kind.type == "boolean")


def _word_of(value: Any) -> str:
    return next(word for word, types in _TYPES.items() if type(value) in types)


def _bounds(kind: Node) -> str:
    """Return the bounds of a value in words."""
    if kind.enum:
        return f"one of {', '.join(map(str, kind.enum))}"
    ranges = [
        _range(kind.min_length, kind.max_length, " characters"),
        _range(kind.min_items, kind.max_items, " items"),
        _range(kind.minimum, kind.maximum, ""),
        "" if kind.exclusive_minimum is UNSET else f"more than {_number(kind.exclusive_minimum)}",
        "" if kind.max_properties is UNSET else f"at most {kind.max_properties:,} keys",
        kind.content_encoding or "",
        "the caller's own name" if kind.own_name else "",
    ]
    return ", ".join(filter(None, ranges))


def _range(least: float | UnsetType, most: float | UnsetType, unit: str) -> str:
    if least is not UNSET and most is not UNSET:
        return f"{_number(least)} to {_number(most)}{unit}"
    if most is not UNSET:
        return f"at most {_number(most)}{unit}"
    return "" if least is UNSET else f"at least {_number(least)}{unit}"


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"
