"""`/metrics` in Prometheus' exposition format: the requests answered, and the agent's state.

The state is gathered on the server's thread, where it changes, and read by the HTTP thread.
"""

import math
import platform
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.budgets import SHOWN, Used
from twinhost.secure_zmq.callers import Peer
from twinhost.version import versions

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COLLECT_EVERY_S, UNREAD_EVERY_S = 1.0, 60.0
_READ_WITHIN_S = 3.0  # afterwards nobody reads
_OLD_S = 2 * COLLECT_EVERY_S
_WAIT_S = 1.0  # for the server's thread
MAX_WAITING = 16  # of the 40 threads that answer over HTTP, so that health checks are answered too
UNKNOWN_ACTION = "unknown"  # for unknown actions: a caller must not choose a label
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class AgentState:
    """An agent at one moment: its authorised keys, the open connections by peer, and when each key was last used."""

    secure: bool
    uptime_s: float
    store_bytes: int
    loop_lag_s: float
    handshakes: Mapping[str, int] = field(default_factory=dict)
    checks: Mapping[str, bool] = field(default_factory=dict)
    peers: Sequence[Peer] = ()
    sessions: Mapping[str, int] = field(default_factory=dict)
    last_seen: Mapping[str, float] = field(default_factory=dict)  # by fingerprint, in seconds since the epoch
    usage: Sequence[Used] = ()  # of budgets, the largest shares first


class Readers:
    """Who reads what the server's thread collects: it does that once a second while somebody reads, else once a minute.

    With 1,000 agents it takes 5 ms of that thread.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.request_tick: Callable[[], None] | None = None  # the server's; None before it serves
        self._read_at = self._collected_at = -math.inf
        self._collected = threading.Condition()
        self._waiting = 0

    def collect(self, collect: Callable[[], None]) -> None:
        """Call a function if it is time to; on the server's thread."""
        now = self._clock.monotonic()
        every_s = COLLECT_EVERY_S if now - self._read_at < _READ_WITHIN_S else UNREAD_EVERY_S
        if now - self._collected_at < every_s:
            return
        try:
            collect()
        finally:
            with self._collected:
                self._collected_at = now
                self._collected.notify_all()

    def note(self) -> None:
        """Have it collected for the next seconds; on any thread."""
        self._read_at = self._clock.monotonic()

    def wait(self) -> None:
        """Wait, for a second at most, until what was collected is not old; on a reader's thread."""
        self.note()
        now = self._read_at
        with self._collected:
            if self.request_tick is None or self._collected_at >= now - _OLD_S or self._waiting == MAX_WAITING:
                return
            self.request_tick()
            self._waiting += 1
            # What began to be collected before is new enough, and is not collected again within a second.
            self._collected.wait_for(lambda: self._collected_at > now - COLLECT_EVERY_S, _WAIT_S)
            self._waiting -= 1


class Gathered:
    """Metrics that the server's thread gathers, and readers get as a whole; none before the first time."""

    def __init__(self) -> None:
        self.latest: Sequence[Metric] = ()

    def gather(self, metrics: Iterable[Metric]) -> None:
        """Replace the metrics; on the server's thread."""
        self.latest = tuple(metrics)


