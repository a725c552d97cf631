"""A host's present state in the words of the contract, for whoever answers with it."""

import time

from twinhost.agent.health import iso_time
from twinhost.system_digital_twin.metrics import Metrics
from twinhost.system_digital_twin.metrics_replies import HostMetrics


def rounded(value: float | None, digits: int = 2) -> float | None:
    """Return a figure without the digits that no clock and no counter has; None stays None."""
    return None if value is None else round(value, digits)


def host_document(metrics: Metrics, host: str) -> HostMetrics:
    """Return how a host is now; null where nothing is measured, and all of it while the host is silent."""
    sample, heard = metrics.current(host), metrics.last_heard(host)
    return {
        "cpu_usage": rounded(sample.cpu_percent) if sample else None,
        "ram_usage_mb": rounded(sample.ram_used_mb) if sample else None,
        "ram_total_mb": rounded(sample.ram_total_mb) if sample else None,
        "vram_usage_mb": rounded(sample.vram_used_mb) if sample else None,
        "vram_total_mb": rounded(sample.vram_total_mb) if sample else None,
        "network_latency_ms": rounded(sample.latency_ms, 3) if sample else None,
        "timestamp": iso_time(time.time() if heard is None else heard),  # of the newest sample, if there is one
        "stale": sample is None,
        "limited": sample.limited if sample else None,
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "used_mb": rounded(gpu.used_mb),
                "total_mb": rounded(gpu.total_mb),
                "utilisation_percent": rounded(gpu.utilisation_percent),
            }
            for gpu in (sample.gpus if sample else ())
        ],
    }
