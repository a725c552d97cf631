"""Typed clients: one class per agent, one method per action, for blocking programs and for asyncio.

The names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinhost.clients.memory import UnifiedMemoryReasoningAgent
    from twinhost.clients.memory_async import AsyncUnifiedMemoryReasoningAgent
    from twinhost.clients.system import SystemDigitalTwin
    from twinhost.clients.system_async import AsyncSystemDigitalTwin

__all__ = [
    "AsyncSystemDigitalTwin",
    "AsyncUnifiedMemoryReasoningAgent",
    "SystemDigitalTwin",
    "UnifiedMemoryReasoningAgent",
]

_MODULES = {
    "AsyncSystemDigitalTwin": "system_async",
    "AsyncUnifiedMemoryReasoningAgent": "memory_async",
    "SystemDigitalTwin": "system",
    "UnifiedMemoryReasoningAgent": "memory",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
