"""The tools: what each takes and returns, what it does, and what it says of itself.

The first nine have the names and shapes of the reference memory server of the Model Context Protocol.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from mcp_types import ContentBlock, TextContent, Tool, ToolAnnotations

from twinhost.mcp.agents import Agents
from twinhost.mcp.graph import Found, Kind, KnowledgeGraph, Removed
from twinhost.mcp.recalled import fenced, fenced_json, memories, reported, writers_note
from twinhost.mcp.shapes import (
    AddObservations,
    AgentsFound,
    Context,
    CreateEntities,
    CreateRelations,
    Deleted,
    DeleteEntities,
    DeleteObservations,
    DeleteRelations,
    Entities,
    Forget,
    Forgotten,
    GetContext,
    Graph,
    Hit,
    Hits,
    Lease,
    OpenNodes,
    ReadGraph,
    Relations,
    Released,
    ReleaseVram,
    Remember,
    Remembered,
    ReserveVram,
    Results,
    SearchMemory,
    SearchNodes,
    Status,
    SystemStatus,
    WhereIs,
)
from twinhost.secure_zmq.errors import NotFound
from twinhost.unified_memory_reasoning.conversations.context_text import name_of

NOTHING = "nothing was found"
_MOST_NAMED = 10  # in a sentence


class Answer(NamedTuple):
    """What a tool returns: a value of its reply type, and texts for the model; without texts, the value as JSON."""

    value: msgspec.Struct
    texts: Sequence[str] = ()


async def create_entities(agents: Agents, request: CreateEntities) -> Answer:
    new = await _graph(agents).create_entities(request.entities)
    return Answer(Entities(new), _created(new, len({each.name for each in request.entities}), "entities"))


async def create_relations(agents: Agents, request: CreateRelations) -> Answer:
    new = await _graph(agents).create_relations(request.relations)
    return Answer(Relations(new), _created(new, len(set(request.relations)), "relations"))


async def add_observations(agents: Agents, request: AddObservations) -> Answer:
    added = await _graph(agents).add_observations(request.observations)
    given = {(each.entity_name, text) for each in request.observations for text in each.contents}
    new = sum(len(each.added_observations) for each in added)
    return Answer(Results(added), [fenced_json(added), *_known(len(given) - new, "observations")])


async def delete_entities(agents: Agents, request: DeleteEntities) -> Answer:
    return _deleted(await _graph(agents).delete_entities(request.entity_names), "entity", "entities")


async def delete_observations(agents: Agents, request: DeleteObservations) -> Answer:
    return _deleted(await _graph(agents).delete_observations(request.deletions), "observation", "observations")


async def delete_relations(agents: Agents, request: DeleteRelations) -> Answer:
    return _deleted(await _graph(agents).delete_relations(request.relations), "relation", "relations")


async def read_graph(agents: Agents, _: ReadGraph) -> Answer:
    return _graph_read(await _graph(agents).read())


async def search_nodes(agents: Agents, request: SearchNodes) -> Answer:
    return _graph_read(await _graph(agents).search(request.query))


async def open_nodes(agents: Agents, request: OpenNodes) -> Answer:
    return _graph_read(await _graph(agents).open(request.names))


async def search_memory(agents: Agents, request: SearchMemory) -> Answer:
    found = await agents.memory("search_memory", **_given(request))
    text = fenced(found["results"])
    hits = [Hit(str(each["id"]), each["similarity"], each["session_id"] or "") for each in found["results"]]
    pairs = [[str(number) for number in pair] for pair in found.get("contradictions", ())]
    return Answer(Hits(text, hits, found["more"], pairs), [text or NOTHING])


async def get_context(agents: Agents, request: GetContext) -> Answer:
    found = (await agents.memory("get_context", **_given(request)))["context"]
    return Answer(msgspec.convert(found, Context), [found["text"] or NOTHING])


async def remember(agents: Agents, request: Remember) -> Answer:
    stored = await agents.memory("store_memory", **_given(request))
    conflicts = memories(stored["conflicts"])
    reply = Remembered(stored["memory_id"], conflicts, [each["memory_id"] for each in stored["conflicts"]])
    sentence = f"stored as {reply.memory_id}"
    return Answer(reply, [sentence, f"these memories contradict it:\n{conflicts}"] if conflicts else [sentence])


async def forget(agents: Agents, request: Forget) -> Answer:
    await agents.memory("delete_memory", memory_id=request.memory_id)
    return Answer(Forgotten(request.memory_id), [f"{request.memory_id} is deleted"])


async def where_is(agents: Agents, request: WhereIs) -> Answer:
    found = (await agents.system("discover", agent_type=request.agent_type))["agents"]
    chosen = [each for each in found if request.agent_name in (None, each["agent_name"])]
    if request.agent_name is not None and not chosen:
        raise NotFound(f"no agent {request.agent_name[:64]!r} is registered; call where_is without a name to list all")
    agents_found = msgspec.convert({"agents": reported(chosen)}, AgentsFound)
    return Answer(agents_found, [fenced_json(agents_found.agents)])


async def system_status(agents: Agents, _: SystemStatus) -> Answer:
    registered, metrics, errors = await asyncio.gather(
        agents.system("get_all_agents"), agents.system("get_metrics"), agents.system("get_error_counts", limit=1)
    )
    found = {
        "agents": reported(registered["agents"]),
        "hosts": reported(metrics["metrics"]["hosts"]),
        "errors": reported(errors["by_severity"]),
    }
    return Answer(Status(**found), [fenced_json(found)])


async def reserve_vram(agents: Agents, request: ReserveVram) -> Answer:
    return Answer(msgspec.convert(await agents.system("reserve_vram", **_given(request)), Lease))


async def release_vram(agents: Agents, request: ReleaseVram) -> Answer:
    await agents.system("release_lease", lease_id=request.lease_id)
    return Answer(Released(request.lease_id), [f"{request.lease_id} is released"])


READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
STORES = ADDS.model_copy(update={"idempotent_hint": False})
DELETES = ADDS.model_copy(update={"destructive_hint": True})

Handler = Callable[[Agents, Any], Awaitable[Answer]]
_HANDLERS: tuple[tuple[Handler, type[msgspec.Struct], type[msgspec.Struct], ToolAnnotations], ...] = (
    (create_entities, CreateEntities, Entities, ADDS),
    (create_relations, CreateRelations, Relations, ADDS),
    (add_observations, AddObservations, Results, ADDS),
    (delete_entities, DeleteEntities, Deleted, DELETES),
    (delete_observations, DeleteObservations, Deleted, DELETES),
    (delete_relations, DeleteRelations, Deleted, DELETES),
    (read_graph, ReadGraph, Graph, READS),
    (search_nodes, SearchNodes, Graph, READS),
    (open_nodes, OpenNodes, Graph, READS),
    (search_memory, SearchMemory, Hits, READS),
    (get_context, GetContext, Context, READS),
    (remember, Remember, Remembered, STORES),
    (forget, Forget, Forgotten, DELETES),
    (where_is, WhereIs, AgentsFound, READS),
    (system_status, SystemStatus, Status, READS),
    (reserve_vram, ReserveVram, Lease, STORES),
    (release_vram, ReleaseVram, Released, DELETES),
)


class Declared(NamedTuple):
    """A tool as the client sees it, and what executes it."""

    tool: Tool
    request: type[msgspec.Struct]
    handler: Handler


def _declared(
    handler: Handler, request: type[msgspec.Struct], reply: type[msgspec.Struct], annotations: ToolAnnotations
) -> Declared:
    name = handler.__name__
    tool = Tool(
        name=name,
        title=name.replace("_", " ").capitalize(),
        description=" ".join((request.__doc__ or "").split()),
        input_schema=_schema(request),
        output_schema=_schema(reply),
        annotations=annotations,
    )
    return Declared(tool, request, handler)


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a type, with an object at its root as MCP wants it.

    It has no references: clients check every result by it, and look each up for every value.
    """
    _, parts = msgspec.json.schema_components([kind], ref_template="{name}")

    def inlined(node: Any) -> Any:
        match node:
            case {"$ref": str(name), **beside}:
                return inlined(parts[name]) | beside
            case dict():
                return {key: inlined(value) for key, value in node.items()}
            case list():
                return [inlined(value) for value in node]
        return node

    schema: dict[str, Any] = inlined(parts[kind.__name__])
    return {key: value for key, value in schema.items() if key not in ("title", "description")}


