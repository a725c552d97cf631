"""Both clients while keys change on either side: no call is lost or doubled, and what was retired is dead."""

import asyncio
import concurrent.futures
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.identities import authorize, new_pair
from tests.loopback.agent import ServedAgent
from tests.loopback.test_client import DiesAfterCommit, Killed, again, in_background
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most, soon, wait_until
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, PeerNotLive, SecurityMismatch, ServerUnreachable, WrongServerKey
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.link import BROKEN_OFF_BEFORE_VERDICT
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.server_address import FollowedAddress, ServerAddress
from twinhost.secure_zmq.wire import Reply

IN_FLIGHT = 32
CHANGES = 3
RETRIES_S = 1.0  # of libzmq, which would be several
SWITCH_S = 1.0  # for a restarted server to be found under its next key; 0.3 s is usual


class AsyncClientOnThread:
    """The asyncio client with the blocking one's face, so that one test can be about both."""

    def __init__(self, server: ServerAddress) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client: AsyncClient = self._run(self._make(server))

    def call(self, action: str, /, **options: Any) -> Reply:
        """Return the reply to one call."""
        reply: Reply = self._run(self._call(action, options))
        return reply

    def __enter__(self) -> "AsyncClientOnThread":
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _make(self, server: ServerAddress) -> AsyncClient:
        return AsyncClient(server)

    async def _call(self, action: str, options: dict[str, Any]) -> Reply:
        return await self._client.call(action, **options)

    async def _close(self) -> None:
        self._client.close()


AnyClient: TypeAlias = Client | AsyncClientOnThread
Kind: TypeAlias = type[Client] | type[AsyncClientOnThread]
both = pytest.mark.parametrize("kind", [Client, AsyncClientOnThread])


class Trust:
    """What an agent knows at a moment: its own pair, and the server's keys that are good."""

    def __init__(self, address: str, own_keys: KeyPair, *pins: PublicKey) -> None:
        self.own_keys, self.pins = own_keys, pins
        self.server = FollowedAddress(address, lambda: self.own_keys, lambda: self.pins)


@contextmanager
def lives(home: Path, first: KeyPair) -> Iterator[Callable[[KeyPair | None], ServedAgent]]:
    """Give a way to have the agent of one address stop and come back with another key; the last one is stopped."""
    agents = [ServedAgent(home, first)]

    def next_life(keys: KeyPair | None) -> ServedAgent:
        if keys is not None:
            agents[-1].stop()
            agents.append(again(home, keys, agents[-1].address))
        return agents[-1]

    try:
        yield next_life
    finally:
        agents[-1].stop()


def next_key() -> KeyPair:
    return new_pair("SystemDigitalTwin", "mainpc")


class Workers:
    """Threads that change something over and over; each counts the changes that were confirmed to it."""

    def __init__(self, server: ServerAddress) -> None:
        self.confirmed = [0, 0, 0, 0]
        self.stop = threading.Event()
        loops = [lambda n=n: self._block(server, n) for n in range(3)]
        self._pool = concurrent.futures.ThreadPoolExecutor(4)
        self._done = [self._pool.submit(loop) for loop in [*loops, lambda: asyncio.run(self._flood(server, 3))]]

    def wait_for_more(self) -> None:
        """Wait until each has had confirmations that it could not have had before."""
        before = list(self.confirmed)

        def more() -> bool:
            for done in self._done:
                if done.done():
                    done.result()
            in_flight = (1, 1, 1, IN_FLIGHT)
            return all(now > then + n for now, then, n in zip(self.confirmed, before, in_flight, strict=True))

        wait_until(more, PATIENCE_S, f"each client gets on: {before}, {self.confirmed}")

    def end(self) -> int:
        """Return how many changes were confirmed; raise where one failed."""
        self.stop.set()
        for done in self._done:
            done.result()
        self._pool.shutdown()
        return sum(self.confirmed)

    def _block(self, server: ServerAddress, number: int) -> None:
        with Client(server) as client:
            while not self.stop.is_set():
                client.call("add", amount=1, deadline_s=PATIENCE_S)
                self.confirmed[number] += 1

    async def _flood(self, server: ServerAddress, number: int) -> None:
        async def one(client: AsyncClient) -> None:
            while not self.stop.is_set():
                await client.call("add", amount=1, deadline_s=PATIENCE_S)
                self.confirmed[number] += 1

        async with AsyncClient(server) as client:
            await asyncio.gather(*(one(client) for _ in range(IN_FLIGHT)))


