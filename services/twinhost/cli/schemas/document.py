"""The JSON Schemas that an agent returns are untrusted: they are checked before anything follows their references."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar

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


class Node(msgspec.Struct, rename="camel", frozen=True):
    """A type, with the keywords that msgspec writes; others are ignored."""

    type: Literal["string", "integer", "number", "boolean", "null", "array", "object"] | UnsetType = UNSET
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    ref: str | UnsetType = field(name="$ref", default=UNSET)
    enum: list[str | int | float | bool | None] | UnsetType = UNSET
    any_of: "list[Node] | UnsetType" = UNSET
    properties: "dict[str, Node] | UnsetType" = UNSET
    required: list[str] | UnsetType = UNSET
    items: "Node | bool | UnsetType" = UNSET
    additional_properties: "Node | bool | UnsetType" = UNSET
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

    @property
    def name(self) -> str:
        """The name of the type that this is a reference to; empty if it is none."""
        return (self.ref or "").rpartition("/")[2]

    @property
    def element(self) -> "Node | None":
        """The type of a list's elements, if the schema has it."""
        return self.items if isinstance(self.items, Node) else None

    @property
    def value(self) -> "Node | None":
        """The type of the values of an object without fields, if the schema has it."""
        return self.additional_properties if isinstance(self.additional_properties, Node) else None

    def inner(self) -> "Iterator[Node]":
        """Yield the types that this one is made of, without following references."""
        yield from self.any_of or ()
        yield from self.properties.values() if self.properties else ()
        yield from (node for node in (self.element, self.value) if node is not None)


class Schema(msgspec.Struct, frozen=True):
    """Types by name, and those of each action, which are made of them."""

    WHAT: ClassVar[str]

    definitions: dict[str, Node] = field(name="$defs")

    @abstractmethod
    def by_action(self) -> Mapping[str, Node]:
        """Return the type of each action's request, or of its reply."""

    def resolved(self, node: Node) -> Node:
        """Return a type, or what it is a reference to."""
        return self.definitions[node.name] if node.ref else node

    def kinds(self, node: Node) -> list[Node]:
        """Return the types that a value may have."""
        return [self.resolved(kind) for kind in node.any_of or (node,)]

    def inside(self, kind: Node) -> tuple[str, Node]:
        """Return the type of what a value contains, and the next step of its path: `[]`, `.*`, or none."""
        if kind.element is not None:
            return "[]", self.resolved(kind.element)
        return ("", kind) if kind.value is None else (".*", self.resolved(kind.value))

    def field_names(self) -> set[str]:
        """Return the names of all fields."""
        names: set[str] = set()
        waiting = [*self.definitions.values(), *self.by_action().values()]
        while waiting:
            node = waiting.pop()
            names.update(node.properties or ())
            waiting += node.inner()
        return names


class Replies(Schema, frozen=True):
    """The schema of an agent's replies."""

    WHAT = "replies"

    properties: dict[str, Node]

    def by_action(self) -> Mapping[str, Node]:
        return self.properties


S = TypeVar("S", bound=Schema)


def checked(agent: str, document: Any, kind: type[S]) -> S:
    """Return a schema that an agent returned, with known keywords alone.

    Raises:
        UnexpectedReply: it is not valid, or too large.
    """
    try:
        _check_depth(document)
        schema = msgspec.convert(document, kind)
        _check_types(schema)
    except ValueError as error:
        raise invalid(agent, f"in its {kind.WHAT}, {str(error)[:_MAX_CHARACTERS]}") from None
    return schema


def invalid(agent: str, words: str) -> UnexpectedReply:
    """Return the error for a schema that is not valid."""
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


def _check_types(schema: Schema) -> None:
    """Check what each reference leads to, and how many types there are; a type within itself is not followed."""
    for name, node in schema.definitions.items():
        if node.any_of or node.ref or node.element or node.value:
            raise ValueError(f"{shown(name)} is neither an object with fields nor an enumeration")
    roots = schema.by_action()
    if len(roots) > MAX_ACTIONS:
        raise ValueError(f"there are more than {MAX_ACTIONS:,} actions")
    count = 0
    waiting: list[tuple[Node, int, tuple[Node, ...]]]
    waiting = [(node, 1, ()) for node in (*roots.values(), *schema.definitions.values())]
    while waiting:
        node, depth, outer = waiting.pop()
        if node.ref and node.name not in schema.definitions:
            raise ValueError(f"{shown(node.ref)} leads to no type")
        node = schema.resolved(node)
        if any(known is node for known in outer):
            continue
        count, outer = count + 1, (*outer, node) if node.properties else outer
        if count > MAX_TYPES or depth > MAX_DEPTH:
            raise ValueError(f"there are more than {MAX_TYPES:,} types, or more than {MAX_DEPTH} in one another")
        waiting += ((inner, depth + 1, outer) for inner in node.inner())


def shown(name: str) -> str:
    """Return a name of the schema for a sentence."""
    return repr(name if len(name) <= 60 else f"{name[:60]}...")
