"""One key that sends as fast as it can, in a process of its own, and what another that asks politely sees of it.

A flood in the caller's own process would take the interpreter from the calls that are measured.
"""

import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import zmq

from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES, Client
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.secure_zmq.sockets import limit_socket, secure_unconnected_client

Calls = Sequence[tuple[str, Mapping[str, Any]]]  # the actions of a polite caller, and their fields
GOAL_MS = 25.0  # by which a polite caller's p99 may be longer beside a flood
A_SECOND, WINDOW_S = 50, 2.0  # a polite caller's calls; how long each is watched, without a flood and beside it
_LEAST_PRIORITY = 19  # of the flood, whose own use of the processors is not what is measured
_NUMBER = "NUMBER"  # in a request: another one each time
_ANSWER_WITHIN_S = 60.0
_LONGEST_ERROR_BYTES = 4_096


@dataclass(frozen=True)
class Flood:
    """What the impolite key asks for, over and over: requests in turn, on so many connections, so many unanswered."""

    requests: Sequence[Mapping[str, Any]]
    connections: int = 64
    in_flight: int = 32


@dataclass(frozen=True)
class Beside:
    """What a polite caller saw before a flood and beside it: how long each call took, in ms.

    `answered` is how many replies the flood got, by code or `ok`.
    """

    quiet: list[float]
    flooded: list[float]
    answered: Mapping[str, int] = field(default_factory=dict)

    @property
    def quiet_p99_ms(self) -> float:
        return _p99(self.quiet)

    @property
    def p99_ms(self) -> float:
        return _p99(self.flooded)

    @property
    def in_time(self) -> bool:
        """Whether the flood leaves the goal."""
        return self.p99_ms <= GOAL_MS + self.quiet_p99_ms

    def __str__(self) -> str:
        return f"p99 is {self.p99_ms:.0f} ms, and {self.quiet_p99_ms:.0f} ms without the flood"


def watched(flood: Flood, address: SecuredAddress, polite: Client, calls: Calls) -> Beside:
    """Have a client make some calls in turn, so many a second, first in quiet and then beside a flood by another key.

    Raises:
        OSError: the flood got no answer at first, or ended by itself.
    """
    quiet = _ask(polite, calls)
    with _flooding(flood, address) as answered:
        flooded = _ask(polite, calls)
    return Beside(quiet, flooded, answered)


def _ask(client: Client, calls: Calls) -> list[float]:
    took_ms: list[float] = []
    began = time.monotonic()
    for number, (action, fields) in enumerate(itertools.cycle(calls)):
        due = began + number / A_SECOND
        if due > began + WINDOW_S:
            break
        time.sleep(max(0.0, due - time.monotonic()))
        asked = time.monotonic()
        client.call(action, deadline_s=_ANSWER_WITHIN_S, **fields)
        took_ms.append(1_000 * (time.monotonic() - asked))
    return took_ms


def _p99(took_ms: list[float]) -> float:
    return statistics.quantiles(took_ms, n=100, method="inclusive")[98]


@contextmanager
def _flooding(flood: Flood, address: SecuredAddress) -> Iterator[dict[str, int]]:
    """Flood while the block runs; what it yields has the replies by then."""
    ours, theirs = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")  # a process with threads is not safely forked
    process = spawn.Process(target=_flood, args=(flood, address, theirs), daemon=True)
    process.start()
    theirs.close()
    answered: dict[str, int] = {}
    try:
        _received(ours)  # it has an answer on every connection
        yield answered
        ours.send("stop")
        answered.update(_received(ours))
    finally:
        process.kill()
        process.join()


def _received(connection: Connection) -> Any:
    try:
        if connection.poll(_ANSWER_WITHIN_S):
            return connection.recv()
    except EOFError:
        raise ConnectionError("the process of the flood ended by itself") from None
    raise TimeoutError("the flood was not answered")


def _flood(flood: Flood, address: SecuredAddress, parent: Connection) -> None:
    os.nice(_LEAST_PRIORITY)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = [_connected(context, address) for _ in range(flood.connections)]
    poller = zmq.Poller()
    texts = itertools.cycle([json.dumps({**request, "request_id": f"flood-{_NUMBER}"}) for request in flood.requests])
    numbers = itertools.count(time.time_ns())

    def send(socket: "zmq.Socket[bytes]") -> None:
        socket.send_string(next(texts).replace(_NUMBER, str(next(numbers))))

    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
        send(socket)
        if not socket.poll(int(1_000 * _ANSWER_WITHIN_S)):
            return
        socket.recv()
    parent.send("begun")
    for socket in sockets:
        for _ in range(flood.in_flight):
            send(socket)
    answered: dict[str, int] = {}
    while not parent.poll():
        for socket, _ in poller.poll(100):
            for reply in _arrived(socket, flood.in_flight):
                code = json.loads(reply).get("code", "ok") if len(reply) < _LONGEST_ERROR_BYTES else "ok"
                answered[code] = answered.get(code, 0) + 1
                send(socket)
    parent.send(answered)


def _connected(context: "zmq.Context[zmq.Socket[bytes]]", address: SecuredAddress) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.DEALER)
    limit_socket(socket, DEFAULT_MAX_PAYLOAD_BYTES)
    secure_unconnected_client(socket, address.own_keys, address.server_key)
    socket.connect(address.address)
    return socket


def _arrived(socket: "zmq.Socket[bytes]", most: int) -> Iterator[bytes]:
    with suppress(zmq.Again):
        for _ in range(most):
            yield socket.recv(zmq.NOBLOCK)
