"""Detectors of resources: each bound, what is one trouble, and what it explains."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from twinhost.agent.host_metrics import DiskFault, GpuProcess, GpuSample
from twinhost.agent.troubles import Kind, Level, Trouble, by_cause
from twinhost.deployment import NO_RESPONSE
from twinhost.system_digital_twin.attention import resources
from twinhost.system_digital_twin.attention.resources import HostCard, Memory, Unmeasured, Volume
from twinhost.system_digital_twin.attention.silence import SeenAgent, silent_hosts
from twinhost.system_digital_twin.capacity.forecast import Card
from twinhost.system_digital_twin.capacity.reservations import QueuedWait
from twinhost.system_digital_twin.capacity.time_to_full import (
    NOT_MEASURED,
    UNCERTAIN,
    Filling,
    GrowingResource,
    ResourceForecast,
)

GB = 1_024.0
SILENT_PC2 = next(silent_hosts("mainpc", [SeenAgent("umra", NO_RESPONSE, 1.0, "pc2", "pc2")]))


def ids(troubles: Iterable[Trouble]) -> list[str]:
    return [trouble.id for trouble in troubles]


def disk(free_mb: float, host: str = "mainpc", name: str = "state", **changed: Any) -> Volume:
    fields = {"total_mb": 98 * GB, "machine": "one", "reserve_mb": 256.0 if name == "state" else 0.0, **changed}
    return Volume(host, name, free_mb, **fields)


def the(found: Iterable[Trouble], kind: Kind) -> Trouble:
    (trouble,) = (trouble for trouble in found if trouble.kind == kind)
    return trouble


def as_silent(kind: Kind, subject: str) -> Trouble:
    return Trouble(kind=kind, subject=subject, what="x")


@pytest.mark.parametrize(
    ("free_mb", "kinds"),
    [
        (5.1 * GB, []),
        (4.8 * GB, [Kind.DISK_NEARLY_FULL]),
        (256.0, [Kind.DISK_NEARLY_FULL]),
        (255.0, [Kind.DISK_NEARLY_FULL, Kind.DISK_FULL]),
        (0.0, [Kind.DISK_NEARLY_FULL, Kind.DISK_FULL]),
    ],
)
def test_a_disk_has_two_bounds(free_mb: float, kinds: list[Kind]) -> None:
    """Five percent, and the reserve of the state."""
    assert [trouble.kind for trouble in resources.full_disks([disk(free_mb)])] == kinds


def test_ten_gigabytes_of_a_large_disk_are_enough() -> None:
    assert not list(resources.full_disks([disk(10.1 * GB, total_mb=4_000 * GB)]))
    assert ids(resources.full_disks([disk(9.9 * GB, total_mb=4_000 * GB)])) == ["disk_nearly_full:mainpc"]


def test_a_small_disk_has_as_much_beside_its_reserve() -> None:
    assert ids(resources.full_disks([disk(500.0, total_mb=2_000.0)])) == ["disk_nearly_full:mainpc"]


def test_a_tiny_disk_is_full_once_a_part_of_a_megabyte_is_left() -> None:
    """As the memory of a container that holds the state: a sixteenth."""
    kinds = [
        [trouble.kind for trouble in resources.full_disks([disk(free_mb, total_mb=10.0, reserve_mb=0.0)])]
        for free_mb in (0.9, 0.6)
    ]
    assert kinds == [[], [Kind.DISK_NEARLY_FULL, Kind.DISK_FULL]]


def test_a_nearly_full_disk_explains_that_it_was_filling() -> None:
    """Whichever of the hosts that share it has seen it last."""
    found = [*resources.full_disks([disk(4.95 * GB), disk(4.85 * GB, host="pc2")])]
    fills = [as_silent(Kind.FILLING, f"{host}/state_disk") for host in ("mainpc", "pc2")]
    assert [root.id for root, _ in by_cause([*fills, *found])] == ["disk_nearly_full:mainpc"]


def test_a_full_disk_says_what_how_much_and_what_stops() -> None:
    full = the(resources.full_disks([disk(0.0, writes_fail=True)]), Kind.DISK_FULL)
    assert (full.what, full.cause) == ("mainpc's disk is full: 0 MB of 98.0 GB free", "nothing can be written")
    assert (full.level, full.subject, full.host) == (Level.BROKEN, "mainpc", "mainpc")
    assert {remedy.on for remedy in full.remedies} == {"mainpc"}
    reserve = the(resources.full_disks([disk(200.0)]), Kind.DISK_FULL)
    assert reserve.cause is not None
    assert reserve.cause.startswith("the last 256 MB are for registrations, revocations and deletions")


def test_a_full_disk_hides_its_consequences_alone() -> None:
    """While mainpc can write nothing: who is silent, and the checks; not those of another host, nor an error."""
    consequences = [
        SILENT_PC2,
        *(as_silent(Kind.CHECK_FAILED, f"mainpc/{check}") for check in ("disk", "store", "audit_log")),
        as_silent(Kind.AGENTS_SILENT, "pc2"),
        as_silent(Kind.METRICS_MISSING, "pc3"),
        as_silent(Kind.FILLING, "mainpc/state_disk"),
    ]
    others = [as_silent(Kind.CHECK_FAILED, "pc2/store"), as_silent(Kind.ERRORS, ""), as_silent(Kind.FILLING, "pc3/ram")]
    found = [*resources.full_disks([disk(0.0, writes_fail=True)]), *consequences, *others]
    roots = {root.id: explained for root, explained in by_cause(found)}
    assert set(roots) == {"disk_full:mainpc", *ids(others)}
    assert set(ids(roots["disk_full:mainpc"])) == {"disk_nearly_full:mainpc", *ids(consequences)}


def test_a_silent_host_is_its_own_trouble_while_mainpc_can_write() -> None:
    """On mainpc's reserve, heartbeats are still written; and pc2's own full disk does not silence it."""
    for volume in (disk(200.0), disk(0.0, host="pc2")):
        roots = [root.id for root, _ in by_cause([*resources.full_disks([volume]), SILENT_PC2])]
        assert set(roots) == {f"disk_full:{volume.host}", "host_silent:pc2"}


def test_hosts_that_share_a_disk_have_one_trouble() -> None:
    """mainpc's, whichever crossed the bound first, and a state's before that of models; two disks have two."""
    same = [disk(300.0), disk(255.0, name="models"), disk(250.0, host="pc2"), disk(255.0, host="pc2", name="models")]
    found = list(resources.full_disks(same))
    assert ids(found) == ["disk_nearly_full:mainpc", "disk_full:mainpc"]
    assert found[1].what.endswith("250 MB of 98.0 GB free")
    assert {"check_failed:pc2/store", "filling:pc2/models_disk"} <= set(found[1].explains)
    assert ids(resources.full_disks([disk(255.0, name="models"), disk(255.0, host="pc2")]))[1] == "disk_full:pc2"
    apart = resources.full_disks([disk(50 * GB), disk(0.0, host="pc2")])
    assert ids(apart) == ["disk_nearly_full:pc2", "disk_full:pc2"], "of one size, and not as full"
    for other in ({"machine": "other"}, {"total_mb": 99 * GB}):
        assert ids(resources.full_disks([disk(0.0), disk(0.0, host="pc2", **other)]))[1::2] == [
            "disk_full:mainpc",
            "disk_full:pc2",
        ]


def test_a_full_disk_of_models_breaks_nothing() -> None:
    full = the(resources.full_disks([disk(0.0, "pc2", "models")]), Kind.DISK_FULL)
    assert (full.id, full.level) == ("disk_full:pc2/models", Level.ATTENTION)
    assert full.what == "pc2's disk of the models is full: 0 MB of 98.0 GB free"
    assert not any(name.startswith("check_failed") for name in full.explains)


def card(used_mb: float, host: str = "pc2", machine: str = "two", **gpu: Any) -> HostCard:
    """Return a card of 80 GB; with a driver if there is something that it says."""
    index, uuid = gpu.get("index", 0), gpu.get("uuid")
    fields = {"index": index, "name": "H100", "used_mb": used_mb, "total_mb": 80 * GB, **gpu}
    measured = Card(index=index, uuid=uuid, used_mb=used_mb, total_mb=80 * GB)
    return HostCard(host, measured, machine, GpuSample(**fields) if gpu else None, () if gpu else ("umra", "planner"))


def ram(percent: float) -> list[Memory]:
    return [Memory("pc2", percent * 10, 1_000.0, "two")]


def full_disks(percent: float) -> list[Volume]:
    return [disk((100 - percent) * 10, total_mb=1_000.0, reserve_mb=0.0)]


@pytest.mark.parametrize(
    ("detector", "seen", "bound"),
    [
        (resources.full_ram, ram, 90.0),
        (resources.full_disks, full_disks, 95.0),
        (resources.worn_cards, lambda percent: [card(percent / 100 * 80 * GB)], 95.0),
        (resources.worn_cards, lambda celsius: [card(1, temperature_c=celsius)], 89.9),
        (resources.worn_cards, lambda celsius: [card(1, temperature_c=celsius, slowdown_c=97)], 96.9),
    ],
    ids=["ram", "disk", "vram", "hot", "hot by the driver"],
)
def test_a_bound_is_crossed_back_a_little_later(
    detector: Callable[..., Iterable[Trouble]], seen: Callable[[float], Any], bound: float
) -> None:
    """A figure that goes to and fro is one trouble."""
    assert not list(detector(seen(bound)))
    (found,) = detector(seen(bound + 0.2))
    assert list(detector(seen(bound - 0.3), {found.id}))
    assert not list(detector(seen(bound - 0.3), {"another"}))
    assert not list(detector(seen(bound - 6), {found.id}))


def test_full_vram_says_the_card_and_who_uses_it() -> None:
    processes = (GpuProcess(pid=41, name="python", used_mb=70 * GB), GpuProcess(pid=42, name="Xorg", used_mb=1.0))
    (found,) = resources.worn_cards([card(0.999 * 80 * GB, index=1, processes=processes)])
    assert found.what == "pc2's VRAM is full: 99.9 % of 80.0 GB on GPU 1 (H100) in use"
    assert (found.cause, found.id) == ("most of it is used by python (process 41)", "vram_full:pc2/gpu1")
    assert found.remedies[0].command == "nvidia-smi"


def test_a_full_card_without_known_processes_has_a_cause() -> None:
    (found,) = resources.worn_cards([card(80 * GB, temperature_c=40)])
    assert found.cause == "no more of a card is leased once 95 % of it are in use"


def test_a_full_card_explains_that_it_was_filling() -> None:
    """By its driver's uuid, or its index; ids have no spaces, so that a shell takes them as they are."""
    for uuid, gauge in (("GPU-1f", "vram GPU-1f"), (None, "vram GPU 0"), (None, "vram")):
        fills = next(resources.filling([Filling("pc2", gauge, forecast(60.0, resource="vram"))]))
        full = next(iter(resources.worn_cards([card(80 * GB, uuid=uuid, temperature_c=1)])))
        assert [root.id for root, _ in by_cause([fills, full])] == ["vram_full:pc2/gpu0"]
        assert " " not in fills.id


