"""The document of `/api/state`: a snapshot of the system, as the dashboard shows it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

import msgspec

from twinhost.agent.assembly import Foundation
from twinhost.agent.health import used_documents
from twinhost.agent.host_metrics import GpuSample, HostSample, MachineSample
from twinhost.agent.refused_connections import WORDS
from twinhost.agent.telemetry import AgentState
from twinhost.moments import iso_time
from twinhost.secure_zmq.peers import Outcome
from twinhost.system_digital_twin.attention.attention import Attention
from twinhost.system_digital_twin.attention.reports import Reports
from twinhost.system_digital_twin.capacity.forecast import Card
from twinhost.system_digital_twin.capacity.leases import Lease, Leases
from twinhost.system_digital_twin.capacity.reservations import Hosts, QueuedWait, Reservations
from twinhost.system_digital_twin.capacity.time_to_full import Forecasts, ResourceForecast
from twinhost.system_digital_twin.events.events import Entry, Events, Topic
from twinhost.system_digital_twin.metrics.history import rounded
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.registry.registry import AgentRecord, Registry
from twinhost.system_digital_twin.takeovers import Takeovers

SHOWN = 50  # events, errors, and requests that wait for memory
MAX_ROWS = 300  # agents, sessions, and leases; the page shows no more of each
MAX_SHOWN_BYTES = 256 * 1024  # for each of them, since a page receives all of it every second
MAX_DEPENDENCIES = 12  # of an agent; the page shows no more
MAX_HOLDERS = 5  # whom a request waits for
MAX_GPUS = 16  # of a host
MAX_REPORTERS = 4  # of its cards, where no driver measures them
MAX_FORECASTS = 5  # of a host: of what fills first
MAX_DISKS = 2  # of a host
MAX_SAME_MACHINE = 4  # other hosts on a host's machine
RECENT_S = 86_400.0  # newer errors need attention; an agent silent for longer counts as gone
COUNT_EVERY_S = 1.0
_NOW = {  # and the digits of each
    **dict.fromkeys(("cpu_percent", "ram_used_mb", "ram_total_mb", "vram_used_mb", "vram_total_mb"), 2),
    "latency_ms": 3,
}
_OF_A_LEASE = ("lease_id", "resource", "host", "amount_mb", "holder", "state", "capacity_reported_by")
Row = TypeVar("Row", bound=Mapping[str, Any])
_HISTORY = ("cpu_percent", "ram_used_mb", "vram_used_mb", "latency_ms")


_AGES = {"sessions": ("key_age_s", "key_left_s"), "leases": ("expires_in_s",)}  # beside what they are reckoned from


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state as one line of JSON; `number` counts them."""

    number: int
    body: bytes


class HeldBy(TypedDict):
    """How much of the memory that a request waits for a holder has leased."""

    holder: str
    amount_mb: float


class WaitingRow(TypedDict):
    """A request that waits for memory, until when at most; `behind` are the holders of those before it, first first."""

    holder: str
    resource: str
    host: str | None
    amount_mb: float
    priority: int
    since: str
    until: str
    behind: list[str]
    held_by: list[HeldBy]
    reason: str


