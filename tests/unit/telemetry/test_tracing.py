"""Spans as a collector receives them over OTLP, from a real exporter."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from sidecar.domain.errors import ErrorKind
from sidecar.domain.report import ExchangeOutcome, ExchangeReport
from sidecar.domain.subject import Dialect, UnknownRoute, UnscannedReason
from sidecar.settings.telemetry import OtlpProtocol
from sidecar.telemetry.otlp import EXPORT_SECONDS, span_exporter
from sidecar.telemetry.tail_sampling import SpanMetrics, TailSampler
from sidecar.telemetry.traceparent import format_trace_id, parse_trace_parent
from sidecar.telemetry.tracing import Tracing
from tests.support.otlp import OtlpReceiver, ReceivedSpan, otlp_receiver, refusing_collector
from tests.support.reports import (
    PARENT_ID,
    SAMPLED,
    STARTED_AT,
    TRACE_ID,
    UNSAMPLED,
    WALL_NS,
    redacted_report,
    timings,
)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Return a running OTLP receiver."""
    with otlp_receiver() as running:
        yield running


def _export(
    receiver: OtlpReceiver, *reports: ExchangeReport, registry: CollectorRegistry | None = None
) -> list[str | None]:
    tracing = _tracing(receiver.endpoint, registry or CollectorRegistry())
    ids = [
        tracing.record_spans(one, parse_trace_parent(one.traceparent, one.tracestate))
        for one in reports
    ]
    tracing.shutdown(20)
    return [None if one is None else format_trace_id(one) for one in ids]


def _tracing(
    endpoint: str, registry: CollectorRegistry, protocol: OtlpProtocol = OtlpProtocol.GRPC
) -> Tracing:
    return Tracing(
        span_exporter(endpoint, protocol),
        version="1.2.3",
        instance="worker-0",
        count=SpanMetrics(registry),
        sampler=TailSampler(slow_seconds=0.25, per_second=10),
    )


def _spans_counted(registry: CollectorRegistry) -> dict[str, float | None]:
    states = ("recorded", "exported", "failed", "dropped")
    return {
        state: registry.get_sample_value("egret_spans_total", {"state": state}) for state in states
    }


def _at(milliseconds: float) -> int:
    return WALL_NS + round(milliseconds * 1e6)


def _times(span: ReceivedSpan) -> tuple[int, int]:
    # Monotonic seconds are floats: microseconds are as exact as they get.
    return round(span.start_ns, -3), round(span.end_ns, -3)


def test_an_exchange_is_a_server_span_under_envoys_with_a_child_a_step(
    receiver: OtlpReceiver,
) -> None:
    """The whole trace of a redacted exchange: parents, times, kinds, states."""
    assert _export(receiver, redacted_report()) == [TRACE_ID]
    spans = receiver.wait_for(6)
    root = spans["egret.exchange"]

    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    assert root.parent_id == PARENT_ID
    assert {name: span.parent_id for name, span in spans.items() if span is not root} == {
        "authorize": root.span_id,
        "read": root.span_id,
        "guardrail pii": root.span_id,
        "guardrail keys": root.span_id,
        "guardrail tone": root.span_id,
    }
    assert {name: _times(span) for name, span in spans.items()} == {
        "egret.exchange": (_at(0), _at(10)),
        "authorize": (_at(0.5), _at(0.7)),
        "read": (_at(6), _at(6.4)),
        "guardrail pii": (_at(6.5), _at(6.9)),
        "guardrail keys": (_at(6.5), _at(6.9)),
        "guardrail tone": (_at(6.5), _at(9.5)),
    }
    assert {name: span.kind for name, span in spans.items() if span.kind != root.kind} == {
        name: "SPAN_KIND_INTERNAL" for name in spans if name != "egret.exchange"
    }
    assert root.kind == "SPAN_KIND_SERVER"
    assert [name for name, span in spans.items() if span.status != "STATUS_CODE_UNSET"] == [
        "guardrail tone"
    ]


