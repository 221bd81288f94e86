"""Tail sampling: records unsampled requests that were blocked, failed or slow."""

from __future__ import annotations

import threading
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import Verdict
from sidecar.domain.report import ExchangeOutcome, ExchangeReport
from sidecar.telemetry.names import MetricName

_BLOCKED: Final = frozenset(
    {ErrorKind.CONTENT_BLOCKED, ErrorKind.UNSCANNED_CONTENT, ErrorKind.UNKNOWN_URL}
)


class TailSampler:
    """Keeps requests that were blocked, failed, passed after a failed check, or were slow.

    At most *per_second* (a token bucket): a client with a key can have requests blocked at any
    rate, and spans cost more than the rest of telemetry. Requests without a valid key are not
    kept: anyone can send them.
    """

    def __init__(self, *, slow_seconds: float, per_second: float) -> None:
        self._slow_seconds = slow_seconds
        self._per_second = per_second
        self._room = max(1.0, per_second)
        self._filled_at = 0.0

    def keeps(self, report: ExchangeReport) -> bool:
        """Return whether *report* is to be traced, and take the room for it."""
        if self._per_second <= 0 or not self.would_keep(report):
            return False
        now = report.started_at + report.seconds
        gained = max(0.0, now - self._filled_at) * self._per_second
        self._room = min(max(1.0, self._per_second), self._room + gained)
        self._filled_at = max(self._filled_at, now)
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def would_keep(self, report: ExchangeReport) -> bool:
        """Return whether *report* is of a kind that is kept, if there is room."""
        if (
            report.outcome is ExchangeOutcome.FAILED
            or report.error in _BLOCKED
            or report.overhead_seconds > self._slow_seconds
        ):
            return True
        # A loop, and identities: it runs for every request, and a set would hash in Python.
        for result in report.results:
            if result.verdict is Verdict.ERROR_OPEN or result.verdict is Verdict.TIMEOUT_OPEN:
                return True
        return False


QUEUE_SPANS: Final = 4096
"""Spans kept for a collector that is away; beyond it the oldest are dropped."""


class SpanMetrics:
    """One instance a process. Called from the exporter's thread as well.

    The queue does not report dropped spans (opentelemetry-sdk 1.45): spans put into it and not
    taken out are counted here, and those beyond its length are dropped. A batch that is taken
    while an exchange puts its spans in makes the count wrong by a few, until the queue is full
    again.
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
        """Count spans that were put into the queue, and the oldest that it dropped for them."""
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
        """Count spans of one batch that the collector accepted, or did not."""
        (self._exported if is_taken else self._failed).inc(spans)
