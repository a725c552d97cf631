"""`python -m tests.benchmarks.bench_agents`: what agents cost one mainpc, and how they come back when it was away.

Mainpc runs as its own process with real keys; the agents are the product's own links in a few processes beside it.
Everything is on the loopback of this machine and ends by itself. Prints a table for people, or JSON; it asserts nothing
of speed: the figures are of the machine that it runs on.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks import agent_phases as phases
from tests.benchmarks.agent_fleet import raise_file_limit
from tests.benchmarks.agent_report import Latency, Report, Restart
from tests.benchmarks.loaded_mainpc import LoadedMainpc, new_pairs
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.keys import KeyPair

SWEEP = (100, 300, 1_000)
AWAY_S = (1.0, 20.0)  # the first is a restart policy's, after the second every back-off is at its longest
_DEADLINE_S = 180.0  # for 1,000 agents to come, to be back, or to follow a new key

Figure = Callable[[Report], float | str]
_FIGURES: dict[str, Figure] = {
    "bring-up: all are in touch, s": lambda report: report.bring_up.seconds,
    "  all follow the keys, s": lambda report: report.bring_up.followed_s,
    "  agents per s": lambda report: report.bring_up.per_s,
    "  mainpc's CPU for an agent, ms": lambda report: report.bring_up.cpu_ms,
    "  (of the load generator, ms)": lambda report: report.bring_up.fleet_cpu_ms,
    "  register then, p50 / p99 / max, ms": lambda report: _latency(report.bring_up.register),
    "  failed calls": lambda report: sum(report.bring_up.failures.values()),
    "  RSS before, with the keys, MB": lambda report: report.bring_up.idle_mb,
    "  RSS at most, MB": lambda report: report.bring_up.peak_mb,
    "  RSS after, MB": lambda report: report.bring_up.rss_mb,
    "  RSS for an agent, KB": lambda report: report.bring_up.kb_per_agent,
    "  open files of mainpc": lambda report: report.bring_up.files,
    "steady: mainpc's CPU, % of a core": lambda report: report.steady.cpu_percent,
    "  (of it in the loop, libzmq, the rest)": lambda report: " / ".join(
        map(str, report.steady.cpu_by_thread.values())
    ),
    "  (before the agents, %)": lambda report: report.steady.idle_cpu_percent,
    "  (the whole machine, %)": lambda report: report.steady.machine_busy_percent,
    "  heartbeats answered": lambda report: report.steady.heartbeat.calls,
    "  heartbeat p50 / p99 / max, ms": lambda report: _latency(report.steady.heartbeat),
    "  register p50 / p99 / max, ms": lambda report: _latency(report.steady.register),
    "  failed / late / NO_RESPONSE": lambda report: (
        f"{report.steady.failures} / {report.steady.late} / {report.steady.no_response}"
    ),
    "  RSS / PSS, MB": lambda report: f"{report.steady.rss_mb} / {report.steady.pss_mb}",
    "  RSS for a stored answer, KB": lambda report: report.steady.kb_per_reply,
    "one more key: all follow, s": lambda report: report.key_change.seconds,
    "  mainpc's CPU in all, ms": lambda report: report.key_change.cpu_ms,
    "  RSS grown by at most, MB": lambda report: report.key_change.grown_mb,
    "  NO_RESPONSE": lambda report: report.key_change.no_response,
    "  the list, bytes": lambda report: report.key_change.document_bytes,
}
_OF_A_RESTART: dict[str, Callable[[Restart], float | str]] = {
    "from start to serving, s": lambda report: report.start_s,
    "then: half are back, s": lambda report: report.half_back_s,
    "then: all are back, s": lambda report: report.all_back_s,
    "most first answers in 100 ms": lambda report: report.most_in_a_slice,
    "failed calls, begun after it": lambda report: report.failed_after,
    "mainpc's CPU for an agent, ms": lambda report: report.cpu_ms,
    "RSS at most, MB": lambda report: report.peak_mb,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure."""

    processes: int
    seconds: float
    heartbeat_s: float
    away_s: Sequence[float]
    subscribed: bool
    keys_known: bool
    limits: dict[str, float]
    start_over_s: float = 0.0