def test_the_exchange_span_says_who_asked_what_and_what_came_of_it(receiver: OtlpReceiver) -> None:
    """All attributes of the root span, by name and value."""
    _export(receiver, redacted_report())

    assert receiver.wait_for(6)["egret.exchange"].attributes == {
        "egret.request.id": "6f1d2c3b-0000-4000-8000-000000000001",
        "egret.verdict": "redacted",
        "egret.cache.tier": "l1",
        "egret.request.body_bytes": 2048,
        "egret.overhead_seconds": 0.004,
        "egret.processing_modes": ("FULL_DUPLEX_STREAMED",),
        "egret.key.id": "k1a2b3c4d5e6",
        "egret.team": "search",
        "egret.organization": "acme",
        "egret.policy.name": "standard",
        "egret.policy.version": 7,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": False,
        "http.request.method": "POST",
    }


def test_a_guardrail_span_keeps_verdict_and_action_apart(receiver: OtlpReceiver) -> None:
    """A shadow block is seen as one, and a failed check names the error's class."""
    _export(receiver, redacted_report())
    spans = receiver.wait_for(6)

    assert spans["guardrail pii"].attributes == {
        "egret.guardrail.name": "pii",
        "egret.guardrail.type": "pii",
        "egret.guardrail.verdict": "redact",
        "egret.guardrail.action": "redact",
        "egret.guardrail.mode": "enforce",
        "egret.guardrail.stage": "input",
        "egret.guardrail.findings": 3,
        "egret.guardrail.finding_types": ("EMAIL", "IBAN"),
        "egret.guardrail.score": 0.75,
    }
    assert spans["guardrail keys"].attributes == {
        "egret.guardrail.name": "keys",
        "egret.guardrail.type": "secrets",
        "egret.guardrail.verdict": "block",
        "egret.guardrail.action": "block",
        "egret.guardrail.mode": "shadow",
        "egret.guardrail.stage": "input",
        "egret.guardrail.findings": 1,
        "egret.guardrail.finding_types": ("AWS_KEY",),
    }
    assert spans["guardrail tone"].attributes == {
        "egret.guardrail.name": "tone",
        "egret.guardrail.type": "webhook",
        "egret.guardrail.verdict": "error_open",
        "egret.guardrail.action": "flag",
        "egret.guardrail.mode": "enforce",
        "egret.guardrail.stage": "input",
        "egret.guardrail.findings": 0,
        "error.type": "ClientConnectorError",
    }


def test_what_happened_on_the_way_is_told_at_its_time(receiver: OtlpReceiver) -> None:
    """On the clock of the inspection, placed by the distance from the exchange's start."""
    _export(receiver, redacted_report())
    spans = receiver.wait_for(6)
    (retry, retried_ns), (hedge, hedged_ns) = spans["guardrail tone"].events
    assert (retry, hedge) == ("guardrail.retry", "guardrail.hedge")
    assert retried_ns == pytest.approx(WALL_NS + 7_500_000, abs=1_000)
    assert hedged_ns == pytest.approx(WALL_NS + 8_500_000, abs=1_000)
    assert spans["guardrail pii"].events == ()


def test_the_resource_names_service_version_and_worker(receiver: OtlpReceiver) -> None:
    """Spans of two workers can be told apart."""
    _export(receiver, redacted_report())
    receiver.wait_for(6)
    resource = receiver.resource()

    assert {name: resource[name] for name in resource if name.startswith("service.")} == {
        "service.name": "egret",
        "service.version": "1.2.3",
        "service.instance.id": "worker-0",
    }


def test_a_refusal_is_an_outcome_and_not_an_error(receiver: OtlpReceiver) -> None:
    """Error rates in a tracing backend count Egret's failures, not its decisions."""
    refused = ExchangeReport(
        request_id="r-1",
        outcome=ExchangeOutcome.REFUSED,
        **timings(),
        error=ErrorKind.UNSCANNED_CONTENT,
        status=403,
        route=UnknownRoute(Dialect.ANTHROPIC),
        method="BREW",
        unscanned=(UnscannedReason.UNKNOWN_ROUTE, UnscannedReason.UNKNOWN_ROUTE),
    )
    _export(receiver, refused)
    root = receiver.wait_for(3)["egret.exchange"]

    assert root.status == "STATUS_CODE_UNSET"
    assert root.attributes == {
        "egret.request.id": "r-1",
        "egret.verdict": "refused",
        "egret.cache.tier": "none",
        "egret.request.body_bytes": 0,
        "egret.overhead_seconds": 0.004,
        "egret.refusal.kind": "unscanned_content",
        "egret.unscanned.reasons": ("unknown_route",),
        "egret.unscanned.action": "block",
        "gen_ai.operation.name": "unknown",
        "gen_ai.provider.name": "anthropic",
        "http.request.method": "_OTHER",
        "http.response.status_code": 403,
    }


