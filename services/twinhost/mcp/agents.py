"""The connections of the MCP server to both agents, under the caller's own key."""

from collections.abc import Callable
from typing import Any

from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.errors import NotAuthorized, WrongServerKey
from twinhost.secure_zmq.wire import Reply

MEMORY, SYSTEM = "UnifiedMemoryReasoningAgent", "SystemDigitalTwin"
DEADLINE_S = 20.0  # of one request: an agent that restarts is back by then, and an MCP client still waits


class Agents:
    """Both agents; each is connected with its first call, and connected again whenever the link is lost."""

    def __init__(self, connect: Callable[[str], AsyncClient], owner: str | None = None) -> None:
        """Connect with one key.

        Args:
            connect: makes a client of an agent by its name, with the keys that are on disk then.
            owner: whose key it is; None if it may delete what others wrote: an operator's, or anybody's with
                SECURE_ZMQ=0.
        """
        self.owner = owner
        self._connect = connect
        self._clients: dict[str, AsyncClient] = {}

    async def memory(self, action: str, **fields: Any) -> Reply:
        """Call UnifiedMemoryReasoningAgent; arguments and errors are those of `AsyncClient.call`."""
        return await self._call(MEMORY, action, fields)

    async def system(self, action: str, *, wait_s: float = 0.0, **fields: Any) -> Reply:
        """Call SystemDigitalTwin, with `wait_s` more seconds for the reply."""
        return await self._call(SYSTEM, action, fields, wait_s)

    def close(self) -> None:
        """Close the connections."""
        while self._clients:
            self._clients.popitem()[1].close()

    async def _call(self, agent: str, action: str, fields: dict[str, Any], wait_s: float = 0.0) -> Reply:
        client = self._clients.get(agent)
        known = client is not None
        if client is None:
            client = self._clients[agent] = self._connect(agent)
        try:
            return await client.call(action, deadline_s=DEADLINE_S + wait_s, **fields)
        except (NotAuthorized, WrongServerKey):  # no session was made: nothing was executed on this connection
            if self._clients.get(agent) is client:
                del self._clients[agent]
                client.close()
            if not known:
                raise
        return await self._call(agent, action, fields, wait_s)  # with the keys that are on disk now
