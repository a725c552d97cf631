"""Why a tool was refused, for the reader of MCP: it names the tool, the argument, and what is allowed there.

An agent's own sentence names its action, a path in its request, and commands of a checkout. None of these is known
where a tool is called.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from mcp_types import Tool

from twinhost.secure_zmq.errors import MalformedRequest, TwinhostError

_SHOWN_CHARACTERS = 40  # of a wrong value
_PATH = re.compile(r" - at `\$\.?([^`]*)`")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_MISSING = re.compile(r"Object missing required field `(.+?)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`")
_EXPLAIN = re.compile(r"; \./twinhost explain \w+ lists the fields$")
_TOOLS = {  # what an agent's advice names, and the tool in its place; no tool lists leases
    "`query_memory`": "`search_memory`",
    "`store_memory`": "`remember`",
    "`delete_memory`": "`forget`",
    "; see get_metrics": "; see system_status",
    "; see list_leases": "",
}
_OF_GRAPH = {**_TOOLS, "`delete_memory`": "`delete_entities`"}

Schema: TypeAlias = Mapping[str, Any]


def refusal(tool: Tool, arguments: Mapping[str, Any], error: TwinhostError | msgspec.ValidationError) -> str:
    """Return the sentence for a call that a tool or an agent has refused.

    Args:
        tool: the tool that was called.
        arguments: what it was called with.
        error: of the arguments' types, or an agent's.
    """
    if isinstance(error, msgspec.ValidationError):
        return f"{tool.name} was not executed: {_of_arguments(tool, arguments, str(error))}"
    sentence = str(error)
    for advice, replacement in (_OF_GRAPH if tool.name.endswith(_GRAPH_TOOLS) else _TOOLS).items():
        sentence = sentence.replace(advice, replacement)
    if not isinstance(error, MalformedRequest) or _PATH.search(sentence) is None:
        return sentence
    sentence = _PATH.sub(r" (argument `\1`)", _EXPLAIN.sub("", sentence))
    return f"{tool.name} was not executed: {sentence}"


_GRAPH_TOOLS = ("entities", "relations", "observations", "graph", "nodes")


def _of_arguments(tool: Tool, arguments: Mapping[str, Any], sentence: str) -> str:
    schema = tool.input_schema
    path = at[1] if (at := _PATH.search(sentence)) else ""
    if unknown := _UNKNOWN.search(sentence):
        known = _listed(schema.get("properties", {}))
        return (
            f"unknown field `{unknown[1][:64]}`; {f'its arguments are {known}' if known else 'it takes no arguments'}"
        )
    if missing := _MISSING.search(sentence):
        path = f"{path}.{missing[1]}".removeprefix(".")
        return f"the argument `{path}` is missing; it must be {_allowed(_at(schema, path))}"
    value: Any = arguments
    for name, index in _STEP.findall(path):
        value = value[int(index)] if index else value[name]
    return f"the argument `{path}` must be {_allowed(_at(schema, path))}, and is {_shown(value)}"


def _at(schema: Schema, path: str) -> Schema:
    part = schema
    for name, index in _STEP.findall(path):
        wanted = "items" if index else "properties"
        part = next(choice for choice in _choices(part) if wanted in choice)[wanted]
        part = part if index else part[name]
    return part


def _choices(part: Schema) -> Sequence[Schema]:
    """Return the types of which a value may have any."""
    choices: Sequence[Schema] = part.get("anyOf", [part])
    return choices


def _allowed(part: Schema) -> str:
    """Return what a schema allows, in words."""
    return " or ".join(map(_words, _choices(part)))


def _words(part: Schema) -> str:
    if "enum" in part:
        return " or ".join(msgspec.json.encode(value).decode() for value in part["enum"])
    words = _WORDS.get(part["type"], str(part["type"]))
    if "exclusiveMinimum" in part:
        words += f" above {part['exclusiveMinimum']:g}"
    words += _range(part, "minimum", "maximum", " {}")
    words += _range(part, "minLength", "maxLength", " of {}", " characters")
    if "items" in part:
        words += f", each {_allowed(part['items'])}"
    return f"{words} with {_listed(part['properties'])}" if "properties" in part else words


_WORDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
}


def _range(part: Schema, least: str, most: str, form: str, unit: str = "") -> str:
    """Return the bounds of a number, or of how many there are; empty if there are none."""
    match part.get(least), part.get(most):
        case None, None:
            return ""
        case None, upper:
            return form.format(f"at most {upper:,}{unit}")
        case lower, None:
            return form.format(f"at least {lower:,}{unit if lower != 1 else unit.removesuffix('s')}")
        case lower, upper:
            return form.format(f"{'' if unit else 'from '}{lower:,} to {upper:,}{unit}")


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _shown(value: Any) -> str:
    match value:
        case str() if len(value) > _SHOWN_CHARACTERS:
            return f"a string of {len(value):,} characters"
        case list():
            return "an array"
        case dict():
            return "an object"
    return msgspec.json.encode(value).decode()[:_SHOWN_CHARACTERS]
