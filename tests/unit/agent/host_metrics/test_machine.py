"""The machine from /proc and /sys: sensors, interfaces, and the product that runs a virtual machine."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.unit.agent.host_metrics.groups import write
from twinhost.agent.machine import ByteCounts, Machine

SENSORS: dict[str, object] = {
    "class/thermal/thermal_zone0/type": "acpitz",
    "class/thermal/thermal_zone0/temp": 27_800,
    "class/hwmon/hwmon0/name": "nvme",
    "class/hwmon/hwmon0/temp1_input": 71_000,
}


def test_the_temperature_is_that_of_the_cpu(tmp_path: Path) -> None:
    """The hottest of its sensors, not a disk's; without one, that of the thermal zone; else None."""
    assert Machine(sys=tmp_path).temperature_c() is None
    machine = Machine(sys=write(tmp_path, SENSORS))
    assert machine.temperature_c() == 27.8
    cpu = {"class/hwmon/hwmon1/name": "k10temp", "class/hwmon/hwmon1/temp1_input": 54_250}
    write(tmp_path, {**cpu, "class/hwmon/hwmon1/temp2_input": 61_000})
    assert machine.temperature_c() == 61.0


@pytest.mark.parametrize("content", ["", "hot", "-128000", "65261850"])
def test_a_sensor_that_is_not_connected_is_not_shown(tmp_path: Path, content: str) -> None:
    write(tmp_path, SENSORS | {"class/thermal/thermal_zone0/temp": content})
    assert Machine(sys=tmp_path).temperature_c() is None


def test_bytes_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On physical interfaces: a bridge carries the same bytes again. Without one, on the container's own."""
    counters = {name: SimpleNamespace(bytes_recv=got, bytes_sent=2 * got) for name, got in (("lo", 7), ("eth0", 100))}
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: counters)
    machine = Machine(sys=tmp_path)
    assert machine.traffic() == (None, ByteCounts(100, 200))
    counters |= {name: SimpleNamespace(bytes_recv=5, bytes_sent=5) for name in ("enp1s0", "docker0")}
    (tmp_path / "class/net/enp1s0/device").mkdir(parents=True)
    assert machine.traffic() == (ByteCounts(5, 5), None)


@pytest.mark.parametrize(
    ("release", "product"),
    [
        ("6.12.54-linuxkit", "Docker Desktop"),
        ("5.15.167.4-microsoft-standard-WSL2", "WSL 2"),
        ("6.1.0-28-amd64", None),
    ],
)
def test_a_virtual_machine_is_named(tmp_path: Path, release: str, product: str | None) -> None:
    """Docker Desktop's figures are those of its virtual machine, and not of the user's computer."""
    write(tmp_path, {"sys/kernel/osrelease": release, "sys/kernel/random/boot_id": "b00t"})
    machine = Machine(proc=tmp_path)
    assert (machine.virtual_machine, machine.boot_id) == (product, "b00t")
    assert Machine(proc=tmp_path / "absent").boot_id is None


DISKS: dict[str, object] = {
    "fs/ext4/vda1/errors_count": 0,
    "fs/ext4/vda2/errors_count": 3,
    "fs/ext4/features/metadata_csum_seed": "supported",
    "fs/btrfs/0a1b/devinfo/1/error_stats": "write_errs 0\nread_errs 1\nflush_errs 0\n",
    "block/md0/md/degraded": 1,
    "block/md1/md/degraded": 0,
    "block/md2/md/degraded": "",
    "block/sda/device/state": "running",
    "block/sdb/device/state": "offline",
    "block/nvme0n1/device/state": "live",
    "block/md0/md/array_state": "active",
    "block/md3/md/array_state": "broken",
}
POOLS: dict[str, object] = {"spl/kstat/zfs/tank/state": "DEGRADED\n", "spl/kstat/zfs/fast/state": "ONLINE\n"}


def test_what_the_kernel_says_of_disks_is_found(tmp_path: Path) -> None:
    """Errors of filesystems, degraded RAIDs, and devices that are gone; nothing of those that are well."""
    assert Machine({"state": tmp_path}, sys=tmp_path / "absent").disk_faults() == ()
    found = Machine(proc=write(tmp_path / "proc", POOLS), sys=write(tmp_path, DISKS)).disk_faults()
    assert [f"{each.disk} {each.fault}" for each in found] == [
        "vda2 has 3 errors of its ext4 filesystem",
        "0a1b has 1 error of its btrfs filesystem",
        "md0 is a degraded RAID, which lacks 1 of its disks",
        "md3 is broken",
        "sdb is offline",
        "tank is a ZFS pool whose state is DEGRADED",
    ]
    write(tmp_path, {f"fs/ext4/vdb{number}/errors_count": 2**64 for number in range(20)})
    assert len(Machine(sys=tmp_path).disk_faults()) == 8


def test_a_state_on_a_read_only_filesystem_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({"state": tmp_path}, sys=tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID))
    assert [each.disk for each in machine.disk_faults()] == ["state"]


@pytest.mark.parametrize(("options", "faults"), [("rw,emergency_ro", 1), ("rw,shutdown", 1), ("rw,errors=x", 0)])
def test_a_state_that_ext4_stopped_writing_is_found(tmp_path: Path, options: str, faults: int) -> None:
    """Since Linux 6.15 it is not mounted read-only then. Another filesystem does not count."""
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = [
        "22 1 255:254 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,emergency_ro",
        f"23 22 {number} /v /var/lib/twinhost rw,relatime shared:2 master:1 - ext4 /dev/vda2 {options}",
    ]
    write(tmp_path, {"self/mountinfo": "\n".join(lines)})
    found = Machine({"state": tmp_path}, proc=tmp_path, sys=tmp_path).disk_faults()
    assert [each.disk for each in found] == ["state"] * faults
