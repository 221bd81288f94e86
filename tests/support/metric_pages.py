"""A page of metrics with traffic on it."""

from __future__ import annotations

from decimal import Decimal

from msgspec import structs
from prometheus_client import CollectorRegistry, generate_latest

from sidecar.telemetry.admin_metrics import attachment_gauges, installation_gauges
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.process_metrics import SupervisorMetrics
from sidecar.telemetry.traffic_stats import MetricsSnapshot, parse_snapshot
from tests.support.reports import redacted_report, timings
from tests.support.usage import ended, record


class MetricPages:
    """The metrics of a worker and its supervisor in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        SupervisorMetrics(self.registry, wanted=2).running(1)

    def snapshot(self, at: float = 0.0) -> MetricsSnapshot:
        """Return all samples as they are now."""
        return parse_snapshot(generate_latest(self.registry).decode(), at=at)

    def work(self, exchanges: int) -> None:
        """Report exchanges that were redacted, and their answers."""
        for _ in range(exchanges):
            self.metrics.record(structs.replace(redacted_report(), **timings(0.004)))
            self.metrics.usage.exchange_ended(ended(), record(), Decimal("0.01"))


def sample_names() -> set[str]:
    """Return the names of all samples of a worker, its supervisor, and commands."""
    registry = CollectorRegistry()
    Metrics(registry)
    SupervisorMetrics(registry, wanted=1)
    attachment_gauges(registry)
    installation_gauges(registry)
    return {
        name + suffix
        for name in registry._names_to_collectors
        for suffix in ("", "_bucket", "_count", "_sum")
    }
