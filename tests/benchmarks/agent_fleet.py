"""Many agents in a few processes, each as mainpc sees it: a key pair, a connection for requests, and one for the feed.

An agent is membership's `MainpcLink` with the product's client, deadlines, and waits, and a subscription to the trust
topic. No agent has a thread: a link runs in a greenlet, which switches to the event loop of its process where the
product's thread would wait, and the loop reads every socket and every monitor. Three things differ from an agent: a
link with an empty outbox sleeps until its next turn and does not poll ten times a second for events; mainpc's trust
document is fetched and read, and not written into a folder; and a server that ends handshakes is not asked for its
greeting. Measurements of a host are not sent.
"""

import asyncio
import logging
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar, NamedTuple

import greenlet
import structlog
import zmq

from twinhost.agent.membership.member import MainpcLink
from twinhost.agent.trust import TRUST_TOPIC, TrustDocument, TrustFolder
from twinhost.network_config import Agent, Host
from twinhost.secure_zmq import monitor, sockets
from twinhost.secure_zmq.client import MAX_EVENT_BYTES, Client
from twinhost.secure_zmq.errors import ConnectionRefused, TwinhostError
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.link import Link, Step
from twinhost.secure_zmq.monitor import Monitor, SocketEvent
from twinhost.secure_zmq.server_address import SecuredAddress, open_connection
from twinhost.secure_zmq.sockets import DONTWAIT, ClientSocket, client_context
from twinhost.secure_zmq.wire import Reply

_ANSWER_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.2  # how soon a deadline that has passed is noticed; a session, a loss, or a reply resumes at once
_FEED_RETRY_S = 0.1


class Call(NamedTuple):
    """One call of an agent: moments by the monotonic clock, which the processes of a machine share."""

    agent: int
    action: str
    began: float
    ended: float
    error: str | None  # the type of it


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the agents of one process are made of; `first` is the number of the first one."""

    first: int
    pairs: Sequence[KeyPair]
    endpoint: str
    feed: str | None  # None: they don't subscribe
    server_key: PublicKey
    heartbeat_s: float
    max_payload_bytes: int
    trust: TrustDocument  # that they have from before


class _LoopMonitor(Monitor):
    """A monitor that the event loop drains, in place of a thread."""

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._pair.fileno(), self._look)
        self._look()  # libzmq signals the descriptor only to a reader that has found nothing

    def join(self) -> None:
        if not self._pair.closed:
            asyncio.get_running_loop().remove_reader(self._pair.fileno())
            self._pair.close(0)

    def _look(self) -> None:
        with suppress(zmq.Again):
            while not self._pair.closed:
                event, value = monitor._EVENT.unpack(self._pair.recv(DONTWAIT))
                endpoint = self._pair.recv().decode()
                if event != monitor._STOPPED:
                    self._deliver(monitor._typed(event, value, endpoint))


class _Turns:
    """Lets one greenlet wait in the event loop."""

    def __init__(self) -> None:
        self._waiting: greenlet.greenlet | None = None

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or once `resume()` is called."""
        timer = asyncio.get_running_loop().call_later(seconds, self.resume)
        self._waiting = greenlet.getcurrent()
        self._waiting.parent.switch()
        timer.cancel()

    def resume(self) -> None:
        if (waiting := self._waiting) is not None:
            self._waiting = None
            waiting.switch()


def _no_greeting(_: str) -> None:
    """Leave out the question for a server's greeting, during which the event loop would stand still."""


class _Link(Link):
    def __init__(self, server: SecuredAddress, turns: _Turns) -> None:
        super().__init__(server, _no_greeting)
        self._turns = turns

    def feed(self, event: SocketEvent) -> None:
        super().feed(event)
        self._turns.resume()

    def wait_for_session(self, timeout_s: float) -> int:
        if not self.session and self.diagnosis.verdict() is None:
            self._turns.wait(_LOOK_EVERY_S)
        return self.session

    def backoff_s(self) -> float:
        """Wait here, since the client would keep the thread."""
        if (seconds := super().backoff_s()) > 0:
            self._turns.wait(seconds)
        return 0.0


class _Client(Client):
    """The client, which waits in its greenlet, and notes what became of every call."""

    def __init__(self, server: SecuredAddress, max_payload_bytes: int, agent: int, calls: list[Call]) -> None:
        super().__init__(server, max_payload_bytes=max_payload_bytes)
        self._turns = _Turns()
        self._link = self._exchange._link = _Link(server, self._turns)
        self._agent = agent
        self._calls = calls

    def call(self, action: str, /, **options: Any) -> Reply:
        began, error = time.monotonic(), None
        try:
            return super().call(action, **options)
        except TwinhostError as fault:
            error = type(fault).__name__
            raise
        finally:
            self._calls.append(Call(self._agent, action, began, time.monotonic(), error))

    def _connect(self) -> ClientSocket:
        connection = super()._connect()
        asyncio.get_running_loop().add_reader(connection.fd, self._turns.resume)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection.fd)
        super()._drop()

    def _receive(self, connection: ClientSocket) -> None:
        if not connection.readable:
            self._turns.wait(_LOOK_EVERY_S)
        while self._exchange.unanswered and connection.readable:
            self._exchange.take(connection.socket.recv(DONTWAIT))


