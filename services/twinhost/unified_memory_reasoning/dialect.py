"""The older dialect of commands, such as STORE_MEMORY, translated into actions.

The fields are under `payload`, else under `data`, else beside `command`: older clients use all three. The reply has the
action's fields under `data`, and a sentence under `message`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from twinhost.agent.dialects import Command
from twinhost.agent.health import HealthCheck, Ping
from twinhost.secure_zmq.errors import NotFound
from twinhost.secure_zmq.wire import Answer, Request
from twinhost.unified_memory_reasoning.memories.messages import (
    DeleteMemory,
    MemoryStatus,
    QueryMemory,
    ReinforceMemory,
    StoreMemory,
    SyncMemories,
)

R = TypeVar("R", bound=Request)
_OF_THE_MESSAGE = frozenset({"request_id", "on_behalf_of"})  # and not of the memory
_FILTERS = ("id", "memory_id", "ids", "source", "keywords", "min_strength", "changed_since")


class _Query(msgspec.Struct):
    query: dict[str, Any] | None


def _translator(request: type[R]) -> Callable[[dict[str, Any]], R]:
    """Return a function that converts a command's fields to a request."""
    names = frozenset(request.__struct_encode_fields__) - _OF_THE_MESSAGE

    def translate(fields: dict[str, Any]) -> R:
        return msgspec.convert({name: value for name, value in fields.items() if name in names}, request)

    return translate


def _query(fields: dict[str, Any]) -> QueryMemory:
    """Return the query; its filters are in the object `query`, or where other commands have their fields."""
    query = msgspec.convert({"query": {}, **fields}, _Query).query or {}
    request = _translator(QueryMemory)({**fields, **query})
    if all(getattr(request, name) is None for name in _FILTERS):
        raise ValueError(f"the query is empty; set one of {', '.join(_FILTERS)} in `query` - at `$.query`")
    return request


def _found(reply: Answer) -> Answer:
    if not reply["count"]:
        raise NotFound("no memory matches the query; use fewer or other filters")
    return _render(lambda found: f"{found['count']} memories found")(reply)


def _sync(fields: dict[str, Any]) -> SyncMemories:
    request = _translator(SyncMemories)(fields)
    if not request.memories:
        raise ValueError("`memories` is empty; send at least one - at `$.memories`")
    return request


def _synced(reply: Answer) -> Answer:
    rendered = _render(_message)(reply)
    synced = reply["added"] + reply["changed"] + reply["unchanged"]
    return {**rendered, "data": {"synced_count": synced, **rendered["data"]}}


def _render(sentence: Callable[[Answer], str]) -> Callable[[Answer], Answer]:
    """Return a function that converts a reply to the older dialect."""

    def render(reply: Answer) -> Answer:
        data = {name: value for name, value in reply.items() if name not in {"status", "message"}}
        return {"message": sentence(reply), "data": data}

    return render


def _message(reply: Answer) -> str:
    return str(reply["message"])


def _health(sentence: Callable[[Answer], str]) -> Callable[[Answer], Answer]:
    """Return a function that converts the health document, which has a status of its own."""
    return lambda reply: {"message": sentence(reply), "data": reply}


COMMANDS = {
    "TEST_PING": Command(_translator(Ping), _health(lambda _: "pong"), echoes=True),
    "STORE_MEMORY": Command(_translator(StoreMemory), _render(_message)),
    "QUERY_MEMORY": Command(_query, _found),
    "REINFORCE_MEMORY": Command(_translator(ReinforceMemory), _render(_message)),
    "GET_MEMORY_STATUS": Command(
        _translator(MemoryStatus), _render(lambda reply: f"{reply['total_memories']} memories are stored")
    ),
    "SYNC_MEMORIES": Command(_sync, _synced),
    "DELETE_MEMORY": Command(_translator(DeleteMemory), _render(_message)),
    "HEALTH_CHECK": Command(_translator(HealthCheck), _health(lambda reply: f"health is {reply['status']}")),
}
