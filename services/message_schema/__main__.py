"""`python -m message_schema FOLDER`: write one schema per agent."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from secure_zmq.wire import Request, tag_of

AGENTS = {
    "SystemDigitalTwin": "system_digital_twin",
    "UnifiedMemoryReasoningAgent": "unified_memory_reasoning",
}
_COMMON = "agent_runtime"  # what every agent answers


def schema_of(agent: str) -> dict[str, Any]:
    """Return the schema of what an agent may be asked, by the `action` that names it."""
    package = AGENTS[agent]
    importlib.import_module(f"{package}.__main__")
    types = sorted(
        (each for each in _request_types(Request) if each.__module__.split(".")[0] in (package, _COMMON)), key=tag_of
    )
    union: Any = types[0]
    for each in types[1:]:
        union = union | each
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Requests to {agent}",
        **msgspec.json.schema(union),
    }


def _request_types(base: type[Request]) -> Iterator[type[Request]]:
    for each in base.__subclasses__():
        yield each
        yield from _request_types(each)


def main(folder: Path) -> None:
    """Write the schemas into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for agent in AGENTS:
        text = msgspec.json.format(msgspec.json.encode(schema_of(agent)), indent=2)
        (folder / f"{agent}.json").write_bytes(text + b"\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m message_schema FOLDER")
    main(Path(sys.argv[1]))
