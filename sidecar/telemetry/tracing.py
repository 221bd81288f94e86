"""Spans of requests and their attributes; imported only if an exporter is configured."""

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
from sidecar.domain.report import ExchangeOutcome, ExchangeReport
from sidecar.telemetry import sanitize
from sidecar.telemetry.names import SERVICE_NAME, EgretAttribute, SemconvAttribute, SpanName
from sidecar.telemetry.otlp import resource
from sidecar.telemetry.tail_sampling import QUEUE_SPANS, SpanMetrics, TailSampler
from sidecar.telemetry.traceparent import TraceParent

AttributeValue = str | bool | int | float | Sequence[str]

MAX_FINDING_TYPES: Final = 8
MAX_PLACE_CHARACTERS: Final = 200
MAX_PROCESSING_MODES: Final = 4


def exchange_attributes(report: ExchangeReport) -> dict[str, AttributeValue]:
    """Return the attributes of `egret.exchange`; `error.type` only if Egret itself failed."""
    attributes: dict[str, AttributeValue] = {
        EgretAttribute.REQUEST_ID: sanitize.request_id(report.request_id),
        EgretAttribute.VERDICT: report.outcome.value,
        EgretAttribute.CACHE_TIER: report.cache_tier.value,
        EgretAttribute.BODY_BYTES: report.body_bytes,
        EgretAttribute.OVERHEAD_SECONDS: report.overhead_seconds,
    }
    if report.route is not None:
        attributes[SemconvAttribute.GEN_AI_OPERATION_NAME] = sanitize.operation_name(report.route)
        attributes[SemconvAttribute.GEN_AI_PROVIDER_NAME] = report.route.dialect.value
    if (model := sanitize.model_name(report.model)) is not None:
        attributes[SemconvAttribute.GEN_AI_REQUEST_MODEL] = model
        attributes[SemconvAttribute.GEN_AI_REQUEST_STREAM] = report.streamed
    if (method := sanitize.http_method(report.method)) is not None:
        attributes[SemconvAttribute.HTTP_REQUEST_METHOD] = method
    if report.processing_modes:
        attributes[EgretAttribute.PROCESSING_MODES] = tuple(
            sanitize.word(mode) for mode in report.processing_modes[:MAX_PROCESSING_MODES]
        )
    if (principal := report.principal) is not None:
        attributes[EgretAttribute.KEY_ID] = principal.key_id
        attributes[EgretAttribute.TEAM] = sanitize.policy_text(principal.team_name)
        attributes[EgretAttribute.ORGANIZATION] = sanitize.policy_text(principal.organization_name)
    if report.policy is not None:
        attributes[EgretAttribute.POLICY_NAME] = sanitize.policy_text(report.policy.name)
        attributes[EgretAttribute.POLICY_VERSION] = report.policy.version
    if report.unscanned:
        attributes[EgretAttribute.UNSCANNED_REASONS] = tuple(
            dict.fromkeys(reason.value for reason in report.unscanned)
        )
        attributes[EgretAttribute.UNSCANNED_ACTION] = report.unscanned_action.value
    if report.status is not None:
        attributes[SemconvAttribute.HTTP_RESPONSE_STATUS_CODE] = report.status
    if report.error is not None:
        attributes[EgretAttribute.REFUSAL_KIND] = report.error.value
    if report.outcome is ExchangeOutcome.FAILED or (report.status or 0) >= 500:  # noqa: PLR2004 - 5xx
        kind = "unknown" if report.error is None else report.error.value
        attributes[SemconvAttribute.ERROR_TYPE] = (
            kind if report.error_type is None else sanitize.word(report.error_type)
        )
    return attributes


