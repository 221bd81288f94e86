"""Where an exchange is reported: one call makes its metrics, its spans and its log line."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY, CollectorRegistry

from sidecar import __version__
from sidecar.domain.errors import ErrorKind
from sidecar.domain.limits import Level, Measure
from sidecar.domain.report import ExchangeReport, FaultKind
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.exemplars import ExemplarFile
from sidecar.telemetry.logs import ExchangeLog, get_logger
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.tail_sampling import SpanMetrics, TailSampler
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
        self._lost_count = _Loss("metrics", self.metrics, self._log)
        self._lost_spans = _Loss("spans", self.metrics, self._log)
        self._lost_line = _Loss("log", self.metrics, self._log)

    def record(self, report: ExchangeReport) -> None:
        """Report the end of an exchange."""
        # `try`, and no `with`: entering and leaving one is two calls, and a request has five.
        try:
            self.metrics.record(report)
        except Exception as error:  # noqa: BLE001 - as the class says
            self._lost_count.note(error)
        if report.error is ErrorKind.OVERLOADED:
            return  # a line and a span of each would take the time that is short
        trace_id: str | None = None
        try:
            trace_id = self._record_spans(report)
        except Exception as error:  # noqa: BLE001
            self._lost_spans.note(error)
        try:
            self._log.completed(report, trace_id)
        except Exception as error:  # noqa: BLE001
            self._lost_line.note(error)

    def exchange_began(self) -> None:
        """Count an exchange as in flight, until `exchange_ended`."""
        try:
            self.metrics.exchange_began()
        except Exception as error:  # noqa: BLE001
            self._lost_count.note(error)

    def exchange_ended(self) -> None:
        """Take an exchange out of those in flight."""
        try:
            self.metrics.exchange_ended()
        except Exception as error:  # noqa: BLE001
            self._lost_count.note(error)

    def limit_granted(self, *, is_local: bool) -> None:
        """Count a request with room in all of its limits."""
        try:
            self.metrics.limits.granted(is_local=is_local)
        except Exception as error:  # noqa: BLE001
            self._lost_count.note(error)

    def limit_refused(self, measure: Measure, level: Level, *, is_local: bool) -> None:
        """Count a request without room."""
        try:
            self.metrics.limits.refused(measure, level, is_local=is_local)
        except Exception as error:  # noqa: BLE001
            self._lost_count.note(error)

    def fault(self, kind: FaultKind, error: BaseException | None = None) -> None:
        """Count what went wrong around an exchange; log where an exception came from."""
        try:
            self.metrics.fault(kind)
        except Exception as lost:  # noqa: BLE001
            self._lost_count.note(lost)
        if error is None:
            return
        try:
            self._log.fault(kind, error)
        except Exception as lost:  # noqa: BLE001
            self._lost_line.note(lost)

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


class _Loss:
    """Counts and logs that one part of telemetry lost something."""

    __slots__ = ("_failures", "_log", "_metrics", "_part")

    def __init__(self, part: str, metrics: Metrics, log: ExchangeLog) -> None:
        self._part = part
        self._metrics = metrics
        self._log = log
        self._failures = 0

    def note(self, error: Exception) -> None:
        """Note why."""
        self._failures += 1
        # A full disk or a closed stderr fails these as well; nobody is left to be told.
        with contextlib.suppress(Exception):
            self._metrics.fault(FaultKind.TELEMETRY)
        # Failures 1, 2, 4, 8, …: enough to be seen, too few to flood.
        if self._failures.bit_count() == 1:
            with contextlib.suppress(Exception):
                self._log.failed(self._part, error, self._failures)


def _tracing(settings: TelemetrySettings, instance: str, count: SpanMetrics) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    # Without an endpoint the SDK is never loaded.
    from sidecar.telemetry.otlp import span_exporter  # noqa: PLC0415
    from sidecar.telemetry.tracing import Tracing  # noqa: PLC0415

    sampler = TailSampler(
        slow_seconds=settings.slow_request_ms / 1000, per_second=settings.kept_traces_per_second
    )
    return Tracing(
        span_exporter(settings.otlp_endpoint, settings.otlp_protocol),
        version=__version__,
        instance=instance,
        count=count,
        sampler=sampler,
    )
