"""An agent's state for its metrics, read where it lives: on the server's thread."""

import time
from collections.abc import Callable

from twinhost.agent.health import Health
from twinhost.agent.telemetry import Peer, State
from twinhost.secure_zmq.bound_socket import CallerSource
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.store.database import Database


class Gauges:
    """Reads the state of what an agent is made of."""

    def __init__(
        self,
        secure: bool,
        database: Database,
        handshakes: Handshakes,
        peers: AuthorizedPeers,
        sessions: CallerSource,
        health: Health,
    ) -> None:
        self._secure = secure
        self._database = database
        self._handshakes = handshakes
        self._peers = peers
        self._sessions = sessions
        self._health = health
        self._longest_turn_s: Callable[[], float] = lambda: 0.0
        self._started = time.monotonic()

    def follow(self, longest_turn_s: Callable[[], float]) -> None:
        """Ask this from now on how long the server's loop was busy at most since it was asked last."""
        self._longest_turn_s = longest_turn_s

    def read(self) -> State:
        """Return the state at this moment; to be called once a second."""
        now = time.monotonic()
        counts, last_seen = self._sessions.counts(), self._sessions.last_seen()
        return State(
            secure=self._secure,
            uptime_s=now - self._started,
            store_bytes=self._database.size_bytes,
            loop_lag_s=self._longest_turn_s(),
            handshakes=self._handshakes.counts(),
            checks=self._health.checks(),
            peers=tuple(
                Peer(
                    name=peer.name,
                    host=peer.host,
                    roles=peer.roles,
                    fingerprint=peer.fingerprint,
                    sessions=counts.get(peer.name, 0),
                    last_seen=last_seen.get(peer.name),
                    not_before=peer.validity.not_before,
                    not_after=peer.validity.not_after,
                )
                for peer in self._peers.all()
            ),
        )
