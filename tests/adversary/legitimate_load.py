"""The legitimate client: a process of its own that calls mainpc all along, and keeps account of every call."""

import logging
import multiprocessing
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import structlog

from tests.loopback.agent_processes import SDT
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import SecuredAddress

CLIENTS = 4
READS_FOR_A_CHANGE = 3
DEADLINE_S = 5.0  # of a call; beyond it the call has failed
_PAUSE_S = 0.008  # between two calls of one client, so that the load itself leaves the machine idle
_ANSWER_WITHIN_S = 30.0


class Call(NamedTuple):
    """One call: moments by the monotonic clock, which the processes of a machine share."""

    action: str
    began: float
    ended: float
    error: str | None

    @property
    def took_ms(self) -> float:
        return 1_000 * (self.ended - self.began)


class LegitimateLoad:
    """Clients in another process, as the one that measures sees them; they end with the block."""

    def __init__(self, address: SecuredAddress) -> None:
        """Start to call at once, with the key of an agent."""
        self._ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_work, args=(address, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def calls(self) -> list[Call]:
        """Return the calls that ended since this was asked last."""
        return [Call(*each) for each in self._ask("calls")]

    def pause_changes(self) -> None:
        """Only read from now on."""
        self._ask("only read")

    def resume_changes(self) -> None:
        """Read and change from now on."""
        self._ask("all")

    def __enter__(self) -> "LegitimateLoad":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._ours.send("stop")
            self._process.join(_ANSWER_WITHIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, what: str) -> list[tuple[str, float, float, str | None]]:
        self._ours.send(what)
        if not self._ours.poll(_ANSWER_WITHIN_S):
            raise TimeoutError(f"the legitimate clients did not answer {what!r} within {_ANSWER_WITHIN_S:g} s")
        answer: list[tuple[str, float, float, str | None]] = self._ours.recv()
        return answer


class _Worker(threading.Thread):
    def __init__(self, address: SecuredAddress) -> None:
        super().__init__(daemon=True)
        self.calls: list[Call] = []
        self.only_read = threading.Event()
        self.stopping = threading.Event()
        self._address = address
        self._idle = threading.Event()

    def pause_changes(self) -> None:
        """Make no change from now on; one that was begun has finished when this returns."""
        self.only_read.set()
        self._idle.clear()
        self._idle.wait(DEADLINE_S)

    def run(self) -> None:
        name, turn = self._address.own_keys.certificate.owner.name, 0
        with Client(self._address) as client:
            while not self.stopping.wait(_PAUSE_S):
                turn += 1
                self._idle.set()
                if turn % (READS_FOR_A_CHANGE + 1) or self.only_read.is_set():
                    self._call(client, "get_agent_endpoint", agent_name=SDT)
                else:
                    self._call(client, "register_agent", agent_name=name, status="HEALTHY")

    def _call(self, client: Client, action: str, **fields: str) -> None:
        began, error = time.monotonic(), None
        try:
            client.call(action, deadline_s=DEADLINE_S, **fields)
        except Exception as failure:  # noqa: BLE001 - the account says what it was
            error = f"{type(failure).__name__}: {failure}"
        self.calls.append(Call(action, began, time.monotonic(), error))


def _work(address: SecuredAddress, parent: Connection) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    workers = [_Worker(address) for _ in range(CLIENTS)]
    for worker in workers:
        worker.start()
    while (what := parent.recv()) != "stop":
        taken: Sequence[Call] = []
        for worker in workers:
            if what == "only read":
                worker.pause_changes()
            elif what == "all":
                worker.only_read.clear()
            else:
                done = len(worker.calls)
                taken = [*taken, *worker.calls[:done]]
                del worker.calls[:done]
        parent.send([tuple(call) for call in taken])
    for worker in workers:
        worker.stopping.set()
    for worker in workers:
        worker.join(DEADLINE_S)
