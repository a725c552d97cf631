"""Four clients that change both agents through a fault, each with a ledger of its own, and the account afterwards."""

import asyncio
import copy
import itertools
import threading
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.ledger import Ledger, check
from tests.waiting import wait_until
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, PeerNotLive, StoreUnavailable, TwinhostError
from twinhost.secure_zmq.server_address import ServerAddress

OPERATOR = "operator"
DEADLINE_S = 90.0  # of one change: longer than any fault
PAUSE_S = 0.02  # between two changes, or two batches; mainpc keeps 10,000 registrations and as many events
BATCH_PAUSE_S = 0.2
BATCH = 16  # changes in flight at once
FEWEST = 20  # changes of each client before a fault, and after it
PAGE = 1_000
TEXT = "x" * 1_024

Fields = dict[str, Any]


def registration(call: str, by: str) -> tuple[str, Fields]:
    """Change mainpc's registry: made twice, it would have another revision."""
    return "register_agent", {"agent_name": call, "status": "HEALTHY"}


def event(call: str, by: str) -> tuple[str, Fields]:
    """Change mainpc's events: made twice, it would be there twice, since it names no moment."""
    body = {"event_id": call, "event_type": "ledger", "source_agent": by, "data": {"text": TEXT}}
    return "publish_event", {"event": body}


def twin(call: str, by: str) -> tuple[str, Fields]:
    """Change pc2's twins: made twice, it would have another revision."""
    return "update_twin", {"user_id": call, "twin_data": {"text": TEXT}}


def interaction(call: str, by: str) -> tuple[str, Fields]:
    """Change pc2's conversations: made twice, it would be there twice."""
    session = call.rsplit("-", 1)[0]
    return "add_interaction", {"session_id": session, "interaction_type": "user_query", "content": call}


Change = Callable[[str, str], tuple[str, Fields]]  # of a call, and of the name of the caller
BATCHES: dict[str, Change] = {"mainpc": registration, "pc2": twin}  # need an operator's key, on mainpc
SINGLES: dict[str, Change] = {"mainpc": event, "pc2": interaction}


class LedgerClient(threading.Thread):
    """Makes one kind of change at one agent, and writes down what is sent and what is acknowledged."""

    def __init__(self, host: str, change: Change, address: ServerAddress, by: str, folder: Path) -> None:
        super().__init__(name=f"{host}-{change.__name__}")
        self.host, self.change, self.acknowledged, self.in_flight = host, change.__name__, 0, 0
        self.refused: set[str] = set()  # for want of space: nothing of it may be kept
        self.failures: list[str] = []
        self.locked_out = False  # its key is good no more
        self.path = folder / f"{self.name}.ledger"
        self._prefix = f"{change.__name__}-{uuid.uuid4().hex[:8]}"
        self._change, self._address, self._by, self._ledger = change, address, by, Ledger(self.path)
        self._numbers = itertools.count()
        self._ended = threading.Event()

    def end(self) -> None:
        """Make no further change; what is in flight is waited for."""
        self._ended.set()
        self.join()
        self._ledger.close()

    def require_whole(self, times: Mapping[str, int]) -> int:
        """Return how many changes were acknowledged; fail where one is lost, doubled, or there although refused."""
        mine = {call: count for call, count in times.items() if call.startswith(f"{self._prefix}-")}
        verdict = check(self.path, mine)
        assert verdict.whole, (self.name, verdict)
        assert not self.refused & mine.keys(), f"{self.name}: kept although refused: {self.refused & mine.keys()}"
        return verdict.acknowledged

    @abstractmethod
    def run(self) -> None:
        """Make changes until `end()`, or until the key is refused."""

    def _send(self) -> tuple[str, str, Fields]:
        call = f"{self._prefix}-{next(self._numbers)}"
        action, fields = self._change(call, self._by)
        self._ledger.sent(call)
        self.in_flight += 1
        return call, action, fields

    def _note(self, call: str, error: TwinhostError | None) -> None:
        self.in_flight -= 1
        if error is None:
            self._ledger.acknowledged(call)
            self.acknowledged += 1
        elif isinstance(error, StoreUnavailable):
            self.refused.add(call)
        elif isinstance(error, PeerNotLive | NotAuthorized):
            self.locked_out = True
        else:
            self.failures.append(f"{self.name}: {type(error).__name__}: {error}")

    def _goes_on(self, pause_s: float) -> bool:
        return not self.locked_out and not self._ended.wait(pause_s)


