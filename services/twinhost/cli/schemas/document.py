"""The JSON Schemas that an agent returns are untrusted: they are checked before anything follows their references."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType, field

from twinhost.secure_zmq.errors import UnexpectedReply
from twinhost.secure_zmq.wire import OWN_NAME_KEYWORD

MAX_ACTIONS = 1_000
MAX_TYPES = 20_000  # of one schema, where each reference counts as what it leads to; those here have 3,000
MAX_DEPTH = 32  # of types in one another, such as the lists and objects of a field
_MAX_JSON_DEPTH = 100
_MAX_CHARACTERS = 200  # of a checker's sentence, which has names from the schema
_Count = int | UnsetType
_Number = int | float | UnsetType


class _Node(msgspec.Struct, rename="camel", frozen=True):
    """A type, with the keywords that msgspec writes; others are ignored."""

    type: Literal["string", "integer", "number", "boolean", "null", "array", "object"] | UnsetType = UNSET
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    ref: str | UnsetType = field(name="$ref", default=UNSET)
    enum: list[str | int | float | bool | None] | UnsetType = UNSET
    any_of: "list[_Node] | UnsetType" = UNSET
    properties: "dict[str, _Node] | UnsetType" = UNSET
    required: list[str] | UnsetType = UNSET
    items: "_Node | bool | UnsetType" = UNSET
    additional_properties: "_Node | bool | UnsetType" = UNSET
    min_length: _Count = UNSET
    max_length: _Count = UNSET
    min_items: _Count = UNSET
    max_items: _Count = UNSET
    max_properties: _Count = UNSET
    minimum: _Number = UNSET
    maximum: _Number = UNSET
    exclusive_minimum: _Number = UNSET
    content_encoding: str | UnsetType = UNSET
    examples: list[Any] | UnsetType = UNSET
    own_name: bool | UnsetType = field(name=OWN_NAME_KEYWORD, default=UNSET)
    default: Any = UNSET

    def __post_init__(self) -> None:
        for words in (self.enum, self.any_of, self.examples):
            if words is not UNSET and not words:
                raise ValueError("an empty list")
        bounds = (self.minimum, self.maximum, self.exclusive_minimum, self.max_properties)
        for number in (*bounds, self.min_length, self.max_length, self.min_items, self.max_items):
            if number is not UNSET and not abs(number) < 2**63:
                raise ValueError("a bound outside 64 bits")

    def inner(self) -> "Iterator[_Node]":
        """Yield the types that this one is made of, without following references."""
        yield from self.any_of or ()
        yield from self.properties.values() if self.properties else ()
        yield from (each for each in (self.items, self.additional_properties) if isinstance(each, _Node))


class _Discriminator(msgspec.Struct, frozen=True):
    mapping: dict[str, str]


class _Requests(msgspec.Struct, frozen=True):
    discriminator: _Discriminator
    definitions: dict[str, _Node] = field(name="$defs")

    def roots(self) -> dict[str, _Node]:
        return {action: _Node(ref=reference) for action, reference in self.discriminator.mapping.items()}


class _Replies(msgspec.Struct, frozen=True):
    properties: dict[str, _Node]
    definitions: dict[str, _Node] = field(name="$defs")

    def roots(self) -> dict[str, _Node]:
        return self.properties


def checked_requests(agent: str, document: Any) -> dict[str, Any]:
    """Return the schema of an agent's requests, with known keywords alone.

    Raises:
        UnexpectedReply: it is not valid, or too large.
    """
    requests = _checked(agent, document, _Requests, "requests")
    for action, node in requests.roots().items():
        if not _resolved(node, requests.definitions).properties:
            raise _invalid(agent, f"the request of {_shown(action)} has no properties")
    return _plain(requests)


def checked_replies(agent: str, document: Any) -> dict[str, Any]:
    """Return the schema of an agent's replies in the same way."""
    return _plain(_checked(agent, document, _Replies, "replies"))


def _checked(agent: str, document: Any, kind: Any, name: str) -> Any:
    try:
        _check_depth(document)
        schema = msgspec.convert(document, kind)
        _check_types(schema.definitions, schema.roots())
    except ValueError as error:
        raise _invalid(agent, f"in its {name}, {str(error)[:_MAX_CHARACTERS]}") from None
    return schema


def _invalid(agent: str, words: str) -> UnexpectedReply:
    return UnexpectedReply(
        f"{agent} returned a schema that is not valid: {words}; correct the agent, or call it without the schema: "
        f"./twinhost call {agent} ACTION KEY=VALUE"
    )


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(_MAX_JSON_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"the JSON is nested more than {_MAX_JSON_DEPTH} times")


def _check_types(definitions: Mapping[str, _Node], roots: Mapping[str, _Node]) -> None:
    """Check what each reference leads to, and how many types there are; a type within itself is not followed."""
    for name, node in definitions.items():
        if node.any_of or node.ref or isinstance(node.items, _Node) or isinstance(node.additional_properties, _Node):
            raise ValueError(f"{_shown(name)} is neither an object with fields nor an enumeration")
    if len(roots) > MAX_ACTIONS:
        raise ValueError(f"there are more than {MAX_ACTIONS:,} actions")
    count = 0
    waiting: list[tuple[_Node, int, tuple[_Node, ...]]]
    waiting = [(node, 1, ()) for node in (*roots.values(), *definitions.values())]
    while waiting:
        node, depth, outer = waiting.pop()
        found = _resolved(node, definitions)
        if any(each is found for each in outer):
            continue
        count, outer = count + 1, (*outer, found) if found.properties else outer
        if count > MAX_TYPES or depth > MAX_DEPTH:
            raise ValueError(f"there are more than {MAX_TYPES:,} types, or more than {MAX_DEPTH} in one another")
        waiting += ((each, depth + 1, outer) for each in found.inner())


def _resolved(node: _Node, definitions: Mapping[str, _Node]) -> _Node:
    if not node.ref:
        return node
    found = definitions.get(node.ref.rpartition("/")[2])
    if found is None:
        raise ValueError(f"{_shown(node.ref)} leads to no type")
    return found


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}...")


def _plain(schema: Any) -> dict[str, Any]:
    """Return a checked schema as a document; `items` and `additionalProperties` are types or absent."""
    document: dict[str, Any] = msgspec.to_builtins(schema)
    for node in _nodes(document):
        for name in ("items", "additionalProperties"):
            if isinstance(node.get(name), bool):
                del node[name]
    return document


def field_names(document: Mapping[str, Any]) -> set[str]:
    """Return the names of all fields in a checked schema, and of the actions in that of replies."""
    return {name for node in _nodes(document) for name in node.get("properties", ())}


def _nodes(document: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and each type in it."""
    waiting = [document]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.get("anyOf", ())
        waiting += [*node.get("properties", {}).values(), *node.get("$defs", {}).values()]
        waiting += [each for each in (node.get("items"), node.get("additionalProperties")) if isinstance(each, dict)]
