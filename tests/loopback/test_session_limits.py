"""How many connections one key may have: counted whether they say something or not, and one more is refused."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.loopback.agent import ServedAgent, serving
from tests.loopback.test_rotation_of_pins import Kind, both
from tests.unit.secure_zmq.wall_clock import LeapingClock, StandingClock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.clients import PlainClient, Refused, open_session
from twinhost.adversary.zmtp import Disconnected, connect_to
from twinhost.secure_zmq import connections
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.connections import Connection, SessionLimits
from twinhost.secure_zmq.errors import ServerUnreachable
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import Outcome

LIMIT = 5
LONGEST_BACKOFF_S = 2.0
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def limited(neighbour_keys: KeyPair, home: Path, server_keys: KeyPair) -> Iterator[ServedAgent]:
    """An agent that allows five connections to each key."""
    with serving(home, server_keys, sessions_per_key=LIMIT) as agent:
        yield agent


def session(agent: ServedAgent, keys: KeyPair, *, speaks: bool) -> PlainClient:
    """Return a session with a good key that has said something, or nothing."""
    client = open_session(connect_to(agent.address), keys, agent.public_key)
    if speaks:
        assert client.call("who_am_i")["status"] == "ok"
    return client


def count(agent: ServedAgent, keys: KeyPair) -> int:
    assert agent.authenticator is not None
    return agent.authenticator.limits.count(keys.public.fingerprint)


@pytest.mark.parametrize("speaks", [True, False], ids=["speaking", "silent"])
def test_one_more_than_a_key_may_have_is_refused(
    limited: ServedAgent, peer_keys: KeyPair, neighbour_keys: KeyPair, speaks: bool
) -> None:
    """Other keys connect all the same, and so does this one when a connection of its own has ended."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(session(limited, peer_keys, speaks=speaks)) for _ in range(LIMIT)]
        with pytest.raises(Refused, match="ERROR 500"):
            session(limited, peer_keys, speaks=False)
        assert limited.counted(Outcome.TOO_MANY_SESSIONS) == 1
        with Client(limited.secured(neighbour_keys)) as client:
            assert client.call("who_am_i")["name"] == "neighbour"
        sessions[0].connection.close()
        wait_until(lambda: count(limited, peer_keys) == LIMIT - 1, PATIENCE_S, "the end is noticed")
        stack.enter_context(session(limited, peer_keys, speaks=True))


def test_a_client_says_that_its_key_has_too_many(limited: ServedAgent, peer_keys: KeyPair) -> None:
    """It tries until its deadline, since a connection may end meanwhile; then it names the limit."""
    with ExitStack() as stack:
        for _ in range(LIMIT):
            stack.enter_context(session(limited, peer_keys, speaks=True))
        client = stack.enter_context(Client(limited.secured(peer_keys)))
        with pytest.raises(ServerUnreachable, match="sessions_per_key"):
            client.call("who_am_i", deadline_s=2.0)
    wait_until(lambda: count(limited, peer_keys) <= 1, PATIENCE_S, "the others have ended")
    with Client(limited.secured(peer_keys)) as client:
        assert client.call("who_am_i")["status"] == "ok"


@both
def test_a_client_that_was_refused_gets_in_when_there_is_room(
    limited: ServedAgent, peer_keys: KeyPair, kind: Kind
) -> None:
    """By attempts that go on over many calls, although their deadlines are shorter than the backoff by then."""
    with ExitStack() as stack, kind(limited.secured(peer_keys)) as client:
        sessions = [stack.enter_context(session(limited, peer_keys, speaks=True)) for _ in range(LIMIT)]
        with pytest.raises(ServerUnreachable, match="sessions_per_key"):
            client.call("who_am_i", deadline_s=2.0)
        for _ in range(2):
            with pytest.raises(ServerUnreachable, match="sessions_per_key"):
                client.call("who_am_i", deadline_s=0.3)
            time.sleep(0.5)
        sessions[0].connection.close()

        def served() -> bool:
            with suppress(ServerUnreachable):
                return bool(client.call("who_am_i", deadline_s=0.3)["status"] == "ok")
            time.sleep(LONGEST_BACKOFF_S)
            return False

        wait_until(served, PATIENCE_S, "it gets in")
    assert 1 < limited.counted(Outcome.TOO_MANY_SESSIONS) < 20


