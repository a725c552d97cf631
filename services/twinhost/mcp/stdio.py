"""One client on stdin and stdout, which are read and written on the event loop.

The SDK has a thread do each read, write and flush, which is a quarter of what a call costs beside the agent's own time.
It still does so for a terminal or a file: an event loop can't wait for those.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from mcp.server.stdio import stdio_server

from twinhost.mcp.agents import Agents
from twinhost.mcp.server import mcp_server

_LINE_BYTES = 2**26  # of one message at most; an agent takes no request above 4 MiB


async def serve_stdio(agents: Agents) -> None:
    """Serve one client on stdin and stdout, until it closes them."""
    server = mcp_server(agents)
    try:
        async with _streams() as (stdin, stdout), stdio_server(stdin, stdout) as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options())
    finally:
        agents.close()


@asynccontextmanager
async def _streams() -> AsyncIterator[tuple[Any, Any]]:
    """Yield what the SDK uses in place of its own files; None where it has to use those.

    As with its own, whoever else reads stdin finds nothing, and what else is printed goes to stderr.
    """
    if not (_is_pipe(0) and _is_pipe(1)):
        yield None, None
        return
    loop, lines = asyncio.get_running_loop(), asyncio.StreamReader(_LINE_BYTES)
    with os.fdopen(os.dup(0), "rb", 0) as stdin, os.fdopen(os.dup(1), "wb", 0) as stdout:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), stdin)
        writing, output = await loop.connect_write_pipe(_Output, stdout)
        try:
            yield lines, output
        finally:
            reading.close()
            if not writing.is_closing():  # the client has closed its end
                writing.abort()


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _Output(asyncio.BaseProtocol):
    """What the SDK writes to; after the client has closed its end, nothing is written."""

    def __init__(self) -> None:
        self._written = asyncio.Event()  # all that was given
        self._written.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.set_write_buffer_limits(0)

    def pause_writing(self) -> None:
        self._written.clear()

    def resume_writing(self) -> None:
        self._written.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._written.set()

    async def write(self, text: str) -> None:
        self._transport.write(text.encode())

    async def flush(self) -> None:
        await self._written.wait()
