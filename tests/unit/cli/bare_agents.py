"""Agents with their defences taken out: each attack must be seen to come through somewhere."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tests.identities import host_folder
from tests.identities import new_pair as named_pair
from tests.unit.cli.loopback_agents import PAYLOAD_BYTES, SDT, UMRA
from twinhost.adversary.attack import AttackedAgent
from twinhost.adversary.clients import Sodium, new_pair, secret_of
from twinhost.adversary.zmtp import COMMAND, READY, WELCOME, encode_frame, greeting, metadata, whole_frame
from twinhost.cli.doctor.command import target_of
from twinhost.deployment import Settings
from twinhost.network_config import Agent, Host, NetworkConfig
from twinhost.network_config.model import Limits
from twinhost.secure_zmq.certificates import Certificates, load_certificates

Answer = Callable[[dict[str, Any]], dict[str, Any]]
SERVER = named_pair(SDT, "mainpc")


def target_at(port: int, folder: Path, *roles: str, secure: bool = True) -> AttackedAgent:
    """Return a target at a port of this machine, with a key of such roles, `agent` where none is given, at hand."""
    certificates: Certificates | None = None
    if secure:
        path = host_folder(folder / "keys", "own", named_pair(UMRA, "pc2", *roles), server=SERVER)
        certificates = load_certificates(path)
    mainpc, pc2 = Host("mainpc", "127.0.0.1"), Host("pc2", "127.0.0.1")
    agents = {
        SDT: Agent(SDT, mainpc, "server", port, 1, None),
        UMRA: Agent(UMRA, pc2, "own", port, 1, None),
    }
    config = NetworkConfig(
        "a test",
        {"mainpc": mainpc, "pc2": pc2},
        agents,
        Limits(PAYLOAD_BYTES, 5, 15, 600, 9, 9, 5),
        {},
    )
    return target_of(Settings(config, certificates), agents[SDT])


def ok(_: dict[str, Any]) -> dict[str, Any]:
    """Answer whatever was asked with ok."""
    return {"status": "ok", "message": "pong", "padding": "x" * 64}


@contextmanager
def bare_router(answer: Answer, *options: tuple[int, int], curve: bool = False) -> Iterator[int]:
    """A ROUTER as any program opens it: no limits, no ZAP handler; yields its port."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger, router.rcvtimeo = 0, 50
    for option, value in options:
        router.setsockopt(option, value)
    if curve:
        router.curve_secretkey, router.curve_publickey = SERVER.secret_z85, SERVER.public.z85
        router.curve_server = True
    port = router.bind_to_random_port("tcp://127.0.0.1")
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(zmq.Again):
                route, *frames = router.recv_multipart()
                router.send_multipart([route, _answered(answer, frames[-1])])
        router.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield port
    stop.set()
    thread.join()
    context.term()


@contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP listener with a thread for each connection; yields its port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    held: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                held.append(connection)
                threading.Thread(target=run, args=(connection,), daemon=True).start()

    def run(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error):
            serve(connection)

    threading.Thread(target=accept, daemon=True).start()
    yield listening.getsockname()[1]
    with contextlib.suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for connection in held:
        connection.close()


def swallow(connection: socket.socket) -> None:
    """Take everything and say nothing, for as long as the other side likes."""
    while connection.recv(65_536):
        pass


def greet_and_swallow(connection: socket.socket) -> None:
    """Greet with CURVE, and then take everything."""
    connection.sendall(greeting(b"CURVE"))
    swallow(connection)


def talk_and_hang_up(connection: socket.socket) -> None:
    """Answer anything with a web page."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(200))
    connection.shutdown(socket.SHUT_RDWR)


class CredulousCurve:
    """A CURVE server by hand that verifies nothing of what it is shown, and believes what it receives."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._sodium = Sodium()

    def serve(self, connection: socket.socket) -> None:
        """Serve one connection until it ends."""
        stream = _Stream(connection)
        stream.take(64)
        connection.sendall(greeting(b"CURVE"))
        transient = new_pair()
        public, secret = transient.public.raw, secret_of(transient)
        client = stream.frame()[80:112]
        nonce = os.urandom(16)
        welcome = self._sodium.seal(public + bytes(96), b"WELCOME-" + nonce, client, secret_of(SERVER))
        connection.sendall(encode_frame(WELCOME + nonce + welcome, COMMAND))
        stream.frame()
        number = struct.pack(">Q", 1)
        ready = self._sodium.seal(metadata({"Socket-Type": b"ROUTER"}), b"CurveZMQREADY---" + number, client, secret)
        connection.sendall(encode_frame(READY + number + ready, COMMAND))
        count = 1
        while message := stream.frame():
            plain = self._sodium.open(message[16:], b"CurveZMQMESSAGEC" + message[8:16], client, secret)
            count += 1
            number = struct.pack(">Q", count)
            reply = b"\0" + _answered(self._answer, plain[1:])
            box = self._sodium.seal(reply, b"CurveZMQMESSAGES" + number, client, secret)
            connection.sendall(encode_frame(b"\x07MESSAGE" + number + box))


class _Stream:
    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._received = connection, b""

    def take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._more()
        content, self._received = self._received[:count], self._received[count:]
        return content

    def frame(self) -> bytes:
        while (size := whole_frame(self._received)) is None:
            self._more()
        frame = self.take(size)
        return frame[9:] if frame[0] & 2 else frame[2:]

    def _more(self) -> None:
        part = self._connection.recv(65_536)
        if not part:
            raise ConnectionResetError
        self._received += part


def _answered(answer: Answer, payload: bytes) -> bytes:
    try:
        request = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        request = {}
    return msgspec.json.encode({**answer(request), "request_id": request.get("request_id")})
