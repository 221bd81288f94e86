"""Spans, made from the report of an exchange and exported over OTLP on a thread of their own.

Envoy decides what is sampled: its flag is followed, and an exchange without a parent is recorded.
What somebody will ask about is kept all the same.
This module loads the OpenTelemetry SDK; import it only where an endpoint is configured.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from typing_extensions import override

from sidecar.domain.finding import GuardrailResult
from sidecar.telemetry import sanitize
from sidecar.telemetry.keeping import Keeping
from sidecar.telemetry.names import SERVICE_NAME, EgretAttribute, SemconvAttribute, SpanName
from sidecar.telemetry.otlp import resource
from sidecar.telemetry.report import ExchangeReport, Step, Timings
from sidecar.telemetry.span_attributes import (
    AttributeValue,
    exchange_attributes,
    guardrail_attributes,
)
from sidecar.telemetry.span_metrics import QUEUE_SPANS, SpanMetrics
from sidecar.telemetry.traceparent import TraceParent

BATCH_DELAY_MILLISECONDS: Final = 1000.0


class _Exporter(SpanExporter):
    """Counts what its exporter could bring to the collector."""

    def __init__(self, exporter: SpanExporter, count: SpanMetrics) -> None:
        self._exporter = exporter
        self._count = count

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._count.taken(len(spans))
        result = self._exporter.export(spans)
        self._count.left(len(spans), is_taken=result is SpanExportResult.SUCCESS)
        return result

    @override
    def shutdown(self) -> None:
        self._exporter.shutdown()

    @override
    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class Tracing:
    """The way to an OTLP collector."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        version: str,
        instance: str,
        count: SpanMetrics,
        keeping: Keeping,
    ) -> None:
        self._count = count
        self._keeping = keeping
        self._provider = TracerProvider(
            sampler=ParentBased(root=ALWAYS_ON),
            resource=resource(version=version, instance=instance),
            shutdown_on_exit=False,  # it would wait 30 s for a collector that is away
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _Exporter(exporter, count),
                max_queue_size=QUEUE_SPANS,
                schedule_delay_millis=BATCH_DELAY_MILLISECONDS,
            )
        )
        self._tracer = self._provider.get_tracer(SERVICE_NAME, version)

    def may_keep(self, report: ExchangeReport) -> bool:
        """Tell whether *report* is one to record though nobody sampled it, if there is room."""
        return self._keeping.is_of_interest(report)

    def record_spans(self, report: ExchangeReport, parent: TraceParent | None) -> int | None:
        """Record an exchange and its steps; return the trace id, None where it is not sampled."""
        is_kept = parent is not None and not parent.is_sampled
        if parent is not None and is_kept:
            if not self._keeping.keeps(report):
                return None
            parent = parent.sampled()
        attributes = exchange_attributes(report)
        if is_kept:
            attributes[EgretAttribute.KEPT] = True
        span = self._tracer.start_span(
            SpanName.EXCHANGE,
            context=_remote(parent),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=report.timings.wall_ns,
        )
        self._record_children(report, trace.set_span_in_context(span, Context()))
        _end(span, attributes, report.timings.wall_ns + _nanoseconds(report.timings.seconds))
        steps = (report.timings.authorize, report.timings.read)
        self._count.recorded(1 + sum(step is not None for step in steps) + len(report.results))
        return span.get_span_context().trace_id

    def shutdown(self, seconds: float) -> None:
        """Export what waits, for at most *seconds*; what is left then is lost."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)

    def _record_children(self, report: ExchangeReport, context: Context) -> None:
        timings = report.timings
        if timings.authorize is not None:
            self._record_step(SpanName.AUTHORIZE, timings.authorize, timings, context)
        if timings.read is not None:
            self._record_step(SpanName.READ, timings.read, timings, context)
        for result in report.results:
            self._record_guardrail(result, timings, context)

    def _record_step(self, name: str, step: Step, timings: Timings, context: Context) -> None:
        start, end = _interval(step.started_at, step.seconds, timings)
        self._tracer.start_span(name, context=context, start_time=start).end(end)

    def _record_guardrail(
        self, result: GuardrailResult, timings: Timings, context: Context
    ) -> None:
        start, end = _interval(result.started_at, result.seconds, timings)
        attributes = guardrail_attributes(result)
        span = self._tracer.start_span(
            f"{SpanName.GUARDRAIL} {sanitize.policy_text(result.guardrail.name)}",
            context=context,
            attributes=attributes,
            start_time=start,
        )
        for noted in result.events:
            at, _ = _interval(noted.at, 0.0, timings)
            span.add_event(f"{SpanName.GUARDRAIL}.{noted.event.value}", timestamp=at)
        _end(span, attributes, end)


def _end(span: Span, attributes: Mapping[str, AttributeValue], end: int) -> None:
    if SemconvAttribute.ERROR_TYPE in attributes:
        span.set_status(Status(StatusCode.ERROR))
    span.end(end)


def _interval(started_at: float, seconds: float, timings: Timings) -> tuple[int, int]:
    start = timings.wall_ns + _nanoseconds(started_at - timings.started_at)
    return start, start + _nanoseconds(seconds)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _remote(parent: TraceParent | None) -> Context:
    if parent is None:
        return Context()
    caller = SpanContext(
        parent.trace_id,
        parent.span_id,
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=TraceState([("ot", parent.ot)]) if parent.ot else None,
    )
    return trace.set_span_in_context(NonRecordingSpan(caller), Context())