def measure(pairs: Sequence[KeyPair], settings: Settings) -> Report:
    """Measure with one agent for each pair, against a mainpc that starts with an empty store."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LoadedMainpc(
            Path(folder),
            pairs,
            settings.processes,
            heartbeat_s=settings.heartbeat_s,
            subscribed=settings.subscribed,
            keys_known=settings.keys_known,
            settings=settings.limits,
        ) as load,
    ):
        load.start_mainpc()
        deadline_s = _DEADLINE_S * max(1.0, len(pairs) / 1_000)
        idle_percent = phases.idle_cpu_percent(load, min(settings.seconds, 10.0))
        came = phases.bring_up(load, deadline_s, settings.start_over_s)
        stayed = phases.steady(load, settings.seconds, idle_percent)
        read = phases.reads(load)
        changed = phases.key_change(load, deadline_s)
        restarts = [phases.restart(load, away_s, deadline_s) for away_s in settings.away_s]
        return Report(len(pairs), came, stayed, restarts, changed, read)


def lines(reports: Sequence[Report]) -> list[str]:
    """Return the table: a column for each number of agents."""
    table = [_line("agents", [report.agents for report in reports])]
    table += [_line(name, [figure(report) for report in reports]) for name, figure in _FIGURES.items()]
    for place, first in enumerate(reports[0].restarts):
        table.append(f"killed, away for {first.away_s:g} s:")
        of_this = [report.restarts[place] for report in reports]
        table += [
            _line(f"  {name}", [figure(restart) for restart in of_this]) for name, figure in _OF_A_RESTART.items()
        ]
        for report in reports:
            by_second = " ".join(str(count) for count in report.restarts[place].by_second)
            table.append(f"  back in each second from the start on, {report.agents} agents: {by_second}")
    table.append("read, bytes and ms:")
    for what in reports[0].reads:
        cells = ["{} {:.1f}".format(*report.reads[what]) for report in reports]
        table.append(_line(f"  {what}", cells))
    return table


def model(reports: Sequence[Report]) -> list[str]:
    """Return the straight lines that fit the reports best, from two of them on."""
    if len(reports) < 2:
        return []
    fitted: dict[str, Figure] = {
        "RSS after the bring-up, MB": lambda report: report.bring_up.rss_mb,
        "RSS with the keys alone, MB": lambda report: report.bring_up.idle_mb,
        "RSS at most, all back, MB": lambda report: max((one.peak_mb for one in report.restarts), default=0.0),
        "CPU with heartbeats, % of a core": lambda report: report.steady.cpu_percent,
        "bring-up, s": lambda report: report.bring_up.seconds,
        "bring-up, mainpc's CPU, s": lambda report: report.bring_up.cpu_ms * report.agents / 1_000,
        "get_registered_agents, bytes": lambda report: report.reads["get_registered_agents"][0],
        "get_trust, bytes": lambda report: report.reads["get_trust"][0],
    }
    found = ["the model, a + b agents:"]
    counts = [float(report.agents) for report in reports]
    for name, figure in fitted.items():
        slope, start = statistics.linear_regression(counts, [float(figure(report)) for report in reports])
        found.append(f"  {name:<36} {start:10.3f} + {slope:.5f} agents")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_agents", description=__doc__)
    parser.add_argument("--agents", type=int, default=1_000, help="how many (default: 1000)")
    parser.add_argument("--sweep", action="store_true", help="measure 100, 300, and as many as --agents says")
    parser.add_argument("--processes", type=int, default=3, help="that the agents are spread over (default: 3)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of nothing but heartbeats (default: 60)")
    parser.add_argument("--heartbeat", type=float, help="seconds between two (default: as shipped)")
    parser.add_argument("--away", type=float, nargs="*", default=AWAY_S, help="seconds that mainpc is away, each time")
    parser.add_argument("--subscribed", action="store_true", help="every agent follows the event feed too")
    parser.add_argument("--keys-known", action="store_true", help="agents have the list of keys when they start")
    parser.add_argument("--stored-replies", type=float, help="seconds that answers are stored (default: as shipped)")
    parser.add_argument("--start-over", type=float, default=0.0, help="seconds that all agents start in (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    arguments = parser.parse_args()
    raise_file_limit()
    shipped = load_network_config(DEFAULT_PATH, {}).limits
    heartbeat_s = arguments.heartbeat or shipped.heartbeat_s
    settings = Settings(
        arguments.processes,
        arguments.seconds,
        heartbeat_s,
        arguments.away,
        arguments.subscribed,
        arguments.keys_known,
        {
            "stored_replies_s": arguments.stored_replies or shipped.stored_replies_s,
            "registration_ttl_s": shipped.registration_ttl_s / shipped.heartbeat_s * heartbeat_s,
        },
        arguments.start_over,
    )
    pairs = new_pairs(arguments.agents)
    counts = [*(count for count in SWEEP if arguments.sweep and count < arguments.agents), arguments.agents]
    reports = [measure(pairs[:count], settings) for count in counts]
    if arguments.json:
        print(json.dumps([asdict(report) for report in reports]))
    else:
        print("\n".join([*lines(reports), *model(reports)]))


def _latency(latency: Latency) -> str:
    return f"{latency.p50:.1f} / {latency.p99:.1f} / {latency.most:.1f}"


def _line(name: str, cells: Sequence[float | str]) -> str:
    return f"{name:<36}" + "".join(f"{cell:>26}" for cell in cells)


if __name__ == "__main__":
    main()