def test_counts_are_exact_when_keys_mix(limited: ServedAgent, peer_keys: KeyPair, neighbour_keys: KeyPair) -> None:
    """From one address, silent and speaking, each key has what it has, and at the end nothing."""
    with ExitStack() as stack:
        for number in range(LIMIT):
            for keys in (peer_keys, neighbour_keys):
                stack.enter_context(session(limited, keys, speaks=number % 2 == 0))
        for keys in (peer_keys, neighbour_keys):
            wait_until(lambda keys=keys: count(limited, keys) == LIMIT, PATIENCE_S, "each has five")  # type: ignore[misc]
    for keys in (peer_keys, neighbour_keys):
        wait_until(lambda keys=keys: count(limited, keys) == 0, PATIENCE_S, "none is left")  # type: ignore[misc]


def test_connections_that_come_and_go_leave_no_count(limited: ServedAgent, peer_keys: KeyPair) -> None:
    """However quickly they end, silent or not."""
    for number in range(30):  # a silent one counts for a second
        wait_until(lambda: count(limited, peer_keys) < LIMIT, PATIENCE_S, "there is room")
        session(limited, peer_keys, speaks=number % 3 == 0).connection.close()
    wait_until(lambda: count(limited, peer_keys) == 0, PATIENCE_S, "none is left")


