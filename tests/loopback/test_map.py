"""`Client.map`: many requests, several in flight, each executed once and answered in its place."""

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.loopback.agent import PAYLOAD_LIMIT, ServedAgent
from tests.loopback.bare_zmq import endpoint
from tests.loopback.test_client import DiesAfterCommit, Killed, again
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    MessageTooLarge,
    NotAuthorized,
    NotGranted,
    ServerUnreachable,
    UnknownAction,
)
from twinhost.secure_zmq.framing.forms import ACCEPTED, MAX_SENT_PARTS, requests_in, together
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import UnencryptedAddress

Request = tuple[str, dict[str, Any]]


def echoes(count: int) -> list[Request]:
    return [("echo", {"text": str(number)}) for number in range(count)]


def texts(replies: Iterator[Any]) -> list[str]:
    return [reply["text"] for reply in replies]


@pytest.mark.parametrize("in_flight", [1, 2, 64, 256])
def test_replies_come_in_the_order_of_the_requests(client: Client, in_flight: int) -> None:
    """However many there are, and are in flight."""
    for count in (0, 1, 2, 700):
        expected = [str(number) for number in range(count)]
        assert texts(client.map(echoes(count), in_flight=in_flight, deadline_s=PATIENCE_S)) == expected


def test_every_change_is_made_once(agent: ServedAgent, client: Client) -> None:
    replies = client.map([("add", {"amount": 1})] * 300, deadline_s=PATIENCE_S)
    assert [reply["total"] for reply in replies if isinstance(reply, dict)] == list(range(1, 301))
    assert agent.executions == [1] * 300


def test_requests_are_read_as_replies_are_taken(client: Client) -> None:
    """An endless generator is no problem; at most `in_flight` are read ahead."""
    numbers = itertools.count()
    read: list[int] = []

    def requests() -> Iterator[Request]:
        for number in numbers:
            read.append(number)
            yield "echo", {"text": str(number)}

    replies = client.map(requests(), in_flight=10, deadline_s=PATIENCE_S)
    assert read == []
    for number in range(25):
        reply = next(replies)
        assert isinstance(reply, dict)
        assert reply["text"] == str(number)
        assert len(read) <= number + 1 + 10


def test_a_slow_iterator_holds_up_no_request(agent: ServedAgent, client: Client) -> None:
    """What was read is sent while the next one is waited for."""

    def requests() -> Iterator[Request]:
        yield "add", {"amount": 1}
        for amount in range(2, 10):
            threading.Event().wait(0.01)
            yield "add", {"amount": amount}
        wait_until(lambda: len(agent.executions) > 1, PATIENCE_S, "something is executed before all is read")

    client.call("who_am_i", deadline_s=PATIENCE_S)
    assert len(list(client.map(requests(), deadline_s=PATIENCE_S))) == 9


@pytest.mark.parametrize("good", [0, 10, 100])
def test_an_exception_of_the_iterator_comes_in_its_place(client: Client, good: int) -> None:
    """After the replies to all that was read before."""

    def requests() -> Iterator[Request]:
        yield from echoes(good)
        raise KeyError("the caller's")

    replies = client.map(requests(), return_exceptions=True, deadline_s=PATIENCE_S)
    assert texts(itertools.islice(replies, good)) == [str(number) for number in range(good)]
    with pytest.raises(KeyError, match="the caller's"):
        next(replies)


def test_an_error_is_raised_in_its_place(client: Client) -> None:
    """What came before it was yielded; the client goes on."""
    requests: list[Request] = [*echoes(3), ("no_such", {}), *echoes(3)]
    replies = client.map(requests, deadline_s=PATIENCE_S)
    assert texts(itertools.islice(replies, 3)) == ["0", "1", "2"]
    with pytest.raises(UnknownAction, match="no_such"):
        next(replies)
    assert next(replies, "the end") == "the end"
    assert client.call("echo", text="next", deadline_s=PATIENCE_S)["text"] == "next"


def test_errors_are_yielded_in_their_places(client: Client) -> None:
    """The server's, and of what can't be sent; the others are answered."""
    requests: list[Request] = [
        ("reset", {}),
        ("echo", {"text": "x" * PAYLOAD_LIMIT}),
        ("echo", {"text": "good"}),
        ("no_such", {}),
    ]
    found = list(client.map(requests, return_exceptions=True, deadline_s=PATIENCE_S))
    assert [type(each) for each in found] == [NotGranted, MessageTooLarge, dict, UnknownAction]


def test_a_call_in_between_gets_its_own_reply(client: Client) -> None:
    """The replies that come meanwhile are kept for the loop."""
    found = []
    for number, reply in enumerate(client.map(echoes(200), deadline_s=PATIENCE_S)):
        assert isinstance(reply, dict)
        found.append(reply["text"])
        if number % 50 == 0:
            assert client.call("echo", text="between", deadline_s=PATIENCE_S)["text"] == "between"
    assert found == [str(number) for number in range(200)]


