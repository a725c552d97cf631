"""Detectors of resources: disks, memory, cards, leases, and hosts that are not measured. Pure functions.

Hosts on one machine share its disks, memory, and cards: what is wrong with one of these is one trouble, of the first
host. Bounds that a figure crosses to and fro are crossed back a little later: `before` has the ids of the last look.
"""

import itertools
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from twinhost.agent.conditions import LOG_CHECK
from twinhost.agent.host_metrics import DiskFault, GpuSample
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble, read_log
from twinhost.system_digital_twin.capacity.forecast import RAM_PERCENT, VRAM_PERCENT, Card
from twinhost.system_digital_twin.capacity.reservations import QueuedWait
from twinhost.system_digital_twin.capacity.time_to_full import NOT_MEASURED, UNCERTAIN, Filling

NEARLY_FULL_PERCENT, NEARLY_FULL_MB = 5, 10 * 1_024  # of a disk is free, whichever is less
HOT_C = 90.0  # where the driver does not say when a card slows down
STATE = "state"  # the disk of an agent's state
_NOTHING_MB = 1.0  # with less, a database can't be written
_BACK_PERCENT, _BACK_C, _BACK_FREE = 2, 5.0, 1.1  # below a bound that was crossed, or above that of what is free
_NEEDS_DISK = ("disk", "store", LOG_CHECK)  # checks of an agent
_SILENCE = tuple(f"{kind}:*" for kind in (Kind.HOST_SILENT, Kind.AGENTS_SILENT, Kind.METRICS_MISSING))
_LEASES = Remedy("mainpc", "./twinhost call mainpc list_leases", "shows who has leased how much")
_NVIDIA_SMI = "nvidia-smi"
_WAS_FILLING = {
    UNCERTAIN: "was filling, and its growth is uncertain now",
    NOT_MEASURED: "was filling when it was measured last",
}


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk of a host, in MB: of what users can write, the last `reserve_mb` are for some actions only.

    `machine` identifies the machine of the host, `writes_fail` if its agent can't write there.
    """

    host: str
    name: str
    free_mb: float
    total_mb: float
    machine: str
    reserve_mb: float = 0.0
    writes_fail: bool = False

    @property
    def nothing_left(self) -> bool:
        return self.free_mb < min(_NOTHING_MB, self.total_mb / 16)

    @property
    def is_full(self) -> bool:
        return self.nothing_left or self.free_mb < self.reserve_mb

    @property
    def subject(self) -> str:
        return self.host if self.name == STATE else f"{self.host}/{self.name}"

    @property
    def filling(self) -> str:
        """The id of the trouble that it fills."""
        return _filling(self.host, f"{self.name}_disk")

    def is_on(self, other: "Volume") -> bool:
        """Return whether it is on the same disk as another one of its machine, as far as their sizes say."""
        near_mb = max(_NOTHING_MB, self.total_mb * NEARLY_FULL_PERCENT / 100)  # they are measured one after the other
        same_size = abs(self.total_mb - other.total_mb) < _NOTHING_MB
        return same_size and abs(self.free_mb - other.free_mb) < near_mb

    def is_nearly_full(self, before: Container[str]) -> bool:
        bound_mb = max(2 * self.reserve_mb, min(self.total_mb * NEARLY_FULL_PERCENT / 100, NEARLY_FULL_MB))
        known = f"{Kind.DISK_NEARLY_FULL}:{self.subject}" in before
        return self.is_full or self.free_mb < bound_mb * (_BACK_FREE if known else 1)


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a host, in MB: the least that was in use for a minute."""

    host: str
    used_mb: float
    total_mb: float
    machine: str


