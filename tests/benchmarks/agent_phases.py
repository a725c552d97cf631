"""What is measured of one number of agents: they come, stay, lose mainpc, and come back; and what is read of them."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from tests.benchmarks.agent_fleet import Call
from tests.benchmarks.agent_report import BringUp, KeyChange, Latency, Restart, Steady
from tests.benchmarks.loaded_mainpc import READY_S, LoadedMainpc, Usage
from tests.waiting import wait_until
from twinhost.secure_zmq.keys import KeyOwner, KeyPair

REGISTRATIONS = 500  # of one more agent at most, one after the other, while the others are there
_PAUSE_S = 0.02  # between two of them
_SLICE_S = 0.1  # of the histogram of who came when
_READS = ("get_all_agents", "get_registered_agents", "get_ok_agents", "discover", "get_peers", "get_trust")
_PAGES = ("/api/state", "/metrics", "/healthz")


class Peak:
    """The most that mainpc held of memory since the block began, in MB; the kernel keeps it."""

    def __init__(self, load: LoadedMainpc) -> None:
        self._of = Path(f"/proc/{load.mainpc.pid}")

    def __enter__(self) -> "Peak":
        (self._of / "clear_refs").write_text("5")  # proc(5): VmHWM begins at the present value
        return self

    def __exit__(self, *_: object) -> None:
        self.mb = int((self._of / "status").read_text().partition("VmHWM:")[2].split()[0]) / 1_024


def bring_up(load: LoadedMainpc, deadline_s: float, over_s: float = 0.0) -> BringUp:
    """Have all agents start over so many seconds, and wait until each has had an answer and follows the keys."""
    idle, fleet_before = load.usage(), load.fleet_usage()
    with Peak(load) as peak:
        began = time.monotonic()
        for fleet in load.fleets:
            fleet.start(over_s)
        calls = load.wait_until_in_touch(over_s + deadline_s)
        load.wait_until_following(load.revision(), deadline_s)
        followed_s = time.monotonic() - began
    up, fleet_up = load.usage(), load.fleet_usage()
    seconds = max(first_answers(calls).values()) - began
    registered = [call.ended - call.began for call in calls if call.action == "register_agent" and not call.error]
    return BringUp(
        seconds=round(seconds, 2),
        followed_s=round(followed_s, 2),
        per_s=round(load.agents / seconds, 1),
        cpu_ms=round(1_000 * (up.cpu_s - idle.cpu_s) / load.agents, 2),
        fleet_cpu_ms=round(1_000 * (fleet_up.cpu_s - fleet_before.cpu_s) / load.agents, 2),
        register=Latency.of(registered),
        failures=_failures(calls),
        handshakes=load.handshakes(),
        idle_mb=round(idle.rss_mb, 1),
        peak_mb=round(peak.mb, 1),
        rss_mb=round(up.rss_mb, 1),
        kb_per_agent=round(1_024 * (up.rss_mb - idle.rss_mb) / load.agents, 1),
        files=up.files,
    )


def idle_cpu_percent(load: LoadedMainpc, seconds: float) -> float:
    """Return mainpc's share of a core while nobody is there."""
    before = load.usage()
    time.sleep(seconds)
    return _share(before, load.usage())


def steady(load: LoadedMainpc, seconds: float, idle_percent: float) -> Steady:
    """Let the agents send heartbeats for so long, and register one more again and again after that."""
    time.sleep(load.heartbeat_s)
    load.calls()
    psutil.cpu_percent()
    before = load.usage()
    time.sleep(seconds)
    after, busy = load.usage(), psutil.cpu_percent()
    beats = [call for call in load.calls() if call.action == "heartbeat"]
    answered = [call for call in beats if call.error is None]
    return Steady(
        seconds=seconds,
        cpu_percent=round(_share(before, after), 2),
        idle_cpu_percent=round(idle_percent, 2),
        machine_busy_percent=round(busy, 1),
        heartbeat=Latency.of([call.ended - call.began for call in answered]),
        failures=len(beats) - len(answered),
        late=_late(answered, load.heartbeat_s),
        no_response=load.no_response(),
        cpu_by_thread={
            name: round(100 * (cpu_s - before.by_thread.get(name, 0.0)) / (after.clock - before.clock), 2)
            for name, cpu_s in after.by_thread.items()
        },
        pss_mb=round(after.pss_mb, 1),
        rss_mb=round(after.rss_mb, 1),
        kb_per_reply=round(1_024 * (after.rss_mb - before.rss_mb) / len(answered), 3),
        register=_registrations(load, min(REGISTRATIONS, round(20 * seconds))),
    )


