"""The actions that every agent answers: ping, health, and who is connected."""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from twinhost.agent.health import iso_time
from twinhost.agent.replies import Peers, Pong, ProbesAnnounced
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotGranted
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import format_moment
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.probes import MAX_ATTEMPTS, WINDOW_S
from twinhost.secure_zmq.sessions import CallerSource
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


def health_actions(document: Callable[[], Mapping[str, Any]]) -> list[Action[Any]]:
    """Return the two names of the health action."""

    def answer(_: Request, __: Caller) -> Mapping[str, Any]:
        return document()

    return [Action(GetHealth, answer, forwardable=True), Action(HealthCheck, answer, forwardable=True)]


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else format_moment(seconds)


def peers_action(
    peers: AuthorizedPeers, sessions: CallerSource, handshakes: Handshakes, success: Literal["ok", "success"]
) -> Action[Any]:
    """Return the action that tells an operator who is connected; `success` is the agent's word for it."""

    def answer(_: GetPeers, __: Caller) -> Peers:
        counts, last_seen = sessions.counts(), sessions.last_seen()
        return {
            "status": success,
            "peers": [
                {
                    "name": peer.name,
                    "host": peer.host,
                    "roles": sorted(peer.roles),
                    "fingerprint": peer.fingerprint,
                    "not_before": _moment(peer.validity.not_before),
                    "not_after": _moment(peer.validity.not_after),
                    "standing": peer.standing(time.time()).name.lower(),
                    "sessions": counts.get(peer.name, 0),
                    "last_seen": iso_time(last_seen[peer.name]) if peer.name in last_seen else None,
                }
                for peer in peers.all()
            ],
            "revoked": sorted(peers.contents.revoked),
            "handshakes": handshakes.counts(),
        }

    return Action(GetPeers, answer)


def probes_action(handshakes: Handshakes, success: Literal["ok", "success"]) -> Action[Any]:
    """Return the action that announces probes; `success` is the agent's word for it."""

    def answer(request: AnnounceProbes, caller: Caller) -> ProbesAnnounced:
        if caller.fingerprint is None:
            raise NotGranted("announce_probes needs an authenticated caller; set SECURE_ZMQ=1")
        handshakes.announce_probes(caller.name, caller.fingerprint, request.key_fingerprints, request.attempts)
        return {"status": success, "window_s": WINDOW_S}

    return Action(AnnounceProbes, answer)
