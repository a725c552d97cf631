"""JSON Schema as far as the agents' schemas use it: a check of instances, and instances that are made from a schema.

It is written from the standard (draft 2020-12), and knows nothing of msgspec. A keyword that it does not know is an
error, so that nothing in a schema goes unchecked.
"""

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any

from twinhost.secure_zmq.wire import OWN_NAME_KEYWORD

# They refuse nothing.
NOTES = {"$schema", "$defs", "title", "description", "default", "discriminator", "examples", OWN_NAME_KEYWORD}
TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("number", lambda value, bound: value >= bound),
    "maximum": ("number", lambda value, bound: value <= bound),
    "exclusiveMinimum": ("number", lambda value, bound: value > bound),
    "exclusiveMaximum": ("number", lambda value, bound: value < bound),
    "minLength": ("string", lambda value, bound: len(value) >= bound),
    "maxLength": ("string", lambda value, bound: len(value) <= bound),
    "pattern": ("string", lambda value, bound: re.search(bound, value) is not None),
    "minItems": ("array", lambda value, bound: len(value) >= bound),
    "maxItems": ("array", lambda value, bound: len(value) <= bound),
    "minProperties": ("object", lambda value, bound: len(value) >= bound),
    "maxProperties": ("object", lambda value, bound: len(value) <= bound),
}


def closed(schema: Any) -> Any:
    """Return a schema by which an object has no undeclared field; a map of any names stays one."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(each) for name, each in schema.items()}
    return {"additionalProperties": False, **made} if isinstance(made.get("properties"), dict) else made


class Schema:
    """A schema with its definitions."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root

    def allows(self, value: Any, schema: dict[str, Any] | bool | None = None) -> bool:
        if isinstance(schema, bool):
            return schema
        schema = self.root if schema is None else schema
        return all(self._allows(value, keyword, schema) for keyword in schema)

    def _allows(self, value: Any, keyword: str, schema: dict[str, Any]) -> bool:  # noqa: C901, PLR0911 - one a keyword
        argument = schema[keyword]
        if keyword in BOUNDS:
            kind, holds = BOUNDS[keyword]
            return not TYPES[kind](value) or holds(value, argument)
        match keyword:
            case "$ref":
                return self.allows(value, self.definition(argument))
            case "anyOf":
                return any(self.allows(value, each) for each in argument)
            case "type":
                return any(TYPES[each](value) for each in ([argument] if isinstance(argument, str) else argument))
            case "enum":
                return any(type(value) is type(each) and value == each for each in argument)
            case "required":
                return not isinstance(value, dict) or set(argument) <= value.keys()
            case "items":
                return not isinstance(value, list) or all(self.allows(each, argument) for each in value)
            case "properties":
                return not isinstance(value, dict) or all(
                    self.allows(value[name], each) for name, each in argument.items() if name in value
                )
            case "additionalProperties":
                return not isinstance(value, dict) or all(
                    self.allows(each, argument)
                    for name, each in value.items()
                    if name not in schema.get("properties", ())
                )
            case "contentEncoding":
                return not isinstance(value, str) or (argument == "base64" and _is_base64(value))
            case "propertyNames":
                return not isinstance(value, dict) or all(self.allows(name, argument) for name in value)
        assert keyword in NOTES, f"this check does not know {keyword!r}"
        return True

    def definition(self, reference: str) -> dict[str, Any]:
        found: dict[str, Any] = self.root["$defs"][reference.removeprefix("#/$defs/")]
        return found

    def instance(self, schema: dict[str, Any], *, whole: bool) -> Any:  # noqa: PLR0911 - one a kind
        """Return an instance: the least of it, or with every field and one item in every list and map."""
        if "$ref" in schema:
            return self.instance(self.definition(schema["$ref"]), whole=whole)
        if "anyOf" in schema:
            return self.instance(next(each for each in schema["anyOf"] if each.get("type") != "null"), whole=whole)
        if "enum" in schema:
            return schema["enum"][0]
        if schema.get("type") == "object":
            return self._object(schema, whole=whole)
        if schema.get("type") == "array":
            count = max(schema.get("minItems", 0), int(whole and "items" in schema))
            return [self.instance(schema["items"], whole=whole) for _ in range(count)]
        if schema.get("type") == "string":
            return self._text(schema)
        least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        return True if schema.get("type") == "boolean" else least

    def _text(self, schema: dict[str, Any]) -> str:
        texts = ("x" * max(1, schema.get("minLength", 0)), "0" * 16, "0" * 64)  # the last is a digest, and base64
        return next(text for text in texts if self.allows(text, schema))

    def _object(self, schema: dict[str, Any], *, whole: bool) -> dict[str, Any]:
        fields = schema.get("properties", {})
        wanted = fields if whole else schema.get("required", ())
        made = {name: self.instance(fields[name], whole=whole) for name in wanted}
        others = schema.get("additionalProperties")
        if whole and isinstance(others, dict):
            made["x"] = self.instance(others, whole=whole)
        return made


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of everything in an instance."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[str | int, ...], by: Any) -> Any:
    if not path:
        return by
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy
