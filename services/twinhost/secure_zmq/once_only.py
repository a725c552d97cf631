"""A mutating request is executed once: a retry gets the reply that was stored together with the change."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from twinhost.secure_zmq.errors import RequestIdReused


class StoredReply(Protocol):
    """A reply that was given before."""

    @property
    def digest(self) -> bytes: ...
    @property
    def reply(self) -> bytes: ...


class Store(Protocol):
    """What the dispatcher needs of a durable store."""

    def transaction(self) -> AbstractContextManager[None]: ...
    def savepoint(self) -> AbstractContextManager[None]: ...


class ReplyLog(Protocol):
    """The replies to mutating requests, kept in the same store."""

    def find(self, caller: str, request_id: str) -> StoredReply | None: ...
    def add(self, caller: str, request_id: str, digest: bytes, reply: bytes) -> None: ...


class OnceOnly:
    """Executes within the transaction under way, each request in a savepoint of its own."""

    def __init__(self, store: Store, replies: ReplyLog) -> None:
        self._store = store
        self._replies = replies

    def execute(self, caller: str, request_id: str | None, payload: bytes, handle: Callable[[], bytes]) -> bytes:
        """Return the reply to a request: the stored one, or what `handle` returns, stored with what it changed.

        Args:
            caller: whose the id is.
            request_id: None is executed every time.
            payload: the request as it came, byte for byte: what makes a retry the same request.
            handle: makes the change and returns the reply; where it raises, nothing of either is kept.

        Raises:
            RequestIdReused: the id came with another payload.
        """
        if request_id is None:
            with self._store.savepoint():
                return handle()
        digest = hashlib.blake2b(payload, digest_size=16).digest()
        stored = self._replies.find(caller, request_id)
        if stored is not None:
            if stored.digest != digest:
                raise RequestIdReused(f"request_id {request_id!r} was used with another body; use a fresh one")
            return stored.reply
        with self._store.savepoint():
            reply = handle()
            self._replies.add(caller, request_id, digest, reply)
        return reply
