"""A real mainpc that accepts many agents, and the agents: their keys, their processes, and what they cost."""

import os
import statistics
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from tests.benchmarks.agent_fleet import Call, Fleet, FleetProcess
from tests.loopback.agent_processes import SDT, AgentProcess, Hosts
from tests.waiting import wait_until
from twinhost.agent.trust import TrustDocument, document_of
from twinhost.certificates.layout import AGENT_ROLE
from twinhost.secure_zmq.certificates import folders_of_keys, read_folders
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

SITES = 8  # hosts that the agents are on
PAYLOAD_LIMIT = 4 * 1024 * 1024
READY_S = 60.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used, at one moment: processor seconds since its start, and what it holds now."""

    clock: float
    cpu_s: float
    rss_mb: float
    pss_mb: float  # as RSS, with what processes share counted once
    files: int
    by_thread: dict[str, float]  # processor seconds


def new_pairs(count: int) -> list[KeyPair]:
    """Return so many key pairs of agents."""
    return [
        KeyPair.generate(KeyOwner(f"agent-{number}", f"site-{number % SITES}", frozenset({AGENT_ROLE})))
        for number in range(count)
    ]


class LoadedMainpc:
    """Mainpc as a process, and agents in others; all of it ends with the block."""

    def __init__(
        self,
        root: Path,
        pairs: Sequence[KeyPair],
        processes: int,
        *,
        heartbeat_s: float,
        subscribed: bool = False,
        keys_known: bool = False,
        settings: dict[str, float] | None = None,
    ) -> None:
        """Let the pairs in, and start nothing yet.

        Args:
            root: an empty folder for keys, configuration, and state.
            pairs: one for each agent.
            processes: over how many the agents are spread.
            heartbeat_s: how often each sends one.
            subscribed: whether each follows the event feed too, over a connection of its own.
            keys_known: whether each has the list of keys from before, and fetches none when it starts.
            settings: limits of the configuration that are other ones than in `Hosts`.
        """
        self._stack = ExitStack()
        self.hosts = self._stack.enter_context(Hosts(root, heartbeat_s=heartbeat_s))
        config = Path(self.hosts.config.source)
        text = config.read_text()
        for name, value in (settings or {}).items():
            before, _, after = text.partition(f"{name}: ")
            text = f"{before}{name}: {value:g},{after.partition(',')[2]}"
        config.write_text(text)
        self._enrolled = root / "certificates" / "mainpc" / "enrolled"
        for pair in pairs:
            self.let_in(pair)
        address = self.hosts.address(SDT)
        assert isinstance(address, SecuredAddress)
        agent = self.hosts.config.agent(SDT)
        feed = agent.host.endpoint(agent.events_port) if subscribed and agent.events_port else None
        trust = TrustDocument("none", (), (), ())
        if keys_known:
            trust = document_of(read_folders(folders_of_keys(self.hosts.folder(SDT))))
        share = -(-len(pairs) // processes)
        self.agents = len(pairs)
        self.heartbeat_s = heartbeat_s
        self.fleets = [
            FleetProcess(
                Fleet(
                    first,
                    pairs[first : first + share],
                    address.address,
                    feed,
                    address.server_key,
                    heartbeat_s,
                    PAYLOAD_LIMIT,
                    trust,
                )
            )
            for first in range(0, len(pairs), share)
        ]
        for fleet in self.fleets:
            self._stack.callback(fleet.stop)
        self._mainpc: AgentProcess | None = None

    @property
    def mainpc(self) -> AgentProcess:
        """The process; there is one once it was started."""
        assert self._mainpc is not None
        return self._mainpc

    def let_in(self, pair: KeyPair) -> None:
        """Authorise a key; without the two syncs of an enrolment, since a thousand are authorised before the start."""
        draft = self._enrolled / f".{pair.certificate.owner.name}.draft"
        draft.write_text(render_certificate(pair.certificate))
        draft.rename(self._enrolled / f"{pair.certificate.owner.name}.key")

    def start_mainpc(self) -> float:
        """Start it and wait until it serves; return how many seconds that took."""
        began = time.monotonic()
        self._mainpc = self.hosts.start(SDT, apart=True)
        wait_until(lambda: self.mainpc.health().get("status") in ("ok", "degraded"), READY_S, "mainpc serves")
        return time.monotonic() - began

    def usage(self) -> Usage:
        """Return what mainpc has used so far."""
        return usage_of([self.mainpc.pid])

    def fleet_usage(self) -> Usage:
        """Return what the agents' processes have used so far."""
        return usage_of([fleet.pid for fleet in self.fleets])

    def calls(self) -> list[Call]:
        """Return the agents' calls that ended since this was asked last, by their ends."""
        return sorted((call for fleet in self.fleets for call in fleet.calls()), key=lambda call: call.ended)

    def wait_until_in_touch(self, deadline_s: float) -> list[Call]:
        """Wait until every agent has had an answer, and say what calls that took."""
        calls: list[Call] = []
        answered: set[int] = set()

        def all_answered() -> bool:
            fresh = self.calls()
            calls.extend(fresh)
            answered.update(call.agent for call in fresh if call.action == "heartbeat" and call.error is None)
            if len(answered) < self.agents:
                time.sleep(_LOOK_EVERY_S)
            return len(answered) == self.agents

        wait_until(all_answered, deadline_s, f"all {self.agents} agents are in touch with mainpc")
        return sorted(calls, key=lambda call: call.ended)

    def revision(self) -> str:
        """Return the revision of mainpc's list of keys."""
        with self.operator() as client:
            return str(client.call("get_trust", deadline_s=READY_S, part=0)["revision"])

    def wait_until_following(self, revision: str, deadline_s: float) -> None:
        """Wait until every agent follows this revision of the list of keys."""

        def following() -> int:
            time.sleep(_LOOK_EVERY_S)
            return sum(each == revision for fleet in self.fleets for each in fleet.following())

        wait_until(lambda: following() == self.agents, deadline_s, f"all {self.agents} agents follow the keys")

    def no_response(self) -> int:
        """Return how many agents mainpc holds for gone."""
        with self.operator() as client:
            agents = client.call("get_all_agents", deadline_s=READY_S)["agents"]
        return sum(agent["status"] == "NO_RESPONSE" for agent in agents.values())

    def operator(self) -> Client:
        return self.hosts.client(SDT)

    def read(self, path: str, times: int = 5) -> tuple[int, float]:
        """Return size in bytes, and the median time in milliseconds, of what mainpc's HTTP port answers with."""
        url = f"http://127.0.0.1:{self.hosts.config.agent(SDT).http_port}{path}"
        took, size = [], 0
        for _ in range(times):
            began = time.perf_counter()
            with urllib.request.urlopen(url, timeout=READY_S) as answer:
                size = len(answer.read())
            took.append(1_000 * (time.perf_counter() - began))
        return size, statistics.median(took)

    def handshakes(self) -> dict[str, int]:
        """Return how mainpc's handshakes ended since its start, without the kinds that there were none of."""
        with self.operator() as client:
            counts = client.call("get_peers", deadline_s=READY_S)["handshakes"]
        return {outcome: count for outcome, count in counts.items() if count}

    def __enter__(self) -> "LoadedMainpc":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def usage_of(pids: Sequence[int]) -> Usage:
    """Return what some processes have used so far, together."""
    cpu_s, rss, pss, files = 0.0, 0, 0, 0
    by_thread = {"loop": 0.0, "libzmq": 0.0, "others": 0.0}
    for pid in pids:
        process = psutil.Process(pid)
        memory, times = process.memory_full_info(), process.cpu_times()
        cpu_s += times.user + times.system
        rss, pss, files = rss + memory.rss, pss + memory.pss, files + process.num_fds()
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
                fields = rest.split()
                kind = "loop" if task.name == str(pid) else "libzmq" if name.startswith("ZMQ") else "others"
                by_thread[kind] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Usage(time.monotonic(), cpu_s, rss / 2**20, pss / 2**20, files, by_thread)