def test_full_vram_that_agents_report_names_them() -> None:
    (found,) = resources.worn_cards([card(0.999 * 80 * GB)])
    assert found.cause == "reported by umra, planner; no driver measures it"
    assert "nvidia-smi" not in {remedy.command for remedy in found.remedies}


def test_a_card_of_two_hosts_is_judged_by_the_one_with_a_driver() -> None:
    """The other may be a container that does not see it."""
    found = resources.worn_cards([card(80 * GB, "mainpc"), card(80 * GB, temperature_c=91), card(80 * GB, "pc3", "x")])
    assert ids(found) == ["vram_full:pc2/gpu0", "gpu_hot:pc2/gpu0", "vram_full:pc3/gpu0"]


def test_a_hot_card_says_its_bound() -> None:
    (found,) = resources.worn_cards([card(1, temperature_c=91)])
    assert (found.what, found.cause) == ("pc2's GPU 0 (H100) is hot: 91 °C", None)
    (found,) = resources.worn_cards([card(1, temperature_c=98, slowdown_c=97)])
    assert found.cause == "it slows itself down from 97 °C"


def test_memory_of_one_machine_is_one_trouble() -> None:
    hosts = [Memory(host, 9.5 * GB, 10 * GB, "one") for host in ("mainpc", "pc2")]
    (found,) = resources.full_ram(hosts)
    assert (found.id, found.what) == ("ram_full:mainpc", "mainpc's RAM is nearly full: 512 MB of 10.0 GB available")
    assert [root.id for root, _ in by_cause([found, as_silent(Kind.FILLING, "mainpc/ram")])] == ["ram_full:mainpc"]


