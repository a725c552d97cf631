"""The typed clients of UnifiedMemoryReasoningAgent."""

from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import Client


class UnifiedMemoryReasoningAgent(Client):
    """Calls UnifiedMemoryReasoningAgent; one method per action."""


class AsyncUnifiedMemoryReasoningAgent(AsyncClient):
    """Calls UnifiedMemoryReasoningAgent from asyncio; one method per action."""
