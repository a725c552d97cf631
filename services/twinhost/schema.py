"""`python -m twinhost.schema FOLDER`: write the schemas of each agent's requests, replies, and feed."""

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from twinhost.agent.schema import by_name, replies_schema, requests_schema
from twinhost.secure_zmq.actions import Declaration, Feature
from twinhost.secure_zmq.wire import tag_of

AGENTS = {
    "SystemDigitalTwin": "twinhost.system_digital_twin",
    "UnifiedMemoryReasoningAgent": "twinhost.unified_memory_reasoning",
}


def declarations_of(agent: str) -> dict[str, Declaration]:
    """Return what an agent's features declare, by action."""
    features: Iterable[type[Feature]] = importlib.import_module(f"{AGENTS[agent]}.__main__").FEATURES
    declared = {tag_of(entry.request): entry for feature in features for entry in feature.declarations()}
    return dict(sorted(declared.items()))


def schema_of(agent: str) -> dict[str, Any]:
    """Return the schema of an agent's requests, which are distinguished by `action`."""
    return requests_schema(agent, declarations_of(agent))


def replies_of(agent: str) -> dict[str, Any]:
    """Return the schema of an object that has, by action, a reply to it: a result, or a refusal."""
    return replies_schema(agent, declarations_of(agent))


def feed_of(agent: str) -> dict[str, Any] | None:
    """Return the schema of an object that has, by the topic, an event of the agent's feed; None where it has none."""
    table: Mapping[str, type] | None = getattr(importlib.import_module(f"{AGENTS[agent]}.__main__"), "FEED", None)
    if table is None:
        return None
    return by_name(f"Events on the feed of {agent}, by topic", {topic: (kind,) for topic, kind in table.items()})


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
