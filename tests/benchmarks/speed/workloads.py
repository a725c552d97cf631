"""What is measured, of which server, and what the figure is."""

from dataclasses import dataclass

from tests.benchmarks.speed.goals import Kind
from tests.benchmarks.speed.task import Outcome, Task


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load, and the contenders that carry it in turn."""

    name: str
    task: Task
    kind: Kind
    contenders: tuple[str, ...]

    def figure(self, outcome: Outcome) -> float:
        figures = {Kind.P50_US: outcome.p50_us, Kind.P99_US: outcome.p99_us}
        return figures.get(self.kind, outcome.per_s)


IN_FLIGHT = 64
CLIENTS, CLIENTS_IN_FLIGHT = 32, 8


def workloads(seconds: float) -> tuple[Workload, ...]:
    """Return all of them, each to take so many seconds of every contender."""

    def task(action: str = "get_agent_endpoint", clients: int = 1, in_flight: int = 1, padding: int = 0) -> Task:
        return Task(action, clients, in_flight, seconds, padding)

    frames = ("ours-map", "ours-map-alone", "ours-aio", "ours-aio-alone")
    large = ("ours", "pyzmq", "grpc")
    return (
        Workload(
            "sequential",
            task(),
            Kind.P50_US,
            ("ours", "ours-open", "c-rep", "ours-aio", "raw-mtls", "pyzmq", "pyzmq-open", "grpc", "grpc-aio", "nats"),
        ),
        Workload(
            "in flight",
            task(in_flight=IN_FLIGHT),
            Kind.PER_S,
            ("ours-by-c", "c-router", *frames, "grpc-aio", "nats", "raw-mtls", "pyzmq"),
        ),
        Workload(
            "durable",
            task("register_agent", in_flight=IN_FLIGHT),
            Kind.PER_S,
            ("ours-by-c", "pyzmq-committing", *frames),
        ),
        Workload(
            "clients", task(clients=CLIENTS), Kind.PER_S, ("ours-by-c", "c-router", "ours-aio", "grpc-aio", "raw-mtls")
        ),
        Workload(
            "clients in flight",
            task(clients=CLIENTS, in_flight=CLIENTS_IN_FLIGHT),
            Kind.PER_S,
            ("ours-by-c", "c-router", "ours-aio", "ours-aio-alone"),
        ),
        Workload(
            "connect",
            task(),
            Kind.PER_S,
            ("ours-connecting", "zap-connecting", "pyzmq-connecting", "raw-mtls-connecting", "grpc-connecting"),
        ),
        Workload("mixed load", task(), Kind.P99_US, ("ours-beside-others",)),
        Workload("64 KiB", task(padding=64 * 1024), Kind.P50_US, large),
        Workload("1 MiB", task(padding=1024 * 1024), Kind.P50_US, large),
    )
