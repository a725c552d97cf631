"""Asking other agents for a caller: some at once, each within 5 s.

A request is passed on under this agent's own key and in the caller's name, so it can do no more than both may. Its
request_id is derived from the caller's: a retry is the same request there too, and is not done twice; one that comes
while the first is under way gets the same answer.

Where an agent is, it says itself, so an attempt to reach it must not show what is at an address: whatever is wrong
there, the caller gets one sentence, at the deadline. This agent's log has the cause.
"""

import hashlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog

from twinhost.agent.host_keys import HostKeys
from twinhost.network_config import Host, NetworkConfig, is_local_only
from twinhost.secure_zmq.client import Client, new_request_id
from twinhost.secure_zmq.errors import (
    AgentUnreachable,
    LimitReached,
    NotFound,
    PeerNotLive,
    RequestError,
    RequestIdReused,
    TwinhostError,
)
from twinhost.secure_zmq.server_address import ServerAddress
from twinhost.secure_zmq.wire import Reply

DEADLINE_S = 4.5  # from the request on, its time in the queue included; a caller that waits for 5 s hears why
MAX_OPEN = 64  # requests that wait for an answer
MAX_OF_A_CALLER = 16


@dataclass(frozen=True, slots=True)
class Errand:
    """What to ask whom, for whom."""

    agent_name: str
    operation: str
    fields: Mapping[str, Any]
    priority: int  # 1 to 10, 10 goes first
    caller: str
    on_behalf: bool  # whether the caller's name is proven, and passed on
    request_id: str | None


@dataclass(order=True, slots=True)
class Waiting:
    """An errand that nobody has taken yet, or that somebody is on; `deadline` is monotonic."""

    order: tuple[int, int]
    errand: Errand = field(compare=False)
    answer: "Future[Reply]" = field(compare=False)
    deadline: float = field(compare=False)

    @property
    def left_s(self) -> float:
        """How many seconds are left, at least 0."""
        return max(0.0, self.deadline - time.monotonic())


