"""The blocking client: one request at a time, typed errors, one request_id through every retry.

A change of keys on either side is one more reason to retry: the client reconnects with the keys that are valid then,
within the call's own deadline. `link` decides when; this module does the input and output.
"""

import os
import time
from types import TracebackType
from typing import Any

import zmq

from twinhost.secure_zmq.errors import ConnectionRefused, MalformedRequest, error_from_reply
from twinhost.secure_zmq.link import Link, Step
from twinhost.secure_zmq.server_address import ServerAddress, open_connection
from twinhost.secure_zmq.sockets import ClientSocket
from twinhost.secure_zmq.wire import Reply, decode_reply, encode_request

DEFAULT_DEADLINE_S = 5.0
DEFAULT_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
SPIN_S = 0.000_1  # how long to poll before sleeping: about what a reply takes
DONTWAIT = int(zmq.NOBLOCK)  # a plain number, as in `sockets`
_SLICE_MS = 20  # how long to wait before the link is checked again


def new_request_id() -> str:
    """Return an id that no other request has."""
    return os.urandom(16).hex()


def successful(reply: Reply) -> Reply:
    """Return a reply that is no error; raise the typed error of one that is."""
    if reply.get("status") == "error" and "code" in reply:
        raise error_from_reply(str(reply["code"]), str(reply.get("error", "no reason given")))
    return reply


class Client:
    """Calls the actions of one server; not to be shared between threads."""

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._link = Link(server)
        self._max_payload_bytes = max_payload_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection: ClientSocket | None = None

    def call(
        self, action: str, /, *, deadline_s: float = DEFAULT_DEADLINE_S, request_id: str | None = None, **fields: Any
    ) -> Reply:
        """Return the reply to one action.

        Args:
            action: its name, as in the server's table.
            deadline_s: seconds until ServerUnreachable; lost connections are retried within it.
            request_id: only to repeat an earlier call; the default is a fresh one.
            fields: the action's fields.

        Raises:
            NotAuthorized, WrongServerKey, SecurityMismatch: at once, when the handshake shows it; where the server
                or this client has changed its key, only after the keys that are valid now were tried.
            ServerUnreachable: after `deadline_s`.
            RequestError: the server answered with an error.
        """
        request_id = request_id or new_request_id()
        payload = encode_request(action, fields, request_id, self._max_payload_bytes)
        return successful(self._exchange(action, request_id, payload, deadline_s))

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        self._context.term()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, action: str, request_id: str, payload: bytes, deadline_s: float) -> Reply:
        link, sent_in, waiting_since = self._link, 0, time.monotonic()
        deadline = waiting_since + deadline_s
        if self._connection is None:
            time.sleep(max(0.0, min(link.backoff_s(), deadline_s)))
        while True:
            connection = self._connection or self._connect()
            session = link.session or link.wait_for_session(_SLICE_MS / 1_000)
            if session and session != sent_in and self._send(connection, payload):
                sent_in, waiting_since = session, time.monotonic()
            if sent_in and (reply := self._receive(connection, request_id)) is not None and link.accepts(reply):
                return reply
            now = time.monotonic()
            if self._drop_if_unusable(now, waiting_since, expired=now >= deadline):
                sent_in, waiting_since = 0, now
            if now >= deadline:
                raise link.diagnosis.timed_out(action, deadline_s)

    def _drop_if_unusable(self, now: float, waiting_since: float, *, expired: bool) -> bool:
        """Close the connection if it is of no more use; return whether it was closed."""
        try:
            step = self._link.step(now, waiting_since)
        except ConnectionRefused:
            self._drop()
            raise
        unanswered = expired and self._link.had_session  # the session may be dead without an event
        if step is Step.RECONNECT or unanswered:
            self._drop()
            return True
        return False

    def _connect(self) -> ClientSocket:
        target = self._link.next_target()
        self._connection = open_connection(target, self._context, self._link.feed, self._max_payload_bytes)
        self._connection.socket.rcvtimeo = _SLICE_MS
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @staticmethod
    def _send(connection: ClientSocket, payload: bytes) -> bool:
        try:
            connection.send(payload, DONTWAIT)
        except zmq.Again:  # no session yet
            return False
        return True

    @staticmethod
    def _receive(connection: ClientSocket, request_id: str) -> Reply | None:
        """Return the reply to this request; one to an earlier request came too late and is dropped."""
        try:
            payload = _spin(connection) or connection.socket.recv()
        except zmq.Again:
            return None
        reply = decode_reply(payload)
        answered = reply.get("request_id")
        if answered is None and reply.get("status") == "error":
            raise MalformedRequest(f"the server could not read the request: {reply.get('error')}")
        return reply if answered == request_id else None


def _spin(connection: ClientSocket) -> bytes | None:
    """Poll for a reply without sleeping: being woken costs half as much again as a reply takes."""
    until = time.perf_counter() + SPIN_S
    while time.perf_counter() < until:
        if connection.readable:
            return connection.socket.recv(DONTWAIT)
    return None
