"""Mainpc as a process, legitimate clients that work, an adversary; and what is seen of it in quiet and under attack."""

import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.adversary.attacker import Attacker, Played, all_attacks
from tests.adversary.from_inside import Inside
from tests.adversary.legitimate_load import Call, LegitimateLoad
from tests.benchmarks.agent_fleet import raise_file_limit
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

MEMORY_LIMIT_MB = 250.0  # of the server, under any attack
P99_RATIO_LIMIT = 5.0  # the client's p99 under attack, to its quiet value
P99_LIMIT_MS = 10.0  # which it may reach whatever that ratio is; one valid request of 4 MiB takes half of it
CHANGES_FAIL_DURING = "a store that fails"  # where a change must be refused, so the legitimate clients only read
_LOOK_EVERY_S = 0.02
_WARM_UP_CALLS = 400


@dataclass(frozen=True, slots=True)
class Window:
    """What the legitimate clients saw of a stretch of time, and the most memory that mainpc held meanwhile."""

    calls: Sequence[Call]
    peak_mb: float

    @property
    def failures(self) -> list[str]:
        return [f"{call.action}: {call.error}" for call in self.calls if call.error is not None]

    @property
    def p99_ms(self) -> float:
        """Of all calls, those that change something too."""
        return statistics.quantiles([call.took_ms for call in self.calls], n=100, method="inclusive")[98]


@dataclass(slots=True)
class Attacked:
    """One attack: its windows, and how it was borne each time."""

    name: str
    windows: list[Window] = field(default_factory=list)
    played: list[Played] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        """The median over the repeats."""
        return statistics.median(window.p99_ms for window in self.windows)

    @property
    def peak_mb(self) -> float:
        return max(window.peak_mb for window in self.windows)


class Siege:
    """The three processes; all of them end with the block."""

    def __init__(self, root: Path) -> None:
        """Start mainpc, the clients, and the adversary, and wait until the clients are served."""
        raise_file_limit()
        self._stack = ExitStack()
        try:
            self._start(root)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, root: Path) -> None:
        hosts = self._stack.enter_context(Hosts(root))
        enrolled = root / "certificates" / "mainpc" / "enrolled"
        enrolled.mkdir(exist_ok=True)
        legitimate = KeyPair.generate(KeyOwner("legitimate", "pc2", frozenset({"agent"})))
        (enrolled / "legitimate.key").write_text(render_certificate(legitimate.certificate))
        mainpc = hosts.start(SDT).wait_until_serving()
        self._memory = psutil.Process(mainpc.pid)
        inside = Inside(enrolled, mainpc.pid)
        self.attacks = [attack.name for attack in all_attacks(inside)]
        server = hosts.address(SDT)
        assert isinstance(server, SecuredAddress)
        self._load = self._stack.enter_context(
            LegitimateLoad(SecuredAddress(server.address, legitimate, server.server_key))
        )
        self._attacker = self._stack.enter_context(Attacker(hosts.environment(UMRA), inside))
        warm: list[Call] = []

        def warmed_up() -> bool:
            warm.extend(self._load.calls())
            time.sleep(_LOOK_EVERY_S)
            return len(warm) > _WARM_UP_CALLS

        wait_until(warmed_up, PATIENCE_S, "the legitimate clients are served")

    def quiet(self, seconds: float) -> Window:
        """Watch a stretch in which nobody attacks."""
        self._load.calls()
        with _Peak(self._memory) as peak:
            time.sleep(seconds)
        return Window(self._load.calls(), peak.mb)

    def attacked(self, name: str, at_least_s: float) -> tuple[Window, Played]:
        """Watch a stretch in which an attack is played."""
        if name == CHANGES_FAIL_DURING:
            self._load.pause_changes()
        self._load.calls()
        with _Peak(self._memory) as peak:
            played = self._attacker.play(name, at_least_s)
        calls = self._load.calls()
        self._load.resume_changes()
        return Window(calls, peak.mb), played

    def __enter__(self) -> "Siege":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class _Peak:
    """The most that a process held of memory while the block ran, in MB."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mb = 0.0

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        self.mb = max(self.mb, self._process.memory_info().rss / 2**20)
