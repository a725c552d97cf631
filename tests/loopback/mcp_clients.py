"""MCP clients of the SDK, connected to `twinhost mcp` as a process, or to its server in this process."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, TextContent

from tests.loopback.agent_processes import SDT, SERVICES, Hosts
from twinhost.mcp.agents import Agents
from twinhost.mcp.server import mcp_server
from twinhost.secure_zmq.aio import AsyncClient

ARGUMENTS = ["-m", "twinhost.cli", "mcp"]


def stdio(hosts: Hosts, by: str = "operator", **environment: str) -> StdioServerParameters:
    """Return how to start `twinhost mcp` with the key of `by`."""
    return StdioServerParameters(command=sys.executable, args=ARGUMENTS, env=hosts.environment(by) | environment)


@asynccontextmanager
async def in_process(hosts: Hosts, by: str = "operator", space: str | None = None) -> AsyncIterator[Client]:
    """Yield a client of a server in this process, with the key of `by`."""
    owner, registry = None if by == "operator" else by, hosts.config.agents[SDT]
    agents = Agents(lambda name: AsyncClient(hosts.address(name, by)), registry, owner, space)
    try:
        async with Client(mcp_server(agents)) as client:
            yield client
    finally:
        agents.close()


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return the structured content of a call that succeeds."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, texts(result)
    found: dict[str, Any] = result.structured_content
    return found


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """Return the sentence of a call that is refused."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    (text,) = texts(result)
    return text


def texts(result: CallToolResult) -> list[str]:
    return [each.text for each in result.content if isinstance(each, TextContent)]


def own_environment(home: Path) -> dict[str, str]:
    """Return the environment of a process that has a home of its own, and no variable of twinhost."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TWINHOST_", "XDG_"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(SERVICES)}
