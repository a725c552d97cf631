"""Control groups as files in a folder, in the layout of version 1 and of version 2."""

from pathlib import Path

UNLIMITED_V1 = 9_223_372_036_854_771_712


def write(root: Path, files: dict[str, object]) -> Path:
    """Write files below `root`, their folders too."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def container_v2(root: Path, **changed: object) -> Path:
    """Write a container of version 2: 512 MiB and half a CPU, 100 MiB used of which 20 MiB are idle cache."""
    files: dict[str, object] = {
        "cgroup.type": "domain",
        "memory.current": 100 * 2**20,
        "memory.max": 512 * 2**20,
        "memory.stat": f"anon 1\ninactive_file {20 * 2**20}\nactive_file 3",
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\nsystem_usec 2",
        "cpu.max": "50000 100000",
    }
    return write(root, files | {name.replace("_of_", "."): value for name, value in changed.items()})


def container_v1(root: Path, cpu: str = "cpu", cpuacct: str = "cpuacct", **changed: object) -> Path:
    """Write the same container in version 1, whose CPU controllers may share a folder."""
    files: dict[str, object] = {
        "memory/cgroup.procs": 1,
        "memory/memory.usage_in_bytes": 100 * 2**20,
        "memory/memory.limit_in_bytes": 512 * 2**20,
        "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {20 * 2**20}",
        f"{cpuacct}/cgroup.procs": 1,
        f"{cpuacct}/cpuacct.usage": 2_500_000_000,
        f"{cpu}/cgroup.procs": 1,
        f"{cpu}/cpu.cfs_quota_us": 50_000,
        f"{cpu}/cpu.cfs_period_us": 100_000,
    }
    return write(root, files | {f"memory/{name.replace('_of_', '.')}": value for name, value in changed.items()})