def test_two_loops_at_once_get_their_own_replies(client: Client) -> None:
    pairs = zip(
        client.map(echoes(150), deadline_s=PATIENCE_S),
        client.map(echoes(150), in_flight=7, deadline_s=PATIENCE_S),
        strict=True,
    )
    assert all(isinstance(one, dict) and isinstance(two, dict) and one["text"] == two["text"] for one, two in pairs)


def test_a_loop_that_is_left_leaves_nothing(client: Client) -> None:
    """Late replies are dropped, and the next call gets its own."""
    replies = client.map(echoes(100), deadline_s=PATIENCE_S)
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert client._exchange.asked == {}
    assert client.call("echo", text="next", deadline_s=PATIENCE_S)["text"] == "next"


def test_a_deadline_is_kept(agent: ServedAgent, client: Client) -> None:
    """That of the request that gets no reply."""
    requests: list[Request] = [("echo", {"text": "x"}), ("hold", {}), *echoes(5)]
    replies = client.map(requests, deadline_s=1.0)
    next(replies)
    with at_most(2.0), pytest.raises(ServerUnreachable, match="no reply to hold"):
        next(replies)
    agent.gate.set()
    assert client.call("echo", text="next", deadline_s=PATIENCE_S)["text"] == "next"


def test_a_slow_reader_loses_no_reply(client: Client) -> None:
    """What has arrived before the deadline counts, although it is taken after it."""
    client.call("who_am_i", deadline_s=PATIENCE_S)  # it is connected
    replies = client.map(echoes(20), in_flight=20, deadline_s=0.4)
    next(replies)
    threading.Event().wait(0.6)
    assert texts(replies) == [str(number) for number in range(1, 20)]


def test_changes_in_flight_come_through_a_restart_once(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """The agent dies between commit and reply; each change is made exactly once all the same."""
    first = ServedAgent(home, server_keys, wrap_store=DiesAfterCommit)
    second: list[ServedAgent] = []

    def restart() -> None:
        assert isinstance(first.join(), Killed)
        second.append(again(home, server_keys, first.address))

    thread = threading.Thread(target=restart)
    thread.start()
    with Client(first.secured(peer_keys)) as client:
        replies = list(client.map([("add", {"amount": 1})] * 200, deadline_s=PATIENCE_S))
    thread.join()
    second[0].stop()
    assert sorted(reply["total"] for reply in replies if isinstance(reply, dict)) == list(range(1, 201))
    assert first.executions
    assert len(first.executions) + len(second[0].executions) == 200


def test_a_refused_key_ends_the_loop(agent: ServedAgent, stranger_keys: KeyPair) -> None:
    """Also where errors are yielded: nothing else would be answered."""
    with Client(agent.secured(stranger_keys)) as client, pytest.raises(NotAuthorized):
        list(client.map(echoes(10), return_exceptions=True, deadline_s=PATIENCE_S))


@pytest.mark.parametrize("in_flight", [0, -1, 257])
def test_a_window_out_of_range_is_refused_at_once(client: Client, in_flight: int) -> None:
    with pytest.raises(ValueError, match=rf"in_flight is {in_flight}; choose 1 to 256"):
        client.map([], in_flight=in_flight)


def test_a_closed_client_says_so(client: Client) -> None:
    client.close()
    with pytest.raises(ConnectionRefused, match="the client is closed"):
        list(client.map(echoes(1)))


@pytest.mark.parametrize("sequences", [True, False], ids=["this version", "an older server"])
def test_half_of_the_window_is_sent_in_one_frame(sequences: bool) -> None:
    """Where the server reads several requests in a frame; one by one where it is older."""
    count = 3 * MAX_SENT_PARTS
    sizes: list[int] = []
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        server.bind("tcp://127.0.0.1:*")

        def serve() -> None:
            while sum(sizes) < count:
                route, frame = server.recv_multipart()
                parts = requests_in(frame, PAYLOAD_LIMIT) if frame.startswith(b"\x1e") else [frame]
                sizes.append(len(parts))
                asked = [json.loads(part) for part in parts]
                extra = {"accepts": ACCEPTED} if sequences else {}
                replies = [{"request_id": each["request_id"], **(extra if "accepts" in each else {})} for each in asked]
                encoded = [json.dumps(reply).encode() for reply in replies]
                server.send_multipart([route, encoded[0] if len(parts) == 1 else together(encoded)])

        thread = threading.Thread(target=serve)
        thread.start()
        with Client(UnencryptedAddress(endpoint(server))) as client:
            assert len(list(client.map(echoes(count), deadline_s=PATIENCE_S))) == count
        thread.join()
    assert max(sizes) == (MAX_SENT_PARTS // 2 if sequences else 1)
