"""Metrics of the way of spans to their collector."""

from __future__ import annotations

import threading
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from sidecar.telemetry.names import MetricName

QUEUE_SPANS: Final = 4096
"""Spans kept for a collector that is away; beyond it the oldest are dropped."""


class SpanMetrics:
    """One instance a process. Called from the exporter's thread as well.

    The queue itself tells nobody what it dropped (opentelemetry-sdk 1.45): what was put into it
    and not taken out again is counted here, and what exceeds its length is gone.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        spans = Counter(
            MetricName.SPANS,
            "Spans by state; recorded minus the other states is the queue.",
            ("state",),
            registry=registry,
        )
        self._recorded = spans.labels("recorded")
        self._exported = spans.labels("exported")
        self._failed = spans.labels("failed")
        self._dropped = spans.labels("dropped")
        self._waiting = 0
        self._lock = threading.Lock()

    def recorded(self, spans: int) -> None:
        """Count spans that were put into the queue, and those that fell out at its other end."""
        self._recorded.inc(spans)
        with self._lock:
            self._waiting += spans
            dropped = max(0, self._waiting - QUEUE_SPANS)
            self._waiting -= dropped
        if dropped:
            self._dropped.inc(dropped)

    def taken(self, spans: int) -> None:
        """Note spans of one batch that were taken from the queue, to be exported."""
        with self._lock:
            self._waiting -= spans

    def left(self, spans: int, *, is_taken: bool) -> None:
        """Count spans of one batch that the collector took, or did not."""
        (self._exported if is_taken else self._failed).inc(spans)
