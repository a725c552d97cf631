"""Forward requests to other agents for a caller: several at once, each within 5 s.

A request is forwarded with this agent's own key and in the caller's name, so it is granted only what both may do. Its
request_id is derived from the caller's: a retry is the same request at the target too, and is not executed twice; one
that comes while the first is under way gets the same reply.

An agent registers its own address, so a failed attempt must not reveal what is at that address (a port scan): the
caller always gets the same sentence, at the deadline. This agent's log has the cause.

Requests wait in a bounded queue, ordered by priority; among equals, the caller with the fewest under way is first, and
then the first to arrive. A caller may keep all but one of the threads busy, so that another caller's request never
waits for all of one caller's.
"""

import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from twinhost.agent.host_keys import HostKeys
from twinhost.agent.settings import Settings
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config import Host, is_local_only
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    AgentUnreachable,
    LimitReached,
    NotFound,
    PeerNotLive,
    RequestError,
    RequestIdReused,
    TwinhostError,
)
from twinhost.secure_zmq.framing.exchange import new_request_id
from twinhost.secure_zmq.server_address import ServerAddress
from twinhost.secure_zmq.trace_context import current_traceparent, in_trace
from twinhost.secure_zmq.wire import Reply
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

DEADLINE_S = 4.5  # from the request on, including its time in the queue; a caller that waits for 5 s gets the error
MAX_OPEN = 64  # requests that wait for a reply
MAX_OF_A_CALLER = 16
WORKERS = 4
_CLIENTS_OF_A_WORKER = 8
MAX_LOOKUPS = 32  # of names, at once; the system's resolver may take half a minute for each

# Returns an agent's address by its name, given a client of mainpc's agent and the seconds left to ask it.
AddressOf = Callable[[str, Client, float], ServerAddress]


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    """A request for another agent."""

    agent_name: str
    operation: str
    fields: Mapping[str, Any]
    priority: int  # 1 to 10; 10 goes first
    caller: str
    on_behalf: bool  # whether the caller's name is proven, and passed on
    request_id: str | None
    traceparent: str | None = field(default_factory=current_traceparent, compare=False)  # a repetition may have another


@dataclass(eq=False, slots=True)
class PendingForward:
    """A request in the queue, or `taken` by a thread; `deadline` is monotonic, `asked` counts its repetitions too."""

    request: ForwardedRequest
    deadline: float
    clock: Clock
    reply: "Future[Reply]" = field(default_factory=Future)
    asked: int = 1
    taken: bool = False

    @property
    def left_s(self) -> float:
        """How many seconds are left, at least 0."""
        return max(0.0, self.deadline - self.clock.monotonic())


