"""What alert rules ask of mainpc's agent, in Prometheus' exposition format; gathered on the server's thread."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import get_args

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from twinhost.deployment import NO_RESPONSE
from twinhost.network_config import NetworkConfig
from twinhost.system_digital_twin.attention.reports import Reports
from twinhost.system_digital_twin.capacity.forecast import Resource
from twinhost.system_digital_twin.registry.registry import Registry

AGENT_STATES = ("ok", "unhealthy", "silent", "stopped", "unknown")


def agent_states(registry: Registry) -> Mapping[str, int]:
    """Return how many agents there are of each state; `unknown` are those that send no heartbeats."""
    counts = Counter(dict.fromkeys(AGENT_STATES, 0))
    for record in registry.all():
        if registry.has_stopped(record.name):
            state = "stopped"
        elif registry.status(record) == NO_RESPONSE:
            state = "silent" if registry.sends_heartbeats(record) else "unknown"
        else:
            state = "ok" if registry.is_ok(record) else "unhealthy"
        counts[state] += 1
    return counts


def clocks_ahead(registry: Registry, reports: Reports, config: NetworkConfig) -> Mapping[str, float]:
    """Return by how many seconds the clock of each host that answers is ahead of mainpc's, by its last heartbeat."""
    found = {}
    for agent in config.agents.values():
        heard, record = reports.clock(agent.name), registry.find(agent.name)
        if heard is not None and record is not None and registry.status(record) != NO_RESPONSE:
            found[agent.host.name] = heard.report.ahead_s
    return found


def system_metrics(
    agents: Mapping[str, int],
    severe_errors: int,
    behind: int,
    ahead_s: Mapping[str, float],
    waiting: Mapping[str, int],
    *,
    audit_intact: bool | None,
) -> Iterator[Metric]:
    """Yield the metrics.

    Args:
        agents: how many there are of each state.
        severe_errors: those of the last 24 hours that nobody has acknowledged.
        behind: the agents that have not applied the newest list of keys.
        ahead_s: how far the clock of another host is ahead.
        waiting: requests for memory that wait, by resource.
        audit_intact: None before the first inspection of the audit log.
    """
    by_state = GaugeMetricFamily("twinhost_agents", "Registered agents, by state.", labels=["state"])
    for state in AGENT_STATES:
        by_state.add_metric([state], agents[state])
    yield by_state
    yield GaugeMetricFamily(
        "twinhost_severe_errors", "Unacknowledged errors of severity error or critical, of 24 hours.", severe_errors
    )
    yield GaugeMetricFamily(
        "twinhost_agents_behind_on_keys", "Agents that have not applied the newest list of keys.", behind
    )
    clocks = GaugeMetricFamily("twinhost_clock_ahead_seconds", "How far a host's clock is ahead.", labels=["of"])
    for host, seconds in ahead_s.items():
        clocks.add_metric([host], seconds)
    yield clocks
    requests = GaugeMetricFamily("twinhost_leases_waiting", "Requests for memory that wait.", labels=["resource"])
    for resource in get_args(Resource):
        requests.add_metric([resource], waiting.get(resource, 0))
    yield requests
    if audit_intact is not None:
        intact = "1 if the audit log is as it was written, by its last inspection."
        yield GaugeMetricFamily("twinhost_audit_intact", intact, float(audit_intact))