@pytest.mark.parametrize(
    ("report", "error_type"),
    [
        pytest.param(
            ExchangeReport(
                request_id="r-1",
                outcome=ExchangeOutcome.FAILED,
                **timings(),
                error=ErrorKind.INTERNAL_ERROR,
                error_type="builtins.KeyError",
                status=500,
            ),
            "builtins.KeyError",
            id="an exception behind it",
        ),
        pytest.param(
            ExchangeReport(
                request_id="r-1",
                outcome=ExchangeOutcome.REFUSED,
                **timings(),
                error=ErrorKind.AUTHORIZATION_UNAVAILABLE,
                status=503,
            ),
            "authorization_unavailable",
            id="a server's answer",
        ),
        pytest.param(
            ExchangeReport(request_id="r-1", outcome=ExchangeOutcome.FAILED, **timings()),
            "unknown",
            id="nothing known",
        ),
    ],
)
def test_a_failure_of_egret_marks_the_span(
    receiver: OtlpReceiver, report: ExchangeReport, error_type: str
) -> None:
    """`error.type` and the error status come together."""
    _export(receiver, report)
    root = receiver.wait_for(3)["egret.exchange"]

    assert (root.status, root.attributes["error.type"]) == ("STATUS_CODE_ERROR", error_type)


def test_envoy_decides_what_is_sampled(receiver: OtlpReceiver) -> None:
    """An unsampled parent leaves nothing behind; without a parent a trace begins here."""
    unsampled = structs.replace(redacted_report(), traceparent=UNSAMPLED, results=())
    orphan = structs.replace(redacted_report(), traceparent=None)
    none, own = _export(receiver, unsampled, orphan)
    root = receiver.wait_for(6)["egret.exchange"]

    assert none is None
    assert (root.trace_id, root.parent_id) == (own, "")
    assert own not in {None, TRACE_ID}


def test_a_blocked_exchange_is_traced_although_nobody_sampled_it(receiver: OtlpReceiver) -> None:
    """Under the id that the log and the provider know, and marked."""
    blocked = structs.replace(
        redacted_report(),
        traceparent=UNSAMPLED,
        outcome=ExchangeOutcome.REFUSED,
        error=ErrorKind.CONTENT_BLOCKED,
        results=(),
    )
    assert _export(receiver, blocked) == [TRACE_ID]
    root = receiver.wait_for(3)["egret.exchange"]

    assert (root.trace_id, root.parent_id) == (TRACE_ID, PARENT_ID)
    assert root.attributes["egret.trace.kept"] is True


@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        pytest.param("ot=th:8;rv:0a,vendor=my card is 4111", "ot=th:8;rv:0a", id="only ot"),
        pytest.param("vendor=anything", "", id="a vendor's"),
        pytest.param("ot=" + "a" * 10_240, "", id="10 KB"),
        pytest.param("ot=a b", "", id="not what ot looks like"),
        pytest.param("=,;;,==", "", id="rubbish"),
    ],
)
def test_tracestate_is_kept_only_where_it_can_hold_nothing_of_a_client(
    receiver: OtlpReceiver, tracestate: str, kept: str
) -> None:
    """A trace state is client text that Envoy forwards; only OpenTelemetry's member is ours."""
    _export(receiver, structs.replace(redacted_report(), tracestate=tracestate))

    assert receiver.wait_for(6)["egret.exchange"].trace_state == kept


def test_a_clock_set_back_between_steps_moves_no_child_out_of_its_parent(
    receiver: OtlpReceiver,
) -> None:
    """Children are placed by monotonic distance; the wall clock is read once."""
    _export(receiver, redacted_report())
    spans = receiver.wait_for(6)
    root = spans["egret.exchange"]

    assert STARTED_AT > 0
    assert all(
        root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns for span in spans.values()
    )


