"""What once froze, starved, or ended an agent, and does so no more."""

import asyncio
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.identities import authorize
from tests.loopback.agent import PAYLOAD_LIMIT, ServedAgent, serving
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge, NotAuthorized, ServerUnreachable
from twinhost.secure_zmq.handshakes import FailedHandshakes
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.server_address import mechanism_of
from twinhost.secure_zmq.wire import MAX_REQUEST_ID_CHARACTERS, encode_request


def test_a_monitor_whose_callback_fails_goes_on(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An undrained monitor would freeze every socket of the context: no handshake ever again."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("the log can't be written")

    monkeypatch.setattr(FailedHandshakes, "observe", fail)
    with serving(home, server_keys) as agent:
        host, port = agent.address.removeprefix("tcp://").rsplit(":", 1)
        for _ in range(20):
            socket.create_connection((host.strip("[]").removeprefix("::ffff:"), int(port))).close()
        wait_until(lambda: agent.server_socket.monitor.faults > 0, PATIENCE_S, "the callback failed")
        assert agent.server_socket.monitor.alive
        with Client(agent.secured(peer_keys)) as client:
            assert client.call("who_am_i")["authenticated"]


def test_a_client_outlives_a_session_that_libzmq_gave_up(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """A reply over the client's own limit ends its socket without a reconnect; the same client makes a new one."""
    with Client(agent.secured(peer_keys), max_payload_bytes=1_000) as client:
        with pytest.raises(ServerUnreachable):
            client.call("large", deadline_s=1.5, reply_bytes=9_000)
        assert client.call("who_am_i")["authenticated"]


def test_an_asyncio_client_outlives_it_too(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """What is in flight when the socket is given up is sent again on the new one."""

    async def calls() -> None:
        async with AsyncClient(agent.secured(peer_keys), max_payload_bytes=1_000) as client:
            with pytest.raises(ServerUnreachable):
                await client.call("large", deadline_s=1.5, reply_bytes=9_000)
            assert (await client.call("who_am_i"))["authenticated"]

    asyncio.run(calls())


def test_an_asyncio_client_that_is_refused_backs_off(agent: ServedAgent, stranger_keys: KeyPair) -> None:
    """A refused agent in a loop does not hammer the server."""

    async def hammer() -> None:
        async with AsyncClient(agent.secured(stranger_keys)) as client:
            started = time.monotonic()
            while time.monotonic() - started < 2:
                with pytest.raises((NotAuthorized, ServerUnreachable)):
                    await client.call("who_am_i")

    asyncio.run(hammer())
    assert agent.server_socket.handshakes.counts()["key_not_authorized"] < 15


def test_a_reply_over_the_limit_is_an_error_reply(client: Client) -> None:
    """The client would cut the connection and ask again for ever."""
    with pytest.raises(MessageTooLarge, match="ask for less"):
        client.call("large", reply_bytes=PAYLOAD_LIMIT + 1)


def test_a_request_id_too_long_to_be_repeated_is_not_sent() -> None:
    """The server could not say whose the reply is."""
    encode_request("ping", {}, "x" * MAX_REQUEST_ID_CHARACTERS, PAYLOAD_LIMIT)
    with pytest.raises(MalformedRequest, match="at most 128 characters"):
        encode_request("ping", {}, "x" * (MAX_REQUEST_ID_CHARACTERS + 1), PAYLOAD_LIMIT)


def test_a_server_that_drips_its_greeting_holds_nobody_up() -> None:
    """Half a second is the limit for all of the greeting, not for each byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                for _ in range(40):
                    try:
                        connection.sendall(b"\xff")
                    except OSError:
                        return
                    time.sleep(0.1)

        dripping = threading.Thread(target=drip)
        dripping.start()
        with at_most(1.5):
            assert mechanism_of(f"tcp://127.0.0.1:{listener.getsockname()[1]}") is None
        dripping.join()


def test_a_folder_put_in_place_of_the_keys_is_followed(tmp_path: Path, peer_keys: KeyPair) -> None:
    """A restore or a sync swaps the whole folder; a key that is gone from the new one is not authorised any more."""
    folder, other = tmp_path / "keys", tmp_path / "other"
    for each in (folder, other):
        each.mkdir()
        authorize(each, peer_keys)
    peers = AuthorizedPeers([folder])
    peers.watch()
    try:
        fingerprint = peer_keys.public.fingerprint
        shutil.move(folder, tmp_path / "old")
        other.rename(folder)
        time.sleep(1.5)  # long enough that the watch of the old folder was the only one
        wait_until(lambda: peers.live(fingerprint), 5, "the new folder's key is authorised")
        for path in folder.iterdir():
            path.unlink()
        wait_until(lambda: peers.live(fingerprint) is None, 5, "the removal is seen")
    finally:
        peers.close()


def test_a_folder_that_comes_later_is_followed(tmp_path: Path, peer_keys: KeyPair) -> None:
    """Keys may arrive after the agent."""
    folder = tmp_path / "keys"
    peers = AuthorizedPeers([folder])
    peers.watch()
    try:
        folder.mkdir()
        authorize(folder, peer_keys)
        wait_until(lambda: peers.live(peer_keys.public.fingerprint), 5, "the key is authorised")
    finally:
        peers.close()
