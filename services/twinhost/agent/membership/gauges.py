"""The outbox in Prometheus' exposition format."""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from twinhost.agent.membership.delivery import Kind, QueueCounts


def outbox_metrics(counts: QueueCounts) -> Iterator[Metric]:
    """Yield what waits in an outbox."""
    requests = GaugeMetricFamily(
        "twinhost_outbox_requests", "Requests for mainpc that it has not got, by state.", labels=["state"]
    )
    requests.add_metric(["waiting"], counts.waiting)
    requests.add_metric(["set_aside"], counts.set_aside)
    yield requests
    oldest = GaugeMetricFamily("twinhost_outbox_oldest_timestamp_seconds", "When the oldest that waits was added.")
    if counts.oldest is not None:
        oldest.add_metric([], counts.oldest)
    yield oldest
    dropped = CounterMetricFamily(
        "twinhost_outbox_dropped", "Requests that were dropped because the outbox was full.", labels=["kind"]
    )
    for kind in Kind:
        dropped.add_metric([kind.value], counts.dropped[kind])
    yield dropped
