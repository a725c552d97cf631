"""One agent's key that sends as fast as it can, and another's that asks politely: each in a process of its own."""

import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import zmq

from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.secure_zmq.sockets import limit_socket, secure_unconnected_client

_LEAST_PRIORITY = 19  # of the flood, whose own use of the processors is not what is measured
_PAYLOAD_BYTES = 4 * 2**20
_NUMBER = "NUMBER"  # in a request: another one each time
_ANSWER_WITHIN_S = 60.0


@dataclass(frozen=True)
class Flood:
    """What the impolite key asks for, over and over: requests in turn, on so many connections, so many unanswered."""

    name: str
    agent: str
    requests: Sequence[Mapping[str, Any]]
    connections: int = 64
    in_flight: int = 32


@dataclass
class Seen:
    """What a polite key saw: how long each call took, in ms, by action."""

    took_ms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(itertools.chain(*self.took_ms.values()), n=100, method="inclusive")[98]

    def __str__(self) -> str:
        median = statistics.median(itertools.chain(*self.took_ms.values()))
        return f"p50 {median:.1f}, p99 {self.p99_ms:.1f} ms"


class Flooding:
    """A flood while the block runs; afterwards `answered` is how many replies it got, by code or `ok`."""

    def __init__(self, flood: Flood, address: SecuredAddress) -> None:
        self._stack = ExitStack()
        self._ours = _start(self._stack, _flood, (flood, address))
        self.answered: dict[str, int] = {}

    def __enter__(self) -> "Flooding":
        _receive(self._ours)  # it has an answer on every connection
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._ours.send("stop")
            self.answered = _receive(self._ours)


def ask_politely(
    calls: Sequence[tuple[str, Mapping[str, Any]]], address: SecuredAddress, a_second: float, seconds: float
) -> Seen:
    """Have a process of its own make some calls in turn, so many a second, and return what it saw."""
    with ExitStack() as stack:
        ours = _start(stack, _ask, (calls, address, a_second, seconds))
        return Seen(_receive(ours, seconds))


def _start(stack: ExitStack, target: Callable[..., None], arguments: tuple[Any, ...]) -> Connection:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    stack.callback(process.join)
    return ours


def _receive(connection: Connection, more_s: float = 0.0) -> Any:
    if not connection.poll(_ANSWER_WITHIN_S + more_s):
        raise TimeoutError("the other process did not answer")
    return connection.recv()


def _ask(
    calls: Sequence[tuple[str, Mapping[str, Any]]],
    address: SecuredAddress,
    a_second: float,
    seconds: float,
    parent: Connection,
) -> None:
    took_ms: dict[str, list[float]] = {action: [] for action, _ in calls}
    with Client(address) as client:
        for action, fields in calls:
            client.call(action, deadline_s=_ANSWER_WITHIN_S, **fields)
        began = time.monotonic()
        for number, (action, fields) in enumerate(itertools.cycle(calls)):
            due = began + number / a_second
            if due > began + seconds:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            asked = time.monotonic()
            client.call(action, deadline_s=_ANSWER_WITHIN_S, **fields)
            took_ms[action].append(1_000 * (time.monotonic() - asked))
    parent.send(took_ms)


def _flood(flood: Flood, address: SecuredAddress, parent: Connection) -> None:
    os.nice(_LEAST_PRIORITY)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    texts = itertools.cycle(
        [json.dumps({**request, "request_id": f"{flood.name}-{_NUMBER}"}) for request in flood.requests]
    )
    numbers = itertools.count(time.time_ns())

    def send(socket: "zmq.Socket[bytes]") -> None:
        socket.send_string(next(texts).replace(_NUMBER, str(next(numbers))))

    answered: dict[str, int] = {}
    sockets = []
    for _ in range(flood.connections):
        socket = context.socket(zmq.DEALER)
        limit_socket(socket, _PAYLOAD_BYTES)
        secure_unconnected_client(socket, address.own_keys, address.server_key)
        socket.linger = 0
        socket.connect(address.address)
        poller.register(socket, zmq.POLLIN)
        sockets.append(socket)
    for socket in sockets:
        send(socket)
        assert socket.poll(int(1_000 * _ANSWER_WITHIN_S))
        socket.recv()
    parent.send("begun")
    for socket in sockets:
        for _ in range(flood.in_flight):
            send(socket)
    while not parent.poll():
        for socket, _ in poller.poll(100):
            for _ in range(flood.in_flight):
                try:
                    reply = socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                code = json.loads(reply).get("code", "ok") if len(reply) < 4_096 else "ok"
                answered[code] = answered.get(code, 0) + 1
                send(socket)
    parent.send(answered)
    context.destroy(linger=0)
