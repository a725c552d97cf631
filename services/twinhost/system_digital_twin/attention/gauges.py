"""The attention list in Prometheus' exposition format."""

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from twinhost.agent.troubles import AttentionList, Level

MOST_ITEMS = 200  # that are shown, the worst first


class AttentionCollector(Collector):
    """Exports the list that was gathered last; omits a value before the first."""

    def __init__(self) -> None:
        self._latest: AttentionList | None = None

    def gather(self, latest: AttentionList) -> None:
        """Take the newest list; on the server's thread."""
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        latest = self._latest
        if latest is None:
            return
        level = Level.of(latest["level"])
        yield GaugeMetricFamily("twinhost_attention_level", "0: well, 1: attention, 2: broken.", float(level))
        items = GaugeMetricFamily(
            "twinhost_attention", "1 for what is wrong, 0 once it is acknowledged.", labels=["kind", "subject", "level"]
        )
        for item in latest["items"][:MOST_ITEMS]:
            items.add_metric([item["kind"], item["subject"], item["level"]], float("acknowledged" not in item))
        yield items
