"""Metrics of the way of spans to their collector."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from sidecar.telemetry.names import MetricName


class SpanMetrics:
    """One instance a process. Called from the exporter's thread as well."""

    def __init__(self, registry: CollectorRegistry) -> None:
        spans = Counter(
            MetricName.SPANS,
            "Spans by how far they got; what was recorded and is neither waits, or was dropped.",
            ("state",),
            registry=registry,
        )
        self._recorded = spans.labels("recorded")
        self._exported = spans.labels("exported")
        self._failed = spans.labels("failed")

    def recorded(self, spans: int) -> None:
        """Count spans that were put into the queue."""
        self._recorded.inc(spans)

    def left(self, spans: int, *, is_taken: bool) -> None:
        """Count spans of one batch that the collector took, or did not."""
        (self._exported if is_taken else self._failed).inc(spans)
