"""NATS with TLS in which both sides prove themselves: Debian's nats-server, and nats-py on both ends of a request."""

import asyncio
from dataclasses import asdict
from typing import Any

import nats
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from tests.benchmarks.speed.child import ready
from tests.benchmarks.speed.messages import request
from tests.benchmarks.speed.place import ADDRESS
from tests.benchmarks.speed.task import ANSWER_WITHIN_S, Task, side_by_side
from tests.benchmarks.speed.tls import TlsFiles

_SUBJECT = "twin.call"


async def serve(folder: str, port: int, reply: str) -> None:
    """Answer every request with the same bytes, through the server."""
    answer = reply.encode()
    client = await _connect(folder, port)

    async def on_request(message: Msg) -> None:
        await message.respond(answer)

    await client.subscribe(_SUBJECT, cb=on_request)
    await client.flush()
    ready()
    await asyncio.Event().wait()


async def asynchronous(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Load the responder, through the server."""
    asked = Task(**task)
    payload = request(asked)
    clients = [await _connect(target["folder"], target["port"]) for _ in range(asked.clients)]
    calls = [lambda client=client: client.request(_SUBJECT, payload, timeout=ANSWER_WITHIN_S) for client in clients]
    outcome = await side_by_side(calls, asked.in_flight, asked.seconds)
    for client in clients:
        await client.close()
    return asdict(outcome)


async def _connect(folder: str, port: int) -> NatsClient:
    context = TlsFiles(folder).context("client")
    return await nats.connect(
        f"tls://{ADDRESS}:{port}",
        tls=context,
        tls_hostname="localhost",
        max_reconnect_attempts=50,
        reconnect_time_wait=0.1,
    )