def test_five_server_key_changes_lose_and_double_nothing(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """Four clients change things without a pause, one with 32 calls in flight: all are confirmed, and done once."""
    with lives(home, server_keys) as next_life:
        agents = [next_life(None)]
        trust = Trust(agents[0].address, peer_keys, server_keys.public)
        workers = Workers(trust.server)
        try:
            for _ in range(5):
                workers.wait_for_more()
                coming = next_key()
                trust.pins = (*trust.pins, coming.public)
                workers.wait_for_more()
                agents.append(next_life(coming))
                workers.wait_for_more()
                trust.pins = (coming.public,)
        finally:
            confirmed = workers.end()
        executed = sum(len(agent.executions) for agent in agents)
        with Client(trust.server) as client:
            assert (client.call("total")["total"], executed) == (confirmed, confirmed)


@both
def test_the_next_key_is_found_quickly(home: Path, server_keys: KeyPair, peer_keys: KeyPair, kind: Kind) -> None:
    """A call in flight while the server comes back with its next key is answered soon after that moment."""
    coming = next_key()
    with lives(home, server_keys) as next_life:
        trust = Trust(next_life(None).address, peer_keys, server_keys.public, coming.public)
        with kind(trust.server) as client:
            client.call("who_am_i", deadline_s=PATIENCE_S)
            next_life(coming)
            with soon(SWITCH_S):
                assert client.call("add", amount=1, deadline_s=PATIENCE_S)["total"] == 1


@both
@pytest.mark.parametrize("knows", [True, False])
def test_a_client_at_rest_does_not_insist_on_an_old_pin(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, kind: Kind, knows: bool
) -> None:
    """libzmq would try it again several times a second, for as long as nobody calls; the next call connects anew."""
    coming = next_key()
    with lives(home, server_keys) as next_life:
        trust = Trust(next_life(None).address, peer_keys, server_keys.public)
        with kind(trust.server) as client:
            client.call("who_am_i", deadline_s=PATIENCE_S)
            if knows:
                trust.pins = (coming.public,)
            agent = next_life(coming)
            refused = 0 if knows else agent.counted(Outcome.WRONG_KEYS, BROKEN_OFF_BEFORE_VERDICT)
            time.sleep(RETRIES_S)
            assert agent.counted(Outcome.WRONG_KEYS, at_least=0) == refused <= BROKEN_OFF_BEFORE_VERDICT
            trust.pins = (coming.public,)
            assert client.call("who_am_i", deadline_s=PATIENCE_S)["status"] == "ok"


@both
def test_a_change_runs_once_over_a_crash_and_a_rotation(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, kind: Kind
) -> None:
    """The server dies between commit and reply and comes back with its next key: the first execution's reply comes."""
    coming = next_key()
    first = ServedAgent(home, server_keys, wrap_store=DiesAfterCommit)
    trust = Trust(first.address, peer_keys, server_keys.public, coming.public)
    with kind(trust.server) as client:
        thread, results = in_background(lambda: client.call("add", amount=2, deadline_s=PATIENCE_S))
        assert isinstance(first.join(), Killed)
        second = again(home, coming, first.address)
        thread.join()
        assert isinstance(results[0], dict), results
        assert results[0]["total"] == 2
        assert client.call("total", deadline_s=PATIENCE_S)["total"] == 2
    second.stop()
    assert (first.executions, second.executions) == ([2], [])


@both
@pytest.mark.parametrize("pins", [1, 2, 3])
def test_wrong_pins_alone_are_refused_in_time(agent: ServedAgent, peer_keys: KeyPair, kind: Kind, pins: int) -> None:
    """WrongServerKey within the promised time, however many pins there are; it names each of them."""
    trust = Trust(agent.address, peer_keys, *(next_key().public for _ in range(pins)))
    with kind(trust.server) as client:
        for _ in range(2):
            with at_most(REFUSAL_S), pytest.raises(WrongServerKey) as refused:
                client.call("who_am_i", deadline_s=30.0)
            assert all(pin.fingerprint in str(refused.value) for pin in trust.pins)
            assert re.match(
                rf"{re.escape(agent.address)} ended \d+ handshakes and gave no reason: ", str(refused.value)
            )
        trust.pins = (*trust.pins, agent.public_key)
        assert client.call("who_am_i", deadline_s=PATIENCE_S)["status"] == "ok"


@both
def test_without_a_pin_nothing_is_tried(agent: ServedAgent, peer_keys: KeyPair, kind: Kind) -> None:
    """Where every key of the server is expired or revoked, nobody is believed."""
    trust = Trust(agent.address, peer_keys)
    with kind(trust.server) as client:
        with at_most(REFUSAL_S), pytest.raises(WrongServerKey, match=r"no key of .* is valid here"):
            client.call("who_am_i", deadline_s=30.0)
        assert agent.counted(Outcome.ACCEPTED, at_least=0) == 0
        trust.pins = (agent.public_key,)
        assert client.call("who_am_i", deadline_s=PATIENCE_S)["status"] == "ok"
        trust.pins = ()
        with at_most(REFUSAL_S), pytest.raises(WrongServerKey, match=r"no key of .* is valid here"):
            client.call("add", amount=1, deadline_s=30.0)
    assert agent.executions == []


@both
@pytest.mark.parametrize("pins", [1, 2])
def test_an_open_server_is_no_way_out(open_agent: ServedAgent, peer_keys: KeyPair, kind: Kind, pins: int) -> None:
    """However many pins there are to try: SecurityMismatch, and nothing is sent unencrypted."""
    trust = Trust(open_agent.address, peer_keys, *(next_key().public for _ in range(pins)))
    with kind(trust.server) as client, at_most(REFUSAL_S), pytest.raises(SecurityMismatch):
        client.call("add", amount=1, deadline_s=30.0)
    assert open_agent.executions == []


@both
def test_a_retired_pin_ends_a_connection_that_is_idle(agent: ServedAgent, peer_keys: KeyPair, kind: Kind) -> None:
    """The session is there and the server would answer; as soon as its key is retired, it gets nothing more."""
    trust = Trust(agent.address, peer_keys, agent.public_key)
    with kind(trust.server) as client:
        client.call("add", amount=1, deadline_s=PATIENCE_S)
        trust.pins = (next_key().public, next_key().public)
        with at_most(REFUSAL_S), pytest.raises(WrongServerKey):
            client.call("add", amount=2, deadline_s=30.0)
    assert agent.executions == [1]
    assert agent.counted(Outcome.ACCEPTED) == 1


@both
def test_a_retired_pin_ends_a_connection_in_the_middle_of_a_call(
    agent: ServedAgent, peer_keys: KeyPair, kind: Kind
) -> None:
    """A call is in flight over the session: it ends as one that meets wrong pins alone."""
    trust = Trust(agent.address, peer_keys, agent.public_key)
    with kind(trust.server) as client:
        thread, results = in_background(lambda: client.call("hold", deadline_s=30.0))
        assert agent.entered.wait(PATIENCE_S)
        trust.pins = (next_key().public,)
        with at_most(2 * REFUSAL_S):  # one is the longest time until the asyncio client looks
            thread.join()
    assert type(results[0]) is WrongServerKey
    assert agent.counted(Outcome.ACCEPTED) == 1


@both
def test_a_server_with_a_retired_key_gets_no_request(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, kind: Kind
) -> None:
    """The call began while the key was valid and no server was there; a later server with the key receives nothing."""
    first = ServedAgent(home, server_keys)
    trust = Trust(first.address, peer_keys, server_keys.public)
    with kind(trust.server) as client:
        client.call("who_am_i", deadline_s=PATIENCE_S)
        first.stop()
        thread, results = in_background(lambda: client.call("add", amount=1, deadline_s=30.0))
        assert thread.is_alive()
        trust.pins = (next_key().public,)
        impostor = again(home, server_keys, first.address)
        thread.join()
    impostor.stop()
    assert type(results[0]) is WrongServerKey
    assert impostor.executions == []


def replace_peer(agent: ServedAgent, home: Path, pair: KeyPair) -> None:
    """Authorise another key of the same name, and that one alone."""
    (home / f"{pair.certificate.owner.name}.key").unlink()
    authorize(home, pair)
    agent.peers.reload()


def renewed(pair: KeyPair) -> KeyPair:
    """Return another pair of the same owner."""
    return KeyPair.generate(pair.certificate.owner)


@both
def test_a_key_changed_while_idle_is_used_from_the_next_call(
    agent: ServedAgent, home: Path, peer_keys: KeyPair, kind: Kind
) -> None:
    """No call fails, and the new key is who calls; libzmq may try the old one once, between the change and the call."""
    trust = Trust(agent.address, peer_keys, agent.public_key)
    with kind(trust.server) as client:
        for _ in range(CHANGES):
            trust.own_keys = renewed(peer_keys)
            replace_peer(agent, home, trust.own_keys)
            me = client.call("who_am_i", deadline_s=PATIENCE_S)
            assert me["fingerprint"] == trust.own_keys.public.fingerprint
    assert agent.counted(Outcome.KEY_NOT_AUTHORIZED, at_least=0) <= CHANGES - 1  # the first is before any connection


class ChangesWhenRefused:
    """An own key whose change is seen only after the server has refused the old one."""

    def __init__(self, agent: ServedAgent, old: KeyPair, new: KeyPair, refused: Callable[[], bool]) -> None:
        self.server = FollowedAddress(agent.address, lambda: new if refused() else old, lambda: (agent.public_key,))


@both
def test_a_session_with_a_key_retired_amid_a_call_is_replaced(
    agent: ServedAgent, home: Path, peer_keys: KeyPair, kind: Kind
) -> None:
    """The old key is refused, by a message or by another handshake; the call goes through with the new one, once."""
    new = renewed(peer_keys)
    handshakes = agent.server_socket.handshakes

    def refused() -> bool:
        return agent.counters.errors > 0 or handshakes.counts()[Outcome.KEY_NOT_AUTHORIZED.value] > 0

    changes = ChangesWhenRefused(agent, peer_keys, new, refused)
    with kind(changes.server) as client:
        client.call("who_am_i", deadline_s=PATIENCE_S)
        replace_peer(agent, home, new)
        assert client.call("add", amount=3, deadline_s=PATIENCE_S)["total"] == 3
        assert client.call("who_am_i")["fingerprint"] == new.public.fingerprint
    assert refused()
    assert agent.executions == [3]


@both
def test_a_handshake_whose_key_was_retired_under_way_is_repeated(
    agent: ServedAgent, home: Path, peer_keys: KeyPair, kind: Kind
) -> None:
    """The old key is refused at the door; the same call goes through with the new one."""
    new = renewed(peer_keys)
    counts = agent.server_socket.handshakes.counts
    changes = ChangesWhenRefused(agent, peer_keys, new, lambda: counts()["key_not_authorized"] > 0)
    replace_peer(agent, home, new)
    with kind(changes.server) as client:
        assert client.call("who_am_i", deadline_s=PATIENCE_S)["fingerprint"] == new.public.fingerprint
    assert counts()["key_not_authorized"] == 1


@both
def test_a_key_that_was_not_changed_is_not_tried_again(
    agent: ServedAgent, home: Path, peer_keys: KeyPair, kind: Kind
) -> None:
    """A refusal of the key that we still have is final."""
    trust = Trust(agent.address, peer_keys, agent.public_key, next_key().public)
    with kind(trust.server) as client:
        client.call("who_am_i", deadline_s=PATIENCE_S)
        replace_peer(agent, home, renewed(peer_keys))
        with at_most(REFUSAL_S), pytest.raises((PeerNotLive, NotAuthorized)):
            client.call("add", amount=1, deadline_s=30.0)
    with kind(trust.server) as client, at_most(REFUSAL_S), pytest.raises(NotAuthorized):
        client.call("add", amount=1, deadline_s=30.0)
    assert agent.executions == []


@both
def test_nobody_there_is_unreachable_with_several_pins_too(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, kind: Kind
) -> None:
    """A server that is away is waited for, and no pin is blamed; it is found when it is back."""
    first = ServedAgent(home, server_keys)
    coming = next_key()
    trust = Trust(first.address, peer_keys, server_keys.public, coming.public)
    first.stop()
    with kind(trust.server) as client:
        with pytest.raises(ServerUnreachable, match=r"no reply to add from tcp://.* within 0\.3 s: nothing answered"):
            client.call("add", amount=1, deadline_s=0.3)
        thread, results = in_background(lambda: client.call("add", amount=2, deadline_s=PATIENCE_S))
        second = again(home, coming, first.address)
        thread.join()
        assert isinstance(results[0], dict), results
        assert results[0]["total"] == 2
    second.stop()


def test_all_calls_in_flight_move_to_the_next_key(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """32 calls wait for a server that is away; all are answered by the one with the next key, each once."""
    first = ServedAgent(home, server_keys)
    coming = next_key()
    trust = Trust(first.address, peer_keys, server_keys.public, coming.public)

    async def use() -> ServedAgent:
        async with AsyncClient(trust.server) as client:
            await client.call("who_am_i", deadline_s=PATIENCE_S)
            await asyncio.to_thread(first.stop)
            calls = [asyncio.create_task(client.call("add", amount=1, deadline_s=PATIENCE_S)) for _ in range(IN_FLIGHT)]
            second = await asyncio.to_thread(again, home, coming, first.address)
            replies = await asyncio.gather(*calls)
            assert sorted(reply["total"] for reply in replies) == list(range(1, IN_FLIGHT + 1))
            return second

    second = asyncio.run(asyncio.wait_for(use(), 60))
    second.stop()
    assert len(second.executions) == IN_FLIGHT
