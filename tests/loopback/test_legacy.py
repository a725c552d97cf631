"""The documented names: what they do, and the holes that are gone."""

import contextlib
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from socket import create_connection
from typing import Any

import pytest
import zmq

from tests.loopback.conftest import Folders
from tests.loopback.test_handshake_guard import GREETING
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.clients import Refused, open_session
from twinhost.adversary.zmtp import Disconnected, connect_to
from twinhost.agent.legacy import (
    ZMQAuthenticator,
    configure_secure_client,
    configure_secure_server,
    create_secure_context,
    start_auth,
    stop_auth,
)
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing, SocketMisuse
from twinhost.secure_zmq.key_writer import write_revocation
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import Outcome

Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def mainpc(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is mainpc."""
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(folders[0]))
    return folders[0]


@pytest.fixture
def pc2_socket(folders: Folders) -> Iterator["zmq.Socket[bytes]"]:
    """A REQ socket of pc2 on a Context of its own, secured and not connected yet."""
    context: Context = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.rcvtimeo = int(PATIENCE_S * 1_000)
    configure_secure_client(socket, folders[1])
    socket.linger = 0
    yield socket
    context.destroy(linger=0)


def test_the_handler_runs_on_the_sockets_own_context(context: "Context", mainpc: Path, pc2_socket: Any) -> None:
    """Whichever Context the agent made its socket on, peers are asked for; the socket is returned, secured."""
    socket = context.socket(zmq.REP)
    assert configure_secure_server(socket) is socket
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    pc2_socket.connect(f"tcp://127.0.0.1:{port}")
    pc2_socket.send(b"hello")
    assert socket.poll(int(PATIENCE_S * 1_000))
    frame = socket.recv(copy=False)
    assert (frame.bytes, frame.get("User-Id")) == (b"hello", "UnifiedMemoryReasoningAgent")
    socket.close()
    stop_auth(context)


@pytest.mark.parametrize("configure", [configure_secure_server, configure_secure_client])
def test_a_socket_in_use_is_refused(context: "Context", mainpc: Path, configure: Any) -> None:
    """Bound or connected before, it would go on in the open."""
    bound, connected = context.socket(zmq.REP), context.socket(zmq.REQ)
    port = bound.bind_to_random_port("tcp://127.0.0.1")
    connected.connect(f"tcp://127.0.0.1:{port}")
    for socket in (bound, connected):
        with pytest.raises(SocketMisuse, match="bound or connected already"):
            configure(socket)
    stop_auth(context)


def test_asking_again_for_a_handler_returns_it(context: "Context", mainpc: Path, tmp_path: Path) -> None:
    """The documented singleton, per Context; for another folder it is refused."""
    first = ZMQAuthenticator(context)
    assert ZMQAuthenticator(context) is start_auth(context) is first
    with pytest.raises(SocketMisuse, match="this Context has a ZAP handler for the keys in"):
        ZMQAuthenticator(context, tmp_path)
    first.stop()
    second = ZMQAuthenticator(context)
    assert second is not first
    second.stop()


def test_stopping_under_an_open_socket_is_refused(context: "Context", mainpc: Path) -> None:
    """`stop_auth()` keeps its name and loses its hole: a socket that relies on the handler keeps it."""
    socket = configure_secure_server(context.socket(zmq.REP))
    stops: list[Callable[[], None]] = [stop_auth, lambda: stop_auth(context), ZMQAuthenticator(context).stop]
    for stop in stops:
        with pytest.raises(SocketMisuse, match="still relies on this ZAP handler"):
            stop()
    assert ZMQAuthenticator(context).authenticator.responsive
    socket.close()
    stop_auth()
    stop_auth()


def test_the_singleton_works_as_the_original_did(mainpc: Path, pc2_socket: Any) -> None:
    """`ZMQAuthenticator()` is that of the process's Context; `start()` and `stop()` can be called in turns."""
    authenticator = ZMQAuthenticator()
    authenticator.start()
    assert ZMQAuthenticator() is authenticator
    authenticator.stop()
    assert not authenticator.authenticator.responsive
    authenticator.start()
    socket = configure_secure_server(zmq.Context.instance().socket(zmq.REP))
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    assert ZMQAuthenticator() is authenticator
    pc2_socket.connect(f"tcp://127.0.0.1:{port}")
    pc2_socket.send(b"hello")
    assert socket.poll(int(PATIENCE_S * 1_000))
    socket.close(0)
    authenticator.stop()


@pytest.mark.parametrize("kind", [zmq.REP, zmq.ROUTER, zmq.PUB])
def test_a_server_socket_has_the_defences_of_our_own(context: "Context", mainpc: Path, kind: int) -> None:
    """No heartbeats, on which libzmq can abort; a handshake is guarded; a key has a number of sessions."""
    socket = configure_secure_server(context.socket(kind))
    assert (socket.heartbeat_ivl, socket.tcp_keepalive) == (0, 1)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    handshakes = ZMQAuthenticator(context).authenticator.handshakes
    with create_connection(("127.0.0.1", port)) as stranger, contextlib.suppress(OSError):
        stranger.sendall(GREETING)
        stranger.recv(64)
        stranger.sendall(b"\x06" + struct.pack(">Q", 1 << 20) + b"\x05HELLO" + bytes(1 << 18))
        while stranger.recv(64):
            pass
    wait_until(lambda: handshakes.counts()[Outcome.OVERSIZED] == 1, PATIENCE_S, "the guard cut it")
    socket.close()


@pytest.mark.sdt_security
def test_a_handshake_is_recorded_before_it_is_answered(
    context: "Context", mainpc: Path, folders: Folders, server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """The agent reads its messages itself, so nothing of ours holds them back; who can't be recorded is refused."""
    socket = configure_secure_server(context.socket(zmq.REP))
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    recorded, failing = list[Outcome](), True

    def record(outcome: Outcome, _: Mapping[str, str]) -> None:
        if failing and outcome is Outcome.ACCEPTED:
            raise OSError("no space left on device")
        recorded.append(outcome)

    ZMQAuthenticator(context).authenticator.handshakes.listen(record)
    endpoint = f"tcp://127.0.0.1:{port}"
    with pytest.raises((Disconnected, Refused)):
        open_session(connect_to(endpoint), peer_keys, server_keys.public)
    failing = False
    with open_session(connect_to(endpoint), peer_keys, server_keys.public):
        assert recorded == [Outcome.HANDLER_FAULT, Outcome.ACCEPTED, Outcome.ACCEPTED], "the first was made up for"
    socket.close()
    stop_auth(context)


def _bound_over_ipc(server: Any, client: Any, tmp_path: Path) -> None:
    server.bind(f"ipc://{tmp_path}/agent.sock")
    client.connect(f"ipc://{tmp_path}/agent.sock")


def _connected_by_the_server(server: Any, client: Any, tmp_path: Path) -> None:
    port = client.bind_to_random_port("tcp://127.0.0.1")
    server.connect(f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize("connect", [_bound_over_ipc, _connected_by_the_server])
def test_a_session_ends_however_it_came_about(
    context: "Context", mainpc: Path, pc2_socket: Any, peer_keys: KeyPair, tmp_path: Path, connect: Any
) -> None:
    """Over IPC, and where the server side dials out: the session of a revoked key ends within a second."""
    server = configure_secure_server(context.socket(zmq.REP))
    connect(server, pc2_socket, tmp_path)
    monitor = pc2_socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    pc2_socket.send(b"hello")
    assert server.poll(int(PATIENCE_S * 1_000))
    server.send(server.recv())
    assert pc2_socket.recv() == b"hello"
    write_revocation(peer_keys.certificate, mainpc / "revoked")
    assert monitor.poll(1_000), "the session was not ended within 1 s"
    with contextlib.suppress(zmq.Again):  # where the server side dials out, nobody is there to send to
        pc2_socket.send(b"again", zmq.NOBLOCK)
    assert not server.poll(500)
    pc2_socket.context.destroy(linger=0)
    (watch,) = ZMQAuthenticator(context)._watches
    # libzmq can abort the process if a server that connected is closed during a handshake (zap_client.cpp).
    wait_until(lambda: not watch.connections.open(), PATIENCE_S, "no handshake is under way")
    server.close()


def test_nobody_takes_the_monitor_of_a_server_socket(context: "Context", mainpc: Path) -> None:
    """A second monitor would replace the one that closes sessions."""
    socket = configure_secure_server(context.socket(zmq.REP))
    with pytest.raises(SocketMisuse, match="used to end the sessions of revoked keys"):
        socket.get_monitor_socket()
    socket.close()


def test_a_closed_socket_takes_its_threads_along(context: "Context", mainpc: Path) -> None:
    """What watched it ends with it, while the handler goes on."""
    before = {thread.name for thread in threading.enumerate()}
    sockets = [configure_secure_server(context.socket(zmq.REP)) for _ in range(3)]
    for socket in sockets:
        socket.close()
    left = {"handshake-guard", "socket-monitor"} - before
    wait_until(
        lambda: not left & {thread.name for thread in threading.enumerate()}, PATIENCE_S, "guards and monitors end"
    )
    assert ZMQAuthenticator(context).authenticator.responsive


def test_a_secure_context_has_a_running_handler(mainpc: Path) -> None:
    """`create_secure_context()` is ready for sockets."""
    context = create_secure_context()
    assert ZMQAuthenticator(context).authenticator.responsive
    stop_auth(context)
    context.term()


def test_start_auth_without_a_context_proves_the_keys(
    mainpc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Older agents call it first; missing or wrong keys are an error there already."""
    before = set(threading.enumerate())  # of which some, another test's, may end meanwhile
    assert start_auth() is None
    assert set(threading.enumerate()) <= before
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(tmp_path / "absent"))
    with pytest.raises(KeyFileMissing):
        start_auth()


def test_nothing_falls_back_to_plain(context: "Context", mainpc: Path) -> None:
    """With keys that are missing or exposed, the socket stays unsecured and unusable: the error comes first."""
    (mainpc / "server.key_secret").chmod(0o644)
    with pytest.raises(ConfigurationError, match="so others can use the secret"):
        configure_secure_server(context.socket(zmq.REP))
    (mainpc / "server.key_secret").unlink()
    with pytest.raises(KeyFileMissing):
        configure_secure_client(context.socket(zmq.REQ))


def test_contexts_come_and_go(mainpc: Path) -> None:
    """A new Context at an old one's address gets a handler of its own, not the dead one."""
    for _ in range(30):
        context: Context = zmq.Context()
        socket = configure_secure_server(context.socket(zmq.REP))
        assert ZMQAuthenticator(context).authenticator.responsive
        socket.close()
        context.term()
    stop_auth()


def test_a_context_that_ends_takes_its_watch_along(mainpc: Path) -> None:
    """Nobody called `stop_auth`, and no thread and no inotify instance, of which a user has few, is left."""
    context: Context = zmq.Context()
    socket = configure_secure_server(context.socket(zmq.REP))
    handler = ZMQAuthenticator(context)
    wait_until(lambda: handler._peers.watching, PATIENCE_S, "the keys are followed")
    socket.close()
    context.term()
    wait_until(lambda: not handler._peers.watching, PATIENCE_S, "the watch ends")


@pytest.mark.sdt_security
def test_what_follows_mainpcs_keys_ends_with_the_context(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It tries again while mainpc can't be reached, and authorises nobody meanwhile whom the folder does not."""
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(folders[1]))
    context: Context = zmq.Context()
    handler = ZMQAuthenticator(context)
    follower = handler._follower
    assert follower is not None
    wait_until(lambda: "trust_not_followed" in capsys.readouterr().out, PATIENCE_S, "it says that it does not follow")
    assert follower.alive
    assert {peer.name for peer in handler._peers.all()} <= {"SystemDigitalTwin", "UnifiedMemoryReasoningAgent"}
    context.term()
    wait_until(lambda: not follower.alive, PATIENCE_S, "it ends")
