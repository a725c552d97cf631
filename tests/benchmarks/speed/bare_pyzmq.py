"""Bare pyzmq: a ROUTER without identity, codec, or dispatch, with CURVE or without; clients that know libzmq alone."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import zmq
from zmq.utils import z85

from tests.benchmarks.speed.child import ready
from tests.benchmarks.speed.messages import LOAD_AGENT, around_the_id, request
from tests.benchmarks.speed.task import ANSWER_WITHIN_S, ID_CHARACTERS, Outcome, Task, one_by_one
from twinhost.secure_zmq.bound_socket import limit_router
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES
from twinhost.secure_zmq.sockets import ZAP_DOMAIN, ZAP_ENDPOINT

_SOCKETS = 4_096  # of a context
_MAX_BATCH = 256  # requests that share one commit, as in the product
_TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE agents (name TEXT PRIMARY KEY NOT NULL, record BLOB NOT NULL, last_seen REAL NOT NULL) STRICT;
CREATE TABLE replies (
    seq INTEGER PRIMARY KEY, caller TEXT NOT NULL, requests TEXT NOT NULL, digests BLOB NOT NULL, replies BLOB NOT NULL
) STRICT;
"""
_UPSERT = "INSERT INTO agents VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET record = excluded.record"
_APPEND = "INSERT INTO replies (caller, requests, digests, replies) VALUES (?, ?, ?, ?)"
_held: list[Any] = []


def serve(endpoint: str, secret: str | None, reply: str, admitted: dict[str, str] | None = None) -> None:
    """Answer every request with the same bytes, on a ROUTER.

    Args:
        endpoint: where to bind.
        secret: the server's; None: without CURVE.
        reply: the bytes.
        admitted: the names of the keys that a ZAP handler admits, and this project's socket options; None: neither.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    if admitted is not None:
        limit_router(socket, DEFAULT_MAX_PAYLOAD_BYTES)
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        names = {z85.decode(key.encode()): name.encode() for key, name in admitted.items()}
        threading.Thread(target=_admit, args=(context.socket(zmq.REP), names), daemon=True).start()
    _bind(socket, endpoint, secret)
    answer = reply.encode()
    while True:
        route = socket.recv()
        socket.recv()
        socket.send(route, zmq.SNDMORE)
        socket.send(answer)


def _admit(zap: "zmq.Socket[bytes]", names: dict[bytes, bytes]) -> None:
    """Answer as the least ZAP handler does: one dictionary, no limit, no record."""
    zap.bind(ZAP_ENDPOINT)
    while True:
        version, request, *_, key = zap.recv_multipart()
        name = names.get(key)
        verdict = [b"400", b"", b"", b""] if name is None else [b"200", b"OK", name, b""]
        zap.send_multipart([version, request, *verdict])


def serve_committing(endpoint: str, secret: str, reply: str, database: str) -> None:
    """Answer like `serve`, after a commit for all that has arrived; the rows are those of the product."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.executescript(_TABLES)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    _bind(socket, endpoint, secret)
    answer = reply.encode()
    begins = len(around_the_id(Task("register_agent"))[0])
    while True:
        batch = [(socket.recv(), socket.recv())]
        try:
            while len(batch) < _MAX_BATCH:
                batch.append((socket.recv(zmq.DONTWAIT), socket.recv()))
        except zmq.Again:
            pass
        ids = [payload[begins : begins + ID_CHARACTERS].decode() for _, payload in batch]
        requests = json.dumps([(each, len(answer)) for each in ids], separators=(",", ":"))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_UPSERT, (LOAD_AGENT, batch[-1][1], 0.0))
        connection.execute(_APPEND, (LOAD_AGENT, requests, bytes(16 * len(batch)), answer * len(batch)))
        connection.execute("COMMIT")
        for route, _ in batch:
            socket.send(route, zmq.SNDMORE)
            socket.send(answer)


def _bind(socket: "zmq.Socket[bytes]", endpoint: str, secret: str | None) -> None:
    socket.backlog = 1_024
    if secret is not None:
        socket.curve_server = True
        socket.curve_secretkey = secret.encode()
    socket.bind(endpoint)
    ready()


def blocking(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Load a server over one connection: one request at a time, or several in flight."""
    asked = Task(**task)
    payload = request(asked)
    with zmq.Context() as context, _connected(context, target, 0) as socket:
        for _ in range(asked.in_flight - 1):
            socket.send(payload)

        def call() -> None:
            socket.send(payload)
            socket.recv()

        outcome = one_by_one(call, asked.seconds)
    return asdict(outcome)


def connecting(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Connect, have one request answered, close; with every key in turn."""
    asked = Task(**task)
    payload = request(asked)
    turn = 0
    with zmq.Context() as context:

        def call() -> None:
            nonlocal turn
            with _connected(context, target, turn) as socket:
                socket.send(payload)
                socket.recv()
            turn += 1

        outcome = one_by_one(call, asked.seconds)
    return asdict(outcome)


def holding(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Open connections, each with a key of its own, have one request of each answered, and hold them."""
    asked = Task(**task)
    context = zmq.Context()
    context.max_sockets = _SOCKETS
    _held.append(context)
    for turn in range(asked.clients):
        socket = _open(context, target, turn)
        _held.append(socket)
        socket.send(request(asked))
        socket.recv()
    return asdict(Outcome(asked.clients, 0, 1.0, 0.0))


@contextmanager
def _connected(
    context: "zmq.Context[zmq.Socket[bytes]]", target: dict[str, Any], turn: int
) -> "Iterator[zmq.Socket[bytes]]":
    socket = _open(context, target, turn)
    try:
        yield socket
    finally:
        socket.close(0)


def _open(context: "zmq.Context[zmq.Socket[bytes]]", target: dict[str, Any], turn: int) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.DEALER)
    socket.rcvtimeo = round(1_000 * ANSWER_WITHIN_S)
    if target["pin"] is not None:
        public, secret = target["keys"][turn % len(target["keys"])]
        socket.curve_serverkey = target["pin"].encode()
        socket.curve_publickey, socket.curve_secretkey = public.encode(), secret.encode()
    socket.connect(target["endpoint"])
    return socket