TOOLS = {each.tool.name: each for each in (_declared(*declared) for declared in _HANDLERS)}


def content_of(answer: Answer, value: Any) -> list[ContentBlock]:
    """Return the texts of an answer whose value is `value` as builtins."""
    return [TextContent(type="text", text=text) for text in answer.texts or [_json(value)]]


def _graph(agents: Agents) -> KnowledgeGraph:
    return KnowledgeGraph(agents.memory, agents.owner)


def _graph_read(found: Found) -> Answer:
    if not found.writers:
        return Answer(found.graph, [NOTHING])
    return Answer(found.graph, [fenced_json(found.graph), writers_note(found.writers)])


def _created(new: Sequence[msgspec.Struct], given: int, what: str) -> list[str]:
    return [fenced_json(new), *_known(given - len(new), what)]


def _known(number: int, what: str) -> list[str]:
    left = "was left as it is" if number == 1 else "were left as they are"
    return [f"{number} of these {what} existed and {left}"] if number else []


def _deleted(removed: Removed, one: str, several: str) -> Answer:
    there, missing = ([" ".join(item.parts).strip() for item in items] for items in (removed.there, removed.missing))
    message = f"deleted {_counted(len(there), one, several)}{_named(there)}"
    if removed.parts:
        parts: tuple[tuple[Kind, str], ...] = (("observation", "observations"), ("relation", "relations"))
        message += f" with {' and '.join(_counted(removed.parts[kind], kind, kinds) for kind, kinds in parts)}"
    if missing:
        message += f"; {len(missing)} {'was' if len(missing) == 1 else 'were'} not there{_named(missing)}"
    return Answer(Deleted(success=True, message=message), [message])


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _named(names: Sequence[str]) -> str:
    """Return the first names, as one line."""
    shown = [json.dumps(name_of(name), ensure_ascii=False) for name in names[:_MOST_NAMED]]
    return f": {', '.join(shown)}{', …' if len(names) > _MOST_NAMED else ''}" if names else ""


def _given(request: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(request).items() if value is not None}


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()
