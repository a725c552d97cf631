"""Many agents in a few processes: each has a key pair, a connection, and the product's own link to mainpc.

A link is membership's `MainpcLink` on its thread, with the product's client, deadlines, and waits; what is added here
notes the calls. Three things differ from an agent, because a thousand share two cores here. A link with an
empty outbox sleeps until its next turn and does not poll ten times a second for events. A call that waits checks five
times a second whether its keys have changed, not fifty times; a session or an answer wakes it at once all the same.
And mainpc's trust document is fetched and read, and not written into a folder.
"""

import logging
import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import structlog

import twinhost.secure_zmq.client
from twinhost.agent.membership.member import MainpcLink
from twinhost.agent.trust import TRUST_TOPIC, TrustDocument, TrustFolder
from twinhost.network_config import Agent, Host
from twinhost.secure_zmq.client import Client, Subscriber
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.secure_zmq.wire import Reply

_ANSWER_WITHIN_S = 60.0
_LOOK_EVERY_MS = 200
_SWITCH_S = 0.5  # hundreds of threads that each ask for the interpreter every 5 ms use both cores up by asking


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


class _TrustInMemory(TrustFolder):
    """Follows mainpc's document, and leaves the disk alone."""

    def __init__(self) -> None:
        self._document = TrustDocument("none", (), (), ())

    def document(self) -> TrustDocument:
        return self._document

    def apply(self, document: TrustDocument) -> None:
        self._document = document


class _NotingClient(Client):
    """The client, which notes what became of every call."""

    def __init__(self, server: SecuredAddress, max_payload_bytes: int, agent: int, calls: list[Call]) -> None:
        super().__init__(server, max_payload_bytes=max_payload_bytes)
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


class _Link(MainpcLink):
    def __init__(self, server: SecuredAddress, agent: Agent, fleet: Fleet, number: int, calls: list[Call]) -> None:
        super().__init__(server, agent, fleet.heartbeat_s, fleet.max_payload_bytes, _TrustInMemory())
        self._noted = server, fleet.max_payload_bytes, number, calls

    @property
    def trusted(self) -> str | None:
        """The revision of the trust document that this agent follows."""
        return self._trust_revision

    def _run(self) -> None:
        with _NotingClient(*self._noted) as client:
            while not self.stopping:
                self._heartbeat_due = False
                self._signal.clear()
                self._send_until(client, time.monotonic() + self._turn(client))

    def _send_until(self, client: Client, next_turn: float) -> None:
        self._signal.wait(max(0.0, next_turn - time.monotonic()))


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
    sys.setswitchinterval(_SWITCH_S)
    twinhost.secure_zmq.client._SLICE_MS = _LOOK_EVERY_MS
    calls: list[Call] = []
    links = [_link(fleet, place, calls) for place in range(len(fleet.pairs))]
    feeds = [_subscriber(fleet, pair, link) for pair, link in zip(fleet.pairs, links, strict=True) if fleet.feed]
    companions: list[_Link | Subscriber] = [each for pair in zip_longest(links, feeds) for each in pair if each]
    while (asked := parent.recv()) != "stop":
        if asked.startswith("start"):
            pause_s = float(asked.removeprefix("start")) / len(companions)
            threading.Thread(target=_start, args=(companions, pause_s), daemon=True).start()
            parent.send(None)
        elif asked == "calls":
            count = len(calls)
            parent.send([tuple(each) for each in calls[:count]])
            del calls[:count]
        elif asked == "in_touch":
            parent.send(sum(link.fault is None for link in links))
        else:
            parent.send([link.trusted for link in links])
    ends = [threading.Thread(target=companion.stop) for companion in companions]
    for end in ends:  # side by side: a link whose mainpc is gone takes the rest of its call's deadline
        end.start()
    for end in ends:
        end.join()


def _start(companions: Sequence[_Link | Subscriber], pause_s: float) -> None:
    for companion in companions:
        companion.start()
        time.sleep(pause_s)


def _link(fleet: Fleet, place: int, calls: list[Call]) -> _Link:
    pair = fleet.pairs[place]
    owner = pair.certificate.owner
    agent = Agent(owner.name, Host(owner.host, "127.0.0.1"), owner.name, 7_000, 8_000, None)
    return _Link(SecuredAddress(fleet.endpoint, pair, fleet.server_key), agent, fleet, fleet.first + place, calls)


def _subscriber(fleet: Fleet, pair: KeyPair, link: _Link) -> Subscriber:
    address = SecuredAddress(fleet.feed or "", pair, fleet.server_key)
    return Subscriber(address, [TRUST_TOPIC], lambda _: link.wake())
