"""Asking other agents for a caller: some at once, each within 5 s.

A request is passed on under this agent's own key and in the caller's name, so it can do no more than both may. Its
request_id is derived from the caller's: a retry is the same request there too, and is not done twice; one that comes
while the first is under way gets the same answer.

Where an agent is, it says itself, so an attempt to reach it must not show what is at an address: whatever is wrong
there, the caller gets one sentence, at the deadline. This agent's log has the cause.
"""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from twinhost.agent.membership.errands import DEADLINE_S, Errand, Errands, Waiting
from twinhost.secure_zmq.client import Client, new_request_id
from twinhost.secure_zmq.errors import AgentUnreachable, PeerNotLive, RequestError, TwinhostError
from twinhost.secure_zmq.server_address import ServerAddress
from twinhost.secure_zmq.wire import Reply

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
