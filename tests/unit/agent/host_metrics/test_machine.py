"""The machine from /proc and /sys: sensors, interfaces, and the product that runs a virtual machine."""

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