def guardrail_attributes(result: GuardrailResult) -> dict[str, AttributeValue]:
    """Return the attributes of a guardrail's span; `error.type` only if the check failed."""
    guardrail = result.guardrail
    attributes: dict[str, AttributeValue] = {
        EgretAttribute.GUARDRAIL_NAME: sanitize.policy_text(guardrail.name),
        EgretAttribute.GUARDRAIL_TYPE: guardrail.settings.guardrail_type,
        EgretAttribute.GUARDRAIL_VERDICT: result.verdict.value,
        EgretAttribute.GUARDRAIL_ACTION: guardrail.action.value,
        EgretAttribute.GUARDRAIL_MODE: guardrail.mode.value,
        EgretAttribute.GUARDRAIL_STAGE: result.stage.value,
        EgretAttribute.GUARDRAIL_FINDINGS: len(result.findings),
    }
    if result.findings:
        types = dict.fromkeys(sanitize.word(finding.type) for finding in result.findings)
        attributes[EgretAttribute.GUARDRAIL_FINDING_TYPES] = tuple(types)[:MAX_FINDING_TYPES]
    if places := [one.place for one in result.findings if one.place is not None]:
        attributes[EgretAttribute.GUARDRAIL_FINDING_PLACES] = tuple(
            place[:MAX_PLACE_CHARACTERS] for place in places[:MAX_FINDING_TYPES]
        )
    if result.score is not None:
        attributes[EgretAttribute.GUARDRAIL_SCORE] = result.score
    if result.failure is not None:
        attributes[SemconvAttribute.ERROR_TYPE] = sanitize.word(result.failure.error_type)
    return attributes


BATCH_DELAY_MILLISECONDS: Final = 1000.0


class _Exporter(SpanExporter):
    """Counts the spans that its exporter brings to the collector, and those that it cannot."""

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
    """Records the spans of requests and exports them to an OTLP collector in batches."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        version: str,
        instance: str,
        count: SpanMetrics,
        sampler: TailSampler,
    ) -> None:
        self._count = count
        self._sampler = sampler
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

    def record_spans(self, report: ExchangeReport, parent: TraceParent | None) -> int | None:
        """Record an exchange and its steps; return the trace id, None if it is not sampled."""
        is_kept = parent is not None and not parent.is_sampled
        if parent is not None and is_kept:
            if not self._sampler.keeps(report):
                return None
            parent = parent.sampled()
        context = Context()
        if parent is not None:
            caller = SpanContext(
                parent.trace_id,
                parent.span_id,
                is_remote=True,
                trace_flags=TraceFlags(parent.flags),
                trace_state=TraceState([("ot", parent.ot)]) if parent.ot else None,
            )
            context = trace.set_span_in_context(NonRecordingSpan(caller), context)
        attributes = exchange_attributes(report)
        if is_kept:
            attributes[EgretAttribute.KEPT] = True
        span = self._tracer.start_span(
            SpanName.EXCHANGE,
            context=context,
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=report.wall_ns,
        )
        within = trace.set_span_in_context(span, Context())
        recorded = 1 + len(report.results)
        for name, step in (
            (SpanName.AUTHORIZE, report.authorize),
            (SpanName.READ, report.read),
        ):
            if step is not None:
                start, end = _interval(*step, report)
                self._tracer.start_span(name, context=within, start_time=start).end(end)
                recorded += 1
        for result in report.results:
            start, end = _interval(*report.step_of(result), report)
            about = guardrail_attributes(result)
            judging = self._tracer.start_span(
                f"{SpanName.GUARDRAIL} {sanitize.policy_text(result.guardrail.name)}",
                context=within,
                attributes=about,
                start_time=start,
            )
            for noted in result.events:
                at, _ = _interval(noted.at, 0.0, report)
                judging.add_event(f"{SpanName.GUARDRAIL}.{noted.event.value}", timestamp=at)
            _end(judging, about, end)
        _end(span, attributes, report.wall_ns + _nanoseconds(report.seconds))
        self._count.recorded(recorded)
        return span.get_span_context().trace_id

    def shutdown(self, seconds: float) -> None:
        """Export the waiting spans, for at most *seconds*; the rest is lost."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)


def _end(span: Span, attributes: Mapping[str, AttributeValue], end: int) -> None:
    if SemconvAttribute.ERROR_TYPE in attributes:
        span.set_status(Status(StatusCode.ERROR))
    span.end(end)


def _interval(started_at: float, seconds: float, report: ExchangeReport) -> tuple[int, int]:
    start = report.wall_ns + _nanoseconds(started_at - report.started_at)
    return start, start + _nanoseconds(seconds)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
