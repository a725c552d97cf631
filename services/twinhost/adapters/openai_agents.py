"""A session for the OpenAI Agents SDK whose items are interactions of UnifiedMemoryReasoningAgent.

    from twinhost import connect_async
    from twinhost.adapters.openai_agents import TwinhostSession

    async with connect_async("UnifiedMemoryReasoningAgent") as client:
        await Runner.run(agent, "Hello", session=TwinhostSession("conversation-1", client))

Each item is an interaction: its text is the content, so `get_context` and `search_memory` find what was said, and its
exact JSON is in the metadata. An item that is too large for that is stored as several interactions.

An item is its writer's. What another writer has added is none, unless the program names that writer: then it is given
to the model as one message of the user with its text in a fence, under the writer's name, whatever its role was.
"""

import asyncio
import json
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from twinhost.adapters import missing_extra
from twinhost.adapters.stored import Taken, in_space, read_json, require_shallow
from twinhost.fence import Passage, fenced, new_tag
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.wire import Reply

try:
    from agents.items import TResponseInputItem
    from agents.memory import SessionSettings
except ImportError:
    raise missing_extra("openai-agents", "openai-agents") from None

_ITEM = "openai_agents_item"  # in the metadata: the JSON of an item
_PART = "openai_agents_part"  # or which part of an item is in the content: an id, its number from 0, and how many
_MOST_METADATA_BYTES = 16_384
_MOST_CONTENT_BYTES = 65_536
_MOST_ON_A_PAGE = 1_000

T = TypeVar("T")


@dataclass(slots=True)
class _Stored:
    """An item as it is read: its parts by number, the ids of the interactions that have them, and itself at last."""

    writer: str
    day: str
    parts: dict[int, str] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    item: dict[str, Any] | None = None


