"""The container's own control group: both versions, with and without limits, and a machine's root group."""

from pathlib import Path

import pytest

from tests.unit.agent.host_metrics.groups import UNLIMITED_V1, container_v1, container_v2, write
from twinhost.agent.host_metrics import Cgroup, CpuUse, MemoryUse


def test_version_2_is_read(tmp_path: Path) -> None:
    """Usage without idle cache, the limit, the CPU's seconds, and the quota in CPUs."""
    group = Cgroup(container_v2(tmp_path))
    assert (group.memory(), group.cpu()) == (MemoryUse(80.0, 512.0), CpuUse(2.5, 0.5))


@pytest.mark.parametrize(
    ("cpu", "cpuacct"), [("cpu", "cpuacct"), ("cpu,cpuacct", "cpu,cpuacct"), ("cpuacct,cpu", "cpuacct,cpu")]
)
def test_version_1_is_read(tmp_path: Path, cpu: str, cpuacct: str) -> None:
    """The same figures, of controllers that are mounted apart or together."""
    group = Cgroup(container_v1(tmp_path, cpu, cpuacct))
    assert (group.memory(), group.cpu()) == (MemoryUse(80.0, 512.0), CpuUse(2.5, 0.5))


def test_version_2_without_limits(tmp_path: Path) -> None:
    """`max` is no number: usage is there, and no limit."""
    write(container_v2(tmp_path), {"memory.max": "max", "cpu.max": "max 100000"})
    assert (Cgroup(tmp_path).memory(), Cgroup(tmp_path).cpu()) == (MemoryUse(80.0, None), CpuUse(2.5, None))


def test_version_1_without_limits(tmp_path: Path) -> None:
    """No limit is written as the greatest number of pages, and no quota as -1."""
    write(container_v1(tmp_path), {"memory/memory.limit_in_bytes": UNLIMITED_V1, "cpu/cpu.cfs_quota_us": -1})
    assert (Cgroup(tmp_path).memory(), Cgroup(tmp_path).cpu()) == (MemoryUse(80.0, None), CpuUse(2.5, None))


def test_a_machine_of_version_2_is_no_container(tmp_path: Path) -> None:
    """The root group has no `cgroup.type`, and its CPU is that of all containers."""
    write(tmp_path, {"cgroup.controllers": "cpu memory", "cpu.stat": "usage_usec 99", "memory.stat": "anon 1"})
    assert (Cgroup(tmp_path).memory(), Cgroup(tmp_path).cpu()) == (None, None)


def test_a_machine_of_version_1_is_no_container(tmp_path: Path) -> None:
    """The root group alone has a `release_agent`."""
    container_v1(tmp_path)
    write(tmp_path, {f"{name}/release_agent": "" for name in ("memory", "cpu", "cpuacct")})
    assert (Cgroup(tmp_path).memory(), Cgroup(tmp_path).cpu()) == (None, None)


def test_nothing_there_is_nothing_known(tmp_path: Path) -> None:
    """No control groups at all."""
    assert (Cgroup(tmp_path / "absent").memory(), Cgroup(tmp_path / "absent").cpu()) == (None, None)


@pytest.mark.parametrize("content", ["", "garbage", "\xff", "1 2 3 4"])
def test_what_can_not_be_read_is_not_guessed(tmp_path: Path, content: str) -> None:
    """Whatever the files contain, nothing raises and no number is made of it."""
    write(container_v2(tmp_path), {"memory.current": content, "cpu.stat": content, "cpu.max": content})
    assert (Cgroup(tmp_path).memory(), Cgroup(tmp_path).cpu()) == (None, None)
    write(container_v2(tmp_path), {"memory.stat": content, "memory.max": content, "cpu.max": content})
    assert (Cgroup(tmp_path).memory(), Cgroup(tmp_path).cpu()) == (MemoryUse(100.0, None), CpuUse(2.5, None))


def test_cache_beyond_the_usage_makes_no_negative_figure(tmp_path: Path) -> None:
    """Both files are read one after the other, and the counters move."""
    write(container_v2(tmp_path), {"memory.stat": f"inactive_file {900 * 2**20}"})
    assert Cgroup(tmp_path).memory() == MemoryUse(0.0, 512.0)
