"""The asyncio client: many calls in flight, and the promises of the blocking one."""

import asyncio
import json
import math
import selectors
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.identities import authorize, new_pair
from tests.loopback.agent import PAYLOAD_LIMIT, ServedAgent
from tests.loopback.bare_zmq import endpoint
from tests.loopback.test_client import DiesAfterCommit, Killed, again
from tests.ports import vacant_address
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    MalformedRequest,
    MessageTooLarge,
    NotAuthorized,
    PeerNotLive,
    SecurityMismatch,
    ServerUnreachable,
    UnknownAction,
    WrongServerKey,
)
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.framing.exchange import MAX_UNANSWERED
from twinhost.secure_zmq.framing.forms import MAX_SENT_PARTS
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress

Use = Callable[[AsyncClient], Awaitable[Any]]


def run(server: ServerAddress, use: Use, selector: selectors.BaseSelector | None = None) -> Any:
    """Use a client on an event loop of its own; nothing may be left running, and no error unread, afterwards."""

    async def main() -> Any:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with AsyncClient(server) as client:
            result = await use(client)
        await asyncio.sleep(0)
        assert complaints == []
        return result

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(asyncio.wait_for(main(), 60))


def test_64_calls_in_flight_each_get_their_own_reply(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Good and bad calls on one connection, many rounds: every reply reaches the call that asked for it."""

    async def one(client: AsyncClient, number: int) -> None:
        if number % 4 == 3:
            with pytest.raises(UnknownAction):
                await client.call(f"no_such_{number}", deadline_s=PATIENCE_S)
        elif number % 4 == 2:
            await client.call("add", amount=1, deadline_s=PATIENCE_S)
        else:
            assert (await client.call("echo", text=str(number), deadline_s=PATIENCE_S))["text"] == str(number)

    async def use(client: AsyncClient) -> None:
        for _ in range(10):
            await asyncio.gather(*(one(client, number) for number in range(64)))
        assert (await client.call("total"))["total"] == 160

    run(agent.secured(peer_keys), use)
    assert agent.server_socket.handshakes.counts()["accepted"] == 1


def test_bursts_that_fill_the_window_lose_no_wake_up(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Its descriptor tells of a change once only; a lost one would end in a new connection after 2 s."""

    async def use(client: AsyncClient) -> None:
        for _ in range(30):
            await asyncio.gather(*(client.call("echo", text="x", deadline_s=PATIENCE_S) for _ in range(1_000)))

    run(agent.secured(peer_keys), use)
    assert agent.server_socket.handshakes.counts()["accepted"] == 1


def test_a_silent_session_is_left_despite_short_deadlines() -> None:
    """Each call ends at its deadline; after 2 s without a reply another connection is made."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        server.bind("tcp://127.0.0.1:*")

        async def use(client: AsyncClient) -> None:
            for _ in range(12):
                with pytest.raises(ServerUnreachable):
                    await client.call("echo", deadline_s=0.3)

        run(UnencryptedAddress(endpoint(server)), use)
        routes = set()
        while server.poll(0):
            routes.add(server.recv_multipart()[0])
    assert len(routes) > 1


def test_a_call_that_is_alone_is_sent_at_once(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """In the iteration of the loop in which it begins."""

    async def use(client: AsyncClient) -> None:
        await client.call("echo", text="connects", deadline_s=PATIENCE_S)
        call = asyncio.create_task(client.call("echo", text="x", deadline_s=PATIENCE_S))
        await asyncio.sleep(0)
        assert client._exchange.unanswered == 1
        await call

    run(agent.secured(peer_keys), use)


class TurnCounter(selectors.DefaultSelector):
    """Counts the iterations of its event loop, and notes when the loop waits because it has nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.on_wait: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if timeout is None or timeout > 0:
            self.on_wait()
        return super().select(timeout)


def test_a_call_costs_two_turns_without_polling(
    agent: ServedAgent, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply arrives in one, and the call returns in the next."""
    monkeypatch.setattr(exchange, "_SEVERAL_CORES", False)  # never poll
    selector, turns = TurnCounter(), []

    async def use(client: AsyncClient) -> None:
        await client.call("echo", text="connects", deadline_s=PATIENCE_S)
        selector.on_wait = agent.gate.set  # the reply comes once the client has nothing left to do
        for _ in range(5):
            agent.gate.clear()
            before = selector.turns
            await client.call("hold", deadline_s=PATIENCE_S)
            turns.append(selector.turns - before)

    run(agent.secured(peer_keys), use, selector)
    assert min(turns) == 2, turns  # a timer or an event of the connection may add one to a call


def test_half_a_frame_is_sent_while_more_is_asked(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """The server answers it meanwhile; the rest follows in the loop's next iteration."""

    async def use(client: AsyncClient) -> None:
        await client.call("echo", text="connects", deadline_s=PATIENCE_S)
        half = MAX_SENT_PARTS // 2
        lone = asyncio.create_task(client.call("hold", deadline_s=PATIENCE_S))
        await asyncio.to_thread(agent.entered.wait, PATIENCE_S)  # the server is busy: it answers nothing
        calls = [asyncio.create_task(client.call("echo", text="x", deadline_s=PATIENCE_S)) for _ in range(half + 1)]
        await asyncio.sleep(0)
        assert client._exchange.unanswered == 1 + half
        agent.gate.set()
        await asyncio.gather(lone, *calls)

    run(agent.secured(peer_keys), use)


def test_each_call_ends_at_its_own_deadline() -> None:
    """The first deadline may be that of a later call, or of one that was given up."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        server.bind("tcp://127.0.0.1:*")
        ended: list[float] = []

        async def one(client: AsyncClient, deadline_s: float) -> None:
            with pytest.raises(ServerUnreachable):
                await client.call("echo", deadline_s=deadline_s)
            ended.append(deadline_s)

        async def use(client: AsyncClient) -> None:
            endless = asyncio.create_task(client.call("echo", deadline_s=math.inf))
            await asyncio.gather(*(one(client, deadline_s) for deadline_s in (1.2, 0.1, 0.6)))
            given_up = asyncio.create_task(client.call("echo", deadline_s=0.05))
            await asyncio.sleep(0)
            given_up.cancel()
            await one(client, 0.15)
            assert not endless.done()
            endless.cancel()

        run(UnencryptedAddress(endpoint(server)), use)
    assert ended == [0.1, 0.6, 1.2, 0.15]


def test_one_timer_serves_the_deadlines_of_all_calls(
    agent: ServedAgent, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier deadline replaces it, and a later one leaves it."""

    async def use(client: AsyncClient) -> None:
        await client.call("echo", text="connects", deadline_s=math.inf)
        loop, timers = asyncio.get_running_loop(), list[asyncio.TimerHandle]()
        call_at = loop.call_at

        def noting(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
            timers.append(call_at(*arguments, **options))
            return timers[-1]

        monkeypatch.setattr(loop, "call_at", noting)
        deadlines = [*range(120, 88, -1), *range(89, 121)]
        calls = [asyncio.create_task(client.call("echo", text="x", deadline_s=deadline)) for deadline in deadlines]
        await asyncio.sleep(0)
        assert len(client._exchange.asked) == 64
        assert [timer.cancelled() for timer in timers] == [True] * 31 + [False]
        await asyncio.gather(*calls)

    run(agent.secured(peer_keys), use)


@pytest.mark.parametrize("deadline_s", [math.inf, 1e300])
def test_a_deadline_may_be_infinite(agent: ServedAgent, peer_keys: KeyPair, deadline_s: float) -> None:
    async def use(client: AsyncClient) -> None:
        assert (await client.call("echo", text="x", deadline_s=deadline_s))["text"] == "x"

    run(agent.secured(peer_keys), use)


def test_a_client_may_be_used_in_one_loop_after_another(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Also after the first loop has ended in the middle of a call."""
    client = AsyncClient(agent.secured(peer_keys))

    async def call() -> None:
        assert (await client.call("echo", text="x", deadline_s=PATIENCE_S))["text"] == "x"

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.call("hold", deadline_s=PATIENCE_S), 0.2)

    for use in (call, leave, call):
        if use is leave:
            asyncio.run(use())
            agent.gate.set()
        else:
            with at_most(5.0):
                asyncio.run(use())
    asyncio.run(close(client))


async def close(client: AsyncClient) -> None:
    client.close()


def test_a_slow_call_does_not_hold_up_its_errors(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """While one call is held, another that ends at its deadline ends there; the held one comes through."""

    async def use(client: AsyncClient) -> None:
        held = asyncio.create_task(client.call("hold", deadline_s=PATIENCE_S))
        assert await asyncio.to_thread(agent.entered.wait, PATIENCE_S)
        with at_most(1.5), pytest.raises(ServerUnreachable, match="it received the request and did not reply"):
            await client.call("echo", text="late", deadline_s=0.5)
        agent.gate.set()
        assert (await held)["status"] == "ok"
        assert (await client.call("echo", text="next"))["text"] == "next"

    run(agent.secured(peer_keys), use)


def refusal(server: ServerAddress, deadline_s: float = 30.0) -> ConnectionRefused:
    """Return the error that several calls at once end with; it must come within the promised time."""

    async def use(client: AsyncClient) -> list[Any]:
        with at_most(REFUSAL_S):
            calls = (client.call("who_am_i", deadline_s=deadline_s) for _ in range(5))
            return await asyncio.gather(*calls, return_exceptions=True)

    errors = run(server, use)
    assert len({(type(error), str(error)) for error in errors}) == 1
    error = errors[0]
    assert isinstance(error, ConnectionRefused)
    return error


def test_an_unlisted_key_is_refused(agent: ServedAgent, stranger_keys: KeyPair) -> None:
    """Every call in flight ends with NotAuthorized, at once."""
    assert type(refusal(agent.secured(stranger_keys))) is NotAuthorized


def test_a_wrong_server_pin_is_refused(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Every call in flight ends with WrongServerKey, at once, and says `most likely`."""
    error = refusal(SecuredAddress(agent.address, peer_keys, new_pair().public))
    assert type(error) is WrongServerKey
    assert "most likely" in str(error)


def test_a_link_that_is_secured_on_one_side_is_refused(
    agent: ServedAgent, open_agent: ServedAgent, peer_keys: KeyPair
) -> None:
    """Every call in flight ends with SecurityMismatch, at once, from either side."""
    assert type(refusal(agent.unencrypted())) is SecurityMismatch
    assert type(refusal(SecuredAddress(open_agent.address, peer_keys, new_pair().public))) is SecurityMismatch


def test_a_mute_or_absent_server_is_unreachable_at_the_deadline(peer_keys: KeyPair) -> None:
    """ServerUnreachable at the timeout, whether somebody listens or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        mute = SecuredAddress(address, peer_keys, new_pair().public)
        assert type(refusal(mute, deadline_s=0.5)) is ServerUnreachable
    absent = replace(mute, address=vacant_address())
    assert type(refusal(absent, deadline_s=0.5)) is ServerUnreachable


def test_a_refused_client_may_call_again(agent: ServedAgent, stranger_keys: KeyPair, home: Path) -> None:
    """After a refusal the client reconnects; once the key is listed, the same client comes through."""

    async def use(client: AsyncClient) -> None:
        for _ in range(2):
            with pytest.raises(NotAuthorized):
                await client.call("who_am_i")
        authorize(home, stranger_keys)
        agent.peers.reload()
        assert (await client.call("who_am_i"))["name"] == "stranger"

    run(agent.secured(stranger_keys), use)


def test_a_removed_peers_live_session_is_refused(agent: ServedAgent, peer_keys: KeyPair, home: Path) -> None:
    """PeerNotLive at the next message, or NotAuthorized once its connection is closed."""

    async def use(client: AsyncClient) -> None:
        await client.call("who_am_i")
        (home / f"{peer_keys.certificate.owner.name}.key").unlink()
        agent.peers.reload()
        with at_most(REFUSAL_S), pytest.raises((PeerNotLive, NotAuthorized)):
            await client.call("who_am_i")

    run(agent.secured(peer_keys), use)


def test_calls_in_flight_come_through_a_restart_once(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """The agent dies between commit and reply with 64 changes in flight; each is done exactly once all the same."""
    first = ServedAgent(home, server_keys, wrap_store=DiesAfterCommit)

    async def use(client: AsyncClient) -> ServedAgent:
        calls = [asyncio.create_task(client.call("add", amount=1, deadline_s=PATIENCE_S)) for _ in range(64)]
        assert isinstance(await asyncio.to_thread(first.join), Killed)
        second = await asyncio.to_thread(again, home, server_keys, first.address)
        replies = await asyncio.gather(*calls)
        assert sorted(reply["total"] for reply in replies) == list(range(1, 65))
        return second

    second = run(first.secured(peer_keys), use)
    second.stop()
    assert first.executions
    assert len(first.executions) + len(second.executions) == 64


def test_bad_or_large_fields_are_refused_before_sending(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """The caller gets the typed error, and the client goes on."""

    async def use(client: AsyncClient) -> None:
        with pytest.raises(MalformedRequest):
            await client.call("echo", text=object())
        with pytest.raises(MessageTooLarge):
            await client.call("echo", text="x" * PAYLOAD_LIMIT)
        assert (await client.call("echo", text="good"))["text"] == "good"

    run(agent.secured(peer_keys), use)


def test_closing_ends_the_calls_in_flight(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Nobody waits for a connection that is gone."""

    async def use(client: AsyncClient) -> None:
        held = asyncio.create_task(client.call("hold", deadline_s=PATIENCE_S))
        assert await asyncio.to_thread(agent.entered.wait, PATIENCE_S)
        client.close()
        with at_most(1.0), pytest.raises(ConnectionRefused, match="closed while the call was in flight"):
            await held
        agent.gate.set()

    async def main() -> None:
        await use(AsyncClient(agent.secured(peer_keys)))

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_cancelled_call_leaves_nothing_behind(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """Its late reply is dropped, and the next call gets its own."""

    async def use(client: AsyncClient) -> None:
        held = asyncio.create_task(client.call("hold", deadline_s=PATIENCE_S))
        assert await asyncio.to_thread(agent.entered.wait, PATIENCE_S)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        agent.gate.set()
        assert (await client.call("echo", text="next", deadline_s=PATIENCE_S))["text"] == "next"
        assert client._exchange.asked == {}

    run(agent.secured(peer_keys), use)


def test_more_calls_than_a_server_keeps_replies_for_take_turns() -> None:
    """No more than MAX_UNANSWERED are on their way, and every call is answered without a repetition."""
    calls = 4 * MAX_UNANSWERED
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        server.bind("tcp://127.0.0.1:*")
        held: list[tuple[bytes, dict[str, Any]]] = []
        most = answered = 0

        def take(patience_ms: int) -> None:
            nonlocal most
            while server.poll(patience_ms):
                route, payload = server.recv_multipart()
                held.append((route, json.loads(payload)))
                most = max(most, len(held))

        async def use(client: AsyncClient) -> None:
            nonlocal answered
            asked = [asyncio.create_task(client.call("echo", deadline_s=PATIENCE_S)) for _ in range(calls)]
            while answered < calls:
                await asyncio.to_thread(take, 100)
                for route, request in held[: MAX_UNANSWERED // 2]:
                    server.send_multipart([route, json.dumps({"request_id": request["request_id"]}).encode()])
                    answered += 1
                del held[: MAX_UNANSWERED // 2]
                await asyncio.sleep(0)
            replies = await asyncio.gather(*asked)
            assert len({reply["request_id"] for reply in replies}) == calls

        run(UnencryptedAddress(endpoint(server)), use)
    assert (most, answered) == (MAX_UNANSWERED, calls)
