"""Typed clients: one class per agent, one method per action, for blocking programs and for asyncio.

The names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinhost.clients.memory import AsyncUnifiedMemoryReasoningAgent, UnifiedMemoryReasoningAgent
    from twinhost.clients.system import AsyncSystemDigitalTwin, SystemDigitalTwin

__all__ = [
    "AsyncSystemDigitalTwin",
    "AsyncUnifiedMemoryReasoningAgent",
    "SystemDigitalTwin",
    "UnifiedMemoryReasoningAgent",
]

_MODULES = {
    "AsyncSystemDigitalTwin": "system",
    "AsyncUnifiedMemoryReasoningAgent": "memory",
    "SystemDigitalTwin": "system",
    "UnifiedMemoryReasoningAgent": "memory",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
