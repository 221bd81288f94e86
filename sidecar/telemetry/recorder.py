"""Where an exchange is reported: one call makes its metrics, its spans and its log line."""

from __future__ import annotations

import contextlib
import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY, CollectorRegistry

from sidecar import __version__
from sidecar.domain.errors import ErrorKind
from sidecar.domain.limits import Level, Measure
from sidecar.settings import TelemetrySettings
from sidecar.telemetry.exemplars import ExemplarFile
from sidecar.telemetry.keeping import Keeping
from sidecar.telemetry.logs import ExchangeLog, get_logger
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.report import ExchangeReport, FaultKind
from sidecar.telemetry.span_metrics import SpanMetrics
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

    Call `configure_logs` first. One instance a process, as a registry takes each metric once.
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
        self._tracing = _tracing(settings, instance or str(uuid.uuid4()), self.metrics.spans)
        self._log = ExchangeLog(
            get_logger(),
            slow_request_ms=settings.slow_request_ms,
            completed_share=settings.completed_log_share,
        )
        self._metrics_part = _Part("metrics", self.metrics, self._log)
        self._spans_part = _Part("spans", self.metrics, self._log)
        self._log_part = _Part("log", self.metrics, self._log)

    def record(self, report: ExchangeReport) -> None:
        """Report the end of an exchange."""
        with self._metrics_part:
            self.metrics.record(report)
        if report.error is ErrorKind.OVERLOADED:
            return  # a line and a span of each would take the time that is short
        trace_id: str | None = None
        with self._spans_part:
            trace_id = self._record_spans(report)
        with self._log_part:
            self._log.completed(report, trace_id)

    def exchange_began(self) -> None:
        """Count an exchange as in flight, until `exchange_ended`."""
        with self._metrics_part:
            self.metrics.exchange_began()

    def exchange_ended(self) -> None:
        """Take an exchange out of those in flight."""
        with self._metrics_part:
            self.metrics.exchange_ended()

    def limit_granted(self, *, is_local: bool) -> None:
        """Count a request with room in all of its limits."""
        with self._metrics_part:
            self.metrics.limits.granted(is_local=is_local)

    def limit_refused(self, measure: Measure, level: Level, *, is_local: bool) -> None:
        """Count a request without room."""
        with self._metrics_part:
            self.metrics.limits.refused(measure, level, is_local=is_local)

    def fault(self, kind: FaultKind, error: BaseException | None = None) -> None:
        """Count what went wrong around an exchange; log where an exception came from."""
        with self._metrics_part:
            self.metrics.fault(kind)
        if error is not None:
            with self._log_part:
                self._log.fault(kind, error)

    def shutdown(self, seconds: float = SHUTDOWN_SECONDS) -> None:
        """Let the last spans leave, for at most *seconds*. Blocks: call it after the loop."""
        if self._tracing is not None:
            self._tracing.shutdown(seconds)

    def _record_spans(self, report: ExchangeReport) -> str | None:
        """Return the trace id for the log, which an unsampled trace has too."""
        unsampled = unsampled_trace_id(report.traceparent)
        if unsampled is not None and not (self._tracing and self._tracing.may_keep(report)):
            return unsampled
        parent = parse_trace_parent(report.traceparent, report.tracestate)
        recorded = None if self._tracing is None else self._tracing.record_spans(report, parent)
        if recorded is not None:
            self.metrics.traced(report, recorded)
        if parent is not None:
            return format_trace_id(parent.trace_id)
        return None if recorded is None else format_trace_id(recorded)


class _Part:
    """Keeps the failure of one part of telemetry from the exchange, and counts and logs it."""

    __slots__ = ("_failures", "_log", "_metrics", "_name")

    def __init__(self, name: str, metrics: Metrics, log: ExchangeLog) -> None:
        self._name = name
        self._metrics = metrics
        self._log = log
        self._failures = 0

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._failures += 1
        # A full disk or a closed stderr fails these as well; nobody is left to be told.
        with contextlib.suppress(Exception):
            self._metrics.fault(FaultKind.TELEMETRY)
        # Failures 1, 2, 4, 8, …: enough to be seen, too few to flood.
        if self._failures.bit_count() == 1:
            with contextlib.suppress(Exception):
                self._log.failed(self._name, error, self._failures)
        return True


def _tracing(settings: TelemetrySettings, instance: str, count: SpanMetrics) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    # Without an endpoint the SDK is never loaded.
    from sidecar.telemetry.otlp import span_exporter  # noqa: PLC0415
    from sidecar.telemetry.tracing import Tracing  # noqa: PLC0415

    keeping = Keeping(
        slow_seconds=settings.slow_request_ms / 1000, per_second=settings.kept_traces_per_second
    )
    return Tracing(
        span_exporter(settings.otlp_endpoint, settings.otlp_protocol),
        version=__version__,
        instance=instance,
        count=count,
        keeping=keeping,
    )