def test_spans_are_counted_as_recorded_and_as_taken_by_the_collector(
    receiver: OtlpReceiver,
) -> None:
    """The two meet where none was lost; an unsampled exchange is in neither."""
    registry = CollectorRegistry()
    unsampled = structs.replace(redacted_report(), traceparent=UNSAMPLED, results=())
    _export(receiver, redacted_report(), unsampled, registry=registry)
    receiver.wait_for(6)

    assert _spans_counted(registry) == {"recorded": 6, "exported": 6, "failed": 0, "dropped": 0}


@pytest.mark.parametrize("protocol", OtlpProtocol)
def test_spans_that_a_collector_refuses_are_failed_and_not_tried_again(
    protocol: OtlpProtocol,
) -> None:
    """At once: it would refuse them the next time as well."""
    registry = CollectorRegistry()
    with refusing_collector(protocol) as endpoint:
        tracing = _tracing(endpoint, registry, protocol)
        tracing.record_spans(redacted_report(), parse_trace_parent(SAMPLED, None))
        began_at = time.monotonic()
        tracing.shutdown(20)
        seconds = time.monotonic() - began_at

    assert _spans_counted(registry) == {"recorded": 6, "exported": 0, "failed": 6, "dropped": 0}
    assert seconds < EXPORT_SECONDS / 2


AWAY = """
import sys, time
from prometheus_client import CollectorRegistry
from sidecar.settings.telemetry import OtlpProtocol
from sidecar.telemetry.tail_sampling import TailSampler
from sidecar.telemetry.otlp import span_exporter
from sidecar.telemetry.tail_sampling import SpanMetrics
from sidecar.telemetry.traceparent import parse_trace_parent
from sidecar.telemetry.tracing import Tracing
from tests.support.reports import SAMPLED, redacted_report

tracing = Tracing(
    span_exporter(sys.argv[1], OtlpProtocol(sys.argv[2])),
    version="1", instance="i", count=SpanMetrics(CollectorRegistry()),
    sampler=TailSampler(slow_seconds=1, per_second=0),
)
for _ in range(50):
    tracing.record_spans(redacted_report(), parse_trace_parent(SAMPLED, None))
before = time.monotonic()
tracing.shutdown(0.2)
print(time.monotonic() - before < 3)
"""


@pytest.mark.parametrize("protocol", OtlpProtocol)
def test_a_collector_that_is_away_costs_no_more_than_the_shutdown_bound(
    protocol: OtlpProtocol,
) -> None:
    """Recording goes on, shutdown returns although nothing answers, and the process ends."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        # A process of its own: the exporter's thread outlives the bound.
        command = [sys.executable, "-c", AWAY, endpoint, protocol.value]
        run = subprocess.run(command, capture_output=True, text=True, check=True)

    assert run.stdout == "True\n"  # exporting alone would try for 5 seconds


def test_without_an_endpoint_the_sdk_is_not_loaded() -> None:
    """No collector, no cost: not even the import."""
    program = (
        "import sys; from prometheus_client import CollectorRegistry;"
        "from sidecar.settings.telemetry import TelemetrySettings;"
        "from sidecar.telemetry.recorder import Recorder;"
        "Recorder(TelemetrySettings());"
        "print([m for m in ('opentelemetry', 'grpc') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert run.stdout.strip() == "[]"


def test_the_places_of_a_structured_answer_are_on_its_span(receiver: OtlpReceiver) -> None:
    """As many and as long as a span can bear; the schema's own names, and no value."""
    report = redacted_report()
    result = report.results[0]
    findings = tuple(
        structs.replace(result.findings[0], type="SCHEMA_TYPE", place=f"choices[{n}]" * 30)
        for n in range(9)
    )
    places = tuple((f"choices[{n}]" * 30)[:200] for n in range(8))

    _export(
        receiver,
        structs.replace(report, results=(result._replace(findings=findings),)),
    )

    span = receiver.wait_for(4)[f"guardrail {result.guardrail.name}"]
    assert span.attributes["egret.guardrail.finding_places"] == places