@dataclass(frozen=True, slots=True)
class HostCard:
    """A card of a host; `gpu` is what its driver says, `reported_by` names the agents that report it without one."""

    host: str
    card: Card
    machine: str
    gpu: GpuSample | None = None
    reported_by: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str | int]:
        """What identifies it."""
        return self.machine, self.card.uuid or self.card.index

    @property
    def number(self) -> str:
        return f"GPU {self.card.index}"

    @property
    def subject(self) -> str:
        return f"{self.host}/gpu{self.card.index}"

    @property
    def title(self) -> str:
        return self.number if self.gpu is None else f"{self.number} ({self.gpu.name})"


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A host that answers, and of which no current sample is here; `since` in seconds since the epoch, None: never."""

    host: str
    since: float | None


def full_disks(volumes: Iterable[Volume], before: Container[str] = ()) -> Iterator[Trouble]:
    """Yield a trouble for each disk that is full, or nearly; one that is full is nearly full too, and explains that."""
    by_machine: dict[str, list[list[Volume]]] = {}
    for volume in volumes:
        disks = by_machine.setdefault(volume.machine, [])
        shared = next((disk for disk in disks if volume.is_on(disk[0])), None)
        if shared is None:
            disks.append([volume])
        else:
            shared.append(volume)
    for shared in itertools.chain.from_iterable(by_machine.values()):
        shared.sort(key=lambda volume: volume.name != STATE)
        if any(volume.is_nearly_full(before) for volume in shared):
            yield _nearly_full(shared)
        if any(volume.is_full for volume in shared):
            yield _full(shared)


def _nearly_full(shared: list[Volume]) -> Trouble:
    first = shared[0]
    return Trouble(
        kind=Kind.DISK_NEARLY_FULL,
        subject=first.subject,
        host=first.host,
        what=f"{_disk(first)} is nearly full: {_free(shared)}",
        remedies=_frees_space(first.host),
        evidence=_sizes(first),
        explains=tuple(volume.filling for volume in shared),
    )


def _full(shared: list[Volume]) -> Trouble:
    first, states = shared[0], [volume for volume in shared if volume.name == STATE]
    fails = any(volume.writes_fail for volume in shared)
    cause = "nothing can be written" if fails or any(volume.nothing_left for volume in shared) else None
    if states and cause is None:
        left = size(max(volume.reserve_mb for volume in states))
        cause = f"the last {left} are for registrations, revocations and deletions; changes are refused"
    return Trouble(
        kind=Kind.DISK_FULL,
        subject=first.subject,
        host=first.host,
        what=f"{_disk(first)} is full: {_free(shared)}",
        level=Level.BROKEN if states else Level.ATTENTION,
        cause=cause,
        remedies=_frees_space(first.host),
        evidence=_sizes(first),
        explains=(
            *(f"{Kind.DISK_NEARLY_FULL}:{volume.subject}" for volume in shared),
            *(volume.filling for volume in shared),
            *(check for volume in states for check in _checks(volume.host)),
            *(_SILENCE if fails else ()),  # mainpc can't store what it hears
        ),
    )


def failing_disks(faults: Iterable[tuple[str, str, DiskFault]], cannot_write: Container[str] = ()) -> Iterator[Trouble]:
    """Yield a trouble for each fault that a kernel shows: of a host, its machine, and the fault."""
    seen = set[tuple[str, str]]()
    for host, machine, fault in faults:
        is_state = fault.disk == STATE
        key = (host if is_state else machine, fault.disk)
        if key in seen:
            continue
        seen.add(key)
        yield Trouble(
            kind=Kind.DISK_FAILING,
            subject=f"{host}/{fault.disk}",
            host=host,
            what=f"{host}'s disk {fault.disk} {fault.fault}",
            level=Level.BROKEN if is_state else Level.ATTENTION,
            remedies=(
                Remedy(
                    host,
                    "sudo dmesg --level=emerg,alert,crit,err",
                    "shows what the kernel says; back up first, then repair",
                ),
            ),
            evidence=(("disk", fault.disk),),
            explains=(*_checks(host), *(_SILENCE if host in cannot_write else ())) if is_state else (),
        )


def _checks(host: str) -> Iterator[str]:
    """Yield the ids of the failed checks of a host whose agent can't write."""
    for check in _NEEDS_DISK:
        yield f"{Kind.CHECK_FAILED}:{host}/{check}"


def full_ram(memories: Iterable[Memory], before: Container[str] = ()) -> Iterator[Trouble]:
    """Yield a trouble for each machine on which no more memory may be leased."""
    seen = set[str]()
    for memory in memories:
        if memory.machine in seen:
            continue
        seen.add(memory.machine)
        known = f"{Kind.RAM_FULL}:{memory.host}" in before
        if _percent(memory.used_mb, memory.total_mb) <= RAM_PERCENT - (_BACK_PERCENT if known else 0):
            continue
        free_mb = memory.total_mb - memory.used_mb
        yield Trouble(
            kind=Kind.RAM_FULL,
            subject=memory.host,
            host=memory.host,
            what=f"{memory.host}'s RAM is nearly full: {size(free_mb)} of {size(memory.total_mb)} available",
            cause=f"for a minute, more than {RAM_PERCENT} % has been in use, so no more of it is leased",
            remedies=_shows_use(memory.host, "ram"),
            explains=(_filling(memory.host, "ram"),),
        )


