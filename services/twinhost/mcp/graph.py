"""A knowledge graph of entities, observations and relations, each of which is one memory of its own.

The content of a memory is its parts, one a line, so that `search_memory` and people can read it:

    entity        name, type
    observation   name of the entity, text
    relation      name of the entity that it begins with, type, name of the entity that it ends with

Its key is a digest of what identifies it, and its keywords are digests of the names in it, by which it is found. So two
writers who add to one entity write different memories, and two who add the same write two values of one key, of which
the graph shows the later. Nobody can delete the memory of another writer: a value that withdraws it is stored under its
key instead. Docs: decision 60.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from twinhost.mcp.shapes import Added, Entity, Graph, Observed, Relation, Unobserved
from twinhost.secure_zmq.errors import MalformedRequest, NotFound
from twinhost.secure_zmq.framing.forms import MAX_SENT_BYTES, MAX_SENT_PARTS
from twinhost.secure_zmq.wire import Reply

SOURCE = "mcp-graph"
WITHDRAWN = "withdrawn"  # a keyword, and the first line of the content
_PREFIX = "graph"
_PAGE = 1_000
_NAMES_AT_ONCE = 64  # keywords of one query
_FRAME_BYTES = MAX_SENT_BYTES * 3 // 4  # of contents: JSON escapes some characters
_REQUEST_BYTES = 512  # of a request without its content
_PARTS = {"entity": 2, "observation": 2, "relation": 3}

Call = Callable[..., Awaitable[Reply]]
Kind = Literal["entity", "observation", "relation"]
T = TypeVar("T")


class Item(NamedTuple):
    """One part of the graph: what a memory stands for."""

    kind: Kind
    parts: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key of its memories; an entity is identified by its name alone."""
        identity = self.parts[:1] if self.kind == "entity" else self.parts
        return f"{_PREFIX}:{self.kind}:{_digest(*identity)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The entities that it belongs to."""
        return (self.parts[0], self.parts[2]) if self.kind == "relation" else self.parts[:1]

    @property
    def request(self) -> dict[str, Any]:
        """The fields of `store_memory`; nothing in the graph is forgotten.

        Raises:
            MalformedRequest: a name or a type has a line break.
        """
        for part in self.parts if self.kind != "observation" else self.parts[:1]:
            if "\n" in part:
                raise MalformedRequest(
                    f"a name or a type can't have a line break, but {part[:64]!r} has; write a space"
                )
        return {
            "content": "\n".join(self.parts),
            "key": self.key,
            "keywords": sorted({f"{_PREFIX}:{_digest(name)}" for name in self.names}),
            "source": SOURCE,
            "pin": True,
        }


class Value(NamedTuple):
    """A stored memory, and the item that it states or withdraws."""

    item: Item
    withdrawn: bool
    memory: Mapping[str, Any]

    def of(self, kind: Kind) -> bool:
        """Return whether the item is of a kind."""
        return self.item.kind == kind


class Found(NamedTuple):
    """A graph, and the days of the first and the last part that each writer wrote."""

    graph: Graph
    writers: dict[str, tuple[str, str]]


class KnowledgeGraph:
    """The graph in the memories of one deployment; it keeps nothing, so that every reader sees every writer's parts."""

    def __init__(self, call: Call, owner: str | None) -> None:
        """Read and write the graph.

        Args:
            call: calls UnifiedMemoryReasoningAgent.
            owner: the caller, whose memories are deleted and not withdrawn; None if it may delete everybody's.
        """
        self._call, self._owner = call, owner

    async def create_entities(self, entities: Sequence[Entity]) -> list[Entity]:
        """Add entities, and return the new ones; one whose name exists is left as it is."""
        by_name = {each.name: each for each in reversed(entities)}  # of several with one name, the first
        values = await self._read(by_name)
        new = [each for each in entities if by_name[each.name] is each and not _has(values, _entity(each))]
        observed = [Item("observation", (each.name, text)) for each in new for text in each.observations]
        await self._add(values, observed)  # first: what an interrupted call has left is completed when it is repeated
        await self._add(values, map(_entity, new))
        return new

    async def create_relations(self, relations: Sequence[Relation]) -> list[Relation]:
        """Add relations, and return the new ones."""
        values = await self._read({each.from_ for each in relations})
        new = [each for each in dict.fromkeys(relations) if not _has(values, _relation(each))]
        await self._add(values, map(_relation, new))
        return new

    async def add_observations(self, observed: Sequence[Observed]) -> list[Added]:
        """Add observations to entities, and return the new ones.

        Raises:
            NotFound: there is no such entity; nothing was added.
        """
        values = await self._read({each.entity_name for each in observed})
        for each in observed:
            if not _has(values, Item("entity", (each.entity_name, ""))):
                raise NotFound(f"there is no entity {each.entity_name[:64]!r}; create it with create_entities")
        added: list[Added] = []
        items: dict[Item, None] = {}
        for each in observed:
            wanted = [Item("observation", (each.entity_name, text)) for text in dict.fromkeys(each.contents)]
            new = [item for item in wanted if item not in items and not _has(values, item)]
            items |= dict.fromkeys(new)
            added.append(Added(each.entity_name, [item.parts[1] for item in new]))
        await self._add(values, items)
        return added

    async def delete_entities(self, names: Sequence[str]) -> None:
        """Delete entities with their observations and relations."""
        wanted = set(names)
        values = await self._read(wanted)
        await self._remove([each for each in values.values() if not wanted.isdisjoint(each[0].item.names)])

    async def delete_observations(self, deletions: Sequence[Unobserved]) -> None:
        """Delete observations; what is not there is ignored."""
        items = [Item("observation", (each.entity_name, text)) for each in deletions for text in each.observations]
        await self._delete(items)

    async def delete_relations(self, relations: Sequence[Relation]) -> None:
        """Delete relations; what is not there is ignored."""
        await self._delete(list(map(_relation, relations)))

    async def read(self) -> Found:
        """Return the whole graph."""
        return _found(await self._read(None))

    async def search(self, query: str) -> Found:
        """Return the entities with the query in name, type or an observation, in any case, and their relations."""
        values = await self._read(None)
        text = query.lower()
        fits = {
            each.item.parts[0]
            for each in _present(values)
            if each.item.kind != "relation" and any(text in part.lower() for part in each.item.parts)
        }
        return _found(values, fits)

    async def open(self, names: Sequence[str]) -> Found:
        """Return entities by name, those that exist, and their relations."""
        return _found(await self._read(set(names)), set(names))

    async def _read(self, names: Iterable[str] | None) -> dict[str, list[Value]]:
        """Return the values of each key in their order: at least those of these entities, or of all."""
        words = None if names is None else sorted(f"{_PREFIX}:{_digest(name)}" for name in names)
        if words is not None and len(words) > _NAMES_AT_ONCE:
            words = None
        found = [] if words == [] else await self._pages(words)
        values: dict[str, list[Value]] = defaultdict(list)
        for memory in found:
            if (value := _value(memory)) is not None:
                values[value.item.key].append(value)
        return {key: sorted(each, key=_place) for key, each in values.items()}

    async def _pages(self, words: list[str] | None) -> list[Mapping[str, Any]]:
        """Return the memories of the graph with one of these keywords, or all, the oldest first."""
        found: list[Mapping[str, Any]] = []
        before = None
        while True:
            page = await self._call(
                "query_memory", source=SOURCE, keywords=words, include_forgotten=True, limit=_PAGE, before=before
            )
            found += page["memories"]
            if not page["more"]:
                return found[::-1]
            before = page["next_before"]

    async def _add(self, values: Mapping[str, list[Value]], items: Iterable[Item]) -> None:
        new = [item.request for item in dict.fromkeys(items) if not _has(values, item)]
        for together in _frames(new):
            await _all(self._call("store_memory", **request) for request in together)

    async def _delete(self, items: Sequence[Item]) -> None:
        values = await self._read({item.parts[0] for item in items})
        await self._remove([values[key] for key in dict.fromkeys(item.key for item in items) if key in values])

    async def _remove(self, groups: Iterable[list[Value]]) -> None:
        await _all(self._remove_values(values) for values in groups)

    async def _remove_values(self, values: list[Value]) -> None:
        """Withdraw one key's values of other callers, if they are not, and delete those of this caller.

        In this order, and without deleting the present withdrawal: at no time is the item shown again.
        """
        kept = [each for each in values if self._owner is not None and each.memory["written_by"] != self._owner]
        if kept and not kept[-1].withdrawn:
            if values[-1].withdrawn:
                kept.append(values[-1])
            else:
                request = kept[-1].item.request
                request["content"] = f"{WITHDRAWN}\n{request['content']}"
                request["keywords"].append(WITHDRAWN)
                await self._call("store_memory", **request)
        await _all(self._delete_memory(each.memory["id"]) for each in values if each not in kept)

    async def _delete_memory(self, memory_id: str) -> None:
        with suppress(NotFound):  # another call has deleted it
            await self._call("delete_memory", memory_id=memory_id)


def _digest(*parts: str) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _entity(entity: Entity) -> Item:
    return Item("entity", (entity.name, entity.entity_type))


def _relation(relation: Relation) -> Item:
    return Item("relation", (relation.from_, relation.relation_type, relation.to))


def _value(memory: Mapping[str, Any]) -> Value | None:
    """Return what a memory states; None if its key is not that of its content, as nothing here writes it."""
    prefix, _, rest = str(memory.get("key", "")).partition(":")
    kind = rest.partition(":")[0]
    if prefix != _PREFIX or kind not in _PARTS:
        return None
    withdrawn, content = WITHDRAWN in memory["keywords"], str(memory["content"])
    parts = tuple((content.partition("\n")[2] if withdrawn else content).split("\n", _PARTS[kind] - 1))
    if len(parts) != _PARTS[kind]:
        return None
    item = Item(kind, parts)  # type: ignore[arg-type]  # one of _PARTS
    return Value(item, withdrawn, memory) if item.key == memory["key"] else None


def _place(value: Value) -> tuple[str, str, str]:
    """Return the place of a value among those of its key: by its start, but not after others that were stored later.

    So a value that is valid from a future time on can still be withdrawn, or followed by another one.
    """
    starts, created = str(value.memory.get("valid_from")), str(value.memory["created"])
    return min(starts, created), starts, str(value.memory["id"])


def _has(values: Mapping[str, list[Value]], item: Item) -> bool:
    return item.key in values and not values[item.key][-1].withdrawn


def _frames(requests: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield lists that travel in one frame each: those of several frames may be executed in another order."""
    frame: list[dict[str, Any]] = []
    room = _FRAME_BYTES
    for request in requests:
        size = len(request["content"].encode()) + _REQUEST_BYTES
        if frame and (size > room or len(frame) == MAX_SENT_PARTS):
            yield frame
            frame, room = [], _FRAME_BYTES
        frame.append(request)
        room -= size
    if frame:
        yield frame


def _present(values: Mapping[str, list[Value]]) -> list[Value]:
    return [each[-1] for each in values.values() if not each[-1].withdrawn]


def _found(values: Mapping[str, list[Value]], names: set[str] | None = None) -> Found:
    """Return the entities with these names, or all, with their observations and relations, and who wrote them."""
    present = _present(values)
    named = [each for each in present if names is None or not names.isdisjoint(each.item.names)]
    entities = {
        name: Entity(name, entity_type, [])
        for name, entity_type in (each.item.parts for each in named if each.of("entity"))
    }
    relations: list[Relation] = []
    writers: dict[str, tuple[str, str]] = {}
    for each in named:
        parts = each.item.parts
        if each.of("relation"):
            if names is not None and entities.keys().isdisjoint(each.item.names):
                continue
            relations.append(Relation(parts[0], parts[2], parts[1]))
        elif parts[0] not in entities:
            continue
        elif each.of("observation"):
            entities[parts[0]].observations.append(parts[1])
        day, writer = str(each.memory["created"])[:10], str(each.memory["written_by"])
        first, last = writers.get(writer, (day, day))
        writers[writer] = min(first, day), max(last, day)
    return Found(Graph(list(entities.values()), relations), writers)


async def _all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Return the results of calls that are in flight together; raise the first error after all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]  # no error is among them