class ForwardingQueue:
    """The requests that wait, and those under way; for any thread."""

    def __init__(self, workers: int, clock: Clock = SYSTEM_CLOCK) -> None:
        """Serve that many threads."""
        self._clock = clock
        self._max_at_once = max(1, workers - 1)  # of a caller
        self._open: list[PendingForward] = []  # in the order of their arrival; MAX_OPEN at most
        self._changed = threading.Condition()
        self._ended = False

    def add(self, request: ForwardedRequest) -> "Future[Reply]":
        """Return the future reply, which is the same one if the request is under way already.

        Raises:
            LimitReached: too many requests wait, of this caller or in total.
            RequestIdReused: the same id is under way with another body.
        """
        name = request.caller, request.request_id
        with self._changed:
            self._require_room(request.caller)
            for pending in self._open:
                if request.request_id is None or (pending.request.caller, pending.request.request_id) != name:
                    continue
                if pending.request != request:
                    raise RequestIdReused(
                        f"request_id {request.request_id!r} is in progress with another body; use a new request_id"
                    )
                pending.asked += 1
                return pending.reply
            new = PendingForward(request, self._clock.monotonic() + DEADLINE_S, self._clock)
            self._open.append(new)
            self._changed.notify()
            return new.reply

    def take(self) -> PendingForward | None:
        """Wait for the next request, on a free thread; None once `end()` was called.

        It is the first whose caller doesn't keep too many threads busy, or that is past its deadline.
        """
        with self._changed:
            while not self._ended:
                waiting = [pending for pending in self._open if not pending.taken]
                busy = Counter(pending.request.caller for pending in self._open if pending.taken)
                eligible = [
                    pending
                    for pending in waiting
                    if busy[pending.request.caller] < self._max_at_once or pending.left_s == 0
                ]
                if eligible:
                    chosen = min(  # the first of equals
                        eligible, key=lambda pending: (-pending.request.priority, busy[pending.request.caller])
                    )
                    chosen.taken = True
                    return chosen
                self._changed.wait(min((pending.left_s for pending in waiting), default=None))
        return None

    def end(self) -> None:
        """Release the threads that wait in `take`."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def done(self, pending: PendingForward) -> None:
        """Record that a thread is free again; the reply is set after that."""
        with self._changed:
            self._open.remove(pending)
            self._changed.notify_all()

    def _require_room(self, caller: str) -> None:
        own = sum(pending.asked for pending in self._open if pending.request.caller == caller)
        total = sum(pending.asked for pending in self._open)
        if own >= MAX_OF_A_CALLER or total >= MAX_OPEN:
            raise LimitReached(
                f"{own} requests of {caller} and {total} in total wait for other agents, {MAX_OF_A_CALLER} and "
                f"{MAX_OPEN} are allowed; wait for a reply, then retry"
            )


class Coordinator:
    """Threads that forward requests; each has its own clients."""

    def __init__(
        self, mainpc: ServerAddress, address_of: AddressOf, max_payload_bytes: int, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Forward to the agents that `address_of` finds, which may ask the one at `mainpc`."""
        self._mainpc = mainpc
        self._address_of = address_of
        self._max_payload_bytes = max_payload_bytes
        self._queue = ForwardingQueue(WORKERS, clock)
        self._stopped = threading.Event()
        self._workers = [Worker(f"coordinator-{number}", self._work, join_timeout_s=1.0) for number in range(WORKERS)]

    @property
    def responsive(self) -> bool:
        return all(worker.alive for worker in self._workers)

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        self._queue.end()
        self._stopped.set()
        for worker in self._workers:
            worker.stop()

    def send(self, request: ForwardedRequest) -> "Future[Reply]":
        """Return the future reply; it raises a RequestError if there is none.

        Raises:
            LimitReached: too many requests wait, of this caller or in total.
            RequestIdReused: the same id is under way with another body.
        """
        return self._queue.add(request)

    def _work(self) -> None:
        clients = _Clients(self._mainpc, self._address_of, self._max_payload_bytes)
        try:
            while (pending := self._queue.take()) is not None:
                with in_trace(pending.request.traceparent):
                    self._forward(clients, pending)
        finally:
            clients.close()

    def _forward(self, clients: "_Clients", pending: PendingForward) -> None:
        reply: Reply | None = None
        error: RequestError | None = None
        try:
            reply = _call(clients, pending)
        except AgentUnreachable as failure:
            error = failure
            self._stopped.wait(pending.left_s)
        except RequestError as refusal:
            error = refusal
        self._queue.done(pending)
        if error is not None:
            pending.reply.set_exception(error)
        else:
            pending.reply.set_result(reply or {})


class _Clients:
    """The clients of one thread, by agent; the least recently used one is closed first."""

    def __init__(self, mainpc: ServerAddress, address_of: AddressOf, max_payload_bytes: int) -> None:
        self._mainpc = Client(mainpc, max_payload_bytes=max_payload_bytes)
        self._address_of = address_of
        self._max_payload_bytes = max_payload_bytes
        self._clients: dict[str, tuple[str, Client]] = {}

    def of(self, agent_name: str, left_s: float) -> Client:
        address = self._address_of(agent_name, self._mainpc, left_s)
        known, client = self._clients.pop(agent_name, (None, None))
        if client is not None and known != address.address:
            client.close()
            client = None
        if client is None:
            client = Client(address, max_payload_bytes=self._max_payload_bytes)
        self._clients[agent_name] = (address.address, client)  # the most recent is the last
        if len(self._clients) > _CLIENTS_OF_A_WORKER:
            _, oldest = self._clients.pop(next(iter(self._clients)))
            oldest.close()
        return client

    def close(self) -> None:
        for _, client in self._clients.values():
            client.close()
        self._mainpc.close()