def restart(load: LoadedMainpc, away_s: float, deadline_s: float) -> Restart:
    """Kill mainpc, start it again after `away_s`, and wait until all agents are back."""
    load.mainpc.kill()
    time.sleep(away_s)
    load.calls()
    began = time.monotonic()
    start_s = load.start_mainpc()
    serving, usage = began + start_s, load.usage()
    with Peak(load) as peak:
        calls = load.wait_until_in_touch(deadline_s)
    after = load.usage()
    back = sorted(moment - began for moment in first_answers(calls).values())
    seconds, slices = Counter(int(each) for each in back), Counter(int(each / _SLICE_S) for each in back)
    return Restart(
        away_s=away_s,
        start_s=round(start_s, 2),
        half_back_s=round(max(0.0, statistics.median(back) - start_s), 2),
        all_back_s=round(max(0.0, back[-1] - start_s), 2),
        by_second=[seconds[second] for second in range(int(back[-1]) + 1)],
        most_in_a_slice=max(slices.values()),
        failed_after=sum(call.error is not None and call.began >= serving for call in calls),
        handshakes=load.handshakes(),
        peak_mb=round(max(peak.mb, after.rss_mb), 1),
        cpu_ms=round(1_000 * (after.cpu_s - usage.cpu_s) / load.agents, 2),
    )


def key_change(load: LoadedMainpc, deadline_s: float) -> KeyChange:
    """Let one more key in, and wait until every agent follows the new list."""
    old, before, began = load.revision(), load.usage(), time.monotonic()
    with Peak(load) as peak:
        load.let_in(KeyPair.generate(KeyOwner("newcomer", "site-0", frozenset({"agent"}))))
        wait_until(lambda: load.revision() != old, deadline_s, "mainpc reads the new key")
        load.wait_until_following(load.revision(), deadline_s)
    took, after = time.monotonic() - began, load.usage()
    with load.operator() as client:
        size = len(msgspec.json.encode(client.call("get_trust", deadline_s=READY_S)))
    cpu_ms = 1_000 * (after.cpu_s - before.cpu_s)
    return KeyChange(
        round(took, 2), round(cpu_ms, 1), round(peak.mb - before.rss_mb, 1), size, no_response=load.no_response()
    )


def reads(load: LoadedMainpc) -> dict[str, tuple[int, float]]:
    """Return size and median time of what an operator asks for, and of what a browser or a scrape reads."""
    found: dict[str, tuple[int, float]] = {}
    with load.operator() as client:
        for action in _READS:
            took, reply = [], {}
            for _ in range(5):
                began = time.perf_counter()
                reply = client.call(action, deadline_s=READY_S)
                took.append(1_000 * (time.perf_counter() - began))
            found[action] = len(msgspec.json.encode(reply)), round(statistics.median(took), 2)
    for page in _PAGES:
        size, ms = load.read(page)
        found[page] = size, round(ms, 2)
    return found


def first_answers(calls: Sequence[Call]) -> dict[int, float]:
    """Return when each agent had its first heartbeat answered."""
    moments: dict[int, float] = {}
    for call in calls:
        if call.action == "heartbeat" and call.error is None:
            moments.setdefault(call.agent, call.ended)
    return moments


def _registrations(load: LoadedMainpc, times: int) -> Latency:
    described = {"agent_id": "one-more", "agent_type": "agent", "host": "127.0.0.1", "port": 7_000}
    took = []
    with load.operator() as client:
        client.call("ping")
        for _ in range(times):
            began = time.perf_counter()
            client.call("register_agent", registration_data=described)
            took.append(time.perf_counter() - began)
            time.sleep(_PAUSE_S)
        client.call("unregister", agent_name="one-more")
    return Latency.of(took)


def _late(answered: Sequence[Call], heartbeat_s: float) -> int:
    last: dict[int, float] = {}
    late = 0
    for call in answered:
        late += call.ended - last.get(call.agent, call.ended) > 1.5 * heartbeat_s
        last[call.agent] = call.ended
    return late


def _failures(calls: Sequence[Call]) -> dict[str, int]:
    return dict(Counter(f"{call.action} {call.error}" for call in calls if call.error is not None))


def _share(before: Usage, after: Usage) -> float:
    return 100 * (after.cpu_s - before.cpu_s) / (after.clock - before.clock)
