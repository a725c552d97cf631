"""The hosts' machines, as mainpc's `get_metrics` reports them, for `status` and `doctor`."""

from collections.abc import Mapping, Sequence

import msgspec
from rich.console import RenderableType

from twinhost.agent.host_metrics import ContainerSample, GpuSample, MachineSample, boot_id
from twinhost.cli import output
from twinhost.cli.output import read
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotGranted


class HostFigures(msgspec.Struct, frozen=True):
    """The shown part of a host's metrics; older agents send no machine and no container."""

    stale: bool
    cpu_usage: float | None = None
    ram_usage_mb: float | None = None
    ram_total_mb: float | None = None
    vram_usage_mb: float | None = None
    vram_total_mb: float | None = None
    limited: bool | None = None
    gpus: tuple[GpuSample, ...] = ()
    machine: MachineSample | None = None
    container: ContainerSample | None = None
    same_machine: tuple[str, ...] = ()


class _Hosts(msgspec.Struct):
    hosts: dict[str, HostFigures]


class _MetricsReply(msgspec.Struct):
    metrics: _Hosts


Figures = Mapping[str, HostFigures]  # by host


def ask_hosts(client: Client, deadline_s: float | None = None) -> Figures | None:
    """Return the current metrics of every host, or None if the caller's role has no grant for them."""
    try:
        return read(client.call("get_metrics", deadline_s=deadline_s), _MetricsReply).metrics.hosts
    except NotGranted:
        return None


def on_this_machine(hosts: Figures) -> list[str]:
    """Return the hosts that are this machine, mainpc first; none where it has no boot id, or runs a virtual machine."""
    here = boot_id()
    return [name for name, host in hosts.items() if here and host.machine is not None and host.machine.boot_id == here]


def machines_table(hosts: Figures) -> RenderableType:
    """Return a row for each host; the line below it shows several cards one by one, its container, and remarks."""
    rows = []
    for name, host in hosts.items():
        machine = host.machine or MachineSample()
        cpu = "-" if host.cpu_usage is None else f"{host.cpu_usage:.0f} %"
        disk = next((f"{_gb(disk.free_mb)} GB" for disk in machine.disks if disk.name == "state"), "-")
        cells = (
            name,
            cpu if machine.cpus is None else f"{cpu} of {machine.cpus:g}",
            f"{machine.load[0]:.2f}" if machine.load else "-",
            _part(host.ram_usage_mb, host.ram_total_mb),
            _part(machine.swap_used_mb, machine.swap_total_mb),
            f"{len(host.gpus)} cards" if len(host.gpus) > 1 else _part(host.vram_usage_mb, host.vram_total_mb),
            disk,
        )
        rows.append(
            (cells, output.styled("; ".join([*_cards(host), *_container(host), *_remarks(host)]), output.FAINT))
        )
    return output.records("Machines", ("host", "cpu", "load", "ram", "swap", "vram", "disk free"), rows)


def machines_sentence(hosts: Figures) -> str:
    """Return a sentence that names the hosts on one machine, and the hosts whose figures are missing or limited."""
    machines = dict.fromkeys(tuple(sorted([name, *host.same_machine])) for name, host in hosts.items())
    shared = [f"{' and '.join(names)} are one machine: its capacity is counted once" for names in machines if names[1:]]
    remarks = [f"{name}: {remark}" for name, host in hosts.items() for remark in _warnings(host)]
    return "; ".join([*shared, *remarks]) or f"{len(machines)} machines, each measured as a whole"


def all_measured(hosts: Figures) -> bool:
    """Return whether every host has current figures of its whole machine."""
    return not any(host.stale or host.limited for host in hosts.values())


def _remarks(host: HostFigures) -> Sequence[str]:
    same = [f"the same machine as {', '.join(host.same_machine)}"] if host.same_machine else []
    return [*same, *_warnings(host)]


def _warnings(host: HostFigures) -> Sequence[str]:
    warnings = []
    if host.stale:
        warnings.append("it has no current metrics")
    if host.limited:
        warnings.append("its version measures only its container; update it")
    if host.machine is not None and host.machine.virtual_machine is not None:
        warnings.append(
            f"these are figures of the virtual machine of {host.machine.virtual_machine}, not of the computer"
        )
    return warnings


def _cards(host: HostFigures) -> Sequence[str]:
    """Return the VRAM of each of several cards, as a lease is on one of them."""
    parts = [f"GPU {gpu.index} {_part(gpu.used_mb, gpu.total_mb)}" for gpu in host.gpus]
    return [f"VRAM: {', '.join(parts)}"] if len(parts) > 1 else []


def _container(host: HostFigures) -> Sequence[str]:
    if host.container is None:
        return []
    cpu, used_mb, limit_mb = host.container.cpu_percent, host.container.ram_used_mb, host.container.ram_limit_mb
    ram = "-" if used_mb is None else f"{used_mb:.0f}" + (f" of {limit_mb:.0f} MB" if limit_mb is not None else " MB")
    return [f"its container: CPU {'-' if cpu is None else f'{cpu:.1f} %'}, RAM {ram}"]


def _part(used_mb: float | None, total_mb: float | None) -> str:
    return "-" if used_mb is None or total_mb is None else f"{_gb(used_mb)} of {_gb(total_mb)} GB"


def _gb(mb: float) -> str:
    return f"{mb / 1_024:.1f}"
