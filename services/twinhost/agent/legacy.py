"""The compatible API, under its documented names, for agents that make their own sockets.

The names are those of the original system, without its security holes: the ZAP handler runs on the socket's own
Context, a socket that is bound already is refused, nothing falls back to an unencrypted socket, and a handler can't be
stopped while a socket depends on it. An agent that calls these gets CURVE, the check of keys at the handshake by
mainpc's list, and the limits and the handshake guard of `Server`; a session ends when its key is revoked or expires.
Only `Server` also checks every message.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq

from twinhost.agent.trust_follower import TrustFollower
from twinhost.deployment import REGISTRY_AGENT
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import Watch, let_clients_send_heartbeats, secure_unbound_server, watch_unbound
from twinhost.secure_zmq.certificates import client_folder, folders_of_keys, load_certificates, secrets_in
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES
from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.sockets import limit_socket, require_fresh, secure_unconnected_client
from twinhost.worker import Worker

_CLOSE_EVERY_S = 0.5  # for keys that expire; a change of the list of keys closes at once

_lock = threading.Lock()
_handlers: dict[int, "ZMQAuthenticator"] = {}  # by the address of the underlying Context


class ZMQAuthenticator:
    """The only ZAP handler of a Context, by default of `zmq.Context.instance()`; this call starts it.

    Another call for the same Context returns the same handler.
    """

    def __new__(cls, context: "zmq.Context[Any] | None" = None, certificates: Path | None = None) -> "ZMQAuthenticator":
        if context is None:
            context = zmq.Context.instance()
        folder = certificates or client_folder()
        with _lock:
            known = _handlers.get(context.underlying)
            if known is not None and known.authenticator.responsive:
                if known.folder != folder:
                    raise SocketMisuse(
                        f"this Context has a ZAP handler for the keys in {known.folder}; "
                        f"use another Context for {folder}"
                    )
                return known
            handler = super().__new__(cls)
            handler._context, handler.folder = context, folder
            handler._run()
            return handler

    authenticator: Authenticator
    folder: Path
    _context: "zmq.Context[Any]"

    def _run(self) -> None:
        """Start the handler and its threads; under the module's lock."""
        self._peers = AuthorizedPeers(folders_of_keys(self.folder))
        self._follower = self._trust_follower()
        self._watches: list[Watch] = []
        self._ended, self._due = threading.Event(), threading.Event()
        self._peers.listen(lambda _: self._due.set())
        self.authenticator = Authenticator(self._context, self._peers, on_end=self._end, record_first=True)
        self.authenticator.handshakes.listen(self._observe_handshake)
        self._peers.watch()
        if self._follower is not None:
            self._follower.start()
        Worker("legacy-sessions", self._close_revoked).start()
        _handlers[self._context.underlying] = self

    def _trust_follower(self) -> TrustFollower | None:
        """Return what follows mainpc's list of keys; none in mainpc's own folder, where its agent keeps that list."""
        if not secrets_in(self.folder):
            return None
        certificates = load_certificates(self.folder)
        mainpcs = certificates.own_keys.certificate.owner.name == REGISTRY_AGENT
        return None if mainpcs else TrustFollower(certificates, self._peers)

    def start(self) -> None:
        """Start the handler again after `stop()`; does nothing while it runs."""
        with _lock:
            if not self.authenticator.responsive:
                self._run()

    def protect(self, socket: "zmq.Socket[Any]") -> None:
        """Watch the connections of a secured socket that is not bound yet, to end the sessions of revoked keys.

        This uses the socket's only monitor, so `socket.monitor()` is refused from now on.
        """
        self._watches.append(watch_unbound(socket, self.authenticator))
        socket.monitor = _refuse_monitor  # type: ignore[method-assign, assignment]

    def _observe_handshake(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        for watch in tuple(self._watches):
            watch.connections.observe_handshake(outcome, fields)

    def _close_revoked(self) -> None:
        """Close sessions whose key is no longer valid, until the handler ends; forget closed sockets."""
        while not self._ended.is_set():
            self._due.wait(_CLOSE_EVERY_S)
            self._due.clear()
            for watch in tuple(self._watches):
                if watch.monitor.alive:
                    watch.connections.close_refused()
                else:
                    self._watches.remove(watch)
                    watch.connections.end_all()
                    watch.guard.stop()
        for watch in self._watches:
            watch.guard.stop()

    def stop(self) -> None:
        """End the handler.

        Raises:
            SocketMisuse: a socket that depends on it is still open.
        """
        self.authenticator.stop()
        self._peers.close()

    def _end(self) -> None:
        """End with the Context, even if `stop_auth` is not called; on the handler's thread."""
        self._ended.set()
        self._due.set()
        self._peers.stop_watching()
        if self._follower is not None:
            self._follower.request_stop()
        with _lock:
            for key in [key for key, handler in _handlers.items() if handler is self]:
                del _handlers[key]


def _refuse_monitor(*_: object) -> None:
    raise SocketMisuse(
        "this socket's only monitor is used to end the sessions of revoked keys; don't monitor this socket"
    )


def start_auth(context: "zmq.Context[Any] | None" = None) -> ZMQAuthenticator | None:
    """Start the handler of a Context; without one, only check the keys.

    Older agents call it before they secure a socket. The handler must run on the Context of that socket, so
    `configure_secure_server(socket)` starts it there.

    Raises:
        ConfigurationError: the keys are missing or wrong.
    """
    load_certificates()
    return ZMQAuthenticator(context) if context is not None else None


def stop_auth(context: "zmq.Context[Any] | None" = None) -> None:
    """Stop the handler of a Context, or every one.

    Raises:
        SocketMisuse: a socket that depends on it is still open.
    """
    with _lock:
        chosen = [h for key, h in _handlers.items() if context is None or key == context.underlying]
    for handler in chosen:
        handler.stop()


def create_secure_context() -> "zmq.Context[Any]":
    """Return a new Context on which the handler runs."""
    context: zmq.Context[Any] = zmq.Context()
    ZMQAuthenticator(context)
    return context


def secure_server_socket(socket: "zmq.Socket[Any]", certificates: Path | None = None) -> "zmq.Socket[Any]":
    """Make a socket that is not bound yet a CURVE server for authorised keys, and return it.

    Raises:
        ConfigurationError: the keys are missing or wrong.
        SocketMisuse: the socket is bound or connected already.
    """
    require_fresh(socket)
    keys = load_certificates(certificates)
    handler = ZMQAuthenticator(socket.context, keys.folder)
    limit_socket(socket, DEFAULT_MAX_PAYLOAD_BYTES)
    let_clients_send_heartbeats(socket)
    secure_unbound_server(socket, handler.authenticator, keys.own_keys)
    handler.protect(socket)
    return socket


def secure_client_socket(
    socket: "zmq.Socket[Any]", certificates: Path | None = None, server: str = "server"
) -> "zmq.Socket[Any]":
    """Make a socket that is not connected yet a CURVE client of the holder of `SERVER.key`, and return it.

    Raises:
        ConfigurationError: the keys are missing or wrong.
        SocketMisuse: the socket is bound or connected already.
    """
    require_fresh(socket)
    keys = load_certificates(certificates)
    limit_socket(socket, DEFAULT_MAX_PAYLOAD_BYTES)
    secure_unconnected_client(socket, keys.own_keys, keys.public_key(server))
    return socket


configure_secure_server = secure_server_socket
configure_secure_client = secure_client_socket