class _TrustInMemory(TrustFolder):
    """Follows mainpc's document, and leaves the disk alone; agents of one process share what is equal."""

    _shared: ClassVar[dict[str, TrustDocument]] = {}

    def __init__(self, document: TrustDocument) -> None:
        self._document = document

    def document(self) -> TrustDocument:
        return self._document

    def apply(self, document: TrustDocument) -> None:
        self._document = self._shared.setdefault(document.revision, document)


class _Agent(MainpcLink):
    """One agent: its link in a greenlet, and its subscription."""

    def __init__(self, fleet: Fleet, place: int, calls: list[Call]) -> None:
        pair = fleet.pairs[place]
        owner = pair.certificate.owner
        agent = Agent(owner.name, Host(owner.host, "127.0.0.1"), owner.name, 7_000, 8_000, None)
        server = SecuredAddress(fleet.endpoint, pair, fleet.server_key)
        super().__init__(server, agent, fleet.heartbeat_s, fleet.max_payload_bytes, _TrustInMemory(fleet.trust))
        self._sleep = _Turns()
        self._noted = server, fleet.max_payload_bytes, fleet.first + place, calls
        self.feed = _Feed(SecuredAddress(fleet.feed, pair, fleet.server_key), self.wake) if fleet.feed else None

    @property
    def trusted(self) -> str | None:
        """The revision of the trust document that this agent follows."""
        return self._trust_revision

    def start(self) -> None:
        greenlet.greenlet(self._run).switch()

    def wake(self) -> None:
        super().wake()
        self._sleep.resume()

    def _run(self) -> None:
        client = _Client(*self._noted)
        while True:
            self._heartbeat_due = False
            self._send_until(client, time.monotonic() + self._turn(client))

    def _send_until(self, client: Client, next_heartbeat: float) -> None:
        if not self._heartbeat_due:
            self._sleep.wait(max(0.0, next_heartbeat - time.monotonic()))


class _Feed:
    """Follows the trust topic as the product's subscriber does, without its thread."""

    def __init__(self, server: SecuredAddress, on_event: Callable[[], None]) -> None:
        self._link = Link(server, _no_greeting)
        self._on_event = on_event
        self._connection: ClientSocket | None = None

    def start(self) -> None:
        target = self._link.next_target()
        self._connection = open_connection(target, client_context(), self._observe, MAX_EVENT_BYTES, zmq.SUB)
        self._connection.socket.subscribe(TRUST_TOPIC)
        asyncio.get_running_loop().add_reader(self._connection.fd, self._look)
        self._look()

    def _observe(self, event: SocketEvent) -> None:
        self._link.feed(event)
        try:
            keep = self._link.step(time.monotonic()) is Step.KEEP
        except ConnectionRefused:
            keep = False
        if not keep and self._connection is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._connection.fd)
            loop.call_soon(self._connection.close)  # not within its own event
            loop.call_later(max(_FEED_RETRY_S, self._link.backoff_s()), self.start)
            self._connection = None
        elif self._link.diagnosis.connected:
            self._link.worked()

    def _look(self) -> None:
        with suppress(zmq.Again):
            while self._connection is not None:
                self._connection.socket.recv_multipart(DONTWAIT)
                self._on_event()


class FleetProcess:
    """A process of agents, as the one that measures sees it."""

    def __init__(self, fleet: Fleet) -> None:
        """Start the process; its agents wait for `start()`."""
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(fleet, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def start(self, over_s: float = 0.0) -> None:
        """Have all agents start, at one moment or evenly over so many seconds."""
        self._ask(f"start {over_s}")

    def calls(self) -> list[Call]:
        """Return the calls that ended since this was asked last."""
        return [Call(*each) for each in self._ask("calls")]

    def in_touch(self) -> int:
        """Return how many agents are in touch with mainpc."""
        return int(self._ask("in_touch"))

    def following(self) -> list[str | None]:
        """Return the revision of the trust document that each agent follows."""
        return list(self._ask("following"))

    def stop(self) -> None:
        """End the agents and the process."""
        if self._process.is_alive():
            self._ours.send("stop")
            self._process.join(_ANSWER_WITHIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, what: str) -> Any:
        self._ours.send(what)
        if not self._ours.poll(_ANSWER_WITHIN_S):
            raise TimeoutError(f"the agents did not answer {what!r} within {_ANSWER_WITHIN_S:g} s")
        return self._ours.recv()


def raise_file_limit() -> int:
    """Let this process, and those that it starts, have as many open files as the hard limit allows; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _serve(fleet: Fleet, parent: Connection) -> None:
    raise_file_limit()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # a line for each event
    vars(sockets)["Monitor"] = _LoopMonitor
    asyncio.run(_obey(fleet, parent))
    os._exit(0)  # the kernel closes thousands of sockets at once, libzmq one by one


async def _obey(fleet: Fleet, parent: Connection) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    calls: list[Call] = []
    agents = [_Agent(fleet, place, calls) for place in range(len(fleet.pairs))]

    def obey() -> None:
        asked = parent.recv()
        if asked == "stop":
            stopped.set()
        elif asked == "calls":
            parent.send([tuple(call) for call in calls])
            calls.clear()
        elif asked == "in_touch":
            parent.send(sum(agent.fault is None for agent in agents))
        elif asked == "following":
            parent.send([agent.trusted for agent in agents])
        else:
            pause_s = float(asked.removeprefix("start")) / len(agents)
            for place, agent in enumerate(agents):
                for each in (agent, agent.feed):
                    if each is not None:
                        loop.call_later(place * pause_s, each.start)
            parent.send(None)

    loop.add_reader(parent.fileno(), obey)
    await stopped.wait()