class StateBoard:
    """Draws the newest snapshot, on the server's thread.

    It is replaced as a whole, so a reader on another thread never sees parts of two.
    """

    def __init__(
        self,
        foundation: Foundation,
        registry: Registry,
        metrics: Metrics,
        leases: Leases,
        events: Events,
        forecasts: Forecasts,
        reservations: Reservations,
        attention: Attention,
        said: Reports,
        takeovers: Takeovers,
    ) -> None:
        self.snapshot = Snapshot(0, b"{}")
        self._settings = foundation.settings
        self._health = foundation.health
        self._telemetry = foundation.telemetry
        self._clock = foundation.clock
        self._counters = foundation.counters
        self._registry = registry
        self._metrics = metrics
        self._leases = leases
        self._events = events
        self._forecasts = forecasts
        self._reservations = reservations
        self._attention = attention
        self._said = said
        self._takeovers = takeovers
        self._counted_at, self._requests, self._messages_per_s = 0.0, 0, 0.0
        self.draw()  # an empty document would look like a system without problems

    def on_tick(self) -> None:
        """Count the requests of each second, whether or not somebody reads of them."""
        now = self._clock.monotonic()
        passed_s = now - self._counted_at
        if passed_s < COUNT_EVERY_S:
            return
        self._messages_per_s = (self._counters.requests - self._requests) / passed_s
        self._counted_at, self._requests = now, self._counters.requests

    def draw(self) -> None:
        """Take a snapshot."""
        self.snapshot = Snapshot(self.snapshot.number + 1, msgspec.json.encode(self._document()))

    def _document(self) -> dict[str, Any]:
        health, state = self._health.document(), self._telemetry.state
        failed = [check["detail"] for check in health["checks"].values() if not check["ok"]]
        records = {record.name: record for record in self._registry.all()}
        machines = self._reservations.hosts()
        hosts = [self._host(host, records, machines) for host in self._metrics.hosts()]
        leases = self._leases.all()
        since, handshakes = self._clock.time() - RECENT_S, state.handshakes if state else {}
        refused = {cause: count for cause, count in handshakes.items() if count and cause != Outcome.ACCEPTED}
        severe = self._events.severe_since(since, SHOWN)
        failover = self._takeovers.document()
        latency = [host["now"]["latency_ms"] for host in hosts if host["now"]["latency_ms"] is not None]
        return {
            "time": health["timestamp"],
            "secure": health["secure"],
            "agent": health["agent"],
            "version": health["version"],
            "uptime_s": health["uptime_s"],
            "status": health["status"],
            "attention": self._attention.document(),
            "warnings": [*failed, *health["warnings"]],
            "hosts": hosts,
            "link": {
                "encrypted": health["secure"],
                "latency_ms": max(latency, default=None),
                "messages_per_s": round(self._messages_per_s, 1),
            },
            "agents": self._agents(records),
            "sessions": self._sessions(state) if state else [],
            "refused": refused,
            "causes": {cause: WORDS[Outcome(cause)] for cause in refused},
            "events": [_event(event) for event in self._newest(Topic.EVENT)],
            "errors": self._errors(severe),
            "leases": _that_fit(self._lease(lease) for lease in leases),
            "waiting": _that_fit(self._waiting(wait) for wait in self._reservations.queue(SHOWN)),
            "memory": self._memory(),
            "usage": self._usage(state),
            **({} if failover is None else {"failover": failover}),
            "counts": {
                "agents": len(records),
                "sessions": len(state.peers) if state else 0,
                "leases": len(leases),
                "waiting": self._reservations.waiting().total(),
                "gone": sum(map(self._gone, records.values())),
                "severe_errors_24h": self._events.count_severe_since(since),
            },
        }

    def _host(self, host: str, records: Mapping[str, AgentRecord], machines: Hosts) -> dict[str, Any]:
        agent = next((agent for agent in self._settings.config.agents.values() if agent.host.name == host), None)
        record = records.get(agent.name) if agent else None
        sample, samples = self._metrics.current(host), self._metrics.samples(host)
        now = {name: rounded(getattr(sample, name), digits) if sample else None for name, digits in _NOW.items()}
        gpus = [_gpu(gpu) for gpu in (sample.gpus[:MAX_GPUS] if sample else ())]
        reporters = machines.reporters(host) if sample and not gpus else ()
        if reporters and (cards := machines.cards(host)):
            now |= {"vram_used_mb": rounded(sum(card.used_mb for card in cards))}
            now |= {"vram_total_mb": rounded(sum(card.total_mb for card in cards))}
            gpus = [_reported_gpu(card, reporters) for card in cards[:MAX_GPUS]]
        return {
            "name": host,
            "agent": agent.name if agent else None,
            "endpoint": agent.endpoint.removeprefix("tcp://") if agent else None,
            "status": self._registry.status(record) if record else "unknown",
            "stale": sample is None,
            "limited": sample.limited if sample else None,
            "now": now,
            "capacity": _capacity(self._metrics.last(host)),
            "history": {
                "t": [round(sample.wall, 1) for sample in samples],
                **{name: [rounded(getattr(sample, name), 3) for sample in samples] for name in _HISTORY},
            },
            "machine": _shown(sample.machine) if sample and sample.machine else None,
            "container": sample.container if sample else None,
            "same_machine": self._metrics.same_machine(host)[:MAX_SAME_MACHINE],
            "gpus": gpus,
            "forecasts": sorted(self._forecasts.newest(host), key=_fills_in)[:MAX_FORECASTS],
        }

    def _agents(self, records: Mapping[str, AgentRecord]) -> list[dict[str, Any]]:
        """Return the agents by name. If not all fit, the hosts' own agents and those with problems take precedence."""
        of_hosts, ok = self._settings.config.agents, self._registry.is_ok
        first = sorted(
            records.values(), key=lambda record: (record.name not in of_hosts, self._gone(record), ok(record))
        )
        return sorted(_that_fit(self._agent(record) for record in first), key=lambda document: str(document["name"]))

    def _agent(self, record: AgentRecord) -> dict[str, Any]:
        return {
            "name": record.name,
            "location": record.location,
            "status": self._registry.status(record),
            "last_seen": self._registry.brief(record)["last_seen"],
            "endpoint": f"{record.host}:{record.port}" if record.host and record.port else None,
            "registered_by": record.registered_by,
            "agent_type": record.agent_type,
            "dependencies": record.dependencies[:MAX_DEPENDENCIES],
            "gone": self._gone(record),
        }

    def _gone(self, record: AgentRecord) -> bool:
        """Whether an agent has been silent for so long that it should be unregistered; never a host's own agent."""
        return record.name not in self._settings.config.agents and self._registry.silent_s(record.name) > RECENT_S

    def _sessions(self, state: AgentState) -> list[dict[str, Any]]:
        now = self._clock.time()
        return _that_fit(
            {
                "name": peer.name,
                "host": peer.host,
                "roles": sorted(peer.roles),
                "fingerprint": peer.fingerprint,
                "sessions": state.sessions.get(peer.name, 0),
                "last_seen": iso_time(state.last_seen[peer.fingerprint])
                if peer.fingerprint in state.last_seen
                else None,
                "key_age_s": round(now - start) if (start := peer.validity.not_before) is not None else None,
                "key_left_s": round(end - now) if (end := peer.validity.not_after) is not None else None,
                "valid_from": iso_time(start) if start is not None else None,
                "valid_until": iso_time(end) if end is not None else None,
            }
            for peer in state.peers
        )

    def _lease(self, lease: Lease) -> dict[str, Any]:
        shown = {name: getattr(lease, name) for name in _OF_A_LEASE}
        left_s = self._leases.expires_in_s(lease)
        ends = iso_time(round(self._clock.time() + left_s))
        since = iso_time(lease.created)
        return {**shown, "gpu": lease.card, "since": since, "expires_in_s": rounded(left_s, 1), "expires_at": ends}

    def _memory(self) -> dict[str, Any] | None:
        """Return what the first of the hosts' agents that keeps a memory has said of it."""
        for name, agent in self._settings.config.agents.items():
            if (heard := self._said.memories.get(name)) is not None:
                figures = msgspec.to_builtins(heard.figures)
                del figures["usage"]
                return {"name": name, "host": agent.host.name, "as_of": iso_time(round(heard.at)), **figures}
        return None

    def _usage(self, state: AgentState | None) -> list[dict[str, Any]]:
        """Return what identities use of their budgets on each host that has said so, the largest parts first."""
        rows = [{"host": self._settings.agent.host.name, **row} for row in used_documents(state.usage if state else ())]
        for name, agent in self._settings.config.agents.items():
            if (heard := self._said.memories.get(name)) is not None:
                rows += [{"host": agent.host.name, **msgspec.to_builtins(use)} for use in heard.figures.usage]
        return sorted(rows, key=lambda row: -row["share"])

    def _waiting(self, wait: QueuedWait) -> WaitingRow:
        now = self._clock.time()
        return {
            "holder": wait.holder,
            "resource": wait.resource,
            "host": wait.host,
            "amount_mb": wait.amount_mb,
            "priority": wait.priority,
            "since": iso_time(round(now - wait.waited_s)),
            "until": iso_time(round(now + wait.left_s)),
            "behind": list(wait.behind[:MAX_HOLDERS]),
            "held_by": [{"holder": name, "amount_mb": amount} for name, amount in wait.held_by[:MAX_HOLDERS]],
            "reason": wait.reason,
        }

    def _errors(self, severe: list[Entry]) -> list[dict[str, Any]]:
        """Return the newest errors, beginning with those that need attention."""
        attention = {entry.seq for entry in severe}
        others = (entry for entry in self._newest(Topic.ERROR) if entry.seq not in attention)
        return _that_fit(
            ({**_error(entry), "attention": entry.seq in attention} for entry in (*severe, *others)), SHOWN
        )

    def _newest(self, topic: Topic) -> list[Entry]:
        return list(self._events.newest(topic, limit=SHOWN, max_bytes=MAX_SHOWN_BYTES).entries)


