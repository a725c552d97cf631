"""Both agents as processes: what runs full comes first on the list, with its command, and hides what follows."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts, SmallVolume
from tests.unit.cli.running import run_process
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.host_metrics import DiskFault, GpuSample
from twinhost.system_digital_twin.attention import resources
from twinhost.system_digital_twin.attention.resources import HostCard, Memory, Unmeasured, Volume
from twinhost.system_digital_twin.capacity.forecast import Card
from twinhost.system_digital_twin.capacity.reservations import QueuedWait

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.thorough


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, metrics_interval_s=0.3) as hosts:
        yield hosts


def items(mainpc: AgentProcess) -> dict[str, Any]:
    """Return the list as the page has it, without the disk of this machine, which may be nearly full."""
    found = mainpc.http("/api/state")[1]["attention"]["items"]
    return {item["id"]: item for item in found if item["kind"] != "disk_nearly_full"}


def wait_for(mainpc: AgentProcess, name: str) -> Any:
    return wait_until(lambda: items(mainpc).get(name), PATIENCE_S, f"{name} is on the list")


def test_a_full_disk_on_mainpc_hides_that_pc2_is_silent(hosts: Hosts) -> None:
    """pc2 runs, and mainpc can't store its heartbeats: one item, which names the disk, and ends with it."""
    with SmallVolume(hosts.root / SDT, "8m") as volume:
        mainpc, pc2 = hosts.start_both()
        wait_until(lambda: items(mainpc) == {}, PATIENCE_S, "pc2 is known")
        volume.fill()
        full = wait_for(mainpc, "disk_full:mainpc")
        assert (full["what"], full["level"]) == ("mainpc's disk is full: 0 MB of 8 MB free", "broken")
        assert {remedy["on"] for remedy in full["remedies"]} == {"mainpc"}

        def explained() -> set[str]:
            found = items(mainpc)
            assert set(found) == {"disk_full:mainpc"}
            return {other["id"] for other in found["disk_full:mainpc"]["explains"]}

        hidden = {"host_silent:pc2", "check_failed:mainpc/disk", "check_failed:mainpc/store"}
        wait_until(lambda: hidden <= explained(), PATIENCE_S, "pc2 counts as silent")
        assert items(mainpc)["disk_full:mainpc"]["since"] == full["since"]
        assert pc2.running
        volume.empty()
        wait_until(lambda: items(mainpc) == {}, PATIENCE_S, "all is well again")

        def told() -> list[tuple[str, str]]:
            with hosts.client(SDT) as client:
                events = client.call("get_events")["events"]
            each = [(event["event_type"], event["data"]["id"]) for event in events if "trouble" in event["event_type"]]
            return sorted(one for one in each if "nearly" not in one[1])

        wait_until(lambda: len(told()) > 1, PATIENCE_S, "its end is told")
        assert told() == [("trouble_began", "disk_full:mainpc"), ("trouble_ended", "disk_full:mainpc")]


def test_a_silent_host_is_told_while_mainpc_is_on_its_reserve(hosts: Hosts) -> None:
    """Heartbeats are still stored, so pc2's silence has another cause, and both are told."""
    with SmallVolume(hosts.root / SDT, "64m") as volume:
        mainpc, pc2 = hosts.start_both()
        volume.fill(but=3_000_000)  # of 4 MiB
        wait_for(mainpc, "disk_full:mainpc")
        pc2.kill()
        wait_for(mainpc, "host_silent:pc2")
        assert set(items(mainpc)) == {"disk_full:mainpc", "host_silent:pc2"}


def test_vram_and_heat_that_pc2_reports_are_told(hosts: Hosts) -> None:
    mainpc = hosts.start(SDT).wait_until_ready()
    gpu = {"index": 0, "name": "H100", "used_mb": 81_838, "total_mb": 81_920, "temperature_c": 91}
    with hosts.client(SDT, by=UMRA) as client:

        def item() -> Any:
            """Report again, as pc2 does: a report that is a few seconds old counts no more."""
            client.call("report_metrics", ram_used_mb=1, ram_total_mb=2, gpus=[gpu])
            return items(mainpc).get("vram_full:pc2/gpu0")

        full = wait_until(item, PATIENCE_S, "the card is on the list")
        assert full["what"].startswith("pc2's VRAM is full: 99.9 % of 80.0 GB")
        assert items(mainpc)["gpu_hot:pc2/gpu0"]["what"] == "pc2's GPU 0 (H100) is hot: 91 °C"


OFFERED = {
    remedy.command
    for trouble in (
        *resources.full_disks([Volume("mainpc", "state", 0, 1_000, "one")]),
        *resources.failing_disks([("mainpc", "one", DiskFault(disk="vda", fault="is offline"))]),
        *resources.full_ram([Memory("mainpc", 95, 100, "one")]),
        *resources.worn_cards(
            HostCard("mainpc", Card(index=index, used_mb=9, total_mb=9), "one", gpu, ("umra",))
            for index, gpu in enumerate([None, GpuSample(index=1, name="x", used_mb=9, total_mb=9, temperature_c=95)])
        ),
        *resources.missing_metrics([Unmeasured("mainpc", None)]),
        *resources.waiting_leases([QueuedWait("a", "ram", None, 1, 99)], 0),
    )
    for remedy in trouble.remedies
}


@pytest.mark.parametrize("command", sorted(OFFERED))
def test_each_command_that_is_offered_works(hosts: Hosts, command: str) -> None:
    """As it is; who is asked for a confirmation says no."""
    program, *arguments = command.split()
    if program == "./twinhost":
        hosts.start(SDT).wait_until_ready()
        settings = {**hosts.environment(SDT), "TWINHOST_CERTIFICATES": str(hosts.folder("operator"))}
        ran = run_process(settings, *arguments)
        assert (ran.status, ran.err) == (0, "")
        return
    probe = ["docker", "info"] if program == "docker" else [program, "--version"]
    if shutil.which(program) is None or subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip(f"{program} does not run on this machine")
    done = subprocess.run(command, check=False, shell=True, input=b"n\n", capture_output=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr.decode()
