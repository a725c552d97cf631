"""Bare pyzmq, as any program uses it: none of secure_zmq's care is taken here."""

import threading
from collections.abc import Callable

import zmq

from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.sockets import ZAP_ENDPOINT

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


def curve_server(context: "Context", keys: KeyPair, *options: tuple[int, bytes | int]) -> "Socket":
    """Return a bound CURVE server; options are set before it is bound."""
    socket = context.socket(zmq.DEALER)
    for option, value in options:
        socket.setsockopt(option, value)
    socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
    socket.curve_server = True
    socket.bind("tcp://127.0.0.1:*")
    return socket


def endpoint(socket: "Socket") -> str:
    value = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(value, bytes)
    return value.rstrip(b"\0").decode()


class Clients:
    """Sockets of a Context of their own, kept open until the test ends; each sends one message at once."""

    def __init__(self) -> None:
        self.context: Context = zmq.Context()
        self._sockets: list[Socket] = []

    def plain(self, server: "Socket", routing_id: bytes | None = None) -> "Socket":
        socket = self.context.socket(zmq.DEALER)
        if routing_id is not None:
            socket.setsockopt(zmq.ROUTING_ID, routing_id)
        return self._greet(socket, server)

    def curve(self, keys: KeyPair, server: "Socket", server_keys: KeyPair) -> "Socket":
        socket = self.context.socket(zmq.DEALER)
        socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
        socket.curve_serverkey = server_keys.public.z85
        return self._greet(socket, server)

    def _greet(self, socket: "Socket", server: "Socket") -> "Socket":
        self._sockets.append(socket)
        socket.connect(endpoint(server))
        socket.send(b"hello")
        return socket


def zap_handler(context: "Context", answer: Callable[[list[bytes]], list[bytes]]) -> "threading.Event":
    """Answer every ZAP question on a Context from a thread; the event is set once one was asked."""
    asked = threading.Event()
    shadow: Context = zmq.Context.shadow(context.underlying)  # whose sockets `context.destroy()` leaves to this thread
    socket = shadow.socket(zmq.REP)
    socket.bind(ZAP_ENDPOINT)

    def serve() -> None:
        try:
            while True:
                frames = socket.recv_multipart()
                asked.set()
                socket.send_multipart([b"1.0", frames[1], *answer(frames)])
        except zmq.ContextTerminated:
            socket.close(0)

    threading.Thread(target=serve, daemon=True).start()
    return asked
