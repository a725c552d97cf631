"""Mutual TLS 1.3 on asyncio's transports alone: a length before each message, and no protocol beside that."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from tests.benchmarks.speed.child import ready
from tests.benchmarks.speed.messages import request
from tests.benchmarks.speed.place import ADDRESS
from tests.benchmarks.speed.task import Task, side_by_side
from tests.benchmarks.speed.tls import TlsFiles

_HEAD = 4  # bytes


class _Framed(asyncio.Protocol):
    """Cuts the stream into messages; the transport is TLS."""

    def __init__(self, on_message: Callable[["_Framed"], None]) -> None:
        self._on_message = on_message
        self._buffer = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEAD:
            size = _HEAD + int.from_bytes(buffer[:_HEAD], "big")
            if len(buffer) < size:
                return
            del buffer[:size]
            self._on_message(self)


class _Client:
    """One connection; replies come in the order of the requests."""

    def __init__(self, files: TlsFiles, port: int) -> None:
        self._context = files.context("client")
        self._port = port
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._framed: _Framed | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._framed = await loop.create_connection(
            lambda: _Framed(lambda _: self._waiting.popleft().set_result(None)),
            ADDRESS,
            self._port,
            ssl=self._context,
            server_hostname="localhost",
        )

    def call(self, message: bytes) -> Awaitable[None]:
        assert self._framed is not None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._framed.transport.write(message)
        return future

    def close(self) -> None:
        if self._framed is not None:
            self._framed.transport.abort()


async def serve(folder: str, port: int, reply: str) -> None:
    """Answer every message with the same bytes."""
    answer = _framed(reply.encode())
    server = await asyncio.get_running_loop().create_server(
        lambda: _Framed(lambda framed: framed.transport.write(answer)),
        ADDRESS,
        port,
        ssl=TlsFiles(folder).context("server"),
        backlog=1_024,
    )
    ready()
    await server.serve_forever()


async def asynchronous(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Load the server over one or more connections."""
    asked = Task(**task)
    message = _framed(request(asked))
    clients = [_Client(TlsFiles(target["folder"]), target["port"]) for _ in range(asked.clients)]
    for client in clients:
        await client.open()
    calls = [lambda client=client: client.call(message) for client in clients]
    outcome = await side_by_side(calls, asked.in_flight, asked.seconds)
    for client in clients:
        client.close()
    return asdict(outcome)


async def connecting(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Connect, have one request answered, close."""
    asked = Task(**task)
    message = _framed(request(asked))
    client = _Client(TlsFiles(target["folder"]), target["port"])

    async def call() -> None:
        await client.open()
        await client.call(message)
        client.close()

    return asdict(await side_by_side([call], 1, asked.seconds))


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(_HEAD, "big") + message
