"""The attention list in Prometheus' exposition format."""

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from twinhost.agent.troubles import AttentionList, Level

MOST_ITEMS = 200  # that are shown, the worst first


def attention_metrics(latest: AttentionList) -> Iterator[Metric]:
    """Yield the metrics of a list."""
    level = Level.of(latest["level"])
    yield GaugeMetricFamily("twinhost_attention_level", "0: well, 1: attention, 2: broken.", float(level))
    items = GaugeMetricFamily(
        "twinhost_attention", "1 for what is wrong, 0 once it is acknowledged.", labels=["kind", "subject", "level"]
    )
    for item in latest["items"][:MOST_ITEMS]:
        items.add_metric([item["kind"], item["subject"], item["level"]], float("acknowledged" not in item))
    yield items
