"""Metrics of the supervisor itself: of its workers, and of what it pushes to a collector."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from sidecar.telemetry.names import MetricName


class SupervisorMetrics:
    """Kept in the supervisor's memory, not in files: they go with it."""

    def __init__(self, registry: CollectorRegistry, *, wanted: int) -> None:
        Gauge(MetricName.WORKERS_WANTED, "Configured number of workers.", registry=registry).set(
            wanted
        )
        self._running = Gauge(
            MetricName.WORKERS_RUNNING, "Running worker processes.", registry=registry
        )
        self._deaths = Counter(
            MetricName.WORKER_DEATHS,
            "Workers that ended unexpectedly and were restarted.",
            registry=registry,
        )

        self._pushes = Counter(
            MetricName.METRIC_PUSHES,
            "Pushes of all metrics over OTLP, by outcome.",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("taken", "failed"):  # a rate needs the zero before the first
            self._pushes.labels(outcome)

    def pushed(self, *, is_taken: bool) -> None:
        """Count a push. Called from a thread of its own."""
        self._pushes.labels("taken" if is_taken else "failed").inc()

    def running(self, workers: int) -> None:
        """Show how many processes there are."""
        self._running.set(workers)

    def worker_died(self) -> None:
        """Count a worker that ended by itself."""
        self._deaths.inc()