def forecast(left_s: float | None, reason: str | None = None, resource: GrowingResource = "ram") -> ResourceForecast:
    return {
        "host": "pc2",
        "resource": resource,
        "name": None,
        "used_mb": 6 * GB,
        "total_mb": 8 * GB,
        "growth_mb_per_hour": 2 * GB,
        "time_to_full_s": left_s,
        "interval": None,
        "reason": reason,
        "basis_s": 3_720.0,
    }


def test_what_fills_says_when_and_from_what_it_is_known() -> None:
    (found,) = resources.filling([Filling("pc2", "ram", forecast(2_580.0))])
    assert found.what == "pc2's RAM will be full in about 43 min"
    assert (found.cause, found.id) == ("it grew by 2.0 GB an hour, over the last 62 min", "filling:pc2/ram")


def test_what_fills_says_how_to_free_it() -> None:
    (disk_fills,) = resources.filling([Filling("pc2", "state_disk", forecast(60.0, resource="disk"))])
    (card_fills,) = resources.filling([Filling("pc2", "vram", forecast(60.0, resource="vram"))])
    assert [found.remedies[0].command for found in (disk_fills, card_fills)] == ["docker system df", "nvidia-smi"]


@pytest.mark.parametrize("reason", [UNCERTAIN, NOT_MEASURED])
def test_what_was_filling_says_no_time(reason: str) -> None:
    """So one episode is one trouble, whatever is known of it meanwhile."""
    (found,) = resources.filling([Filling("pc2", "ram", {**forecast(None, reason), "growth_mb_per_hour": None})])
    assert found.cause is None
    assert "was filling" in found.what
    assert " about " not in found.what


