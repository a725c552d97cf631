"""The blocking client: one request at a time, typed errors, one request_id through every retry.

A change of keys on either side is one more reason to retry: the connection is made anew with the
keys of that moment, within the call's own deadline.
"""

import os
import random
import time
from types import TracebackType
from typing import Any

import zmq

from twinhost.secure_zmq.diagnosis import Diagnosis
from twinhost.secure_zmq.errors import MalformedRequest, PeerNotLive, error_from_reply
from twinhost.secure_zmq.server_address import ServerAddress, TargetChoice
from twinhost.secure_zmq.sockets import ClientSocket
from twinhost.secure_zmq.wire import Reply, decode_reply, encode_request

DEFAULT_DEADLINE_S = 5.0
DEFAULT_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
LOOK_S = 0.000_1  # how long to look before sleeping: about what a reply takes
AT_ONCE = int(zmq.NOBLOCK)  # a plain number, as in `sockets`
_SLICE_MS = 20  # how long to wait before looking at the diagnosis again
REBUILD_AFTER_S = 2.0  # libzmq gives some sockets up without a word; the id makes a second copy harmless
_BACK_OFF_S = 0.1
_BACK_OFF_MAX_S = 2.0


def back_off_s(failures: int) -> float:
    """Return how long to wait before the next socket, with jitter, so that many clients don't come at once."""
    if failures == 0:
        return 0.0
    return min(_BACK_OFF_MAX_S, _BACK_OFF_S * 2.0**failures) * random.uniform(0.5, 1.0)  # noqa: S311


def new_request_id() -> str:
    """Return an id that no other request has."""
    return os.urandom(16).hex()


def refused_as_retired(reply: Reply, choice: TargetChoice) -> bool:
    """Whether a reply refuses a key of ours that we have changed since: not executed, and worth another try."""
    return reply.get("code") == PeerNotLive.code and choice.withdrawn()


def _look_briefly(connection: ClientSocket) -> bytes | None:
    """Return what comes while one looks again and again; to be woken from sleep takes half as long as a reply."""
    until = time.perf_counter() + LOOK_S
    while time.perf_counter() < until:
        if connection.readable:
            return connection.socket.recv(AT_ONCE)
    return None


class Client:
    """Calls the actions of one server; not shared between threads."""

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._choice = TargetChoice(server)
        self._max_payload_bytes = max_payload_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection: ClientSocket | None = None
        self._diagnosis = Diagnosis.blank()
        self._failures = 0

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
                or this client has changed its key, only after the keys of this moment were tried.
            ServerUnreachable: after `deadline_s`.
            RequestError: the server answered with an error.
        """
        request_id = request_id or new_request_id()
        payload = encode_request(action, fields, request_id, self._max_payload_bytes)
        reply = self._exchange(action, request_id, payload, deadline_s)
        if reply.get("status") == "error" and "code" in reply:
            raise error_from_reply(str(reply["code"]), str(reply.get("error", "no reason given")))
        return reply

    def close(self) -> None:
        """Let the connection go; what was answered stays answered."""
        self._drop()
        self._context.term()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, action: str, request_id: str, payload: bytes, deadline_s: float) -> Reply:
        deadline = time.monotonic() + deadline_s
        if self._connection is None:
            time.sleep(max(0.0, min(back_off_s(self._failures), deadline_s)))
        while True:
            reply = self._try(self._connection or self._connect(), request_id, payload, deadline)
            if reply is not None and not refused_as_retired(reply, self._choice):
                self._failures = 0
                self._choice.worked()
                return reply
            if (error := self._choice.final(self._diagnosis)) is not None:
                self._drop()
                self._failures += 1
                raise error
            if time.monotonic() >= deadline:
                if self._diagnosis.generation or self._diagnosis.verdict() is not None:
                    self._drop()
                raise self._diagnosis.timed_out(action, deadline_s)
            self._drop()

    def _try(self, connection: ClientSocket, request_id: str, payload: bytes, deadline: float) -> Reply | None:
        """Return the reply, or None where this connection brings none: refused, withdrawn, silent, or out of time."""
        diagnosis = self._diagnosis
        sent_in, tried_at = 0, time.monotonic()
        while True:
            unsent = not sent_in or sent_in != diagnosis.generation
            if unsent and (diagnosis.connected or diagnosis.wait_until_settled(_SLICE_MS / 1_000)):
                generation = diagnosis.generation
                if not self._choice.withdrawn() and self._send(connection, payload):
                    sent_in, tried_at = generation, time.monotonic()
            if sent_in and (reply := self._receive(connection, request_id)) is not None:
                return reply
            silent = diagnosis.generation and time.monotonic() - tried_at > REBUILD_AFTER_S
            over = diagnosis.verdict() is not None or time.monotonic() >= deadline
            if silent or over or self._choice.withdrawn():
                return None

    def _connect(self) -> ClientSocket:
        target, self._diagnosis = self._choice.choose()
        self._connection = target.open(self._context, self._diagnosis.feed, self._max_payload_bytes)
        self._connection.socket.rcvtimeo = _SLICE_MS
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @staticmethod
    def _send(connection: ClientSocket, payload: bytes) -> bool:
        try:
            connection.send(payload, AT_ONCE)
        except zmq.Again:  # no session yet
            return False
        return True

    @staticmethod
    def _receive(connection: ClientSocket, request_id: str) -> Reply | None:
        """Return the reply to this request; one to an earlier request came too late and is dropped."""
        try:
            payload = _look_briefly(connection) or connection.socket.recv()
        except zmq.Again:
            return None
        reply = decode_reply(payload)
        answered = reply.get("request_id")
        if answered is None and reply.get("status") == "error":
            raise MalformedRequest(f"the server could not read the request: {reply.get('error')}")
        return reply if answered == request_id else None