class TwinhostSession:
    """The items of one conversation, in the order in which they were added; by any number of programs."""

    def __init__(
        self,
        session_id: str,
        client: AsyncClient,
        *,
        session_settings: SessionSettings | None = None,
        writers: Collection[str] | None = (),
        space: str | None = None,
    ) -> None:
        """Use a session of UnifiedMemoryReasoningAgent.

        Args:
            session_id: the session's id there too, at most 256 characters.
            client: a client of that agent, which sessions may share; it stays open, and its errors are raised as they
                are.
            session_settings: `limit` is how many items `get_items` returns if it is not asked for another number.
            writers: whose items `get_items` returns beside those of the client's own key, in a fence; None for
                everybody's.
            space: of the memory, such as `shared`. None: this program's own, which no other program reads; with
                `writers`, or on an open link, the shared one.
        """
        self.session_id = session_id
        self.session_settings: SessionSettings | None = session_settings or SessionSettings()
        self._client = client
        self._taken = Taken(client.identity, writers)
        self._common: dict[str, Any] = {"session_id": session_id, **in_space(space, client.identity, writers)}

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Why an item was left out as none that can be read, by the id of its interaction."""
        return self._taken.unreadable

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the newest items, the oldest of them first; all if there is no limit, or a negative one."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        most = None if limit is None or limit < 0 else limit
        return [self._given(stored) for stored in reversed(await self._newest(most))]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items after those that there are; a cancelled call adds them anyway."""
        fields = [interaction for item in items for interaction in _interactions(item)]
        calls = (self._call("add_interaction", **interaction) for interaction in fields)
        await _finished(asyncio.gather(*calls))  # the requests leave, and are executed, in this order

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item of this program's key and return it; None if there is none.

        Of several programs with the same key, each gets another item.

        Raises:
            NotGranted: `delete_interactions` is not granted.
        """
        while newest := await self._newest(1, own=True):
            deleting = self._call("delete_interactions", ids=newest[0].ids)
            if (await _finished(asyncio.ensure_future(deleting)))["deleted"]:
                return self._given(newest[0])
        return None

    async def clear_session(self) -> None:
        """Remove all items, and all else that was said in this session."""
        await _finished(asyncio.ensure_future(self._call("clear_context")))

    async def _newest(self, most: int | None, *, own: bool = False) -> list[_Stored]:
        """Return the newest items, newest first, or those of the own key; an item that lacks a part is none."""
        items: dict[tuple[str, str], _Stored] = {}
        page: dict[str, Any] = {"more": most != 0, "next_before": None}
        while page["more"] and (most is None or sum(stored.item is not None for stored in items.values()) < most):
            limit = _MOST_ON_A_PAGE if most is None else min(most + 1, _MOST_ON_A_PAGE)
            page = await self._call("get_interactions", before=page["next_before"], limit=limit)
            for interaction in page["interactions"]:
                writer = interaction["written_by"]
                if writer == self._taken.own if own else self._taken.takes(writer):
                    self._take(interaction, items)
        return [stored for stored in items.values() if stored.item is not None][:most]

    def _take(self, interaction: Mapping[str, Any], items: dict[tuple[str, str], _Stored]) -> None:
        """Add what an interaction has of an item; nothing where it is no item's, since anybody may say something here.

        The parts of an item have one writer, so that no other caller can change it, or keep its writer from removing
        it.
        """
        metadata = interaction["metadata"]
        match metadata.get(_ITEM), metadata.get(_PART):
            case str(text), None:
                name, number, count = str(interaction["id"]), 0, 1
            case None, [str(name), int(number), int(count)]:
                text = interaction["content"]
            case _:
                return
        writer = interaction["written_by"]
        stored = items.setdefault((writer, name), _Stored(writer, interaction["created"][:10]))
        stored.parts[number] = text
        stored.ids.append(interaction["id"])
        if count != len(stored.parts) or set(stored.parts) != set(range(len(stored.parts))):
            return  # it is not whole yet
        try:
            item = read_json("".join(stored.parts[part] for part in range(count)))
            if not isinstance(item, dict):
                raise ValueError("it is no object")
            stored.item = item
        except ValueError as error:
            self._taken.skip(interaction["id"], writer, error)

    def _given(self, stored: _Stored) -> TResponseInputItem:
        """Return an item as it was added, or that of another writer in a fence."""
        item = stored.item or {}
        if stored.writer != self._taken.own:
            said = _shown(item, json.dumps(item))
            role = str(item.get("role") or item.get("type") or "")
            passage = Passage(stored.writer, stored.day, "", role, "item", said)
            item = {"role": "user", "content": fenced([passage], new_tag())}
        return cast("TResponseInputItem", item)

    async def _call(self, action: str, **fields: Any) -> Reply:
        return await self._client.call(action, **self._common, **fields)


def _interactions(item: TResponseInputItem) -> Iterator[dict[str, Any]]:
    """Yield the fields of the interactions that hold an item."""
    fields: Mapping[str, Any] = item
    require_shallow(item)
    text = json.dumps(item, allow_nan=False)
    role = str(fields.get("role") or fields.get("type") or "")[:256]
    said = {"interaction_type": "user_query" if role == "user" else "system_response", "speaker": role}
    metadata = {_ITEM: text}
    if len(json.dumps(metadata)) <= _MOST_METADATA_BYTES:
        yield {**said, "content": _shown(fields, text), "metadata": metadata}
        return
    name, parts = uuid.uuid4().hex, range(0, len(text), _MOST_CONTENT_BYTES)
    for number, begin in enumerate(parts):
        part = {_PART: [name, number, len(parts)]}
        yield {**said, "content": text[begin : begin + _MOST_CONTENT_BYTES], "metadata": part}


def _shown(fields: Mapping[str, Any], text: str) -> str:
    """Return the text of a message, or the JSON of another item, as far as an interaction has room."""
    content = fields.get("content")
    parts = [content] if isinstance(content, str) else content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    shown = "\n".join(text for text in texts if isinstance(text, str)) or text
    return shown.encode(errors="replace")[:_MOST_CONTENT_BYTES].decode(errors="ignore")


async def _finished(future: "asyncio.Future[T] | asyncio.Task[T]") -> T:
    """Wait for a change that goes on if the caller is cancelled, so that it is made as a whole."""
    return await asyncio.shield(future)
