"""A host measures its machine, and the agent's container if there is one, at a regular interval."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.unit.agent.host_metrics.groups import container_v2, write
from tests.waiting import PATIENCE_S, wait_until
from twinhost import moments
from twinhost.agent.host_metrics import MB, Cgroup, ContainerSample, HostSample
from twinhost.agent.host_sampler import HostSampler, SamplerThread
from twinhost.agent.machine import Machine

INTERVAL_S = 0.05


class Clock(moments.Clock):
    """The monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def use_cpu(root: Path, seconds: float) -> None:
    write(root, {"cpu.stat": f"usage_usec {round(seconds * 1e6)}"})


def own(sampler: HostSampler) -> ContainerSample:
    """Return the container's part of the next sample."""
    container = sampler.sample().container
    assert container is not None
    return container


def test_memory_is_the_machines(tmp_path: Path) -> None:
    """From /proc/meminfo, which `free` reads, even in a container of 512 MB, whose own use is separate."""
    sampler = HostSampler(Cgroup(container_v2(tmp_path)))
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    sample, memory = sampler.sample(), psutil.virtual_memory()
    assert sample.ram_total_mb == kib["MemTotal"] / 1_024 == memory.total / MB
    assert sample.ram_used_mb == pytest.approx((kib["MemTotal"] - kib["MemAvailable"]) / 1_024, rel=0.1, abs=200)
    assert sample.machine is not None
    assert sample.machine.swap_total_mb == pytest.approx(kib["SwapTotal"] / 1_024, abs=0.01)
    assert not sample.limited
    assert sample.container is not None
    assert (sample.container.ram_used_mb, sample.container.ram_limit_mb) == (80.0, 512.0)


def test_the_machine_is_measured_in_a_container(tmp_path: Path) -> None:
    """Its CPUs, load, boot id, and disks; a folder that does not exist is left out."""
    machine = Machine({"state": tmp_path, "models": tmp_path / "absent"})
    before = os.getloadavg()
    found = HostSampler(Cgroup(tmp_path / "none"), machine=machine).sample()
    assert found.container is None
    assert found.machine is not None
    assert found.machine.cpus == sum(line.startswith("cpu") for line in Path("/proc/stat").read_text().split("\n")) - 1
    around = (before, os.getloadavg())  # Linux changes it every 5 s
    assert any(found.machine.load == pytest.approx(load, abs=0.01) for load in around)
    assert found.machine.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    disk, (state,) = os.statvfs(tmp_path), found.machine.disks
    assert state.name == "state"
    assert state.total_mb == pytest.approx(disk.f_blocks * disk.f_frsize / MB, abs=0.01)
    assert state.free_mb == pytest.approx(disk.f_bavail * disk.f_frsize / MB, abs=500)


@pytest.mark.thorough
def test_a_busy_process_raises_the_machines_cpu(tmp_path: Path) -> None:
    """A process outside the container's control group, from /proc/stat, which `top` reads."""
    container_v2(tmp_path)
    sampler = HostSampler(Cgroup(tmp_path))

    def measured() -> float:
        """Return what the sampler says; its own readings are between two of this test's, however late each is."""
        early = [cpu_ticks()]
        sampler.sample()
        early.append(cpu_ticks())
        time.sleep(1.5)
        late = [cpu_ticks()]
        cpu_percent = sampler.sample().cpu_percent
        late.append(cpu_ticks())
        assert cpu_percent is not None
        found = [100 * (after[0] - before[0]) / (after[1] - before[1]) for before in early for after in late]
        assert min(found) - 5 <= cpu_percent <= max(found) + 5
        return cpu_percent

    measured()
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            busy = measured()
            used = psutil.Process(process.pid).cpu_times()
            share = 100 * (used.user + used.system) / (time.monotonic() - started) / (psutil.cpu_count() or 1)
        finally:
            process.kill()
    assert busy > share - 5 > 0