def test_a_silent_host_explains_that_it_is_not_measured() -> None:
    missing = next(resources.missing_metrics([Unmeasured("pc2", 7.0)]))
    assert (missing.since, missing.what) == (7.0, "pc2 is not measured: it answers, and sends no metrics")
    fills = as_silent(Kind.FILLING, "pc2/ram")
    for consequences in ([missing, fills], [missing], [fills]):
        assert [root.id for root, _ in by_cause([*consequences, SILENT_PC2])] == ["host_silent:pc2"]
    check = as_silent(Kind.CHECK_FAILED, "pc2/metrics")
    assert [root.id for root, _ in by_cause([check, fills, missing])] == ["metrics_missing:pc2"]


def test_leases_that_wait_say_who_holds_what() -> None:
    held = (("trainer", 60 * GB), ("umra", 10 * GB))
    planner = QueuedWait("planner", "vram", "pc2", 20 * GB, 185.0, "no room", held)
    other = QueuedWait("other", "ram", None, 512.0, 70.0)
    (found,) = resources.waiting_leases([other, planner], now=1_000.0)
    assert found.what == "planner has waited 3 min for 20.0 GB of VRAM on pc2, and 1 more"
    assert found.cause == "leased there: trainer 60.0 GB, umra 10.0 GB"
    assert (found.id, found.since) == ("leases_wait", 815.0)
    assert found.members == ("other: 512 MB ram", "planner: 20480 MB vram")
    assert not list(resources.waiting_leases([], 0.0))
    (longer,) = resources.waiting_leases([other._replace(waited_s=90.0), planner], now=1_020.0)
    assert longer.members == found.members, "a figure is no news"
    (alone,) = resources.waiting_leases([other._replace(reason="too little is free")], 0.0)
    assert alone.cause == "too little is free", "where nobody holds any"


def test_a_failing_disk_is_told_once_for_its_machine() -> None:
    faults = [DiskFault(disk="vda2", fault="has 3 errors of its ext4 filesystem")] * 2
    found = list(resources.failing_disks(zip(("mainpc", "pc2"), ("one", "one"), faults, strict=True)))
    assert [(trouble.id, trouble.what, trouble.level) for trouble in found] == [
        ("disk_failing:mainpc/vda2", "mainpc's disk vda2 has 3 errors of its ext4 filesystem", Level.ATTENTION)
    ]
    assert found[0].explains == ()


def test_a_state_that_is_read_only_explains_the_silence() -> None:
    """Of others on mainpc, once its store fails; nothing but its own checks on pc2."""
    fault = DiskFault(disk="state", fault="is mounted read-only, as the kernel does after an error")
    check = as_silent(Kind.CHECK_FAILED, "mainpc/store")
    found = list(resources.failing_disks([("mainpc", "one", fault)], {"mainpc"}))
    assert found[0].level == Level.BROKEN
    assert [root.id for root, _ in by_cause([*found, check, SILENT_PC2])] == ["disk_failing:mainpc/state"]
    found = list(resources.failing_disks([("pc2", "two", fault)], {"mainpc"}))
    assert {root.id for root, _ in by_cause([*found, SILENT_PC2])} == {"disk_failing:pc2/state", "host_silent:pc2"}
    both = resources.failing_disks([("mainpc", "one", fault), ("pc2", "one", fault)])
    assert ids(both) == ["disk_failing:mainpc/state", "disk_failing:pc2/state"], "each has its own"


def test_a_trouble_goes_through_the_store() -> None:
    """They are kept over a restart as JSON."""
    for trouble in resources.worn_cards([card(80 * GB, temperature_c=99.0, slowdown_c=90.0)]):
        assert msgspec.json.decode(msgspec.json.encode(trouble), type=Trouble) == trouble