def _call(clients: _Clients, pending: PendingForward) -> Reply:
    request = pending.request
    if pending.left_s == 0:
        raise AgentUnreachable(
            f"{request.agent_name} was not called within {DEADLINE_S:g} s, because other requests had priority; retry"
        )
    fields = {
        **request.fields,
        **({"on_behalf_of": request.caller} if request.on_behalf else {}),
        **({"traceparent": request.traceparent} if request.traceparent else {}),
    }
    try:
        client = clients.of(request.agent_name, pending.left_s)
    except TwinhostError as error:  # from mainpc, which was asked for the address
        if _is_reply(error):
            raise
        raise AgentUnreachable(f"{request.agent_name}: {error}") from None
    try:
        reply = client.call(request.operation, deadline_s=pending.left_s, request_id=_forwarded_id(request), **fields)
    except TwinhostError as error:
        if _is_reply(error):
            raise
        raise _unreachable(request.agent_name, f"{type(error).__name__}: {error}") from None
    return {name: value for name, value in reply.items() if name != "request_id"}


def _is_reply(error: TwinhostError) -> bool:
    return isinstance(error, RequestError) and not isinstance(error, PeerNotLive)


def _forwarded_id(request: ForwardedRequest) -> str:
    if request.request_id is None:
        return new_request_id()
    return hashlib.blake2b(f"{request.caller}\0{request.request_id}".encode(), digest_size=16).hexdigest()


def _unreachable(agent_name: str, cause: str) -> AgentUnreachable:
    """Return the error of every failed attempt; the cause is logged, and not in the reply."""
    _log.info("agent_not_reached", agent=agent_name[:64], cause=cause)
    return AgentUnreachable(
        f"{agent_name[:64]} did not answer at its address within {DEADLINE_S:g} s; check that it runs, and its "
        "registered address, with: ./twinhost agents; repeated with its request_id, a request is executed once"
    )


def find_addresses(settings: Settings, keys: HostKeys) -> AddressOf:
    """Return a function that finds an agent's address.

    An agent that is not in the configuration is at the address that it registered with mainpc, and is authenticated by
    a key that is authorised on this host; a wrong address can only lead to no reply. An address of this host or its
    link is refused, unless all hosts are configured to be one.
    """
    lookups = NameLookups()

    def address_of(name: str, mainpc: Client, left_s: float) -> ServerAddress:
        config = settings.config  # as the file has it by now
        if name in config.agents:
            return keys.address_of(config.agents[name])
        ends = time.monotonic() + left_s
        endpoint = mainpc.call("get_agent_endpoint", deadline_s=left_s, agent_name=name)
        host, port = endpoint.get("host"), endpoint.get("port")
        if not isinstance(host, str) or not isinstance(port, int):
            raise NotFound(f"{name[:64]!r} is registered without an address; it must register with `host` and `port`")
        address = lookups.address_of(name, host, max(0.0, ends - time.monotonic()))
        if address is None or (is_local_only(address) and not config.on_loopback):
            raise _unreachable(name, f"{host[:64]!r} is no address of another host")
        return keys.address_at(name, Host(name, address).endpoint(port))

    return address_of


class NameLookups:
    """Looks up the names of agents' hosts, each on a thread of its own: nothing ends the system's resolver early.

    An agent chooses its name itself, so it has one lookup under way, and a slow one makes it unreachable alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str, tuple[str, Future[str | None]]] = {}  # the host, and its address, by agent

    def address_of(self, agent_name: str, host: str, within_s: float) -> str | None:
        """Return the address of a host; None if it is unknown, or not known in time.

        It is the address that is checked, and then connected to.
        """
        with self._lock:
            known, address = self._under_way.get(agent_name, (host, None))
            if known != host or (address is None and len(self._under_way) >= MAX_LOOKUPS):
                return None
            if address is None:
                address = Future()
                self._under_way[agent_name] = host, address
                Worker(f"lookup-{agent_name[:64]}", partial(self._look_up, agent_name, host, address)).start()
        try:
            return address.result(within_s)
        except TimeoutError:
            return None

    def _look_up(self, agent_name: str, host: str, address: "Future[str | None]") -> None:
        found = _resolve(host)
        with self._lock:
            del self._under_way[agent_name]
        address.set_result(found)


def _resolve(host: str) -> str | None:
    """Return the first address of a host; None if it is unknown."""
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return None
    return str(addresses[0][4][0])
