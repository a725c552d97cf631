"""The actions that every agent answers: ping, health, and who is connected."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from twinhost.agent.health import iso_time
from twinhost.agent.replies import HealthDocument, Peers, Pong, ProbesAnnounced
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.bound_socket import CallerSource
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotGranted
from twinhost.secure_zmq.handshakes import MAX_ATTEMPTS, WINDOW_S, Handshakes
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.validity import format_moment
from twinhost.secure_zmq.wire import Request


class Ping(Request, tag="ping"):
    """Is anybody there?"""


class GetHealth(Request, tag="health"):
    """The health document."""


class HealthCheck(Request, tag="health_check"):
    """The health document, under its older name."""


class GetPeers(Request, tag="get_peers"):
    """The authorised peers, their sessions, and what became of handshakes; an operator's action."""


class AnnounceProbes(Request, tag="announce_probes"):
    """Refused handshakes that the caller is about to provoke, to be counted apart; an operator's action.

    For 15 s, at most `attempts` of them: with a key of `key_fingerprints`, or from the caller's address without a key.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTEMPTS)]
    key_fingerprints: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=80)], ...], msgspec.Meta(max_length=4)
    ] = ()


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
    """What an operator asks every agent: who is connected; and that refused handshakes are about to come."""

    def __init__(
        self, peers: AuthorizedPeers, sessions: CallerSource, handshakes: Handshakes, success: Literal["ok", "success"]
    ) -> None:
        """Serve an operator; `success` is the agent's word for it."""
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
