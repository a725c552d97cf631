"""A host measures itself: real figures of this machine, a container's own where there is one, and a steady thread."""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.unit.agent.host_metrics.groups import container_v2, write
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent import host_sampler as sampler_module
from twinhost.agent.host_metrics import MB, Cgroup, HostSample
from twinhost.agent.host_sampler import HostSampler, SamplerThread

INTERVAL_S = 0.05


class Clock:
    """The monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sampler_module, "time", clock)
    return clock


def use_cpu(root: Path, seconds: float) -> None:
    write(root, {"cpu.stat": f"usage_usec {round(seconds * 1e6)}"})


def test_a_machine_is_measured_by_proc(tmp_path: Path) -> None:
    """RAM in MB of 2**20 bytes, all that is there, and a share of all CPUs."""
    sampler = HostSampler(Cgroup(tmp_path / "absent"))
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:  # so that there is something to measure
        pass
    sample, memory = sampler.sample(), psutil.virtual_memory()
    assert sample.ram_total_mb == memory.total / MB
    assert abs(sample.ram_used_mb - (memory.total - memory.available) / MB) < 0.2 * memory.total / MB
    assert sample.cpu_percent is not None
    assert 50 / (psutil.cpu_count() or 1) < sample.cpu_percent <= 100
    assert abs(sample.wall - time.time()) < 5
    assert not sample.limited


def test_a_containers_figures_are_its_own(tmp_path: Path, clock: Clock) -> None:
    """Its usage of what its quota allows, and of its memory's limit; what the machine does counts nowhere."""
    container_v2(tmp_path)
    use_cpu(tmp_path, 10.0)
    sampler = HostSampler(Cgroup(tmp_path))
    clock.now += 4
    use_cpu(tmp_path, 10.5)
    sample = sampler.sample()
    assert sample.cpu_percent == pytest.approx(100 * 0.5 / 4 / 0.5)
    assert (sample.ram_used_mb, sample.ram_total_mb, sample.limited) == (80.0, 512.0, True)


def test_each_figure_is_since_the_sample_before(tmp_path: Path, clock: Clock) -> None:
    """An idle time after a busy one reads as idle."""
    container_v2(tmp_path)
    use_cpu(tmp_path, 0)
    sampler = HostSampler(Cgroup(tmp_path))
    figures = []
    for used_s in (0.5, 0.5, 0.75):
        clock.now += 1
        use_cpu(tmp_path, used_s)
        figures.append(sampler.sample().cpu_percent)
    assert figures == pytest.approx([100.0, 0.0, 50.0])


def test_a_burst_is_100_percent(tmp_path: Path, clock: Clock) -> None:
    """A quota is kept over its period and not over any moment; a counter that goes back is 0."""
    container_v2(tmp_path)
    use_cpu(tmp_path, 5)
    sampler = HostSampler(Cgroup(tmp_path))
    for used_s, percent in ((9, 100.0), (1, 0.0)):
        clock.now += 1
        use_cpu(tmp_path, used_s)
        assert sampler.sample().cpu_percent == percent


def test_without_a_quota_a_container_has_the_cpus_it_may_run_on(tmp_path: Path, clock: Clock) -> None:
    """CPU is the container's own all the same; RAM without a limit is the machine's."""
    write(container_v2(tmp_path), {"cpu.max": "max 100000", "memory.max": "max"})
    use_cpu(tmp_path, 0)
    sampler = HostSampler(Cgroup(tmp_path))
    clock.now += 1
    use_cpu(tmp_path, 0.5)
    sample = sampler.sample()
    assert sample.cpu_percent == pytest.approx(50 / len(os.sched_getaffinity(0)))
    assert (sample.ram_total_mb, sample.limited) == (psutil.virtual_memory().total / MB, False)


def test_limits_beyond_the_machine_are_none(tmp_path: Path, clock: Clock) -> None:
    """A quota of a thousand CPUs, and a limit of an exbibyte."""
    write(container_v2(tmp_path), {"cpu.max": "100000000 100000", "memory.max": 2**60})
    use_cpu(tmp_path, 0)
    sampler = HostSampler(Cgroup(tmp_path))
    clock.now += 1
    use_cpu(tmp_path, 0.5)
    sample = sampler.sample()
    assert sample.cpu_percent == pytest.approx(50 / len(os.sched_getaffinity(0)))
    assert (sample.ram_total_mb, sample.limited) == (psutil.virtual_memory().total / MB, False)


def test_no_time_has_no_cpu(tmp_path: Path, clock: Clock) -> None:
    """Two samples at one moment: the second has no figure, and takes nothing from the third."""
    container_v2(tmp_path)
    use_cpu(tmp_path, 0)
    sampler = HostSampler(Cgroup(tmp_path))
    assert sampler.sample().cpu_percent is None
    clock.now += 1
    use_cpu(tmp_path, 0.25)
    assert sampler.sample().cpu_percent == pytest.approx(50.0)


def test_the_thread_takes_a_sample_every_interval() -> None:
    """Until it is stopped; it is well as long as samples come."""
    taken: list[HostSample] = []
    thread = SamplerThread(INTERVAL_S, taken.append)
    assert not thread.responsive
    thread.start()
    wait_until(lambda: len(taken) >= 3, PATIENCE_S, "three samples")
    assert (thread.responsive, thread.fault) == (True, None)
    thread.stop()
    assert not thread.responsive


class Hanging(HostSampler):
    """Hangs as a driver can, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def sample(self) -> HostSample:
        self.let_go.wait(PATIENCE_S)
        return super().sample()


def test_a_hung_measurement_is_reported_until_the_next() -> None:
    """The thread lives and nobody waits for it; health says so until samples come again."""
    hanging = Hanging()
    thread = SamplerThread(INTERVAL_S, lambda _: None, hanging)
    thread.start()
    told = wait_until(lambda: thread.fault, PATIENCE_S, "the fault is told")
    assert told is not None
    assert told.startswith("this host has not been measured for ")
    assert thread.responsive
    hanging.let_go.set()
    wait_until(lambda: thread.fault is None, PATIENCE_S, "samples come again")
    thread.stop()


class Failing(HostSampler):
    """Fails once, as /proc does while the machine is short of something."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 1

    def sample(self) -> HostSample:
        if self.failures:
            self.failures -= 1
            raise OSError("no file descriptor is left")
        return super().sample()


def test_a_measurement_that_fails_ends_nothing() -> None:
    """The next one is taken in its time."""
    taken: list[HostSample] = []
    thread = SamplerThread(INTERVAL_S, taken.append, Failing())
    thread.start()
    wait_until(lambda: taken, PATIENCE_S, "a sample after the failure")
    thread.stop()
