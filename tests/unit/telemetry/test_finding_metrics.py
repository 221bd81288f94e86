from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from msgspec import structs
from prometheus_client import CollectorRegistry

from sidecar.domain.finding import FindingCount, GuardrailResult, Verdict
from sidecar.domain.policy import Action, Guardrail, Mode, Stage
from sidecar.telemetry.finding_metrics import MAX_SERIES, WINDOW_CHECKS, WINDOW_SECONDS
from sidecar.telemetry.metrics import Metrics
from tests.support.log_lines import LogLines
from tests.support.reports import PII, redacted_report

WATCHED = replace(PII, warn_on_volume=0.05)


def found(
    type_: str = "PHONE", role: str = "tool", guardrail: Guardrail = WATCHED
) -> FindingCount:
    return FindingCount(guardrail, Verdict.REDACT, type_, role, 3)


def request(
    metrics: Metrics,
    *counts: FindingCount,
    at: float = 0.0,
    guardrail: Guardrail = WATCHED,
    verdicts: Iterable[Verdict] = (),
) -> None:
    """Record a request that the guardrail has checked, with these findings."""
    usual = (Verdict.REDACT if counts else Verdict.PASS,)
    results = tuple(GuardrailResult(guardrail, one) for one in verdicts or usual)
    report = structs.replace(redacted_report(), results=results, findings=counts, started_at=at)
    metrics.record(report)


def warnings(registry: CollectorRegistry) -> float | None:
    labels = {"guardrail": "pii", "finding_type": "PHONE"}
    return registry.get_sample_value("egret_guardrail_volume_warnings_total", labels)


def test_values_are_counted_by_type_role_verdict_and_mode(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    shadow = replace(PII, mode=Mode.SHADOW)
    request(metrics, found(), found("EMAIL", "answer"), found(guardrail=shadow))
    request(metrics, found())
    values = {
        tuple(sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "egret_guardrail_findings_total"
    }
    assert values == {
        ("pii", "PHONE", "tool", "redact", "enforce"): 6.0,
        ("pii", "EMAIL", "answer", "redact", "enforce"): 3.0,
        ("pii", "PHONE", "tool", "redact", "shadow"): 3.0,
    }


def test_a_type_above_its_share_is_reported_once_a_window(
    metrics: Metrics, registry: CollectorRegistry, log_lines: LogLines
) -> None:
    for number in range(WINDOW_CHECKS * 2):
        request(metrics, *([found()] if number % 10 == 0 else []), at=float(number))
    assert warnings(registry) == 1
    assert log_lines.read() == [
        {
            "level": "warning",
            "event": "guardrails.volume",
            "guardrail": "pii",
            "finding_type": "PHONE",
            "found": 11,
            "checks": 101,
            "threshold": 0.05,
        }
    ]
    for number in range(WINDOW_CHECKS):
        request(metrics, found(), at=WINDOW_SECONDS + number)
    assert warnings(registry) == 2


def test_a_type_within_its_share_is_not_reported(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    for number in range(WINDOW_CHECKS * 3):
        request(metrics, *([found()] if number % 20 == 19 else []))
    assert warnings(registry) is None


def test_few_checks_are_no_share(metrics: Metrics, registry: CollectorRegistry) -> None:
    """A window with too few goes on beyond its hour."""
    for number in range(WINDOW_CHECKS - 1):
        request(metrics, found(), at=number * WINDOW_SECONDS)
    assert warnings(registry) is None
    request(metrics, found(), at=WINDOW_CHECKS * WINDOW_SECONDS)
    request(metrics, found(), at=WINDOW_CHECKS * WINDOW_SECONDS)
    assert warnings(registry) is None  # the hour of a full window is over: a new one began
    for _ in range(WINDOW_CHECKS):
        request(metrics, found(), at=WINDOW_CHECKS * WINDOW_SECONDS)
    assert warnings(registry) == 1


def test_a_type_in_several_roles_of_a_request_counts_once(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    for number in range(WINDOW_CHECKS * 2):
        roles = ("user", "tool", "system") if number % 25 == 24 else ()
        request(metrics, *[found(role=role) for role in roles])
    assert warnings(registry) is None


def test_checks_that_failed_are_no_checks(metrics: Metrics, registry: CollectorRegistry) -> None:
    for number in range(WINDOW_CHECKS * 2):
        verdicts = (Verdict.ERROR_OPEN, Verdict.SKIPPED) if number % 2 else ()
        request(metrics, *([] if number % 2 else [found()]), verdicts=verdicts)
    assert warnings(registry) == 1


def test_a_request_and_its_answer_are_a_check_each(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    both = replace(WATCHED, stage=Stage.BOTH, warn_on_volume=0.5)
    for _ in range(WINDOW_CHECKS):
        request(
            metrics,
            found(guardrail=both),
            guardrail=both,
            verdicts=(Verdict.REDACT, Verdict.PASS),
        )
    assert warnings(registry) is None


def test_without_a_threshold_nothing_is_reported(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    for _ in range(WINDOW_CHECKS * 2):
        request(metrics, found(guardrail=PII), guardrail=PII)
    assert warnings(registry) is None


def test_types_and_roles_without_end_make_a_bounded_page(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    flagging = replace(PII, action=Action.FLAG)
    for number in range(MAX_SERIES * 2):
        request(metrics, found(f"T{number}", guardrail=flagging))
    series = [
        sample
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "egret_guardrail_findings_total"
    ]
    assert len(series) == MAX_SERIES + 1
    assert sum(sample.value for sample in series) == MAX_SERIES * 2 * 3