def worn_cards(cards: Iterable[HostCard], before: Container[str] = ()) -> Iterator[Trouble]:
    """Yield a trouble for each card of which no more memory may be leased, and for each that is so hot as to slow."""
    seen = set[tuple[str, str | int]]()
    for one in sorted(cards, key=lambda card: card.gpu is None):  # whoever has a driver knows more
        if one.key in seen:
            continue
        seen.add(one.key)
        yield from _full_vram(one, before)
        yield from _hot(one, before)


def _full_vram(one: HostCard, before: Container[str]) -> Iterator[Trouble]:
    card, gpu, known = one.card, one.gpu, f"{Kind.VRAM_FULL}:{one.subject}" in before
    percent = _percent(card.used_mb, card.total_mb)
    if percent <= VRAM_PERCENT - (_BACK_PERCENT if known else 0):
        return
    cause = f"no more of a card is leased once {VRAM_PERCENT} % of it are in use"
    remedies = _shows_use(one.host, "vram")
    if gpu is not None and (largest := next((process for process in gpu.processes if process.name), None)):
        cause = f"most of it is used by {largest.name} (process {largest.pid})"
    elif one.reported_by:
        cause = f"reported by {', '.join(one.reported_by)}; no driver measures it"
        reports = Remedy("mainpc", "./twinhost call mainpc get_metrics", "shows in vram_reports what each agent uses")
        remedies = (reports, _LEASES)
    yield Trouble(
        kind=Kind.VRAM_FULL,
        subject=one.subject,
        host=one.host,
        what=f"{one.host}'s VRAM is full: {percent:.1f} % of {size(card.total_mb)} on {one.title} in use",
        cause=cause,
        remedies=remedies,
        evidence=(("used", size(card.used_mb)), ("total", size(card.total_mb))),
        explains=tuple(_filling(one.host, gauge) for gauge in ("vram", f"vram {card.uuid or one.number}")),
    )


def _hot(one: HostCard, before: Container[str]) -> Iterator[Trouble]:
    gpu, known = one.gpu, f"{Kind.GPU_HOT}:{one.subject}" in before
    if gpu is None or gpu.temperature_c is None:
        return
    bound_c = gpu.slowdown_c or HOT_C
    if gpu.temperature_c < bound_c - (_BACK_C if known else 0):
        return
    yield Trouble(
        kind=Kind.GPU_HOT,
        subject=one.subject,
        host=one.host,
        what=f"{one.host}'s {one.title} is hot: {gpu.temperature_c:.0f} °C",
        cause=f"it slows itself down from {gpu.slowdown_c:.0f} °C" if gpu.slowdown_c else None,
        remedies=(
            Remedy(one.host, f"{_NVIDIA_SMI} -q -d TEMPERATURE,PERFORMANCE", "shows its limits, and if it slows down"),
        ),
        evidence=(("temperature", f"{gpu.temperature_c:.0f} °C"), ("bound", f"{bound_c:.0f} °C")),
    )


def filling(found: Iterable[Filling]) -> Iterator[Trouble]:
    """Yield a trouble for each resource that will be full soon, while its episode lasts."""
    for host, gauge, forecast in found:
        name, left_s = _resource(forecast["resource"], forecast["name"]), forecast["time_to_full_s"]
        soon = (
            f"will be full in about {span(left_s)}"
            if left_s is not None
            else _WAS_FILLING[forecast["reason"] or NOT_MEASURED]
        )
        growth = forecast["growth_mb_per_hour"] or 0.0
        basis = span(forecast.get("basis_s", 0.0))
        yield Trouble(
            kind=Kind.FILLING,
            subject=_filling(host, gauge).partition(":")[2],
            host=host,
            what=f"{host}'s {name} {soon}",
            cause=f"it grew by {size(growth)} an hour, over the last {basis}" if growth > 0 else None,
            remedies=_frees_space(host) if forecast["resource"] == "disk" else _shows_use(host, forecast["resource"]),
            evidence=tuple(
                (title, size(value))
                for title, value in (("used", forecast["used_mb"]), ("total", forecast["total_mb"]))
                if value is not None
            ),
        )


