"""A rotation of this agent's own key: its file is followed, and the thread that owns a socket changes the key there."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from twinhost.secure_zmq.certificates import Certificates, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError, KeyMismatch, SocketMisuse
from twinhost.secure_zmq.keys import KeyPair

_log = structlog.get_logger(__name__)


class OwnKeys:
    """The pair that the agent uses at this moment; a rotation puts another secret in the file, and it takes effect."""

    def __init__(self, certificates: Certificates) -> None:
        self._folder = certificates.folder
        self._pair = certificates.own_keys
        self._fault: str | None = None
        self._lock = threading.Lock()

    def __call__(self) -> KeyPair:
        """Return the pair; it is kept in memory."""
        return self._pair

    @property
    def fault(self) -> str | None:
        """What is wrong with the secret in the file now; the one before it is in use."""
        return self._fault

    def look(self) -> None:
        """Read the file again; another pair of the same owner takes effect, anything else is logged and ignored."""
        with self._lock:
            try:
                pair = load_certificates(self._folder).own_keys
                self._require_same_owner(pair)
            except ConfigurationError as error:
                if str(error) != self._fault:
                    _log.error("own_key_rejected", reason=str(error), effect="the key in use stays")
                self._fault = str(error)
                return
            self._fault = None
            if pair == self._pair:
                return
            self._pair = pair
        _log.info("own_key_changed", fingerprint=pair.public.fingerprint)

    def _require_same_owner(self, pair: KeyPair) -> None:
        mine, found = self._pair.certificate.owner, pair.certificate.owner
        if found != mine:
            raise KeyMismatch(f"{self._folder} holds the key of {found.name} now and this is {mine.name}; put its own")


class RekeyRequests:
    """At most one change waits; the loop that owns the socket looks between two batches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: tuple[KeyPair, Future[float]] | None = None
        self._ended = False

    def ask(self, own_keys: KeyPair) -> "Future[float]":
        """Ask for a change; its result is the seconds for which the socket was not bound, or the error.

        Raises:
            SocketMisuse: another change waits, or the loop has ended.
        """
        with self._lock:
            if self._ended or self._waiting is not None:
                raise SocketMisuse("the key can't be changed: the server stops, or another change is not done yet")
            future: Future[float] = Future()
            self._waiting = own_keys, future
            return future

    @property
    def waiting(self) -> bool:
        return self._waiting is not None

    def carry_out(self, rekey: Callable[[KeyPair], None]) -> None:
        """Make the change that waits, on the loop's thread; an error goes to whoever asked, and ends the loop."""
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
        """Accept no more; the change that waits is cancelled."""
        with self._lock:
            self._ended = True
            if self._waiting is not None:
                self._waiting[1].cancel()
                self._waiting = None
