"""The actions of every agent: ping, health, peers, and announced probes."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from twinhost.agent.health import HealthDocument, Pong, iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.bound_socket import CallerSource
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotGranted
from twinhost.secure_zmq.handshakes import MAX_ATTEMPTS, WINDOW_S, Handshakes
from twinhost.secure_zmq.keys import format_moment
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.wire import Request


class Ping(Request, tag="ping"):
    """Check that the agent answers."""


class GetHealth(Request, tag="health"):
    """The health document."""


class HealthCheck(Request, tag="health_check"):
    """The health document, under its older name."""


class GetPeers(Request, tag="get_peers"):
    """The authorised peers, their sessions, and the handshakes by outcome; an operator's action."""


class AnnounceProbes(Request, tag="announce_probes"):
    """Announce refused handshakes that the caller is about to cause, to count them separately; an operator's action.

    For 15 s, at most `attempts` of them: with a key of `key_fingerprints`, or from the caller's address without a key.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTEMPTS)]
    key_fingerprints: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=80)], ...], msgspec.Meta(max_length=4)
    ] = ()


class PeerDocument(TypedDict):
    """An authorised peer; `sessions` counts its connections, and `last_seen` is null until it asks for something."""

    name: str
    host: str
    roles: list[str]
    fingerprint: str
    not_before: str | None
    not_after: str | None
    standing: str
    sessions: int
    last_seen: str | None


class Peers(TypedDict):
    """The authorised peers with their sessions, the revoked fingerprints, and the handshakes by outcome."""

    status: Literal["ok", "success"]
    peers: list[PeerDocument]
    revoked: list[str]
    handshakes: dict[str, int]


class ProbesAnnounced(TypedDict):
    """For how long the announced refusals are counted separately."""

    status: Literal["ok", "success"]
    window_s: float


def pong(_: Request, __: Caller) -> Pong:
    """Answer a ping."""
    return {"status": "ok", "message": "pong", "timestamp": iso_time(time.time())}


class HealthActions(Feature):
    """The health document, under both names of its action."""

    def __init__(self, document: Callable[[], Any]) -> None:
        self.document = document

    @action(forwardable=True)
    def health(self, _: GetHealth, __: Caller) -> HealthDocument:
        document: HealthDocument = self.document()
        return document

    @action(forwardable=True)
    def health_check(self, _: HealthCheck, __: Caller) -> HealthDocument:
        document: HealthDocument = self.document()
        return document


class OperatorActions(Feature):
    """The operator's actions of every agent: list the peers, and announce probes."""

    def __init__(
        self, peers: AuthorizedPeers, sessions: CallerSource, handshakes: Handshakes, success: Literal["ok", "success"]
    ) -> None:
        """Serve an operator; `success` is the `status` of a successful reply."""
        self._peers = peers
        self._sessions = sessions
        self._handshakes = handshakes
        self._success: Literal["ok", "success"] = success

    @action()
    def peers(self, _: GetPeers, __: Caller) -> Peers:
        counts, last_seen = self._sessions.counts(), self._sessions.last_seen()
        return {
            "status": self._success,
            "peers": [
                {
                    "name": peer.name,
                    "host": peer.host,
                    "roles": sorted(peer.roles),
                    "fingerprint": peer.fingerprint,
                    "not_before": _moment(peer.validity.not_before),
                    "not_after": _moment(peer.validity.not_after),
                    "standing": self._peers.standing(peer.fingerprint),
                    "sessions": counts.get(peer.name, 0),
                    "last_seen": iso_time(last_seen[peer.name]) if peer.name in last_seen else None,
                }
                for peer in self._peers.all()
            ],
            "revoked": sorted(self._peers.contents.revoked),
            "handshakes": self._handshakes.counts(),
        }

    @action()
    def announce_probes(self, request: AnnounceProbes, caller: Caller) -> ProbesAnnounced:
        if caller.fingerprint is None:
            raise NotGranted("announce_probes needs an authenticated caller; set SECURE_ZMQ=1")
        self._handshakes.announce_probes(caller.name, caller.fingerprint, request.key_fingerprints, request.attempts)
        return {"status": self._success, "window_s": WINDOW_S}


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else format_moment(seconds)
