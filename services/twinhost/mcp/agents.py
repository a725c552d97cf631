"""The connections of the MCP server to both agents, under the caller's own key."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from twinhost.agent.asked_lists import NO_ANSWER, unreachable, with_found
from twinhost.agent.troubles import AttentionList
from twinhost.network_config import Agent
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.errors import ServerUnreachable, TwinhostError
from twinhost.secure_zmq.wire import Reply

MEMORY, SYSTEM = "UnifiedMemoryReasoningAgent", "SystemDigitalTwin"
ATTENTION_S = 5.0  # as `./twinhost attention` waits, before it asks pc2 in place of mainpc
DEADLINE_S = 20.0  # of one request: an agent that restarts is back by then, and an MCP client still waits


class Agents:
    """Both agents; each is connected with its first call, and connected again whenever the link is lost."""

    def __init__(
        self, connect: Callable[[str], AsyncClient], registry: Agent, owner: str | None = None, space: str | None = None
    ) -> None:
        """Connect with one key.

        Args:
            connect: makes a client of an agent by its name, which follows changed keys; called on a thread, since it
                reads files, and asks mainpc for a key that is missing.
            registry: SystemDigitalTwin, as the configuration has it.
            owner: whose key it is; None if it may delete what others wrote: an operator's, or anybody's with
                SECURE_ZMQ=0.
            space: of the memory; None for the shared one.
        """
        self.owner = owner
        self._registry = registry
        self._space = {} if space is None else {"space": space}
        self._connect = connect
        self._clients: dict[str, asyncio.Task[AsyncClient]] = {}

    async def memory(self, action: str, **fields: Any) -> Reply:
        """Call UnifiedMemoryReasoningAgent; arguments and errors are those of `AsyncClient.call`."""
        return await self._call(MEMORY, action, {**fields, **self._space, "deadline_s": DEADLINE_S})

    async def system(self, action: str, *, wait_s: float = 0.0, **fields: Any) -> Reply:
        """Call SystemDigitalTwin, which waits for up to `wait_s` seconds itself."""
        waits = {"wait_s": wait_s} if wait_s else {}
        return await self._call(SYSTEM, action, {**fields, **waits, "deadline_s": DEADLINE_S + wait_s})

    async def attention(self) -> AttentionList:
        """Return mainpc's attention list, or while mainpc does not answer, pc2's, with why.

        Errors are those of `AsyncClient.call`: of mainpc, if pc2 can't be asked either.
        """
        try:
            reply = await self._call(SYSTEM, "get_attention", {"deadline_s": ATTENTION_S})
        except ServerUnreachable as error:
            try:
                reply = await self._call(MEMORY, "get_attention", {"deadline_s": ATTENTION_S})
            except TwinhostError:
                raise error from None
            listed = msgspec.convert(reply, AttentionList)
            return with_found(listed, [unreachable(self._registry, NO_ANSWER, str(error))], listed["as_of"])
        return msgspec.convert(reply, AttentionList)

    def close(self) -> None:
        """Close the connections."""
        for making in self._clients.values():
            if not making.cancel() and making.exception() is None:
                making.result().close()
        self._clients.clear()

    async def _call(self, agent: str, action: str, call: dict[str, Any]) -> Reply:
        if (making := self._clients.get(agent)) is None:
            making = self._clients[agent] = asyncio.create_task(asyncio.to_thread(self._connect, agent))
            making.add_done_callback(lambda made: self._forget_failed(agent, made))
        client = await asyncio.shield(making)  # a call that is cancelled leaves it to the others
        return await client.call(action, **call)

    def _forget_failed(self, agent: str, made: "asyncio.Task[AsyncClient]") -> None:
        """Have the next call try again."""
        if not made.cancelled() and made.exception() is not None:
            self._clients.pop(agent, None)