def missing_metrics(hosts: Iterable[Unmeasured]) -> Iterator[Trouble]:
    """Yield a trouble for each host that answers and is not measured."""
    for one in hosts:
        yield Trouble(
            kind=Kind.METRICS_MISSING,
            subject=one.host,
            host=one.host,
            what=f"{one.host} is not measured: it answers, and sends no metrics",
            since=one.since,
            remedies=(read_log(one.host, "shows why: look for metrics, or measured"),),
            explains=(f"{Kind.CHECK_FAILED}:{one.host}/metrics", f"{Kind.FILLING}:{one.host}/*"),
        )


def waiting_leases(waits: Iterable[QueuedWait], now: float) -> Iterator[Trouble]:
    """Yield one trouble for the requests for memory that wait long; `now` in seconds since the epoch."""
    longest_first = sorted(waits, key=lambda wait: -wait.waited_s)
    if not longest_first:
        return
    first, count = longest_first[0], len(longest_first)
    where = f"{size(first.amount_mb)} of {first.resource.upper()}" + (f" on {first.host}" if first.host else "")
    others = "" if count == 1 else f", and {count - 1} more"
    held = ", ".join(f"{holder} {size(amount_mb)}" for holder, amount_mb in first.held_by[:3])
    yield Trouble(
        kind=Kind.LEASES_WAIT,
        host=first.host,
        what=f"{first.holder} has waited {span(first.waited_s)} for {where}{others}",
        cause=f"leased there: {held}" if held else first.reason or None,
        since=now - first.waited_s,
        remedies=(Remedy("mainpc", "./twinhost call mainpc list_leases", "shows who holds what, and until when"),),
        evidence=tuple((wait.holder, wait.reason) for wait in longest_first[:10] if wait.reason),
        members=tuple(sorted({f"{wait.holder}: {wait.amount_mb:g} MB {wait.resource}" for wait in longest_first})),
    )


def _filling(host: str, gauge: str) -> str:
    """Return the id of the trouble that a resource fills; without spaces, so that a shell takes it as it is."""
    return f"{Kind.FILLING}:{host}/{gauge.replace(' ', '-')}"


def size(megabytes: float) -> str:
    """Return an amount of memory as a person reads it."""
    if megabytes < 1_024:
        return f"{megabytes:.0f} MB"
    return f"{megabytes / 1_024:.{1 if megabytes < 100 * 1_024 else 0}f} GB"


def span(seconds: float) -> str:
    """Return a length of time as a person reads it."""
    return f"{seconds / 3_600:.0f} h" if seconds >= 7_200 else f"{max(1, round(seconds / 60))} min"


def _percent(used_mb: float, total_mb: float) -> float:
    return 100 * used_mb / total_mb if total_mb else 0.0


def _disk(volume: Volume) -> str:
    return f"{volume.host}'s {_resource('disk', volume.name)}"


def _resource(resource: str, name: str | None) -> str:
    if resource == "disk":
        return "disk" if name in (None, STATE) else f"disk of the {name}"
    return f"{resource.upper()}{f' of {name}' if name else ''}"


def _free(shared: list[Volume]) -> str:
    return f"{size(min(volume.free_mb for volume in shared))} of {size(shared[0].total_mb)} free"


def _sizes(volume: Volume) -> tuple[tuple[str, str], ...]:
    rows = (("disk", volume.name), ("free", size(volume.free_mb)), ("size", size(volume.total_mb)))
    return (*rows, ("reserve", size(volume.reserve_mb))) if volume.reserve_mb else rows


def _shows_use(host: str, resource: str) -> tuple[Remedy, ...]:
    """Return the commands that show who uses memory, by the machine and by the leases."""
    command = _NVIDIA_SMI if resource == "vram" else "ps -eo rss,pid,args --sort=-rss | head"
    return Remedy(host, command, "shows which programs use most of it"), _LEASES


def _frees_space(host: str) -> tuple[Remedy, ...]:
    return (
        Remedy(host, "docker system df", "shows what images, containers, volumes, and the build cache take"),
        Remedy(host, "docker builder prune", "deletes the build cache, which nothing needs; it asks before"),
        Remedy(host, "docker image prune", "deletes images without a name, which nothing uses; it asks before"),
    )