class _Function(Collector):
    def __init__(self, metrics: Callable[[], Iterable[Metric]]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics()


class Telemetry:
    """Counts requests, and keeps the newest state."""

    def __init__(self, agent: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(self._registry)
        requests = _RequestCollector()
        self._registry.register(requests)
        self.answered = requests.count
        self._state = _StateCollector(agent)
        self._registry.register(self._state)
        self.readers = Readers(clock)

    def register(self, metrics: Callable[[], Iterable[Metric]]) -> None:
        """Show further metrics, which the function returns on any thread."""
        self._registry.register(_Function(metrics))

    def gathered(self) -> Gathered:
        """Return what shows further metrics, which the server's thread gathers."""
        gathered = Gathered()
        self.register(lambda: gathered.latest)
        return gathered

    @property
    def state(self) -> AgentState | None:
        """The newest state; None before the first."""
        return self._state.latest

    @contextmanager
    def collecting(self, state: Callable[[], AgentState], then: Callable[[], None]) -> Iterator[None]:
        """After the block, also if it raises, take the agent's state and call a function, if it is time to.

        On the server's thread.
        """

        def collect() -> None:
            self.gather(state())
            then()

        try:
            yield
        finally:
            self.readers.collect(collect)

    def gather(self, state: AgentState) -> None:
        """Take the agent's newest state; on the server's thread."""
        self._state.latest = state
        self._state.longest_lag_s = max(self._state.longest_lag_s, state.loop_lag_s)

    def render(self) -> bytes:
        """Return the metrics as text; on a thread that may wait for the server's."""
        self.readers.wait()
        return generate_latest(self._registry)


@dataclass(slots=True)
class _Durations:
    """Requests with one outcome: the number in each bucket, the last without an upper bound, and the sum."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_S) + 1))
    sum_s: float = 0.0


class _RequestCollector(Collector):
    """Plain numbers, written by the server's thread only: the library's own counters took a sixth of a request."""

    def __init__(self) -> None:
        self._durations: dict[tuple[str, str], _Durations] = {}

    def count(self, action: str | None, outcome: str, seconds: float, number: int = 1) -> None:
        """Count requests; on the server's thread.

        Args:
            action: of the requests; None if it can't be read, or is no action.
            outcome: `ok`, or an error code.
            seconds: how long each took.
            number: how many requests.
        """
        key = action or UNKNOWN_ACTION, outcome
        durations = self._durations.get(key)
        if durations is None:
            durations = self._durations[key] = _Durations()
        durations.buckets[bisect_left(_BUCKETS_S, seconds)] += number
        durations.sum_s += seconds * number

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "twinhost_requests", "Requests answered, by action and outcome.", labels=["action", "outcome"]
        )
        by_action: dict[str, list[tuple[list[int], float]]] = {}
        for (action, outcome), durations in self._durations.copy().items():  # in one step: the server's thread goes on
            buckets = durations.buckets.copy()
            requests.add_metric([action, outcome], sum(buckets))
            by_action.setdefault(action, []).append((buckets, durations.sum_s))
        yield requests
        taken = HistogramMetricFamily(
            "twinhost_request_duration_seconds",
            "From receiving a request to its durable reply.",
            labels=["action"],
        )
        bounds = [*map(floatToGoString, _BUCKETS_S), "+Inf"]
        for action, parts in by_action.items():
            counts = accumulate(map(sum, zip(*(buckets for buckets, _ in parts), strict=True)))
            taken.add_metric([action], list(zip(bounds, counts, strict=True)), sum(sum_s for _, sum_s in parts))
        yield taken


_OF_BUDGETS: tuple[tuple[str, str, Callable[[Used], float]], ...] = (
    ("used", "Used amount of a budget", lambda use: use.used),
    ("limit", "Limit of a budget", lambda use: use.most),
    ("used_ratio", "Used part of a budget", lambda use: use.share),
)


class _StateCollector(Collector):
    """Turns the newest state into metrics."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self.latest: AgentState | None = None
        self.longest_lag_s = 0.0  # since the scrape before

    def collect(self) -> Iterator[Metric]:
        known = versions()
        yield InfoMetricFamily("twinhost", "The agent and its versions.", {"agent": self._agent, **known})
        build = {"version": known.pop("twinhost"), **known, "python": platform.python_version()}
        yield InfoMetricFamily("twinhost_build", "The versions of twinhost, its libraries, and Python.", build)
        state = self.latest
        if state is None:
            return
        longest_lag_s, self.longest_lag_s = self.longest_lag_s, 0.0
        for name, text, value in (
            ("secure", "1: the link is encrypted and authenticated; 0: SECURE_ZMQ=0.", float(state.secure)),
            ("uptime_seconds", "Seconds since the start.", state.uptime_s),
            ("store_size_bytes", "Size of the database and its write-ahead log.", state.store_bytes),
            (
                "loop_lag_seconds",
                "Longest delay of the server's loop since the scrape before.",
                longest_lag_s,
            ),
            ("peers", "Number of authorised keys.", len(state.peers)),
        ):
            yield GaugeMetricFamily(f"twinhost_{name}", text, value)
        checks = GaugeMetricFamily("twinhost_check_ok", "1 if the health check passes, else 0.", labels=["check"])
        for name, passes in state.checks.items():
            checks.add_metric([name], float(passes))
        yield checks
        handshakes = CounterMetricFamily("twinhost_handshakes", "Handshakes, by outcome.", labels=["outcome"])
        for outcome, count in state.handshakes.items():
            handshakes.add_metric([outcome], count)
        yield handshakes
        sessions = GaugeMetricFamily("twinhost_sessions", "Open connections, by peer.", labels=["peer"])
        for name in dict.fromkeys(peer.name for peer in state.peers):  # two keys of one identity share a count
            sessions.add_metric([name], state.sessions.get(name, 0))
        yield sessions
        for name, text, read in _OF_BUDGETS:
            budgets = GaugeMetricFamily(f"twinhost_budget_{name}", f"{text}, of the largest.", labels=["name", "limit"])
            for used in state.usage[:SHOWN]:
                budgets.add_metric([used.name, used.limit], read(used))
            yield budgets
        expiry = GaugeMetricFamily(
            "twinhost_key_not_after_timestamp_seconds", "When a key expires.", labels=["peer", "fingerprint"]
        )
        for peer in state.peers:
            if peer.validity.not_after is not None:
                expiry.add_metric([peer.name, peer.fingerprint], peer.validity.not_after)
        yield expiry


def backup_metrics(moment: float | None) -> Iterator[Metric]:
    """Yield the metric of a host's newest backup, in seconds since the epoch; none where there is none."""
    if moment is not None:
        yield GaugeMetricFamily("twinhost_backup_timestamp_seconds", "When this host was last backed up.", moment)
