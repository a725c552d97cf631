"""What an agent may be asked, by the schema that the image's build writes: for people, and for what they type."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from twinhost.agent.state_folder import assets_folder

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
_NOT_TYPED = frozenset({"action", "request_id"})  # they have places of their own on the command line
_KEY = "*"  # in a path: whatever the sender names it


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a request, or of an object within it: `event.event_id`, `memories[].id`, `loaded_models.*.device`."""

    path: str
    types: str
    bounds: str
    required: bool
    default: Any  # msgspec.UNSET where there is none


class RequestSchema:
    """The requests of one agent."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._definitions: Mapping[str, Any] = document["$defs"]
        self._of_action: Mapping[str, str] = document["discriminator"]["mapping"]

    @property
    def actions(self) -> list[str]:
        return sorted(self._of_action)

    def description(self, action: str) -> str:
        """Return what an action is for, in the words of its type."""
        lines = str(self._definition(action).get("description", "")).splitlines()
        return "\n".join(line.strip() for line in lines)

    def fields(self, action: str) -> list[Field]:
        """Return the fields, those of an object below it."""
        return list(self._fields(self._definition(action), ""))

    def unknown(self, action: str, given: Mapping[str, Any]) -> list[str]:
        """Return the paths of the fields that the agent would ignore."""
        return list(self._unknown(self._definition(action), dict(given), ""))

    def typed(self, action: str, name: str, text: str, value: Any) -> Any:
        """Return the text where the field wants one, and the value that it is as JSON in any other case."""
        node = self._definition(action)["properties"].get(name)
        return text if node is not None and not self._takes(node, value) and self._takes(node, text) else value

    def example(self, action: str) -> dict[str, Any]:
        """Return fields that the agent can read: the required ones, and those for which the schema has an example."""
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

    def _fields(self, definition: Mapping[str, Any], path: str) -> Iterator[Field]:
        required = definition.get("required", ())
        for name, node in definition["properties"].items():
            if name in _NOT_TYPED and not path:
                continue
            kinds = self._kinds(node)
            bounds = "; ".join(filter(None, (_bounds(kind) for kind in kinds)))
            types = " or ".join(dict.fromkeys(self._word(kind) for kind in kinds))
            yield Field(f"{path}{name}", types, bounds, name in required, node.get("default", msgspec.UNSET))
            for kind in kinds:
                step, inner = self._inner(kind)
                if "properties" in inner:
                    yield from self._fields(inner, f"{path}{name}{step}.")

    def _inner(self, kind: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what a value holds, and how its path goes on."""
        if "items" in kind:
            return "[]", self._resolved(kind["items"])
        if isinstance(kind.get("additionalProperties"), dict):
            return f".{_KEY}", self._resolved(kind["additionalProperties"])
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
    """Return the schema of an agent's requests; None for an agent that this project did not write.

    It is a file in the image. From a checkout it is made, as the image's build does.
    """
    path = assets_folder() / "schema" / f"{agent}.json"
    try:
        return RequestSchema(msgspec.json.decode(path.read_bytes(), type=dict[str, Any]))
    except FileNotFoundError:
        from twinhost.schema import AGENTS, schema_of  # noqa: PLC0415 - it imports both agents

        return RequestSchema(schema_of(agent)) if agent in AGENTS else None


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