def _gpu(gpu: GpuSample) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "used_mb": rounded(gpu.used_mb),
        "total_mb": rounded(gpu.total_mb),
        "utilisation_percent": gpu.utilisation_percent,
        "temperature_c": gpu.temperature_c,
    }


def _reported_gpu(card: Card, reporters: Iterable[str]) -> dict[str, Any]:
    """Return a card that no driver measures, as the agents in `reported_by` report it."""
    return {
        "name": f"GPU {card.index}",
        "used_mb": rounded(card.used_mb),
        "total_mb": rounded(card.total_mb),
        "utilisation_percent": None,
        "temperature_c": None,
        "reported_by": list(reporters)[:MAX_REPORTERS],
    }


def _capacity(sample: HostSample | None) -> dict[str, float | None]:
    """Return how much memory a host has, also while it is silent: the scales of its charts."""
    return {name: rounded(getattr(sample, name)) if sample else None for name in ("ram_total_mb", "vram_total_mb")}


def without_ages(document: dict[str, Any]) -> dict[str, Any]:
    """Return a state without the ages that differ in each, whatever happens."""
    for table, ages in _AGES.items():
        for row in document.get(table, ()):
            for name in ages:
                del row[name]
    return document


def _shown(machine: MachineSample) -> MachineSample:
    """Return a machine without its boot id, which only hosts compare, and with MAX_DISKS disks at most."""
    return msgspec.structs.replace(machine, boot_id=None, disks=machine.disks[:MAX_DISKS])


def _fills_in(forecast: ResourceForecast) -> float:
    """Return a key: what will be full first comes first."""
    left_s = forecast["time_to_full_s"]
    return math.inf if left_s is None else left_s


def _that_fit(documents: Iterable[Row], most: int = MAX_ROWS) -> list[Row]:
    """Return the first of them: at most `most`, and at most MAX_SHOWN_BYTES of JSON."""
    shown: list[Row] = []
    size = 0
    for document in documents:
        size += len(msgspec.json.encode(document))
        if len(shown) == most or size > MAX_SHOWN_BYTES:
            break
        shown.append(document)
    return shown


def _event(entry: Entry) -> dict[str, Any]:
    fields = entry.fields
    return {
        "seq": entry.seq,
        "time": iso_time(entry.time),
        "type": fields.get("event_type"),
        "source": entry.written_by if entry.written_by != "unauthenticated" else fields.get("source_agent"),
        "data": fields.get("data"),
    }


def _error(entry: Entry) -> dict[str, Any]:
    fields = entry.fields
    return {
        "seq": entry.seq,
        "time": iso_time(entry.time),
        "severity": fields.get("severity"),
        "type": fields.get("error_type"),
        "agent": fields.get("agent_id"),
        "message": fields.get("message"),
    }
