"""The ZAP handler (RFC 27): asked by libzmq at every CURVE handshake of one Context.

Its rules: one handler per Context; it runs before a socket is bound and can't be stopped while one is; only a listed
key is accepted, and only up to its limit of connections; if the handler itself fails, every key is refused.

A client waits for the answer, so an accepted key is recorded after it, and nothing of its connection is answered before
that: see `Handshakes.require_recorded`.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import zmq

from twinhost.secure_zmq.callers import IDENTITY_PROPERTY, Peer
from twinhost.secure_zmq.connections import SessionLimits
from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.handshakes import MAX_WAITING, Handshakes
from twinhost.secure_zmq.keys import KEY_BYTES, fingerprint_of
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.sockets import ZAP_DOMAIN, ZAP_ENDPOINT, open_zap_socket, wake_zap_handler
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

_STALLED_AFTER_S = 3.0  # in one handshake; between two, the handler rests
_VERSION = b"1.0"  # of ZAP


@dataclass(frozen=True, slots=True)
class _ZapReply:
    status: bytes
    text: bytes
    user_id: bytes = b""
    metadata: bytes = b""


_REFUSED = _ZapReply(b"400", b"key not authorized")
_TOO_MANY = _ZapReply(b"500", b"too many sessions")  # a client shows the status, and retries
_FAULT = _ZapReply(b"300", b"handler fault, try again")


class Authenticator(Worker):
    """A ZAP handler, started by its constructor; `responsive` unless one handshake has kept it busy for 3 s."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        peers: AuthorizedPeers,
        handshakes: Handshakes | None = None,
        on_end: Callable[[], None] = lambda: None,
        limits: SessionLimits | None = None,
        *,
        record_first: bool = False,
    ) -> None:
        """Start the handler on a context.

        Args:
            context: the one whose CURVE server sockets it authenticates.
            peers, handshakes, limits: who is accepted, where that is recorded, and how often at a time.
            on_end: called on the handler's thread when it ends, at the latest with the context.
            record_first: record an accepted key before the answer, for sockets that `SecuredSessions` doesn't read.

        Raises:
            SocketMisuse: the context has a handler already.
        """
        super().__init__("zap-handler", self._serve, stalled_after_s=_STALLED_AFTER_S)
        self.context = context
        self.peers = peers
        self.handshakes = handshakes or Handshakes()
        self.limits = limits or SessionLimits()
        self._on_end = on_end
        self._record_first = record_first
        self._guarded: list[zmq.Socket[bytes]] = []
        self._socket = open_zap_socket(context)
        self.start()

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Register a server socket that relies on this handler; `stop()` is refused while it is open.

        Raises:
            SocketMisuse: the handler does not answer, or not on the socket's Context.
        """
        if socket.context.underlying != self.context.underlying:
            raise SocketMisuse(
                "the socket belongs to another Context, which does not use this ZAP handler; start one there"
            )
        if not self.responsive:
            raise SocketMisuse("the ZAP handler is not running, so no peer would be authenticated; start it first")
        self._guarded.append(socket)

    def request_stop(self) -> None:
        """End the handler; `stop()` waits for it.

        Raises:
            SocketMisuse: a server socket that relies on it is still open.
        """
        if any(not socket.closed for socket in self._guarded):
            raise SocketMisuse("a server socket still relies on this ZAP handler; close the socket first")
        super().request_stop()

    def _interrupt(self) -> None:
        if self.alive and not self.context.closed:
            with contextlib.suppress(zmq.ZMQError):  # the context is being terminated, which wakes the handler too
                wake_zap_handler(self.context)

    def _serve(self) -> None:
        try:
            while not self.stopping:
                self.rest()
                frames = self._socket.recv_multipart()
                self.beat()
                if not self.stopping:
                    self._answer(frames)
        except zmq.ContextTerminated:
            return
        finally:
            with contextlib.suppress(zmq.ZMQError):  # the context has ended
                self._socket.unbind(ZAP_ENDPOINT)  # freed at once; close() frees it later
            try:
                self._on_end()  # before the context can end, and another one get its address
            finally:
                self._socket.close(0)

    def _answer(self, frames: list[bytes]) -> None:
        request_id = frames[1] if len(frames) > 1 else b""
        fault: Exception | None = None
        try:
            reply = self._reply_to(frames)
        except Exception as error:  # boundary: without a handler every peer would be refused
            reply, fault = _FAULT, error
        parts = [_VERSION, request_id, reply.status, reply.text, reply.user_id, reply.metadata]
        self._socket.send_multipart(parts)
        if fault is not None:
            self.handshakes.refused(Outcome.HANDLER_FAULT)
            _log.error("zap_handler_fault", exc_info=fault)
        self.handshakes.record()

    def _reply_to(self, frames: list[bytes]) -> _ZapReply:
        """Return the reply to `[version, request id, domain, address, routing id, mechanism, public key]`."""
        if len(frames) != 7 or frames[0] != _VERSION or frames[2] != ZAP_DOMAIN or frames[5] != b"CURVE":
            self.handshakes.refused(Outcome.KEY_NOT_AUTHORIZED, reason="not a CURVE request of this domain")
            return _REFUSED
        address, raw_key = frames[3].decode(errors="replace").removeprefix("::ffff:"), frames[6]
        self.handshakes.judged(address)
        verdict = self.peers.judge(raw_key)
        if not isinstance(verdict, Peer):  # the peer doesn't learn which refusal it is
            fingerprint = fingerprint_of(raw_key) if len(raw_key) == KEY_BYTES and any(raw_key) else "not a key"
            self.handshakes.refused(verdict, address=address, fingerprint=fingerprint)
            return _REFUSED
        peer = verdict
        known = {"peer": peer.name, "fingerprint": peer.fingerprint, "address": address}
        if len(self.handshakes.waiting) >= MAX_WAITING:
            self.handshakes.refused(Outcome.HANDLER_FAULT, **known, reason="earlier handshakes can't be recorded")
            return _FAULT
        if not self.limits.admit(peer.fingerprint, address):
            self.handshakes.refused(
                Outcome.TOO_MANY_SESSIONS, **known, reason=self.limits.which_is_reached(peer.fingerprint)
            )
            return _TOO_MANY
        self.handshakes.accepted(**known)
        if self._record_first:
            self.handshakes.require_recorded(peer.fingerprint)
        return _accept(peer)


def _accept(peer: Peer) -> _ZapReply:
    value = f"{peer.fingerprint} {peer.name}".encode()
    name = bytes([len(IDENTITY_PROPERTY)]) + IDENTITY_PROPERTY
    metadata = name + len(value).to_bytes(4, "big") + value  # RFC 23, one property
    return _ZapReply(b"200", b"OK", peer.name.encode(), metadata)
