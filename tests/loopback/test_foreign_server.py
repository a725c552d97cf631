"""Both clients against something that speaks ZeroMQ and is no agent of ours."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from tests.waiting import REFUSAL_S, at_most
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import MalformedRequest, RequestError, ServerUnreachable, TwinhostError
from twinhost.secure_zmq.server_address import UnencryptedAddress
from twinhost.secure_zmq.wire import Reply

Ask = Callable[[UnencryptedAddress], Reply]


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[UnencryptedAddress]:
    """Serve a ROUTER that answers whatever the test sets."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    port = router.bind_to_random_port("tcp://127.0.0.1")
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            if router.poll(20):
                routing_id, payload = router.recv_multipart()
                router.send_multipart([routing_id, answer(payload)])
        router.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield UnencryptedAddress(f"tcp://127.0.0.1:{port}")
    finally:
        done.set()
        thread.join()
        context.term()


def ask_blocking(server: UnencryptedAddress) -> Reply:
    with Client(server) as client:
        return client.call("ping", deadline_s=1.0)


def ask_async(server: UnencryptedAddress) -> Reply:
    async def ask() -> Reply:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with AsyncClient(server) as client:
            try:
                return await client.call("ping", deadline_s=1.0)
            finally:
                assert complaints == []

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [ask_blocking, ask_async])


def to_the_id(reply: Reply) -> Callable[[bytes], bytes]:
    """Return a server that answers every request with a reply under the request's id."""
    return lambda payload: json.dumps({**reply, "request_id": json.loads(payload)["request_id"]}).encode()


@both
@pytest.mark.parametrize("garbage", [b"", b"hello", b"\xff", b"[]", b"[" * 100_000])
def test_an_answer_that_is_no_object_is_refused_at_once(ask: Ask, garbage: bytes) -> None:
    """Neither a traceback nor a silence: MalformedRequest asks whether this is an agent at all."""
    refused = pytest.raises(MalformedRequest, match="check that the address is that of a twinhost agent")
    with answering(lambda _: garbage) as server, at_most(REFUSAL_S), refused:
        ask(server)


@both
@pytest.mark.parametrize("reply", [{}, {"request_id": "another"}, {"request_id": None}, {"request_id": ["x"]}])
def test_a_reply_to_somebody_else_is_dropped(ask: Ask, reply: Reply) -> None:
    """An answer without this request's id is not this request's answer."""
    refused = pytest.raises(ServerUnreachable, match="it received the request and did not reply")
    with answering(lambda _: json.dumps({"status": "ok", **reply}).encode()) as server, refused:
        ask(server)


@both
@pytest.mark.parametrize(
    ("reply", "kind", "sentence"),
    [
        ({"status": "error", "code": "newer_code", "error": "why"}, RequestError, "why"),
        ({"status": "error", "code": "not_found"}, TwinhostError, "no reason given"),
        ({"status": "error", "code": 5, "error": ["x"]}, RequestError, r"\['x'\]"),
    ],
)
def test_an_error_of_another_form_is_still_an_error(
    ask: Ask, reply: Reply, kind: type[TwinhostError], sentence: str
) -> None:
    """A code that is unknown here, or a sentence that is missing, is refused like any other error."""
    with answering(to_the_id(reply)) as server, pytest.raises(kind, match=sentence):
        ask(server)


@both
def test_a_reply_without_a_status_is_returned(ask: Ask) -> None:
    """What a reply holds is the caller's business; older agents have their own success statuses."""
    with answering(to_the_id({"SUCCESS": 1})) as server:
        assert ask(server)["SUCCESS"] == 1