def test_sessions_that_libzmq_keeps_after_their_end_are_bounded(
    agent: ServedAgent, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that repeats an encrypted frame, again and again, does not use up descriptors; another client goes on."""
    monkeypatch.setattr(connections, "MAX_LOST", LIMIT)
    process = psutil.Process()
    with Client(agent.secured(peer_keys)) as client:
        assert client.call("who_am_i")["status"] == "ok"
        before = process.num_fds()
        for _ in range(4 * LIMIT):
            # Once there are too many, the port is bound again, which ends the present session too.
            with suppress(Disconnected), session(agent, peer_keys, speaks=True) as damaged:
                frame = damaged.encode(b'{"action":"who_am_i"}')
                damaged.connection.send(2 * frame)
                damaged.receive()
                damaged.connection.reset()
        wait_until(lambda: process.num_fds() < before + LIMIT, PATIENCE_S, "their descriptors are closed")
        assert client.call("who_am_i")["status"] == "ok"


def test_all_keys_together_stay_below_the_open_files() -> None:
    """With `nofile` at 1,024: there is room for handshakes, and for the agent's own files."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024));"
        "from twinhost.secure_zmq.connections import Connection, SessionLimits;"
        "from twinhost.secure_zmq.descriptors import most_pending;"
        "limits = SessionLimits(10_000);"
        "at = '127.0.0.1';"
        "admitted = [(limits.opened(Connection(n, at)), limits.admit(f'key {n}', at))[1] for n in range(2000)];"
        "print(most_pending(), sum(admitted))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/services"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    pending, admitted = map(int, done.stdout.split())
    assert (pending, admitted) == (128, 1024 - 2 * 128 - 64 - 128)


def test_a_client_is_told_of_the_limit_of_all_keys(limited: ServedAgent, peer_keys: KeyPair) -> None:
    """The key has room, so its own limit alone would mislead; the agent's log says which of the two it is."""
    assert limited.authenticator is not None
    refusals: list[Mapping[str, str]] = []
    limited.authenticator.handshakes.listen(lambda _, fields: refusals.append(fields))
    limited.authenticator.limits.total = 0
    with Client(limited.secured(peer_keys)) as client, pytest.raises(ServerUnreachable) as refused:
        client.call("who_am_i", deadline_s=1.0)
    sentence = str(refused.value)
    assert "or all keys together have theirs (TWINHOST_NOFILE in its .env)" in sentence
    assert sentence.endswith("; close some, or raise the limit that its log names")  # it runs, and its address is right
    assert refusals[0]["reason"] == "all keys together have the 0 connections that TWINHOST_NOFILE allows"
    limited.authenticator.limits.total = LIMIT + 1
    with ExitStack() as stack:
        for _ in range(LIMIT):
            stack.enter_context(session(limited, peer_keys, speaks=True))
        with pytest.raises(Refused, match="ERROR 500"):
            session(limited, peer_keys, speaks=False)
    assert refusals[-1]["reason"] == f"the key has the {LIMIT} connections that limits.sessions_per_key allows"


def test_the_first_message_corrects_what_was_assumed() -> None:
    """Two keys from one address, placed the wrong way round: each is counted once, before and after."""
    limits, one, other = SessionLimits(), Connection(8, "10.0.0.1"), Connection(9, "10.0.0.1")
    limits.opened(one)
    limits.opened(other)
    assert limits.admit("first", "10.0.0.1")
    assert limits.admit("second", "10.0.0.1")
    limits.finished(other)
    limits.finished(one)
    limits.proven(other, "second")
    assert (limits.count("first"), limits.count("second")) == (1, 1)
    limits.ended(other)
    assert (limits.count("first"), limits.count("second")) == (1, 0)
    limits.ended(one)
    assert (limits.count("first"), limits.count("second")) == (0, 0)


def test_a_connection_that_is_reported_late_counts_meanwhile() -> None:
    """Its key was accepted, and the monitor's thread is behind: the end of another one does not make room."""
    limits, own, other = SessionLimits(per_key=2), Connection(8, "10.0.0.1"), Connection(9, "10.0.0.1")
    assert limits.admit("key", "10.0.0.1")
    assert limits.admit("key", "10.0.0.1")
    assert not limits.admit("key", "10.0.0.1")
    limits.opened(other)
    limits.ended(other)
    assert limits.count("key") == 2
    assert not limits.admit("key", "10.0.0.1")
    limits.opened(own)
    limits.finished(own)
    assert limits.count("key") == 2


def test_an_end_that_nobody_reported_locks_no_key_out() -> None:
    """A descriptor that is no connection any more, and an acceptance without one, do not count against a key."""
    limits = SessionLimits(per_key=2, clock=LeapingClock())
    ended = os.open(os.devnull, os.O_RDONLY)
    connection = Connection(ended, "10.0.0.1")
    limits.opened(connection)
    assert limits.admit("key", "10.0.0.1")
    limits.finished(connection)
    assert limits.admit("key", "10.0.0.2")
    os.close(ended)
    assert [limits.admit("key", "10.0.0.3") for _ in range(3)] == [True, True, True]


def test_an_end_that_is_reported_late_is_counted_once() -> None:
    """A connection that was found ended before its end is reported, or that says something all the same."""
    limits = SessionLimits(per_key=1)
    ended = os.open(os.devnull, os.O_RDONLY)
    connection = Connection(ended, "10.0.0.1")
    limits.opened(connection)
    assert limits.admit("key", "10.0.0.1")
    limits.finished(connection)
    os.close(ended)
    assert limits.admit("key", "10.0.0.3")
    limits.proven(connection, "key")
    limits.ended(connection)
    limits.ended(connection)
    assert limits.count("key") <= 1


def test_a_scoped_address_is_that_of_its_connection() -> None:
    """ZAP names a link-local address with its interface, and the kernel without: both are one place."""
    limits = SessionLimits(per_key=2, clock=LeapingClock())
    for fd in range(1_000, 1_020):
        connection = Connection(fd, "fe80::1")
        limits.opened(connection)
        assert limits.admit("key", "fe80::1%eth0")
        limits.ended(connection)
    assert limits.count("key") == 0


def test_two_sockets_with_one_descriptor_are_counted_apart() -> None:
    """The feed may get a descriptor of the request socket's before the end of the older connection is reported."""
    limits, older, newer = SessionLimits(), Connection(9, "10.0.0.1"), Connection(9, "10.0.0.1")
    limits.opened(older)
    assert limits.admit("key", "10.0.0.1")
    limits.finished(older)
    limits.opened(newer)
    assert limits.admit("key", "10.0.0.1")
    limits.ended(older)
    limits.finished(newer)
    assert limits.count("key") == 1
    limits.ended(newer)
    assert limits.count("key") == 0


def seconds_of(agents: int) -> float:
    """Return the CPU seconds in which so many agents behind one address connect, show their keys, and leave."""
    limits, shuffled = SessionLimits(clock=StandingClock()), random.Random(1)
    limits.total = 2 * agents  # whatever `nofile` is here
    keys = [f"key {number}" for number in range(agents)]
    connections = [Connection(number, "192.0.2.1", 7_120) for number in range(agents)]
    began = time.process_time()
    for key, connection in zip(keys, connections, strict=True):
        assert limits.admit(key, "192.0.2.1")
        limits.opened(connection)
        limits.finished(connection)
    shuffled.shuffle(keys)
    for key, connection in zip(keys, connections, strict=True):  # each of them was assigned to another one
        limits.proven(connection, key)
    assert {key: limits.count(key) for key in keys} == dict.fromkeys(keys, 1)
    assert limits.admit("another", "192.0.2.1")  # it waits for its connection, so that each end looks for its own
    for connection in connections:
        limits.ended(connection)
    took_s = time.process_time() - began
    assert {key: limits.count(key) for key in keys} == dict.fromkeys(keys, 0)
    return took_s


def test_many_agents_behind_one_address_cost_no_more_each() -> None:
    """Eight times as many take eight times as long, and not 64 times."""
    few, many = (min(seconds_of(agents) for _ in range(3)) for agents in (250, 2_000))
    assert many < 24 * few