class Single(LedgerClient):
    """One change after the other, with the blocking client."""

    def run(self) -> None:
        with Client(self._address) as client:
            while self._goes_on(PAUSE_S):
                call, action, fields = self._send()
                failure: TwinhostError | None = None
                try:
                    client.call(action, deadline_s=DEADLINE_S, **fields)
                except TwinhostError as error:
                    failure = error
                self._note(call, failure)


class Batches(LedgerClient):
    """Many changes in flight at once, with the asyncio client."""

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with AsyncClient(self._address) as client:
            while self._goes_on(0):
                await asyncio.gather(*(self._one(client) for _ in range(BATCH)))
                await asyncio.sleep(BATCH_PAUSE_S)

    async def _one(self, client: AsyncClient) -> None:
        call, action, fields = self._send()
        failure: TwinhostError | None = None
        try:
            await client.call(action, deadline_s=DEADLINE_S, **fields)
        except TwinhostError as error:
            failure = error
        self._note(call, failure)


class LedgerClients:
    """Clients of both agents; they run in a `with`, and at its end what is in flight is waited for."""

    def __init__(self, addresses: Mapping[str, ServerAddress], folder: Path, by: str = OPERATOR) -> None:
        """Make the clients, with a key of the operator's; or fewer, with another that may register itself alone."""
        folder.mkdir(exist_ok=True)
        self.all: list[LedgerClient] = [
            Single(host, SINGLES[host], address, by, folder) for host, address in addresses.items()
        ]
        if by == OPERATOR:
            self.all += [Batches(host, BATCHES[host], address, by, folder) for host, address in addresses.items()]

    @property
    def failures(self) -> list[str]:
        return [sentence for client in self.all for sentence in client.failures]

    def of(self, host: str) -> list[LedgerClient]:
        return [client for client in self.all if client.host == host]

    def wait_for_more(self, deadline_s: float, which: Iterable[LedgerClient] | None = None) -> None:
        """Wait until each, or each of some, has had some more changes acknowledged."""
        goals = {client: client.acknowledged + FEWEST for client in (self.all if which is None else which)}
        for client, goal in goals.items():
            wait_until(
                lambda: client.acknowledged >= goal,  # noqa: B023
                deadline_s,
                f"{client.name} has {goal} changes acknowledged; {client.failures[-1:]}",
            )

    def require_whole(self, times: Mapping[str, int]) -> int:
        """Return how many changes were acknowledged; fail where the account of one client is not right."""
        return sum(client.require_whole(times) for client in self.all)

    def only(self, host: str) -> "LedgerClients":
        some = copy.copy(self)
        some.all = self.of(host)
        return some

    def __enter__(self) -> "LedgerClients":
        for client in self.all:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.all:
            client.end()


def times_made(clients: Mapping[str, Client], by: str) -> Counter[str]:
    """Return how often each change took effect, as both agents report to an operator.

    Args:
        clients: an operator's, by host.
        by: the name of the key with which pc2's were made.
    """
    times: Counter[str] = Counter()
    agents = clients["mainpc"].call("get_registered_agents", deadline_s=DEADLINE_S)["agents"]
    times.update({agent["name"]: agent["revision"] for agent in agents if agent["name"].startswith("registration-")})
    more, before = True, None
    while more:
        page = clients["mainpc"].call("get_events", deadline_s=DEADLINE_S, before=before, limit=PAGE)
        times.update(each["event_id"] for each in page["events"] if each["event_type"] == "ledger")
        more, before = page["more"], page["events"][-1]["seq"] if page["events"] else None
    for kind, seen_as in (("twins", _seen_twin), ("interactions", _seen_interaction)):
        more, before = True, None
        while more:
            page = clients["pc2"].call(
                "memory_by", deadline_s=DEADLINE_S, name=by, kind=kind, before=before, limit=PAGE
            )["written"][kind]
            times.update(_counted(page["entries"], seen_as))
            more, before = page["more"], page.get("next_before")
    return times


def forget_registrations(mainpc: Client) -> None:
    """Leave mainpc's registry as it was, so that its memory can be compared."""
    for agent in mainpc.call("get_registered_agents", deadline_s=DEADLINE_S)["agents"]:
        if agent["name"].startswith("registration-"):
            mainpc.call("unregister", deadline_s=DEADLINE_S, agent_name=agent["name"])


def _counted(entries: Iterable[Fields], seen_as: Callable[[Fields], tuple[str, int]]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for entry in entries:
        call, count = seen_as(entry)
        counted[call] += count
    return counted


def _seen_twin(entry: Fields) -> tuple[str, int]:
    return entry["user_id"], entry["revision"]


def _seen_interaction(entry: Fields) -> tuple[str, int]:
    return entry["content"], 1
