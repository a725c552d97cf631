"""What the older agent had, stored with today's: each thing once, however often it is imported.

An import is known again by what this operator's key wrote before: an interaction by the id in its metadata, a memory
by its own, a pattern by type, text and solution. A twin or a memory that is there, whoever wrote it, is left as it is;
in quarantine too, of which an operator alone can know. What was deleted since is stored again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from twinhost.cli.documents import read
from twinhost.cli.memory_files import IMPORT_ID, Item
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import MalformedRequest, RequestError

_PAGE = 500
_DEADLINE_S = 15.0
_OF_A_NEW_MEMORY = frozenset({"id", "content", "keywords", "source", "strength"})


class WrittenPage(msgspec.Struct, frozen=True):
    """A page of what somebody wrote of one kind."""

    entries: tuple[dict[str, Any], ...]
    more: bool
    next_before: int | None = None


class Written(msgspec.Struct, frozen=True):
    """The answer to `memory_by`."""

    name: str
    quarantined: bool
    written: dict[str, WrittenPage]


class Hidden(msgspec.Struct, frozen=True):
    """One writer in quarantine."""

    name: str


class HiddenWriters(msgspec.Struct, frozen=True):
    """The answer to `list_quarantine`."""

    quarantined: tuple[Hidden, ...]


class MemoryCount(msgspec.Struct, frozen=True):
    """The answer to `query_memory`, as far as it says whether there is one."""

    count: int


class Merged(msgspec.Struct, frozen=True):
    """The answer to `sync_memories`, as far as it says what was stored."""

    added: int
    changed: int


class TwinRevision(msgspec.Struct, frozen=True):
    """The answer to `get_twin`, as far as it says whether there is one."""

    revision: int


@dataclass(slots=True)
class Importer:
    """Stores items with one agent, and counts them."""

    client: Client
    name: str  # whose key asks
    added: int = 0
    there: int = 0
    _known: dict[str, set[Any]] = field(default_factory=dict)

    def store(self, file: str, items: list[Item]) -> None:
        """Store what is not there yet.

        Raises:
            MalformedRequest: the agent refuses an item; with its place in the file.
            TwinhostError: the agent can't be asked, or refuses for another reason.
        """
        for item in items:
            if self._is_there(item):
                self.there += 1
                continue
            try:
                self._send(item)
            except MalformedRequest as error:
                raise MalformedRequest(f"{file}: {item.place} is refused: {error}") from None
            except RequestError as error:
                told = type(error)(f"{file}: {item.place}: {error}; what came before it is stored")
                told.code = error.code
                raise told from None
            self.added += 1

    def _send(self, item: Item) -> None:
        reply = self.client.call(item.action, deadline_s=_DEADLINE_S, **item.fields)
        if item.action != "sync_memories":
            return
        merged = read(reply, Merged)
        if merged.added or merged.changed:
            return
        # It was deleted later than the file says it was told: told now, it is there, and gets the file's `created`.
        (memory,) = item.fields["memories"]
        told = {name: value for name, value in memory.items() if name in _OF_A_NEW_MEMORY}
        self.client.call("store_memory", deadline_s=_DEADLINE_S, **told)
        self.client.call(item.action, deadline_s=_DEADLINE_S, **item.fields)

    def _is_there(self, item: Item) -> bool:
        if item.action == "update_twin":
            user_id = item.fields["user_id"]
            twin = self.client.call("get_twin", deadline_s=_DEADLINE_S, user_id=user_id)
            return read(twin, TwinRevision).revision > 0 or user_id in self._hidden("twins", "user_id")
        kind, key = _key(item)
        known = self._written(kind)
        if key in known or (kind == "memories" and self._memory_is_there(key)):
            return True
        known.add(key)
        return False

    def _memory_is_there(self, memory_id: str) -> bool:
        found = self.client.call(
            "query_memory", deadline_s=_DEADLINE_S, memory_id=memory_id, include_forgotten=True, limit=1
        )
        return read(found, MemoryCount).count > 0 or memory_id in self._hidden("memories", "id")

    def _hidden(self, kind: str, name: str) -> set[Any]:
        """Return the field `name` of all of a kind whose writer is in quarantine: no answer tells that it is there."""
        if (key := f"hidden {kind}") not in self._known:
            writers = read(self.client.call("list_quarantine", deadline_s=_DEADLINE_S), HiddenWriters).quarantined
            self._known[key] = {
                entry.get(name) for writer in writers for entry in written_by(self.client, writer.name, kind)
            }
        return self._known[key]

    def _written(self, kind: str) -> set[Any]:
        """Return the keys of what this operator has written of a kind."""
        if kind not in self._known:
            keys: set[Any] = set()
            for entry in written_by(self.client, self.name, kind):
                keys |= _keys_of(kind, entry)
            self._known[kind] = keys
        return self._known[kind]


def written_by(client: Client, name: str, kind: str) -> Iterator[dict[str, Any]]:
    """Return all that a caller wrote of one kind, newest first."""
    before: dict[str, int] = {}
    while True:
        fields: dict[str, Any] = {"name": name, "kind": kind, "limit": _PAGE, **before}
        page = read(client.call("memory_by", deadline_s=_DEADLINE_S, **fields), Written).written[kind]
        yield from page.entries
        if not page.more or page.next_before is None:
            return
        before = {"before": page.next_before}


def _key(item: Item) -> tuple[str, Any]:
    fields = item.fields
    if item.action == "add_interaction":
        return "interactions", fields["metadata"][IMPORT_ID]
    if item.action == "add_error_pattern":
        return "error_patterns", (fields["error_type"], fields["pattern"], fields.get("solution"))
    return "memories", (fields["memories"][0] if item.action == "sync_memories" else fields)["id"]


def _keys_of(kind: str, entry: dict[str, Any]) -> set[Any]:
    if kind == "interactions":
        return {entry.get("metadata", {}).get(IMPORT_ID)}
    if kind == "memories":
        return {entry.get("id")}
    # One without a solution is there as soon as its pattern is.
    known = (entry.get("error_type"), entry.get("pattern"))
    return {(*known, entry.get("solution")), (*known, None)}
