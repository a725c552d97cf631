"""Bind what an agent serves: its request socket, and the event feed where it has one, in the safe order."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import structlog
import zmq

from twinhost.agent.health import Health
from twinhost.agent.host_keys import HostKeys
from twinhost.agent.settings import Settings
from twinhost.secure_zmq.authenticator import Authenticator, SessionLimits
from twinhost.secure_zmq.bound_socket import ServerSocket
from twinhost.secure_zmq.callers import Grants
from twinhost.secure_zmq.feed import MAX_EVENT_BYTES, Feed
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.sockets import (
    open_feed_socket,
    open_server_socket,
    open_unencrypted_feed_socket,
    open_unencrypted_server_socket,
)

_log = structlog.get_logger(__name__)

Vital = dict[str, Callable[[], bool]]  # threads without which the process must not go on


@dataclass(frozen=True, slots=True)
class Listening:
    """The bound sockets of an agent."""

    requests: ServerSocket
    feed: Feed | None


def listen(
    settings: Settings,
    keys: HostKeys,
    grants: Grants,
    handshakes: Handshakes,
    health: Health,
    vital: Vital,
    stack: ExitStack,
) -> Listening:
    """Bind the sockets; what must end, in reverse, is put on `stack`.

    Raises:
        SocketMisuse: an address can't be bound.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stack.callback(context.term)
    agent, payload_bytes = settings.agent, settings.config.limits.max_payload_bytes
    requests_at, feed_at = f"tcp://*:{agent.zmq_port}", f"tcp://*:{agent.events_port}"
    feed_socket: ServerSocket | None = None
    if settings.certificates is None:
        _log.warning("link_open", reason="SECURE_ZMQ=0: nobody is authenticated and nothing is encrypted")
        requests = open_unencrypted_server_socket(context, requests_at, payload_bytes, handshakes)
        stack.callback(requests.close)
        if agent.events_port is not None:
            feed_socket = open_unencrypted_feed_socket(context, feed_at, MAX_EVENT_BYTES, handshakes)
    else:
        own_keys = settings.certificates.own_keys
        authenticator = _authenticate(
            context, keys, handshakes, health, vital, stack, settings.config.limits.sessions_per_key
        )
        requests = open_server_socket(authenticator, own_keys, requests_at, payload_bytes)
        stack.callback(requests.close)
        if agent.events_port is not None:
            feed_socket = open_feed_socket(authenticator, own_keys, feed_at, MAX_EVENT_BYTES)
    vital["the socket's monitor"] = lambda: requests.monitor.alive
    vital["the handshake guard"] = lambda: requests.guard.alive
    if feed_socket is None:
        return Listening(requests, None)
    bound = feed_socket
    vital["the event feed's monitor"] = lambda: bound.monitor.alive
    vital["the event feed's handshake guard"] = lambda: bound.guard.alive
    return Listening(requests, _feed(bound, grants, stack))


def _authenticate(
    context: "zmq.Context[zmq.Socket[bytes]]",
    keys: HostKeys,
    handshakes: Handshakes,
    health: Health,
    vital: Vital,
    stack: ExitStack,
    sessions_per_key: int,
) -> Authenticator:
    """Start the ZAP handler, before anything is bound on its context."""
    peers = keys.peers
    keys.watch()
    stack.callback(peers.close)
    authenticator = Authenticator(context, peers, handshakes, limits=SessionLimits(sessions_per_key))
    stack.callback(authenticator.stop)
    vital |= {"the ZAP handler": lambda: authenticator.alive, "the watch of the key files": lambda: peers.watching}
    health.add("zap_handler", lambda: None if authenticator.responsive else "it does not answer", essential=True)
    health.add("peers_watch", lambda: None if peers.watching else "key files are not followed", essential=False)
    return authenticator


def _feed(feed_socket: ServerSocket, grants: Grants, stack: ExitStack) -> Feed:
    feed = Feed(feed_socket, grants.allows_topic)
    stack.callback(feed.stop)
    return feed
