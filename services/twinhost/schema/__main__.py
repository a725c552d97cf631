"""`python -m twinhost.schema FOLDER`: write the schemas of each agent's requests, replies, and feed."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from twinhost.agent.replies import Refusal, Replies
from twinhost.secure_zmq.wire import Request, tag_of

AGENTS = {
    "SystemDigitalTwin": "twinhost.system_digital_twin",
    "UnifiedMemoryReasoningAgent": "twinhost.unified_memory_reasoning",
}
_COMMON = ("twinhost.agent",)  # what every agent answers
_MEMBERS = ("twinhost.agent.membership",)  # what every agent but mainpc's answers
_FEEDER = "SystemDigitalTwin"  # the agent that has a feed
_DEFINITIONS = "#/$defs/"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(agent: str) -> dict[str, Any]:
    """Return the schema of what an agent may be asked, by the `action` that names it."""
    package = AGENTS[agent]
    importlib.import_module(f"{package}.__main__")
    packages = (package, *_COMMON, *(() if agent == _FEEDER else _MEMBERS))
    types = sorted((each for each in _request_types(Request) if each.__module__.startswith(packages)), key=tag_of)
    union: Any = types[0]
    for each in types[1:]:
        union = union | each
    schema = msgspec.json.schema(union)
    for each in types:  # an unknown field is ignored, and named in the reply
        del schema["$defs"][each.__name__]["additionalProperties"]
    return {"$schema": _DIALECT, "title": f"Requests to {agent}", **schema}


def replies_of(agent: str) -> dict[str, Any]:
    """Return the schema of an object that has, by the action, a reply to it: what the action gives, or a refusal."""
    table: Replies = importlib.import_module(f"{AGENTS[agent]}.replies").REPLIES
    kinds = {tag_of(request): (*alternatives(reply), Refusal) for request, reply in table.items()}
    schema = _by_name(f"Replies of {agent}, by the request's action", kinds)
    for references in schema["properties"].values():
        for each in references["anyOf"]:  # the dispatcher adds it
            definition = schema["$defs"][each["$ref"].removeprefix(_DEFINITIONS)]
            definition["properties"]["request_id"] = {"type": "string"}
            definition["properties"]["ignored_fields"] = {"type": "array", "items": {"type": "string"}}
    return schema


def feed_of(agent: str) -> dict[str, Any] | None:
    """Return the schema of an object that has, by the topic, an event of the agent's feed; None where it has none."""
    if agent != _FEEDER:
        return None
    table: Mapping[str, type] = importlib.import_module(f"{AGENTS[agent]}.feed_events").FEED
    return _by_name(f"Events on the feed of {agent}, by topic", {topic: (kind,) for topic, kind in table.items()})


def alternatives(reply: Any) -> tuple[type, ...]:
    """Return what may be answered: the members of a union, or the type alone."""
    return get_args(reply) or (reply,)


def _by_name(title: str, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return the schema of an object that has one of the types under each name."""
    types = list(dict.fromkeys(kind for several in kinds.values() for kind in several))
    references, definitions = msgspec.json.schema_components(types, ref_template=_DEFINITIONS + "{name}")
    reference_of = dict(zip(types, references, strict=True))
    return {
        "$schema": _DIALECT,
        "title": title,
        "type": "object",
        "properties": {name: {"anyOf": [reference_of[kind] for kind in kinds[name]]} for name in sorted(kinds)},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _request_types(base: type[Request]) -> Iterator[type[Request]]:
    for each in base.__subclasses__():
        yield each
        yield from _request_types(each)


def main(folder: Path) -> None:
    """Write the schemas into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for agent in AGENTS:
        schemas = {agent: schema_of(agent), f"{agent}.replies": replies_of(agent), f"{agent}.feed": feed_of(agent)}
        for name, schema in schemas.items():
            if schema is not None:
                text = msgspec.json.format(msgspec.json.encode(schema), indent=2)
                (folder / f"{name}.json").write_bytes(text + b"\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m twinhost.schema FOLDER")
    main(Path(sys.argv[1]))
