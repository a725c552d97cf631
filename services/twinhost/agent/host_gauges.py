"""A host's newest sample in Prometheus' exposition format: its machine, its GPUs, and the agent's container."""

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from twinhost.agent.host_metrics import MB, ContainerSample, HostSample, MachineSample, Traffic

_GPU = ["index", "uuid", "name"]
_NETWORK = {
    "received": "Bytes received per second, since the previous sample.",
    "sent": "Bytes sent per second, since the previous sample.",
}


def sample_metrics(sample: HostSample | None) -> Iterator[Metric]:
    """Yield the values of a sample, but for those that were not measured; nothing without one."""
    if sample is None:
        return
    machine = "twinhost_machine"
    yield from _gauge(f"{machine}_cpu_ratio", "Share of all CPUs of the machine in use.", sample.cpu_percent, 0.01)
    yield from _gauge(f"{machine}_memory_used_bytes", "MemTotal minus MemAvailable.", sample.ram_used_mb, MB)
    yield from _gauge(f"{machine}_memory_total_bytes", "Memory of the machine.", sample.ram_total_mb, MB)
    if sample.machine is not None:
        yield from _machine(machine, sample.machine)
    yield from _gpus(sample)
    if sample.container is not None:
        yield from _container("twinhost_container", sample.container)


def _machine(prefix: str, machine: MachineSample) -> Iterator[Metric]:
    yield from _gauge(f"{prefix}_cpus", "CPUs of the machine.", machine.cpus)
    load = GaugeMetricFamily(f"{prefix}_load", "Load average over 1, 5, and 15 minutes.", labels=["minutes"])
    for minutes, value in zip(("1", "5", "15"), machine.load or (), strict=False):
        load.add_metric([minutes], value)
    yield load
    yield from _gauge(f"{prefix}_swap_used_bytes", "Swap in use.", machine.swap_used_mb, MB)
    yield from _gauge(f"{prefix}_swap_total_bytes", "Swap of the machine.", machine.swap_total_mb, MB)
    for field, text in (("used", "Bytes in use"), ("free", "Bytes that users can write"), ("total", "Size")):
        disks = GaugeMetricFamily(f"{prefix}_disk_{field}_bytes", f"{text}, by filesystem.", labels=["disk"])
        for disk in machine.disks:
            disks.add_metric([disk.name], getattr(disk, f"{field}_mb") * MB)
        yield disks
    yield from _traffic(prefix, machine.network)
    yield from _gauge(f"{prefix}_temperature_celsius", "Temperature of the hottest CPU sensor.", machine.temperature_c)


def _gpus(sample: HostSample) -> Iterator[Metric]:
    for name, text, field, factor in (
        ("memory_used_bytes", "Memory in use.", "used_mb", MB),
        ("memory_total_bytes", "Memory of the GPU.", "total_mb", MB),
        ("utilisation_ratio", "Share of the time in which the GPU was busy.", "utilisation_percent", 0.01),
        ("temperature_celsius", "Temperature of the GPU.", "temperature_c", 1),
    ):
        gauge = GaugeMetricFamily(f"twinhost_gpu_{name}", text, labels=_GPU)
        for gpu in sample.gpus:
            value = getattr(gpu, field)
            if value is not None:
                gauge.add_metric([str(gpu.index), gpu.uuid or "", gpu.name], value * factor)
        yield gauge


def _container(prefix: str, container: ContainerSample) -> Iterator[Metric]:
    yield from _gauge(f"{prefix}_cpu_ratio", "Share of the container's CPUs in use.", container.cpu_percent, 0.01)
    yield from _gauge(f"{prefix}_cpus", "CPUs that the container may use.", container.cpus)
    yield from _gauge(f"{prefix}_memory_used_bytes", "Memory in use.", container.ram_used_mb, MB)
    yield from _gauge(f"{prefix}_memory_limit_bytes", "Memory limit, if there is one.", container.ram_limit_mb, MB)
    yield from _traffic(prefix, container.network)


def _traffic(prefix: str, traffic: Traffic | None) -> Iterator[Metric]:
    for direction, text in _NETWORK.items():
        value = getattr(traffic, f"{direction}_bytes_per_s", None)
        yield from _gauge(f"{prefix}_network_{direction}_bytes_per_second", text, value)


def _gauge(name: str, text: str, value: float | None, factor: float = 1) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(name, text, value * factor)
