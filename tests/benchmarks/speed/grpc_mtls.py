"""gRPC with mutual TLS, by its generic handlers: bytes in, bytes out, no codec of its own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tests.benchmarks.speed.child import ready
from tests.benchmarks.speed.messages import request
from tests.benchmarks.speed.place import ADDRESS
from tests.benchmarks.speed.task import Task, one_by_one, side_by_side
from tests.benchmarks.speed.tls import TlsFiles

_METHOD = "/bench.Twin/Call"
_LIMIT = 8 * 1024 * 1024  # bytes of a message; its own is 4 MiB
_OPTIONS = [
    ("grpc.max_receive_message_length", _LIMIT),
    ("grpc.max_send_message_length", _LIMIT),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each channel
]
_THREADS = 8


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, behaviour: Any) -> None:
        self._method = grpc.unary_unary_rpc_method_handler(behaviour)

    def service(self, handler_call_details: Any) -> Any:
        return self._method if handler_call_details.method == _METHOD else None


def serve(folder: str, port: int, reply: str) -> None:
    """Answer every call with the same bytes, from a pool of threads."""
    answer = reply.encode()
    server = grpc.server(
        ThreadPoolExecutor(_THREADS), handlers=[_Handler(lambda _, __: answer)], options=_OPTIONS, compression=None
    )
    server.add_secure_port(f"{ADDRESS}:{port}", _server_credentials(folder))
    server.start()
    ready()
    server.wait_for_termination()


async def serve_aio(folder: str, port: int, reply: str) -> None:
    """The same on asyncio."""
    answer = reply.encode()

    async def call(_: bytes, __: Any) -> bytes:
        return answer

    server = grpc.aio.server(handlers=[_Handler(call)], options=_OPTIONS)
    server.add_secure_port(f"{ADDRESS}:{port}", _server_credentials(folder))
    await server.start()
    ready()
    await server.wait_for_termination()


def blocking(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Load the server over one channel, one call at a time."""
    asked = Task(**task)
    payload = request(asked)
    with grpc.secure_channel(f"{ADDRESS}:{target['port']}", _credentials(target), options=_OPTIONS) as channel:
        method = channel.unary_unary(_METHOD)
        outcome = one_by_one(lambda: method(payload), asked.seconds)
    return asdict(outcome)


async def asynchronous(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Load the server over one or more channels."""
    asked = Task(**task)
    payload = request(asked)
    credentials = _credentials(target)
    channels = [_aio_channel(target, credentials) for _ in range(asked.clients)]
    methods = [channel.unary_unary(_METHOD) for channel in channels]
    calls = [lambda method=method: method(payload) for method in methods]
    outcome = await side_by_side(calls, asked.in_flight, asked.seconds)
    await asyncio.gather(*(channel.close() for channel in channels))
    return asdict(outcome)


def connecting(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Connect, have one call answered, close."""
    asked = Task(**task)
    payload = request(asked)

    def call() -> None:
        with grpc.secure_channel(f"{ADDRESS}:{target['port']}", _credentials(target), options=_OPTIONS) as channel:
            channel.unary_unary(_METHOD)(payload)

    return asdict(one_by_one(call, asked.seconds))


def _aio_channel(target: dict[str, Any], credentials: Any) -> Any:
    return grpc.aio.secure_channel(f"{ADDRESS}:{target['port']}", credentials, options=_OPTIONS)


def _server_credentials(folder: str) -> Any:
    files = TlsFiles(folder)
    pair = (Path(files.key("server")).read_bytes(), Path(files.certificate("server")).read_bytes())
    return grpc.ssl_server_credentials([pair], Path(files.authority).read_bytes(), require_client_auth=True)


def _credentials(target: dict[str, Any]) -> Any:
    files = TlsFiles(target["folder"])
    return grpc.ssl_channel_credentials(
        Path(files.authority).read_bytes(),
        Path(files.key("client")).read_bytes(),
        Path(files.certificate("client")).read_bytes(),
    )
