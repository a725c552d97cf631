"""Who sent a message: what its connection proved, checked against the live list for every message."""

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import zmq

from twinhost.secure_zmq.callers import IDENTITY_PROPERTY, UNAUTHENTICATED, Caller
from twinhost.secure_zmq.connections import Connections
from twinhost.secure_zmq.errors import PeerNotLive

if TYPE_CHECKING:
    from twinhost.secure_zmq.peers import AuthorizedPeers, Peer
    from twinhost.secure_zmq.session_limits import SessionLimits


class CallerSource(Protocol):
    """Tells the caller of a message, and counts sessions."""

    @property
    def connections(self) -> Connections:
        """The socket's open connections."""
        ...

    def caller_of(self, routing_id: bytes, frame: zmq.Frame) -> Caller:
        """Return the caller, or raise PeerNotLive, and have the connection closed."""
        ...

    def caller_now(self, fingerprint: str | None) -> Caller | None:
        """Return who the holder of a key is at this moment; None where the key is no longer live."""
        ...

    def session_of(self, routing_id: bytes) -> "Session | None":
        """Return the session that the last message under a routing-id belongs to; None where none is known."""
        ...

    def leads_to(self, routing_id: bytes, session: "Session | None") -> bool:
        """Return whether a routing-id leads to whose session this was, as far as is known; on the loop's thread."""
        ...

    def disconnected(self, fd: int) -> None:
        """Note, from any thread, that a connection ended."""
        ...

    def forget_ended(self) -> None:
        """Let go what is known of connections that ended; on the thread that owns the socket."""
        ...

    def counts(self) -> dict[str, int]:
        """Return the number of live sessions by caller's name."""
        ...

    def last_seen(self) -> dict[str, float]:
        """Return when each caller was heard last, in seconds since the epoch."""
        ...


def origin(frame: zmq.Frame) -> tuple[int, str]:
    """Return the descriptor and the address that a message came from; a peer can claim neither.

    Raises:
        zmq.ZMQError: the message did not come over a connection.
    """
    return int(frame.get(zmq.SRCFD)), str(frame.get("Peer-Address"))


class OpenSessions:
    """SECURE_ZMQ=0: nobody is authenticated, whatever a message's metadata claims."""

    def __init__(self) -> None:
        self.connections = Connections(lambda _: True)

    def caller_of(self, routing_id: bytes, frame: zmq.Frame) -> Caller:
        return UNAUTHENTICATED

    def caller_now(self, fingerprint: str | None) -> Caller | None:
        return UNAUTHENTICATED

    def session_of(self, routing_id: bytes) -> "Session | None":
        return None

    def leads_to(self, routing_id: bytes, session: "Session | None") -> bool:
        return True

    def disconnected(self, fd: int) -> None:
        pass

    def forget_ended(self) -> None:
        pass

    def counts(self) -> dict[str, int]:
        return {}

    def last_seen(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True, slots=True)
class Session:
    """A connection over which messages came: whose key it proved, its descriptor, and its other end."""

    name: str
    fd: int
    remote: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class _Known:
    peer: "Peer"
    caller: Caller


class SecuredSessions:
    """The caller is the key that ZAP accepted for the connection, as long as that key is listed.

    It is read from every message: a routing-id proves nothing, since a peer may choose one, also
    one that begins with a zero byte as those that libzmq assigns. Sessions are only counted by it.
    """

    def __init__(self, peers: "AuthorizedPeers", limits: "SessionLimits | None" = None) -> None:
        self.connections = Connections(peers.live, limits)
        self._peers = peers
        self._known: dict[str, _Known] = {}  # by what ZAP said of a session
        self._sessions: dict[bytes, Session] = {}
        self._ended: deque[int] = deque()
        self._last_seen: dict[str, float] = {}

    def caller_of(self, routing_id: bytes, frame: zmq.Frame) -> Caller:
        if self._ended:
            self.forget_ended()
        try:
            identity = str(frame.get(IDENTITY_PROPERTY))
        except zmq.ZMQError:
            raise PeerNotLive("the connection carries no authenticated identity; use an authorised key") from None
        known = self._known.get(identity)
        if known is None or self._peers.live(known.peer.fingerprint) is not known.peer:
            known = self._recognise(identity, frame)
        caller = known.caller
        session = self._sessions.get(routing_id)
        if session is None or session.name != caller.name:  # who takes over another's routing-id is not that other
            fd, address = origin(frame)
            self.connections.heard(fd, address, caller.fingerprint)
            self._sessions[routing_id] = Session(caller.name, fd, self.connections.remote(fd))
        self._last_seen[caller.name] = time.time()
        return caller

    def caller_now(self, fingerprint: str | None) -> Caller | None:
        peer = self._peers.live(fingerprint) if fingerprint is not None else None
        return None if peer is None else _caller(peer)

    def session_of(self, routing_id: bytes) -> Session | None:
        return self._sessions.get(routing_id)

    def leads_to(self, routing_id: bytes, session: Session | None) -> bool:
        if not self._ended and self._sessions.get(routing_id) is session:
            return True
        self.forget_ended()
        known = self._sessions.get(routing_id)
        if session is None:
            return known is None
        if known is not None:
            return known.name == session.name
        if session.remote is None or self.connections.remote(session.fd) != session.remote:
            return False
        self._sessions[routing_id] = session  # what had ended was an older connection with the same descriptor
        return True

    def disconnected(self, fd: int) -> None:
        self._ended.append(fd)

    def counts(self) -> dict[str, int]:
        ended = set(self._ended)
        counts: dict[str, int] = {}
        for session in tuple(self._sessions.values()):
            if session.fd in ended:
                continue
            counts[session.name] = counts.get(session.name, 0) + 1
        return counts

    def last_seen(self) -> dict[str, float]:
        return dict(self._last_seen)

    def forget_ended(self) -> None:
        """Drop the sessions whose connections ended; a newcomer on the same number is counted anew."""
        if not self._ended:
            return
        ended = set()
        while self._ended:
            ended.add(self._ended.popleft())
        for routing_id in [key for key, session in self._sessions.items() if session.fd in ended]:
            del self._sessions[routing_id]

    def _recognise(self, identity: str, frame: zmq.Frame) -> _Known:
        """Look up whom ZAP let in, in the list as it is now; or raise PeerNotLive, and have the connection closed."""
        self._known.pop(identity, None)
        fingerprint, _, name = identity.partition(" ")
        peer = self._peers.live(fingerprint)
        if peer is None or peer.name != name:
            why = self._peers.why_not_live(fingerprint)
            self.connections.doom(*origin(frame), f"its key {why}")
            raise PeerNotLive(f"the key of {name} {why} here; enrol a new key")
        known = self._known[identity] = _Known(peer, _caller(peer))
        return known


def _caller(peer: "Peer") -> Caller:
    return Caller(peer.name, peer.host, peer.roles, peer.fingerprint)
