"""Both hosts under observation: whether they are well, what they keep in memory, and that a fault costs nothing."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from signal import Signals

from tests.containers.stack import AGENTS, Stack
from tests.faults.ledger_clients import DEADLINE_S, OPERATOR, LedgerClients, forget_registrations, times_made
from tests.faults.seen import Row
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.server_address import ServerAddress

HEALTHY_WITHIN_S = 10.0  # the promise, from a fault's end
GROWTH = 0.2  # the promise: resident memory within a fifth of what it was
HOSTS = tuple(AGENTS)
_ASKED_FOR_S = 1.0
_READ_WITHIN_S = 1.0  # of two clocks' reading
# 1 is the init, whose first child is the agent; what a command in the container leaves behind may be another one.
_AGENT = "import os, sys; agent, *_ = open('/proc/1/task/1/children').read().split()\n"
_RESIDENT = _AGENT + "print(*[each.split()[1] for each in open(f'/proc/{agent}/status') if each.startswith('VmRSS')])"
_SIGNAL = _AGENT + "os.kill(int(agent), int(sys.argv[1]))"
Act = Callable[[LedgerClients], object]  # a fault, from its beginning to its end


class House:
    """One stack, and an operator's clients of both agents."""

    def __init__(self, stack: Stack, rows: list[Row], addresses: Mapping[str, ServerAddress] | None = None) -> None:
        self.stack, self._rows = stack, rows
        self.addresses = addresses or {host: stack.address(host) for host in HOSTS}
        self._clients = {host: Client(address) for host, address in self.addresses.items()}

    @classmethod
    @contextmanager
    def built(cls, stack: Stack, rows: list[Row]) -> Iterator["House"]:
        """Start a stack for as long as the block runs."""
        with ExitStack() as ends:
            ends.callback(stack.stop)
            stack.start()
            stack.wait_until_ready()
            house = cls(stack, rows)
            ends.callback(house.close)
            yield house

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def client(self, host: str) -> Client:
        """Return the operator's client of one agent."""
        return self._clients[host]

    def signal(self, host: str, number: Signals) -> None:
        """Send a signal to an agent's process, from inside: the engine sees what becomes of it, as of a crash."""
        done = self.stack.execute(host, "python", "-c", _SIGNAL, str(int(number)))
        taken_along = number is Signals.SIGKILL and done.status == 128 + Signals.SIGKILL  # by the end of the container
        assert done.status == 0 or taken_along, done.err

    def resident(self) -> dict[str, int]:
        """Return the resident memory of each agent's process, in bytes."""
        return {host: int(self.stack.execute(host, "python", "-c", _RESIDENT).out) * 1_024 for host in HOSTS}

    def healthy(self, since: float, ahead_s: float) -> bool:
        """Return whether both agents report healthy, and mainpc received a heartbeat of pc2's after a moment.

        Args:
            since: the moment, by this machine's clock.
            ahead_s: by how much mainpc's clock is ahead; what it received before the clock change does not count.
        """
        try:
            if any(self.stack.http(host, "/readyz")[0] != 200 for host in HOSTS):
                return False
            reply = self._clients["mainpc"].call("get_agent_info", deadline_s=_ASKED_FOR_S, agent_name=AGENTS["pc2"])
        except TwinhostError:
            return False
        info = reply["agent_info"]
        seen = datetime.fromisoformat(info["last_seen"]).timestamp() - ahead_s
        return info["status"] == "HEALTHY" and since < seen < time.time() + _READ_WITHIN_S

    def wait_until_healthy(self, within_s: float = HEALTHY_WITHIN_S, clock_is_ahead_s: float = 0) -> float:
        """Return after how many seconds both agents are well; fail where that takes longer than promised."""
        ended, started = time.time(), time.monotonic()
        wait_until(lambda: self.healthy(ended, clock_is_ahead_s), within_s, "both agents are healthy again")
        return time.monotonic() - started

    def withstands(
        self,
        fault: str,
        act: Act,
        folder: Path,
        *,
        within_s: float = HEALTHY_WITHIN_S,
        refuses: bool = False,
        remark: str = "",
    ) -> LedgerClients:
        """See that a fault costs no acknowledged change, no call, no memory, and no more than its time.

        Args:
            fault: what it is called in the table.
            act: makes it, and returns at its end.
            folder: for the ledgers.
            within_s: how soon both agents are to be healthy after it, in seconds.
            refuses: whether changes may be refused for want of space, which leaves nothing of them.
            remark: what else the report has on it.

        Returns:
            The clients that wrote through it, at their end.
        """
        with LedgerClients(self.addresses, folder) as clients:
            clients.wait_for_more(PATIENCE_S)
            before = self.resident()
            act(clients)
            recovered_s = self.wait_until_healthy(within_s)
            clients.wait_for_more(DEADLINE_S)
            after = self.resident()
        assert refuses or not any(client.refused for client in clients.all)
        assert not any(client.locked_out for client in clients.all)
        assert clients.failures == []
        acknowledged = clients.require_whole(times_made(self._clients, OPERATOR))
        forget_registrations(self._clients["mainpc"])
        self.note(fault, acknowledged, recovered_s, before, remark, after)
        return clients

    def note(
        self,
        fault: str,
        acknowledged: int,
        recovered_s: float,
        before: dict[str, int],
        remark: str = "",
        after: dict[str, int] | None = None,
    ) -> None:
        """Check the memory after a fault, measured now unless it was, and put a row into the table."""
        after = after or self.resident()
        self._rows.append(Row(fault, acknowledged, recovered_s, before, after, remark))
        for host in HOSTS:
            assert after[host] <= before[host] * (1 + GROWTH), f"{host} grew from {before[host]} to {after[host]} bytes"
