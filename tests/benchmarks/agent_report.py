"""What the load generator reports of one number of agents; every field of every phase has a figure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Latency:
    """Of calls, in milliseconds."""

    calls: int
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """Return the latency of calls that took so many seconds each; at least two."""
        ms = [1_000 * second for second in seconds]
        p99 = statistics.quantiles(ms, n=100, method="inclusive")[98]
        return cls(len(ms), round(statistics.median(ms), 2), round(p99, 2), round(max(ms), 2))


@dataclass(frozen=True, slots=True)
class BringUp:
    """All agents start at one moment; `cpu_ms` is mainpc's for one agent: handshake, registration, trust, heartbeat."""

    seconds: float  # until each has had a heartbeat answered
    followed_s: float  # until each follows the list of keys
    per_s: float
    cpu_ms: float
    fleet_cpu_ms: float  # of one agent, and in the processes of the agents
    register: Latency
    failures: dict[str, int]
    handshakes: dict[str, int]
    idle_mb: float  # mainpc before, with all keys
    peak_mb: float
    rss_mb: float
    kb_per_agent: float
    files: int


@dataclass(frozen=True, slots=True)
class Steady:
    """Nothing but heartbeats; `kb_per_reply` is what mainpc grows by one call that it stores the answer to."""

    seconds: float
    cpu_percent: float  # of one core
    idle_cpu_percent: float  # before the agents came
    machine_busy_percent: float  # of all cores, whoever used them
    heartbeat: Latency
    failures: int
    late: int  # came more than half an interval after they were due
    no_response: int  # agents that mainpc holds for gone
    cpu_by_thread: dict[str, float]  # % of one core
    rss_mb: float
    pss_mb: float
    kb_per_reply: float
    register: Latency


@dataclass(frozen=True, slots=True)
class Restart:
    """Mainpc is killed, is away, and is started again; times are seconds from when it serves."""

    away_s: float
    start_s: float  # from the process's start until it serves
    half_back_s: float
    all_back_s: float
    by_second: list[int]  # agents that had their first answer, from the process's start on
    most_in_a_slice: int  # of the first answers, in 100 ms
    failed_after: int  # calls that began after it served, and failed
    handshakes: dict[str, int]
    peak_mb: float
    cpu_ms: float  # of mainpc, for one agent, the start left out


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One more key is authorised, and every agent follows."""

    seconds: float
    cpu_ms: float  # of mainpc, in all
    grown_mb: float  # at most
    document_bytes: int
    no_response: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured of one number of agents."""

    agents: int
    bring_up: BringUp
    steady: Steady
    restarts: list[Restart]
    key_change: KeyChange
    reads: dict[str, tuple[int, float]] = field(default_factory=dict)  # bytes and milliseconds
