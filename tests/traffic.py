"""Sustained traffic of four clients, two of them with many calls in flight, and the account of what became of it."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import ServerAddress

IN_FLIGHT = 16
DEADLINE_S = 30.0  # of a call: a rotation must not cost one its answer
CLIENTS = 4


@dataclass
class Account:
    """What one client has seen: calls that were answered, the changes among them, and each failure's sentence."""

    answered: int = 0
    changes: int = 0
    failures: list[str] = field(default_factory=list)


class Traffic:
    """Calls an agent until `stop()`: two thirds read, one third changes; every change of a client adds one to it."""

    def __init__(self, server: ServerAddress, read: tuple[str, dict[str, Any]], change: str) -> None:
        """Run against one agent.

        Args:
            server: followed, so that keys may change.
            read: an action and its fields.
            change: `register_agent` or `update_twin`, of the name `client-N`.
        """
        self._server, self._read, self._change = server, read, change
        self._stop = threading.Event()
        self.accounts = [Account() for _ in range(CLIENTS)]
        runs: list[Callable[[int], None]] = [self._one_by_one, self._one_by_one, self._many, self._many]
        self._threads = [threading.Thread(target=run, args=(number,)) for number, run in enumerate(runs)]

    @property
    def answered(self) -> int:
        return sum(account.answered for account in self.accounts)

    @property
    def failures(self) -> list[str]:
        return [sentence for account in self.accounts for sentence in account.failures]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the traffic, once what is in flight is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int, turn: int) -> tuple[str, dict[str, Any]]:
        if turn % 3:
            return self._read
        name = f"client-{number}"
        if self._change == "register_agent":
            return self._change, {"agent_name": name, "status": "HEALTHY"}
        return self._change, {"user_id": name, "twin_data": {"turn": turn}}

    def _note(self, number: int, turn: int, failure: Exception | None) -> None:
        account = self.accounts[number]
        if failure is not None:
            account.failures.append(f"{type(failure).__name__}: {failure}")
            return
        account.answered += 1
        account.changes += turn % 3 == 0

    def _one_by_one(self, number: int) -> None:
        turn = 0
        with Client(self._server) as client:
            while not self._stop.is_set():
                action, fields = self._call(number, turn)
                failure = None
                try:
                    client.call(action, deadline_s=DEADLINE_S, **fields)
                except Exception as error:  # noqa: BLE001 - the account says what it was
                    failure = error
                self._note(number, turn, failure)
                turn += 1

    def _many(self, number: int) -> None:
        async def worker(client: AsyncClient, first: int) -> None:
            turn = first
            while not self._stop.is_set():
                action, fields = self._call(number, turn)
                failure = None
                try:
                    await client.call(action, deadline_s=DEADLINE_S, **fields)
                except Exception as error:  # noqa: BLE001
                    failure = error
                self._note(number, turn, failure)
                turn += IN_FLIGHT

        async def run() -> None:
            async with AsyncClient(self._server) as client:
                await asyncio.gather(*(worker(client, first) for first in range(IN_FLIGHT)))

        asyncio.run(run())