class Errands:
    """The errands that wait, and those under way; for any thread."""

    def __init__(self, workers: int) -> None:
        """Hand errands to that many threads."""
        self._most_at_once = max(1, workers - 1)  # of a caller
        self._numbers = itertools.count()
        self._waiting: list[Waiting] = []
        self._open: Counter[str] = Counter()  # requests by caller, the same one asked twice counts twice
        self._under_way: Counter[str] = Counter()  # errands by caller that a thread is on
        self._by_id: dict[tuple[str, str], Waiting] = {}
        self._changed = threading.Condition()
        self._ended = False

    def add(self, errand: Errand) -> "Future[Reply]":
        """Return the answer to come; the same one where the request is under way already.

        Raises:
            LimitReached: too many wait, of this caller or of all.
            RequestIdReused: the same id is under way for something else.
        """
        with self._changed:
            self._require_room(errand.caller)
            same = self._by_id.get((errand.caller, errand.request_id)) if errand.request_id is not None else None
            if same is not None and same.errand != errand:
                raise RequestIdReused(f"request_id {errand.request_id!r} is under way with another body")
            self._open[errand.caller] += 1
            waiting = same or self._put(errand)
        waiting.answer.add_done_callback(lambda _: self._close(errand.caller))
        return waiting.answer

    def take(self) -> Waiting | None:
        """Wait for the next one, for a thread that is free; None once `end()` was called."""
        with self._changed:
            while not self._ended:
                chosen = self._next()
                if chosen is not None:
                    self._waiting.remove(chosen)
                    self._under_way[chosen.errand.caller] += 1
                    return chosen
                self._changed.wait(min((each.left_s for each in self._waiting), default=None))
        return None

    def end(self) -> None:
        """Let those who wait for an errand go; nobody gets another one."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def done(self, waiting: Waiting) -> None:
        """Note that a thread is free again; the answer is set after that."""
        errand = waiting.errand
        with self._changed:
            _less(self._under_way, errand.caller)
            if errand.request_id is not None:
                del self._by_id[errand.caller, errand.request_id]
            self._changed.notify_all()

    def _put(self, errand: Errand) -> Waiting:
        order = (-errand.priority, next(self._numbers))
        waiting = Waiting(order, errand, Future(), time.monotonic() + DEADLINE_S)
        self._waiting.append(waiting)
        if errand.request_id is not None:
            self._by_id[errand.caller, errand.request_id] = waiting
        self._changed.notify()
        return waiting

    def _next(self) -> Waiting | None:
        """Return the first whose caller does not keep too many threads busy, or one that is past its deadline."""
        free = [
            each
            for each in self._waiting
            if self._under_way[each.errand.caller] < self._most_at_once or each.left_s == 0
        ]
        return min(free, default=None)

    def _require_room(self, caller: str) -> None:
        every, own = self._open.total(), self._open[caller]
        if own >= MAX_OF_A_CALLER or every >= MAX_OPEN:
            raise LimitReached(
                f"{own} requests of {caller} and {every} of all wait for other agents; "
                f"{MAX_OF_A_CALLER} and {MAX_OPEN} may: wait for an answer, and ask again"
            )

    def _close(self, caller: str) -> None:
        with self._changed:
            _less(self._open, caller)


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


_log = structlog.get_logger(__name__)

WORKERS = 4
_CLIENTS_OF_A_WORKER = 8

# An agent's, by its name; the client is one of mainpc's agent, and there are so many seconds left to ask it.
AddressOf = Callable[[str, Client, float], ServerAddress]


class Coordinator:
    """Threads that ask; each has clients of its own."""

    def __init__(self, mainpc: ServerAddress, address_of: AddressOf, max_payload_bytes: int) -> None:
        """Ask the agents that `address_of` finds, with the help of the one at `mainpc`."""
        self._mainpc = mainpc
        self._address_of = address_of
        self._max_payload_bytes = max_payload_bytes
        self._errands = Errands(WORKERS)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"coordinator-{number}", daemon=True) for number in range(WORKERS)
        ]

    @property
    def responsive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._errands.end()
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=1.0)

    def send(self, errand: Errand) -> "Future[Reply]":
        """Return the answer to come; a RequestError where there is none.

        Raises:
            LimitReached: too many wait, of this caller or of all.
            RequestIdReused: the same id is under way for something else.
        """
        return self._errands.add(errand)

    def _work(self) -> None:
        clients = _Clients(self._mainpc, self._address_of, self._max_payload_bytes)
        try:
            while (waiting := self._errands.take()) is not None:
                self._carry_out(clients, waiting)
        finally:
            clients.close()

    def _carry_out(self, clients: "_Clients", waiting: Waiting) -> None:
        reply: Reply | None = None
        error: RequestError | None = None
        try:
            reply = _ask(clients, waiting)
        except AgentUnreachable as failure:
            error = failure
            self._stopped.wait(waiting.left_s)
        except RequestError as refusal:
            error = refusal
        self._errands.done(waiting)
        if error is not None:
            waiting.answer.set_exception(error)
        else:
            waiting.answer.set_result(reply or {})


def not_reached(agent_name: str, cause: str) -> AgentUnreachable:
    """Return the error of every attempt that failed; the cause is logged, and not in the answer."""
    _log.info("agent_not_reached", agent=agent_name[:64], cause=cause)
    return AgentUnreachable(
        f"{agent_name[:64]} did not answer at its address within {DEADLINE_S:g} s; see that it runs, and which address "
        "it has registered (`get_agent_endpoint`)"
    )


class _Clients:
    """The clients of one thread, by agent; the one that was used longest ago gives way."""

    def __init__(self, mainpc: ServerAddress, address_of: AddressOf, max_payload_bytes: int) -> None:
        self._mainpc = Client(mainpc, max_payload_bytes=max_payload_bytes)
        self._address_of = address_of
        self._max_payload_bytes = max_payload_bytes
        self._clients: dict[str, tuple[str, Client]] = {}

    def of(self, agent_name: str, left_s: float) -> Client:
        address = self._address_of(agent_name, self._mainpc, left_s)
        known = self._clients.pop(agent_name, None)
        if known is not None and known[0] != address.address:
            known[1].close()
            known = None
        if known is None:
            known = (address.address, Client(address, max_payload_bytes=self._max_payload_bytes))
        self._clients[agent_name] = known  # the newest is the last
        if len(self._clients) > _CLIENTS_OF_A_WORKER:
            oldest = next(iter(self._clients))
            self._clients.pop(oldest)[1].close()
        return known[1]

    def close(self) -> None:
        for _, client in self._clients.values():
            client.close()
        self._mainpc.close()


def _ask(clients: _Clients, waiting: Waiting) -> Reply:
    errand = waiting.errand
    if waiting.left_s == 0:
        raise AgentUnreachable(f"{errand.agent_name} was not asked within {DEADLINE_S:g} s: others went first")
    fields = {**errand.fields, "on_behalf_of": errand.caller} if errand.on_behalf else errand.fields
    try:
        client = clients.of(errand.agent_name, waiting.left_s)
    except TwinhostError as error:  # mainpc's, which is asked where the agent is
        if _is_an_answer(error):
            raise
        raise AgentUnreachable(f"{errand.agent_name}: {error}") from None
    try:
        reply = client.call(errand.operation, deadline_s=waiting.left_s, request_id=_id_there(errand), **fields)
    except TwinhostError as error:
        if _is_an_answer(error):
            raise
        raise not_reached(errand.agent_name, f"{type(error).__name__}: {error}") from None
    return {name: value for name, value in reply.items() if name != "request_id"}


def _is_an_answer(error: TwinhostError) -> bool:
    return isinstance(error, RequestError) and not isinstance(error, PeerNotLive)


def _id_there(errand: Errand) -> str:
    if errand.request_id is None:
        return new_request_id()
    return hashlib.blake2b(f"{errand.caller}\0{errand.request_id}".encode(), digest_size=16).hexdigest()


def addresses(config: NetworkConfig, keys: HostKeys) -> AddressOf:
    """Return what finds an agent.

    One that is not in the configuration is where it told mainpc that it is, and is believed by a key that is authorised
    on this host; what mainpc or the agent says of its address can only lead to silence. It leads nowhere on this host
    or its link, unless all hosts are configured to be one.
    """

    def address_of(name: str, mainpc: Client, left_s: float) -> ServerAddress:
        if name in config.agents:
            return keys.address_of(config.agents[name])
        told = mainpc.call("get_agent_endpoint", deadline_s=left_s, agent_name=name)
        host, port = told.get("host"), told.get("port")
        if not isinstance(host, str) or not isinstance(port, int):
            raise NotFound(f"{name[:64]!r} is registered without an address; it has to tell `host` and `port`")
        address = _resolved(host)
        if address is None or (is_local_only(address) and not config.on_loopback):
            raise not_reached(name, f"{host[:64]!r} is no address of another host")
        return keys.address_at(name, Host(name, address).endpoint(port))

    return address_of


def _resolved(host: str) -> str | None:
    """Return the address of a host, so that what is connected to is what was judged; None where it has none."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return None
    return str(found[0][4][0])
