"""The sessions of a bound socket: who sent each message, by the key that its connection proved."""

from collections import Counter, deque
from collections.abc import Mapping, Set

import zmq

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.callers import IDENTITY_PROPERTY, UNAUTHENTICATED, Caller, Peer
from twinhost.secure_zmq.connections import Connections, SessionLimits
from twinhost.secure_zmq.descriptors import TcpAnswers, answers_of
from twinhost.secure_zmq.errors import PeerNotLive
from twinhost.secure_zmq.framing.messages import new_account
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome, explain
from twinhost.secure_zmq.session import Account, Session
from twinhost.secure_zmq.silence import Silence, of_closed, of_open


def origin(frame: zmq.Frame) -> tuple[int, str]:
    """Return the descriptor and the address that a message came from; a peer can claim neither.

    Raises:
        zmq.ZMQError: the message did not come over a connection.
    """
    return int(frame.get(zmq.SRCFD)), str(frame.get("Peer-Address"))


class SecuredSessions:
    """The caller of a message is the owner of the key that ZAP accepted for its connection, while that key is listed.

    It is read from every message: a routing-id proves nothing, since a peer may choose any, even one that begins with a
    zero byte like those that libzmq assigns. Routing-ids only serve to count sessions.
    """

    def __init__(
        self,
        peers: AuthorizedPeers,
        limits: SessionLimits | None = None,
        handshakes: Handshakes | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.connections = Connections(peers.live, limits)
        self._peers = peers
        self._handshakes = handshakes or Handshakes()
        self._clock = clock
        self._known: dict[object, Peer] = {}  # by the identity that ZAP gave a session
        self._sessions: dict[bytes, Session] = {}  # by routing-id
        self.session_of = self._sessions.get  # by routing-id, the session of its last message; asked for every message
        self._accounts: dict[str, Account] = {}  # by owner, of all its connections
        self._ended: deque[int] = deque()
        self._closed: dict[str, float] = {}  # by owner: how long after its last message its last connection ended
        self._last_seen: dict[str, float] = {}  # by fingerprint
        self.seen_since: float | None = None  # when that record began

    def caller_of(self, routing_id: bytes, frame: zmq.Frame, now: float) -> Caller:
        """Return the caller of a message, as of `now` in seconds since the epoch, and count its session.

        Raises:
            PeerNotLive: its key is refused now, or its handshake can't be recorded; its connection will be closed.
        """
        if self._ended:
            self.forget_ended()
        try:
            identity = frame.get(IDENTITY_PROPERTY)
        except zmq.ZMQError:
            raise PeerNotLive("the connection carries no authenticated identity; use an authorised key") from None
        caller = self._known.get(identity)
        if caller is None or self._peers.judge_fingerprint(caller.fingerprint, now) is not caller:
            caller = self._recognise(str(identity), frame, now)
        if self._handshakes.waiting:
            self._require_recorded(caller, frame)
        session = self._sessions.get(routing_id)
        if session is None or session.name != caller.name:  # another peer may have taken over the routing-id
            fd, address = origin(frame)
            connection = self.connections.note_key(fd, address, caller.fingerprint)
            host, port = self.connections.remote_from(fd, address) or (None, 0)
            account = new_account(self._account_of(caller.name))
            self._sessions[routing_id] = Session(caller.name, fd, host, port, account, connection)
            self._closed.pop(caller.name, None)
            if host is None:
                self.disconnected(fd)  # it had ended before, so its end is not reported any more
        self._last_seen[caller.fingerprint] = now
        return caller

    def caller_now(self, fingerprint: str | None) -> Caller | None:
        """Return the caller that holds a key, as of now; None where the key is refused now."""
        return None if fingerprint is None else self._peers.live(fingerprint)

    def caller_named(self, name: str) -> Caller | None:
        """Return an owner of sessions, where one of its keys is valid now."""
        return self._peers.caller_named(name)

    def of_owner(self, name: str) -> list[Session]:
        """Return the sessions of one owner."""
        return [session for session in self._sessions.values() if session.name == name]

    def unsent(self) -> dict[str, float]:
        """Return how many bytes each owner has not read."""
        return {name: account.unsent for name, account in self._accounts.items()}

    def leads_to(self, routing_id: bytes, session: Session | None) -> bool:
        """Return whether a routing-id still leads to a session's owner, as far as is known; on the loop's thread."""
        if session is not None and session.address is None:  # whoever has the routing-id now
            return False
        if not self._ended and self._sessions.get(routing_id) is session:
            return True
        self.forget_ended()
        known = self._sessions.get(routing_id)
        if session is None:
            return known is None
        if known is not None:
            return known.name == session.name
        if self.connections.remote(session.fd) != session.remote:
            return False
        self._sessions[routing_id] = session  # an older connection with the same descriptor had ended
        return True

    def disconnected(self, fd: int) -> None:
        """Note, from any thread, that a connection ended."""
        self._ended.append(fd)

    def forget_ended(self) -> None:
        """Drop the sessions whose connections ended; on the thread that owns the socket."""
        if not self._ended:
            return
        ended = {self._ended.popleft() for _ in range(len(self._ended))}
        for routing_id in [key for key, session in self._sessions.items() if session.fd in ended]:
            session = self._sessions.pop(routing_id)
            last_seen = self._last_seen.get(session.connection.fingerprint or "", 0.0)
            self._closed[session.name] = self._clock.time() - last_seen

    def silences(self, names: Set[str]) -> dict[str, Silence]:
        """Return what the connections of some owners show; none of those that sent no message yet."""
        self.forget_ended()
        opened: dict[str, list[TcpAnswers]] = {}
        for session in self._sessions.values():
            if session.name in names and (answers := answers_of(session.fd)) is not None:
                opened.setdefault(session.name, []).append(answers)
        shown = {name: of_open(answers) for name, answers in opened.items()}
        shown |= {name: of_closed(self._closed[name]) for name in names & self._closed.keys() - shown.keys()}
        return shown

    def counts(self) -> dict[str, int]:
        """Return the number of live sessions by caller's name."""
        names = {session.fd: session.name for session in tuple(self._sessions.values())}  # one has each descriptor
        return dict(Counter(names[fd] for fd in names.keys() - set(self._ended)))

    def last_seen(self) -> dict[str, float]:
        """Return when the last message of each key came, by fingerprint, in seconds since the epoch."""
        return dict(self._last_seen)

    def last_message_of(self, fingerprint: str) -> float | None:
        """Return when the last message of a key came, in seconds since the epoch; None if none is known."""
        return self._last_seen.get(fingerprint)

    def restore_last_seen(self, seen: Mapping[str, float], since: float) -> None:
        """Start with what was known before this process; `since` is when that record began."""
        self._last_seen, self.seen_since = dict(seen), since

    def _account_of(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = new_account()
        return account

    def _require_recorded(self, caller: Peer, frame: zmq.Frame) -> None:
        try:
            self._handshakes.require_recorded(caller.fingerprint)
        except PeerNotLive:
            self.connections.mark_for_closing(*origin(frame), "its handshake can't be recorded")
            raise

    def _recognise(self, identity: str, frame: zmq.Frame, now: float) -> Peer:
        """Return the accepted peer as it is listed now; or raise PeerNotLive, and have the connection closed."""
        self._known.pop(identity, None)
        fingerprint, _, name = identity.partition(" ")
        verdict = self._peers.judge_fingerprint(fingerprint, now)
        if isinstance(verdict, Peer):
            if verdict.name == name:
                self._known[identity] = verdict
                return verdict
            verdict = Outcome.KEY_NOT_AUTHORIZED  # by this name
        reason = explain(verdict)
        self.connections.mark_for_closing(*origin(frame), f"its key {reason}")
        raise PeerNotLive(f"the key of {name} {reason} here; enrol a new key")


class OpenSessions:
    """SECURE_ZMQ=0: no caller is authenticated, whatever a message's metadata claims; methods as of SecuredSessions."""

    def __init__(self) -> None:
        self.connections = Connections(lambda _: True)
        self.seen_since: float | None = None

    def caller_of(self, routing_id: bytes, frame: zmq.Frame, now: float) -> Caller:
        return UNAUTHENTICATED

    def caller_now(self, fingerprint: str | None) -> Caller | None:
        return UNAUTHENTICATED

    def caller_named(self, name: str) -> Caller | None:
        return UNAUTHENTICATED

    def of_owner(self, name: str) -> list[Session]:
        return []

    def unsent(self) -> dict[str, float]:
        return {}

    def session_of(self, routing_id: bytes) -> Session | None:
        return None

    def leads_to(self, routing_id: bytes, session: Session | None) -> bool:
        return True

    def disconnected(self, fd: int) -> None:
        pass

    def forget_ended(self) -> None:
        pass

    def counts(self) -> dict[str, int]:
        return {}

    def last_seen(self) -> dict[str, float]:
        return {}


CallerSource = SecuredSessions | OpenSessions
