"""A change of a server socket's key, asked for from any thread and done by the one that owns the socket."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.keys import KeyPair


class RekeyRequests:
    """At most one change waits; the loop that owns the socket looks between two batches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: tuple[KeyPair, Future[float]] | None = None
        self._over = False

    def ask(self, own_keys: KeyPair) -> "Future[float]":
        """Return what becomes of it: the seconds for which the socket was not bound, or the error.

        Raises:
            SocketMisuse: another change waits, or the loop has ended.
        """
        with self._lock:
            if self._over or self._waiting is not None:
                raise SocketMisuse("the key can't be changed: the server stops, or another change is not done yet")
            future: Future[float] = Future()
            self._waiting = own_keys, future
            return future

    @property
    def waiting(self) -> bool:
        return self._waiting is not None

    def carry_out(self, rekey: Callable[[KeyPair], None]) -> None:
        """Do what waits, on the loop's thread; an error is told to whoever asked, and ends the loop."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        own_keys, future = waiting
        started = time.monotonic()
        try:
            rekey(own_keys)
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(time.monotonic() - started)

    def end(self) -> None:
        """Take no more; what waits is cancelled."""
        with self._lock:
            self._over = True
            if self._waiting is not None:
                self._waiting[1].cancel()
                self._waiting = None
