"""The goals of the project's speed: which figure beside which, and how much of it is enough."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a figure is, and with it which way is better."""

    P50_US = "p50 µs"
    P99_US = "p99 µs"
    PER_S = "per s"
    KB = "KB"
    SECONDS = "s"
    PERCENT = "% of a core"
    MB = "MB"


@dataclass(frozen=True, slots=True)
class Goal:
    """One line: a figure, or the ratio of one to another taken round by round, and its bound."""

    row: str
    text: str
    figure: str  # `workload/contender`, as the runner names it
    beside: str | None
    bound: float
    at_most: bool  # else at least

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def values(self, figures: Mapping[str, list[float]]) -> list[float]:
        """Return the goal's value of each round; empty where one side of it was not measured."""
        own = figures.get(self.figure, [])
        if self.beside is None:
            return own
        return [left / right for left, right in zip(own, figures.get(self.beside, []), strict=False)]


def _most(row: str, text: str, figure: str, beside: str | None, bound: float) -> Goal:
    return Goal(row, text, figure, beside, bound, at_most=True)


def _least(row: str, text: str, figure: str, beside: str | None, bound: float) -> Goal:
    return Goal(row, text, figure, beside, bound, at_most=False)


_READ, _FLIGHT, _CLIENTS = "read, sequential", "read, 64 in flight", "read, 32 clients"
_MAP, _AIO, _DURABLE = "Client.map, 64 in flight", "asyncio client", "durable register_agent, 64 in flight"
_CONNECT = "connect + first reply"

GOALS = (
    _most(_READ, "p50 beside C REQ/REP", "sequential/ours", "sequential/c-rep", 0.95),
    _most(_READ, "p50 beside gRPC mTLS", "sequential/ours", "sequential/grpc", 0.2),
    _least(_FLIGHT, "rate under C load beside C ROUTER", "in flight/ours-by-c", "in flight/c-router", 0.75),
    _least(_MAP, "rate beside gRPC aio", "in flight/ours-map", "in flight/grpc-aio", 25),
    _least(_MAP, "rate beside NATS TLS", "in flight/ours-map", "in flight/nats", 5),
    _most(_AIO, "sequential p50 beside a bare pyzmq pair", "sequential/ours-aio", "sequential/pyzmq", 1.2),
    _least(_AIO, "64 in flight beside gRPC aio", "in flight/ours-aio", "in flight/grpc-aio", 20),
    _least(_AIO, "64 in flight beside NATS TLS", "in flight/ours-aio", "in flight/nats", 4),
    _least(_DURABLE, "rate beside gRPC aio without a store", "durable/ours-by-c", "in flight/grpc-aio", 7),
    _least(
        _DURABLE,
        "rate beside a bare ROUTER that makes the same commit",
        "durable/ours-by-c",
        "durable/pyzmq-committing",
        0.70,
    ),
    _least(_CLIENTS, "rate under C load beside C ROUTER", "clients/ours-by-c", "clients/c-router", 0.95),
    _least(
        "read, 32 clients with 8 in flight",
        "rate under C load beside C ROUTER",
        "clients in flight/ours-by-c",
        "clients in flight/c-router",
        0.65,
    ),
    _least(_CONNECT, "rate beside a minimal ZAP handler", "connect/ours-connecting", "connect/zap-connecting", 0.9),
    _least(_CONNECT, "rate beside mTLS 1.3", "connect/ours-connecting", "connect/raw-mtls-connecting", 1.3),
    _least(_CONNECT, "rate beside gRPC mTLS", "connect/ours-connecting", "connect/grpc-connecting", 1.6),
    _most("idle connection", "KB each", "idle/ours", None, 40),
    _least("payload 64 KiB", "bare pyzmq's p50 beside ours", "64 KiB/pyzmq", "64 KiB/ours", 0.92),
    _least("payload 1 MiB", "bare pyzmq's p50 beside ours", "1 MiB/pyzmq", "1 MiB/ours", 0.92),
    _most("cost of security", "p50 beside SECURE_ZMQ=0", "sequential/ours", "sequential/ours-open", 1.1),
    _most("./twinhost status", "s, beside the running stack", "stack/status", None, 0.8),
    _most("docker compose up", "s to both healthy and registered", "stack/up", None, 3),
    _most("idle stack", "% of a core, health checks included", "stack/cpu", None, 0.8),
    _most("idle stack", "MB of the larger agent", "stack/memory", None, 60),
)