def cpu_ticks() -> tuple[int, int]:
    """Return the ticks in which the machine was busy, and all of them."""
    user, nice, system, idle, iowait, *others = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    busy = user + nice + system + sum(others)
    return busy, busy + idle + iowait


def test_a_containers_figures_are_its_own(tmp_path: Path, clock: Clock) -> None:
    """Its use of its CPU quota, and of its memory limit."""
    container_v2(tmp_path)
    use_cpu(tmp_path, 10.0)
    sampler = HostSampler(Cgroup(tmp_path), clock=clock)
    clock.now += 4
    use_cpu(tmp_path, 10.5)
    found = own(sampler)
    assert found.cpu_percent == pytest.approx(100 * 0.5 / 4 / 0.5)
    assert (found.cpus, found.ram_used_mb, found.ram_limit_mb) == (0.5, 80.0, 512.0)


def test_each_figure_is_since_the_sample_before(tmp_path: Path, clock: Clock) -> None:
    """An idle time after a busy one reads as idle."""
    container_v2(tmp_path)
    use_cpu(tmp_path, 0)
    sampler = HostSampler(Cgroup(tmp_path), clock=clock)
    figures = []
    for used_s in (0.5, 0.5, 0.75):
        clock.now += 1
        use_cpu(tmp_path, used_s)
        figures.append(own(sampler).cpu_percent)
    assert figures == pytest.approx([100.0, 0.0, 50.0])


def test_a_burst_is_100_percent(tmp_path: Path, clock: Clock) -> None:
    """A quota is kept over its period and not over any moment; a counter that goes back is 0."""
    container_v2(tmp_path)
    use_cpu(tmp_path, 5)
    sampler = HostSampler(Cgroup(tmp_path), clock=clock)
    for used_s, percent in ((9, 100.0), (1, 0.0)):
        clock.now += 1
        use_cpu(tmp_path, used_s)
        assert own(sampler).cpu_percent == percent


@pytest.mark.parametrize("limits", [("max 100000", "max"), ("100000000 100000", 2**60)], ids=["none", "too_large"])
def test_without_limits_a_container_has_the_machine(tmp_path: Path, clock: Clock, limits: tuple[str, object]) -> None:
    """The CPUs that it may run on, and no memory limit; also if its limits exceed the machine."""
    write(container_v2(tmp_path), {"cpu.max": limits[0], "memory.max": limits[1]})
    use_cpu(tmp_path, 0)
    sampler = HostSampler(Cgroup(tmp_path), clock=clock)
    clock.now += 1
    use_cpu(tmp_path, 0.5)
    found = own(sampler)
    assert found.cpu_percent == pytest.approx(50 / len(os.sched_getaffinity(0)))
    assert (found.ram_used_mb, found.ram_limit_mb) == (80.0, None)


def test_no_time_has_no_cpu(tmp_path: Path, clock: Clock) -> None:
    """Two samples at one moment: the second has no figure, and takes nothing from the third."""
    container_v2(tmp_path)
    use_cpu(tmp_path, 0)
    sampler = HostSampler(Cgroup(tmp_path), clock=clock)
    sample = sampler.sample()
    assert sample.container is not None
    assert (sample.cpu_percent, sample.container.cpu_percent, sample.container.network) == (None, None, None)
    clock.now += 1
    use_cpu(tmp_path, 0.25)
    assert own(sampler).cpu_percent == pytest.approx(50.0)


def test_the_thread_takes_a_sample_every_interval() -> None:
    """Until it is stopped; it is well as long as samples come."""
    taken: list[HostSample] = []
    thread = SamplerThread(INTERVAL_S, taken.append)
    assert not thread.responsive
    thread.start()
    wait_until(lambda: len(taken) >= 3, PATIENCE_S, "three samples")
    wait_until(lambda: thread.fault is None, PATIENCE_S, "the last sample is new")
    assert thread.responsive
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
    fault = wait_until(lambda: thread.fault, PATIENCE_S, "the fault is reported")
    assert fault is not None
    assert fault.startswith("this host has not been measured for ")
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
