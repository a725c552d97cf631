"""STORE_MEMORY and its kin, as clients ask for them that are older than actions.

The fields stand under `payload`, else under `data`, else beside `command`: older clients write all three. What the
action answers stands under `data`, and a sentence under `message`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from agent_runtime.common_actions import HealthCheck, Ping
from agent_runtime.dialects import Command
from secure_zmq.wire import Answer, Request
from unified_memory_reasoning.memory_model.memory_messages import (
    DeleteMemory,
    MemoryStatus,
    QueryMemory,
    ReinforceMemory,
    StoreMemory,
    SyncMemories,
)

R = TypeVar("R", bound=Request)
_NOT_FROM_HERE = frozenset({"request_id", "on_behalf_of", "action"})  # they are of the message, not of the memory


def _translator(request: type[R]) -> Callable[[dict[str, Any]], R]:
    """Return what makes a request of a command's fields."""

    def translate(fields: dict[str, Any]) -> R:
        return msgspec.convert({name: told for name, told in fields.items() if name not in _NOT_FROM_HERE}, request)

    return translate


def _render(sentence: Callable[[Answer], str]) -> Callable[[Answer], Answer]:
    """Return what makes an older answer of a reply."""

    def render(reply: Answer) -> Answer:
        data = {name: value for name, value in reply.items() if name not in {"status", "message"}}
        return {"message": sentence(reply), "data": data}

    return render


def _told(reply: Answer) -> str:
    return str(reply["message"])


def _health(sentence: Callable[[Answer], str]) -> Callable[[Answer], Answer]:
    """Return what makes an older answer of the health document, which has a status of its own."""
    return lambda reply: {"message": sentence(reply), "data": reply}


COMMANDS = {
    "TEST_PING": Command(_translator(Ping), _health(lambda _: "pong")),
    "STORE_MEMORY": Command(_translator(StoreMemory), _render(_told)),
    "QUERY_MEMORY": Command(_translator(QueryMemory), _render(lambda reply: f"{reply['count']} memories found")),
    "REINFORCE_MEMORY": Command(_translator(ReinforceMemory), _render(_told)),
    "GET_MEMORY_STATUS": Command(
        _translator(MemoryStatus), _render(lambda reply: f"{reply['total_memories']} memories are stored")
    ),
    "SYNC_MEMORIES": Command(_translator(SyncMemories), _render(_told)),
    "DELETE_MEMORY": Command(_translator(DeleteMemory), _render(_told)),
    "HEALTH_CHECK": Command(_translator(HealthCheck), _health(lambda reply: f"health is {reply['status']}")),
}
