"""Metrics of the supervisor itself: how many workers there should be, are, and have died."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from sidecar.telemetry.names import MetricName


class SupervisorMetrics:
    """Kept in the supervisor's memory, not in files: they go with it."""

    def __init__(self, registry: CollectorRegistry, *, wanted: int) -> None:
        Gauge(MetricName.WORKERS_WANTED, "Workers there should be.", registry=registry).set(wanted)
        self._running = Gauge(
            MetricName.WORKERS_RUNNING, "Worker processes there are now.", registry=registry
        )
        self._deaths = Counter(
            MetricName.WORKER_DEATHS,
            "Workers that ended although nobody asked them to, and were started again.",
            registry=registry,
        )

    def running(self, workers: int) -> None:
        """Show how many processes there are."""
        self._running.set(workers)

    def worker_died(self) -> None:
        """Count a worker that ended by itself."""
        self._deaths.inc()
