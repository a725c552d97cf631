"""The ZAP handler (RFC 27): asked by libzmq at every CURVE handshake of one Context.

Its rules: one handler per Context; it runs before anything is bound and may not
stop while anything is; only a listed key is accepted; on a fault of its own every key is refused.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import zmq

from twinhost.secure_zmq.callers import IDENTITY_PROPERTY, Peer
from twinhost.secure_zmq.connections import SessionLimits
from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import KEY_BYTES, fingerprint_of
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.sockets import ZAP_DOMAIN, ZAP_ENDPOINT, open_zap_socket
from twinhost.secure_zmq.worker import Worker

_log = structlog.get_logger(__name__)

_TURN_MS = 500  # the longest time between two heartbeats
_STALLED_AFTER_S = 3.0
_VERSION = b"1.0"  # of ZAP


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: bytes
    text: bytes
    user_id: bytes = b""
    metadata: bytes = b""


_REFUSED = _Verdict(b"400", b"key not authorized")
_TOO_MANY = _Verdict(b"500", b"too many sessions")  # a client shows the status, and tries again
_FAULT = _Verdict(b"300", b"handler fault, try again")


class Authenticator(Worker):
    """A running ZAP handler, alive from the start; `responsive` where it has turned within the last 3 s."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        peers: AuthorizedPeers,
        handshakes: Handshakes | None = None,
        on_end: Callable[[], None] = lambda: None,
        limits: SessionLimits | None = None,
    ) -> None:
        """Start the handler on a context.

        Args:
            context: where it answers for every CURVE server socket.
            peers: the keys that are authorised.
            handshakes: where each is counted.
            limits: how many connections a key may have; those of `SessionLimits()` where none are given.
            on_end: called on the handler's thread when that ends, with the context at the latest.

        Raises:
            SocketMisuse: the context has a handler already.
        """
        super().__init__("zap-handler", self._serve, stalled_after_s=_STALLED_AFTER_S)
        self.context = context
        self.peers = peers
        self.handshakes = handshakes or Handshakes()
        self.limits = limits or SessionLimits()
        self._on_end = on_end
        self._guarded: list[zmq.Socket[bytes]] = []
        self._socket = open_zap_socket(context)
        self._socket.rcvtimeo = _TURN_MS
        self.start()

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Remember a server socket that relies on this handler; `stop()` refuses while it is open."""
        if socket.context.underlying != self.context.underlying:
            raise SocketMisuse("the socket belongs to another Context, where this ZAP handler is never asked")
        self.require_running()
        self._guarded.append(socket)

    def require_running(self) -> None:
        """Raise SocketMisuse unless the handler answers."""
        if not self.responsive:
            raise SocketMisuse("the ZAP handler does not run, so nobody would be authenticated; start it first")

    def request_stop(self) -> None:
        """End the handler; `stop()` waits for it.

        Raises:
            SocketMisuse: a server socket that relies on it is still open.
        """
        if any(not socket.closed for socket in self._guarded):
            raise SocketMisuse("a server socket still relies on this ZAP handler; close the socket first")
        super().request_stop()

    def _serve(self) -> None:
        try:
            while not self.stopping:
                self.beat()
                with contextlib.suppress(zmq.Again):
                    self._answer(self._receive())
        except zmq.ContextTerminated:
            return
        finally:
            with contextlib.suppress(zmq.ZMQError):  # the context has ended
                self._socket.unbind(ZAP_ENDPOINT)  # free at once; close() frees it when libzmq finds the time
            self._socket.close(0)
            self._on_end()

    def _receive(self) -> list[bytes]:
        frame = self._socket.recv(copy=False)
        frames = [frame.bytes]
        while frame.more:  # asked of the frame, not of the socket: a client waits for this
            frame = self._socket.recv(copy=False)
            frames.append(frame.bytes)
        return frames

    def _answer(self, frames: list[bytes]) -> None:
        request_id = frames[1] if len(frames) > 1 else b""
        fault: Exception | None = None
        try:
            verdict = self._judge(frames)
        except Exception as error:  # boundary: a handler that has ended would lock everybody out
            verdict, fault = _FAULT, error
        self._socket.send_multipart(
            [_VERSION, request_id, verdict.status, verdict.text, verdict.user_id, verdict.metadata]
        )
        if fault is not None:
            self.handshakes.refused(Outcome.HANDLER_FAULT)
            _log.error("zap_handler_fault", exc_info=fault)

    def _judge(self, frames: list[bytes]) -> _Verdict:
        """Return the verdict on `[version, request id, domain, address, routing id, mechanism, public key]`."""
        if len(frames) != 7 or frames[0] != _VERSION or frames[2] != ZAP_DOMAIN or frames[5] != b"CURVE":
            self.handshakes.refused(Outcome.KEY_NOT_AUTHORIZED, reason="not a CURVE request of this domain")
            return _REFUSED
        address, raw_key = frames[3].decode(errors="replace").removeprefix("::ffff:"), frames[6]
        peer = self.peers.judge(raw_key)
        if not isinstance(peer, Peer):  # the other side is not told which refusal it is
            fingerprint = fingerprint_of(raw_key) if len(raw_key) == KEY_BYTES and any(raw_key) else "not a key"
            self.handshakes.refused(peer, address=address, fingerprint=fingerprint)
            return _REFUSED
        known = {"peer": peer.name, "fingerprint": peer.fingerprint, "address": address}
        if not self.limits.admit(peer.fingerprint, address):
            self.handshakes.refused(Outcome.TOO_MANY_SESSIONS, **known)
            return _TOO_MANY
        self.handshakes.accepted(**known)
        return _accept(peer)


def _accept(peer: Peer) -> _Verdict:
    value = f"{peer.fingerprint} {peer.name}".encode()
    name = bytes([len(IDENTITY_PROPERTY)]) + IDENTITY_PROPERTY
    metadata = name + len(value).to_bytes(4, "big") + value  # RFC 23, one property
    return _Verdict(b"200", b"OK", peer.name.encode(), metadata)
