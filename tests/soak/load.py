"""Clients of both agents, each a process of its own, at full speed or at a rate; a third of the calls are changes."""

import logging
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import structlog

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import SecuredAddress

_ANSWER_WITHIN_S = 30.0
_DEADLINE_S = 10.0  # of a call
_USERS = 200  # whose twins and sessions are written again and again: a database that is bounded must stay so

_Turn = tuple[str, dict[str, Any]]


class Load:
    """The clients of one agent, as the one that measures sees them; they end with the block."""

    def __init__(self, hosts: Hosts, agent: str) -> None:
        """Start the process; it waits for a rate."""
        self._ours, theirs = multiprocessing.Pipe()
        address = hosts.address(agent)
        assert isinstance(address, SecuredAddress)
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_work, args=(agent, address, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def go(self, calls_per_s: float) -> None:
        """Call so many times a second from now on; at 0 as fast as answers come."""
        self._ours.send(calls_per_s)

    def taken(self) -> tuple[int, list[str]]:
        """Return how many calls were answered since this was asked last, and the sentences of those that failed."""
        self._ours.send(None)
        if not self._ours.poll(_ANSWER_WITHIN_S):
            raise TimeoutError(f"the clients did not answer within {_ANSWER_WITHIN_S:g} s")
        answered, failures = self._ours.recv()
        return int(answered), list(failures)

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _work(agent: str, address: SecuredAddress, parent: Connection) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    turn, answered, failures = 0, 0, list[str]()
    rate = parent.recv()
    due = time.monotonic()
    with Client(address) as client:
        while True:
            while parent.poll(max(0.0, due - time.monotonic()) if rate else 0):
                message = parent.recv()
                if message is None:
                    parent.send((answered, failures))
                    answered, failures = 0, []
                else:
                    rate, due = message, time.monotonic()
            action, fields = _turn(agent, turn)
            turn += 1
            due = max(due + 1 / rate, time.monotonic() - 1.0) if rate else 0.0
            try:
                client.call(action, deadline_s=_DEADLINE_S, **fields)
                answered += 1
            except Exception as error:  # noqa: BLE001 - the account says what it was
                failures.append(f"{action}: {type(error).__name__}: {error}")


def _turn(agent: str, turn: int) -> _Turn:
    who = f"soak-{turn % _USERS}"
    reads_and_change: dict[str, tuple[_Turn, _Turn, _Turn]] = {
        SDT: (
            ("get_agent_endpoint", {"agent_name": SDT}),
            ("get_all_agents", {}),
            ("register_agent", {"agent_name": who, "status": "HEALTHY"}),
        ),
        UMRA: (
            ("get_twin", {"user_id": who}),
            ("get_context", {"session_id": who}),
            ("update_twin", {"user_id": who, "twin_data": {"turn": turn}}),
        ),
    }
    return reads_and_change[agent][turn % 3]
