"""JSON Schemas of an agent's requests and replies, and the action by which every agent returns its own."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from twinhost.agent.health import Refusal
from twinhost.secure_zmq.actions import Action, Declaration, Feature, action, alternatives
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import Request

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFINITIONS = "#/$defs/"


class GetSchema(Request, tag="get_schema"):
    """Return the JSON Schemas of this agent's requests and replies."""


class Schemas(TypedDict):
    """What the agent can be asked: `requests` are distinguished by `action`; `replies` has an object by action."""

    status: Literal["ok", "success"]
    agent: str
    requests: dict[str, Any]
    replies: dict[str, Any]


class SchemaActions(Feature):
    """The schemas of an agent, made when they are first asked for."""

    def __init__(
        self, agent: str, actions: Callable[[], Iterable[Action[Any]]], success: Literal["ok", "success"]
    ) -> None:
        """Describe an agent's actions; `success` is the `status` of a successful reply."""
        self._agent = agent
        self._actions = actions
        self._success: Literal["ok", "success"] = success
        self._schemas: Schemas | None = None

    @action(forwardable=True)
    def get_schema(self, _: GetSchema, __: Caller) -> Schemas:
        if self._schemas is None:
            actions = sorted(self._actions(), key=lambda action: action.name)
            by_name = {
                action.name: Declaration(action.name, action.request, _replies(action), {}) for action in actions
            }
            self._schemas = {
                "status": self._success,
                "agent": self._agent,
                "requests": requests_schema(self._agent, by_name),
                "replies": replies_schema(self._agent, by_name),
            }
        return self._schemas


def _replies(action: Action[Any]) -> tuple[type, ...]:
    """Return the types of an action's replies, as far as its handler's annotation names them."""
    try:
        hint = get_type_hints(action.handle).get("return")
    except (NameError, TypeError):  # of a type that only a function knows, or of a callable object
        return ()
    return tuple(dict.fromkeys(kind for kind in alternatives(hint) if is_typeddict(kind)))


def requests_schema(agent: str, declarations: Mapping[str, Declaration]) -> dict[str, Any]:
    """Return the schema of an agent's requests, which are distinguished by `action`."""
    types = [declaration.request for declaration in declarations.values()]
    union: Any = types[0]
    for kind in types[1:]:
        union = union | kind
    schema = msgspec.json.schema(union)
    _order_as_declared(schema, types)
    for reference in schema["discriminator"]["mapping"].values():  # an unknown field is ignored, and named in the reply
        del schema["$defs"][reference.removeprefix(_DEFINITIONS)]["additionalProperties"]
    return {"$schema": DIALECT, "title": f"Requests to {agent}", **schema}


def replies_schema(agent: str, declarations: Mapping[str, Declaration]) -> dict[str, Any]:
    """Return the schema of an object that has, by action, a reply to it: a result, or a refusal."""
    kinds = {name: (*declaration.replies, Refusal) for name, declaration in declarations.items()}
    schema = by_name(f"Replies of {agent}, by the request's action", kinds)
    for references in schema["properties"].values():
        for reference in references["anyOf"]:  # the dispatcher adds it
            definition = schema["$defs"][reference["$ref"].removeprefix(_DEFINITIONS)]
            definition["properties"]["request_id"] = {"type": "string"}
            for name in ("ignored_fields", "accepts"):
                definition["properties"][name] = {"type": "array", "items": {"type": "string"}}
    for name, declaration in declarations.items():
        if not declaration.replies:
            schema["properties"][name]["anyOf"].insert(0, {"type": "object"})
    return schema


def by_name(title: str, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return the schema of an object that has one of the types under each name."""
    types = list(dict.fromkeys(kind for several in kinds.values() for kind in several))
    references, definitions = msgspec.json.schema_components(types, ref_template=_DEFINITIONS + "{name}")
    reference_of = dict(zip(types, references, strict=True))
    _order_as_declared(definitions, types)
    _require_defaults(definitions, types)
    return {
        "$schema": DIALECT,
        "title": title,
        "type": "object",
        "properties": {name: {"anyOf": [reference_of[kind] for kind in kinds[name]]} for name in sorted(kinds)},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _order_as_declared(schema: Any, types: Iterable[type]) -> None:
    """Put the fields of each TypedDict, and the words of each Literal, into their order, as msgspec sorts them."""
    orders: dict[frozenset[Any], Iterable[Any]] = {}
    for kind in _reachable(types):
        if get_origin(kind) is Literal:
            orders[frozenset(get_args(kind))] = get_args(kind)
        elif is_typeddict(kind):
            orders[frozenset(kind.__annotations__)] = kind.__annotations__
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            fields, words = node.get("properties"), node.get("enum")
            if isinstance(fields, dict) and (order := orders.get(frozenset(fields))):
                node["properties"] = {name: fields[name] for name in order}
            if isinstance(words, list) and (order := orders.get(frozenset(words))):
                node["enum"] = list(order)
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _require_defaults(definitions: Mapping[str, Any], types: Iterable[type]) -> None:
    """Mark the fields of Structs that have a default as required: a reply has them too, except one that is UNSET."""
    sent = {
        (kind.__name__, frozenset(kind.__struct_encode_fields__)): [
            field.encode_name for field in msgspec.structs.fields(kind) if field.default is not msgspec.UNSET
        ]
        for kind in _reachable(types)
        if hasattr(kind, "__struct_fields__") and not kind.__struct_config__.omit_defaults
    }
    for node in definitions.values():
        if (key := (node.get("title"), frozenset(node.get("properties", ())))) in sent:
            node["required"] = sent[key]


def _reachable(types: Iterable[Any]) -> Iterator[Any]:
    """Yield these types, and those of their fields, each once; of a generic TypedDict the origin."""
    seen, waiting = set[Any](), list(types)
    while waiting:
        kind = waiting.pop()
        origin, inside = get_origin(kind), get_args(kind)
        if origin is Annotated:
            waiting.append(inside[0])
        elif origin is not None and origin is not Literal:
            waiting += inside
        kind = origin if is_typeddict(origin) or hasattr(origin, "__struct_fields__") else kind
        if isinstance(kind, Hashable) and kind not in seen:
            seen.add(kind)
            yield kind
            if is_typeddict(kind) or hasattr(kind, "__struct_fields__"):
                waiting += get_type_hints(kind, include_extras=True).values()
