"""Reports the end of an exchange: one call makes its metrics, its spans and its log line."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY, CollectorRegistry

from sidecar import __version__
from sidecar.domain.errors import ErrorKind
from sidecar.domain.report import ExchangeReport, FaultKind
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.exemplars import ExemplarFile
from sidecar.telemetry.logs import ExchangeLog, get_logger
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.tail_sampling import TailSampler
from sidecar.telemetry.traceparent import (
    format_trace_id,
    parse_trace_parent,
    unsampled_trace_id,
)

if TYPE_CHECKING:
    from sidecar.telemetry.tracing import Tracing

SHUTDOWN_SECONDS: Final = 3.0
"""How long a worker that ends waits for its last spans to leave."""


class Recorder:
    """All telemetry of a worker. Nothing called for an exchange raises: none fails over it.

    Counting adds to memory and cannot fail; each step that renders text is guarded on its own, so
    that the others go on. Call `configure_logs` first. One instance a process, as a registry
    takes each metric once.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        *,
        instance: str | None = None,
        registry: CollectorRegistry = REGISTRY,
        exemplars: ExemplarFile | None = None,
    ) -> None:
        self.metrics: Final = Metrics(registry, exemplars)
        self.exchange_began: Final = self.metrics.exchange_began
        self.exchange_ended: Final = self.metrics.exchange_ended
        self.limit_granted: Final = self.metrics.limits.granted
        self.limit_refused: Final = self.metrics.limits.refused
        self._sampler = TailSampler(
            slow_seconds=settings.slow_request_ms / 1000,
            per_second=settings.kept_traces_per_second,
        )
        self._tracing: Tracing | None = None
        if settings.otlp_endpoint is not None:
            # Without an endpoint the SDK is never loaded.
            from sidecar.telemetry.otlp import span_exporter  # noqa: PLC0415
            from sidecar.telemetry.tracing import Tracing  # noqa: PLC0415

            self._tracing = Tracing(
                span_exporter(settings.otlp_endpoint, settings.otlp_protocol),
                version=__version__,
                instance=instance or str(uuid.uuid4()),
                count=self.metrics.spans,
                sampler=self._sampler,
            )
        self._log = ExchangeLog(
            get_logger(),
            slow_request_ms=settings.slow_request_ms,
            completed_share=settings.completed_log_share,
        )
        self._failures: Counter[str] = Counter()

    def record(self, report: ExchangeReport) -> None:
        """Report the end of an exchange: metrics, its spans if they are sampled, its log line."""
        try:
            self.metrics.record(report)
        except Exception as error:  # noqa: BLE001 - as the class says
            self._lost("metrics", error)
        if report.error is ErrorKind.OVERLOADED:
            return  # a line and a span of each would take the time that is short
        trace_id: str | None = None
        try:
            if report.traceparent is not None or self._tracing is not None:
                trace_id = self._record_spans(report)
        except Exception as error:  # noqa: BLE001
            self._lost("spans", error)
        try:
            self._log.completed(report, trace_id)
        except Exception as error:  # noqa: BLE001
            self._lost("log", error)

    def fault(self, kind: FaultKind, error: BaseException | None = None) -> None:
        """Count a fault around an exchange; log the type and the place of an exception."""
        self.metrics.fault(kind)
        if error is not None:
            try:
                self._log.fault(kind, error)
            except Exception as lost:  # noqa: BLE001
                self._lost("log", lost)

    def shutdown(self, seconds: float = SHUTDOWN_SECONDS) -> None:
        """Let the last spans leave, for at most *seconds*. Blocks: call it after the loop."""
        if self._tracing is not None:
            self._tracing.shutdown(seconds)

    def _record_spans(self, report: ExchangeReport) -> str | None:
        """Return the trace id for the log, which an unsampled trace has too."""
        unsampled = unsampled_trace_id(report.traceparent)
        if unsampled is not None and (
            self._tracing is None or not self._sampler.would_keep(report)
        ):
            return unsampled
        parent = parse_trace_parent(report.traceparent, report.tracestate)
        recorded = None if self._tracing is None else self._tracing.record_spans(report, parent)
        if recorded is not None:
            self.metrics.traced(report, recorded)
        if parent is not None:
            return format_trace_id(parent.trace_id)
        return None if recorded is None else format_trace_id(recorded)

    def _lost(self, part: str, error: Exception) -> None:
        """Count and log that one part of telemetry lost a report."""
        self._failures[part] += 1
        self.metrics.fault(FaultKind.TELEMETRY)
        # Failures 1, 2, 4, 8, …: enough to be seen, too few to flood. The line is lost with a
        # full disk or a closed stderr; the count is not.
        if self._failures[part].bit_count() == 1:
            with contextlib.suppress(Exception):
                self._log.failed(part, error, self._failures[part])
