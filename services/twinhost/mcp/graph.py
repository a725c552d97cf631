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
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, Self, TypeVar

import msgspec

from twinhost.secure_zmq.errors import MalformedRequest, NotFound
from twinhost.secure_zmq.wire import Reply
from twinhost.unified_memory_reasoning.memories.model import MAX_CONTENT_CHARACTERS
from twinhost.unified_memory_reasoning.memories.rows import GRAPH, GRAPH_SOURCE

WITHDRAWN = "withdrawn"  # a keyword, and the first line of the content
_PAGE = 1_000
_NAMES_AT_ONCE, _KEYS_AT_ONCE = 64, 1_000  # keywords, and keys, of one query
_STORED_AT_ONCE, _STORED_BYTES = 250, 65_536  # memories, and their contents, of one request: about 12 ms of the agent
_AT_ONCE = 512  # calls in flight: more than a connection takes
_PARTS = {"entity": 2, "observation": 2, "relation": 3}

Call = Callable[..., Awaitable[Reply]]
Kind = Literal["entity", "observation", "relation"]
T = TypeVar("T")


class Entity(msgspec.Struct, rename="camel"):
    """A node: its name, its type, and what was observed of it."""

    name: str
    entity_type: str
    observations: list[str]


class Relation(msgspec.Struct, frozen=True, rename={"from_": "from", "relation_type": "relationType"}):
    """An edge from one entity to another; its type is in active voice."""

    from_: str
    to: str
    relation_type: str


class Observed(msgspec.Struct, rename="camel"):
    """What to add to an entity."""

    entity_name: str
    contents: list[str]


class Added(msgspec.Struct, rename="camel"):
    """What was added to an entity."""

    entity_name: str
    added_observations: list[str]


class Unobserved(msgspec.Struct, rename="camel"):
    """What to delete from an entity."""

    entity_name: str
    observations: list[str]


class Graph(msgspec.Struct):
    """Entities and relations, in the order in which they were added."""

    entities: list[Entity]
    relations: list[Relation]


class _Identified(NamedTuple):
    kind: Kind
    parts: tuple[str, ...]
    key: str  # of its memories; an entity is identified by its name alone


class Item(_Identified):
    """One part of the graph: what a memory stands for."""

    __slots__ = ()

    def __new__(cls, kind: Kind, parts: tuple[str, ...]) -> Self:
        identity = parts[:1] if kind == "entity" else parts
        return super().__new__(cls, kind, parts, f"{GRAPH}:{kind}:{_digest(*identity)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The entities that it belongs to."""
        return (self.parts[0], self.parts[2]) if self.kind == "relation" else self.parts[:1]

    @property
    def request(self) -> dict[str, Any]:
        """The fields of `store_memory`; nothing in the graph is forgotten.

        Raises:
            MalformedRequest: a name or a type has a line break, or all of it is too long.
        """
        for part in self.parts if self.kind != "observation" else self.parts[:1]:
            if "\n" in part:
                raise MalformedRequest(
                    f"a name or a type can't have a line break, but {part[:64]!r} has; write a space"
                )
        content = "\n".join(self.parts)
        if len(content) > MAX_CONTENT_CHARACTERS:
            raise MalformedRequest(
                f"an {self.kind} has at most {MAX_CONTENT_CHARACTERS:,} characters with its names, and that of "
                f"{self.parts[0][:64]!r} has {len(content):,}; split it"
            )
        return {
            "content": content,
            "key": self.key,
            "keywords": sorted({f"{GRAPH}:{_digest(name)}" for name in self.names}),
            "source": GRAPH_SOURCE,
            "pin": True,
        }


class Value(NamedTuple):
    """A stored memory, and the item that it states or withdraws."""

    item: Item
    memory: Mapping[str, Any]
    withdrawn: bool = False

    def of(self, kind: Kind) -> bool:
        """Return whether the item is of a kind."""
        return self.item.kind == kind


class GraphRead(NamedTuple):
    """A graph, the days of the first and the last part that each writer wrote, and these parts as a graph."""

    graph: Graph
    writers: dict[str, tuple[str, str]]
    parts: dict[str, Graph]


class Removed(NamedTuple):
    """What a deletion found and removed, and what was not there, each as its caller named it.

    `parts` counts the observations and relations that were removed with their entities.
    """

    there: list[Item]
    missing: list[Item]
    parts: Counter[Kind]


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
        parts: dict[str, tuple[Entity, list[Item]]] = {}
        for entity in entities:
            if entity.name not in parts:  # of several with one name, the first
                parts[entity.name] = entity, _parts(entity)
        values = await self._values(chain.from_iterable(items for _, items in parts.values()))
        new = [(entity, items) for entity, items in parts.values() if not _has(values, items[0])]
        # The observations first: what an interrupted call has left is completed when it is repeated.
        observed = chain.from_iterable(items[1:] for _, items in new)
        await self._add(values, observed, (items[0] for _, items in new))
        return [entity for entity, _ in new]

    async def create_relations(self, relations: Sequence[Relation]) -> list[Relation]:
        """Add relations, and return the new ones."""
        items = {relation: _relation(relation) for relation in relations}
        values = await self._values(items.values())
        new = [relation for relation, item in items.items() if not _has(values, item)]
        await self._add(values, map(items.__getitem__, new))
        return new

    async def add_observations(self, observed: Sequence[Observed]) -> list[Added]:
        """Add observations to entities, and return the new ones.

        Raises:
            NotFound: there is no such entity; nothing was added.
        """
        named = {addition.entity_name: Item("entity", (addition.entity_name, "")) for addition in observed}
        texts = [
            Item("observation", (addition.entity_name, text)) for addition in observed for text in addition.contents
        ]
        values = await self._values([*named.values(), *texts])
        for addition in observed:
            if not _has(values, named[addition.entity_name]):
                raise NotFound(f"there is no entity {addition.entity_name[:64]!r}; create it with create_entities")
        added: list[Added] = []
        items: dict[Item, None] = {}
        for addition in observed:
            wanted = [Item("observation", (addition.entity_name, text)) for text in dict.fromkeys(addition.contents)]
            new = [item for item in wanted if item not in items and not _has(values, item)]
            items |= dict.fromkeys(new)
            added.append(Added(addition.entity_name, [item.parts[1] for item in new]))
        await self._add(values, items)
        return added

    async def delete_entities(self, names: Sequence[str]) -> Removed:
        """Delete entities with their observations and relations; what is not there is ignored."""
        wanted = set(names)
        values = await self._read(wanted)
        groups = [group for group in values.values() if not wanted.isdisjoint(group[0].item.names)]
        removed = _removed(values, [Item("entity", (name, "")) for name in dict.fromkeys(names)])
        parts = Counter(
            group[-1].item.kind for group in groups if not group[-1].withdrawn and not group[-1].of("entity")
        )
        await self._remove(groups)
        return removed._replace(parts=parts)

    async def delete_observations(self, deletions: Sequence[Unobserved]) -> Removed:
        """Delete observations; what is not there is ignored."""
        items = [
            Item("observation", (deletion.entity_name, text))
            for deletion in deletions
            for text in deletion.observations
        ]
        return await self._delete(items)

    async def delete_relations(self, relations: Sequence[Relation]) -> Removed:
        """Delete relations; what is not there is ignored."""
        return await self._delete(list(map(_relation, relations)))

    async def read(self) -> GraphRead:
        """Return the whole graph."""
        return _found(_by_key(await self._pages()))

    async def search(self, query: str) -> GraphRead:
        """Return the entities with the query in name, type or an observation, in any case, and their relations."""
        if len(query) > MAX_CONTENT_CHARACTERS:  # no part is as long
            return _found({})
        values = _by_key(await self._pages(entities_with=query) if query else await self._pages())
        text = query.lower()
        fits = {
            value.item.parts[0]
            for value in _present(values)
            if value.item.kind != "relation" and any(text in part.lower() for part in value.item.parts)
        }
        return _found(values, fits)

    async def open(self, names: Sequence[str]) -> GraphRead:
        """Return entities by name, those that exist, and their relations."""
        return _found(await self._read(set(names)), set(names))

    async def _read(self, names: Iterable[str]) -> dict[str, list[Value]]:
        """Return the values of each key in their order: at least those of these entities."""
        return await self._selected("keywords", sorted(f"{GRAPH}:{_digest(name)}" for name in names), _NAMES_AT_ONCE)

    async def _values(self, items: Iterable[Item]) -> dict[str, list[Value]]:
        """Return the values of each key in their order: at least those of these items."""
        return await self._selected("keys", list({item.key: None for item in items}), _KEYS_AT_ONCE)

    async def _selected(self, field: str, chosen: list[str], at_once: int) -> dict[str, list[Value]]:
        """Return the values that a field of the query selects, by so many of its values in each."""
        some = [chosen[begin : begin + at_once] for begin in range(0, len(chosen), at_once)]
        pages = await _all(self._pages(**{field: part}) for part in some)
        by_id = {value.memory["id"]: value for page in pages for value in page}
        return _by_key(sorted(by_id.values(), key=lambda value: value.memory["number"]))

    async def _pages(self, **chosen: Any) -> list[Value]:
        """Return the values in the chosen memories of the graph, the oldest first."""
        pages: list[list[Value]] = []
        asked = self._ask(None, chosen)
        try:
            while True:
                page = await asked
                if more := page["more"]:
                    asked = self._ask(page["next_before"], chosen)
                    await asyncio.sleep(0)  # it is sent, and answered while this page is read
                pages.append([value for memory in reversed(page["brief"]) if (value := _value(memory)) is not None])
                if not more:
                    return list(chain.from_iterable(reversed(pages)))
        finally:
            asked.cancel()

    def _ask(self, before: int | None, chosen: Mapping[str, Any]) -> "asyncio.Task[Reply]":
        fields = {"source": GRAPH_SOURCE, "include_forgotten": True, "limit": _PAGE, "brief": True, "before": before}
        return asyncio.ensure_future(self._call("query_memory", **fields, **chosen))

    async def _add(self, values: Mapping[str, list[Value]], *lists: Iterable[Item]) -> None:
        """Store what is new; of several lists, each once the one before is stored.

        The agent executes the requests of one connection in their order, and the graph has that order.
        """
        new = [[item.request for item in dict.fromkeys(items) if not _has(values, item)] for items in lists]
        for requests in new:
            await _all(map(self._store, _together(requests)))

    async def _store(self, requests: list[dict[str, Any]]) -> None:
        """Store memories with one request: all of them or none, in one commit."""
        first, *others = requests
        await self._call("store_memory", **first, **({"also": others} if others else {}))

    async def _delete(self, items: Sequence[Item]) -> Removed:
        values = await self._values(items)
        removed = _removed(values, list(dict.fromkeys(items)))
        await self._remove([values[item.key] for item in removed.there])
        return removed

    async def _remove(self, groups: Iterable[list[Value]]) -> None:
        await _all(self._remove_values(values) for values in groups)

    async def _remove_values(self, values: list[Value]) -> None:
        """Withdraw one key's values of other callers, if they are not, and delete those of this caller.

        In this order, and without deleting the present withdrawal: at no time is the item shown again.
        """
        kept = [value for value in values if self._owner is not None and value.memory["written_by"] != self._owner]
        if kept and not kept[-1].withdrawn:
            if values[-1].withdrawn:
                kept.append(values[-1])
            else:
                request = kept[-1].item.request
                request["content"] = f"{WITHDRAWN}\n{request['content']}"
                request["keywords"].append(WITHDRAWN)
                await self._call("store_memory", **request)
        await _all(self._delete_memory(value.memory["id"]) for value in values if value not in kept)

    async def _delete_memory(self, memory_id: str) -> None:
        with suppress(NotFound):  # another call has deleted it
            await self._call("delete_memory", memory_id=memory_id)


def _digest(*parts: str) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _parts(entity: Entity) -> list[Item]:
    """Return the entity itself, and its observations."""
    observations = (Item("observation", (entity.name, text)) for text in entity.observations)
    return [Item("entity", (entity.name, entity.entity_type)), *observations]


def _relation(relation: Relation) -> Item:
    return Item("relation", (relation.from_, relation.relation_type, relation.to))


def _by_key(values: Iterable[Value]) -> dict[str, list[Value]]:
    """Return the values of each key in their order."""
    by_key: dict[str, list[Value]] = {}
    for value in values:
        by_key.setdefault(value.memory["key"], []).append(value)
    return {key: sorted(each, key=_place) if len(each) > 1 else each for key, each in by_key.items()}


def _value(memory: Mapping[str, Any]) -> Value | None:
    """Return what a memory states; None if its key is not that of its content, as nothing here writes it."""
    key, content = str(memory.get("key", "")), str(memory["content"])
    if (item := _item(key, content)) is not None:
        return Value(item, memory)
    first, _, rest = content.partition("\n")
    if first == WITHDRAWN and (item := _item(key, rest)) is not None:
        return Value(item, memory, withdrawn=True)
    return None


def _item(key: str, content: str) -> Item | None:
    """Return the item with this key and content, if there is one."""
    prefix, _, rest = key.partition(":")
    kind = rest.partition(":")[0]
    if prefix != GRAPH or kind not in _PARTS:
        return None
    parts = tuple(content.split("\n", _PARTS[kind] - 1))
    if len(parts) != _PARTS[kind] or (kind != "observation" and "\n" in parts[-1]):
        return None
    item = Item(kind, parts)  # type: ignore[arg-type]  # one of _PARTS
    return item if item.key == key else None


def _place(value: Value) -> tuple[str, str, str]:
    """Return the place of a value among those of its key: by its start, but not after others that were stored later.

    So a value that is valid from a future time on can still be withdrawn, or followed by another one.
    """
    created = str(value.memory["created"])
    starts = str(value.memory.get("valid_from", created))
    return min(starts, created), starts, str(value.memory["id"])


def _has(values: Mapping[str, list[Value]], item: Item) -> bool:
    return item.key in values and not values[item.key][-1].withdrawn


def _removed(values: Mapping[str, list[Value]], items: list[Item]) -> Removed:
    by_presence: dict[bool, list[Item]] = {True: [], False: []}
    for item in items:
        by_presence[_has(values, item)].append(item)
    return Removed(by_presence[True], by_presence[False], Counter())


def _present(values: Mapping[str, list[Value]]) -> list[Value]:
    return [group[-1] for group in values.values() if not group[-1].withdrawn]


def _found(values: Mapping[str, list[Value]], names: set[str] | None = None) -> GraphRead:
    """Return the entities with these names, or all, with their observations and relations, and who wrote them."""
    present = _present(values)
    named = [value for value in present if names is None or not names.isdisjoint(value.item.names)]
    entities = {
        name: Entity(name, entity_type, [])
        for name, entity_type in (value.item.parts for value in named if value.of("entity"))
    }
    relations: list[Relation] = []
    writers: dict[str, tuple[str, str]] = {}
    written: dict[str, list[Value]] = {}
    for value in named:
        parts = value.item.parts
        if value.of("relation"):
            if names is not None and entities.keys().isdisjoint(value.item.names):
                continue
            relations.append(Relation(parts[0], parts[2], parts[1]))
        elif parts[0] not in entities:
            continue
        elif value.of("observation"):
            entities[parts[0]].observations.append(parts[1])
        day, writer = str(value.memory["created"])[:10], str(value.memory["written_by"])
        first, last = writers.get(writer, (day, day))
        writers[writer] = min(first, day), max(last, day)
        written.setdefault(writer, []).append(value)
    graph = Graph(list(entities.values()), relations)
    if len(written) == 1:
        return GraphRead(graph, writers, dict.fromkeys(written, graph))
    return GraphRead(graph, writers, {writer: _part(values) for writer, values in written.items()})


def _part(values: Sequence[Value]) -> Graph:
    """Return what one writer wrote of a graph; an entity that is another's is there by its name alone."""
    entities: dict[str, Entity] = {}
    relations: list[Relation] = []
    for value in values:
        parts = value.item.parts
        if value.of("relation"):
            relations.append(Relation(parts[0], parts[2], parts[1]))
            continue
        entity = entities.setdefault(parts[0], Entity(parts[0], "", []))
        if value.of("entity"):
            entity.entity_type = parts[1]
        else:
            entity.observations.append(parts[1])
    return Graph(list(entities.values()), relations)


def _together(requests: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield lists that one request stores each; a larger one would keep the agent from other callers for longer."""
    some: list[dict[str, Any]] = []
    size = 0
    for request in requests:
        size += len(request["content"].encode())
        if some and (size > _STORED_BYTES or len(some) == _STORED_AT_ONCE):
            yield some
            some, size = [], len(request["content"].encode())
        some.append(request)
    if some:
        yield some


async def _all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Return the results of calls, many of which are in flight together; raise the first error after these have ended.

    Each call has its own deadline, so the later ones begin when the earlier ones are done.
    """
    waiting, results = iter(calls), list[T]()
    while some := list(islice(waiting, _AT_ONCE)):
        for result in await asyncio.gather(*some, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            results.append(result)
    return results
