"""`python -m twinhost.schema FOLDER`: write the schemas of each agent's requests, replies, and feed."""

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from twinhost.agent.health import Refusal
from twinhost.secure_zmq.actions import Declaration, Feature
from twinhost.secure_zmq.wire import tag_of

AGENTS = {
    "SystemDigitalTwin": "twinhost.system_digital_twin",
    "UnifiedMemoryReasoningAgent": "twinhost.unified_memory_reasoning",
}
_DEFINITIONS = "#/$defs/"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def declarations_of(agent: str) -> dict[str, Declaration]:
    """Return what an agent's features declare, by action."""
    features: Iterable[type[Feature]] = importlib.import_module(f"{AGENTS[agent]}.__main__").FEATURES
    found = {tag_of(each.request): each for feature in features for each in feature.declarations()}
    return dict(sorted(found.items()))


def schema_of(agent: str) -> dict[str, Any]:
    """Return the schema of an agent's requests, which are distinguished by `action`."""
    declarations = declarations_of(agent)
    types = [each.request for each in declarations.values()]
    union: Any = types[0]
    for each in types[1:]:
        union = union | each
    schema = msgspec.json.schema(union)
    for each in types:  # an unknown field is ignored, and named in the reply
        del schema["$defs"][each.__name__]["additionalProperties"]
    return {"$schema": _DIALECT, "title": f"Requests to {agent}", **schema}


def replies_of(agent: str) -> dict[str, Any]:
    """Return the schema of an object that has, by action, a reply to it: a result, or a refusal."""
    kinds = {name: (*each.replies, Refusal) for name, each in declarations_of(agent).items()}
    schema = _by_name(f"Replies of {agent}, by the request's action", kinds)
    for references in schema["properties"].values():
        for each in references["anyOf"]:  # the dispatcher adds it
            definition = schema["$defs"][each["$ref"].removeprefix(_DEFINITIONS)]
            definition["properties"]["request_id"] = {"type": "string"}
            for name in ("ignored_fields", "accepts"):
                definition["properties"][name] = {"type": "array", "items": {"type": "string"}}
    return schema


def feed_of(agent: str) -> dict[str, Any] | None:
    """Return the schema of an object that has, by the topic, an event of the agent's feed; None where it has none."""
    table: Mapping[str, type] | None = getattr(importlib.import_module(f"{AGENTS[agent]}.__main__"), "FEED", None)
    if table is None:
        return None
    return _by_name(f"Events on the feed of {agent}, by topic", {topic: (kind,) for topic, kind in table.items()})


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


def main(folder: Path) -> None:
    """Write the schemas into a folder, which is created if missing."""
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
