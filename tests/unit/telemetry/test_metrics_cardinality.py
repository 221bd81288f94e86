"""How many series a hostile client can make."""

from __future__ import annotations

import dataclasses
from collections import Counter
from decimal import Decimal

import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import Failure, FailureKind, GuardrailResult, Verdict
from sidecar.domain.guardrail_settings import PiiSettings
from sidecar.domain.policy import Guardrail
from sidecar.domain.principal import Principal
from sidecar.domain.report import ExchangeOutcome
from sidecar.domain.usage import AnswerEnd, TokenCounts
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.sanitize import MAX_LABEL_VALUES
from sidecar.usage.records import record_of
from tests.support.reports import PRINCIPAL, redacted_report
from tests.support.usage import ended, judged, record

MANY = 10_000
TEN_CENTS = Decimal("0.1")


def _models(registry: CollectorRegistry) -> set[str]:
    return {
        sample.labels["gen_ai_request_model"]
        for metric in registry.collect()
        for sample in metric.samples
        if "gen_ai_request_model" in sample.labels
    }


def _series(registry: CollectorRegistry) -> Counter[str]:
    """Count the series of each metric but for buckets, which multiply by what is fixed."""
    return Counter(
        sample.name
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith(("_bucket", "_created"))
    )


def _principal(index: int) -> Principal:
    return dataclasses.replace(
        PRINCIPAL, key_id=f"key-{index}", team_name=f"team-{index}", organization_name=f"o-{index}"
    )


def _meet(metrics: Metrics, index: int) -> None:
    """Report a request in which all that can differ is that of nobody else."""
    guardrail = Guardrail(name=f"guardrail-{index}", settings=PiiSettings())
    result = GuardrailResult(
        guardrail,
        Verdict.ERROR_OPEN,
        (),
        started_at=0,
        seconds=0.001,
        failure=Failure(FailureKind.ERROR, f"E{index}"),
    )
    report = structs.replace(
        redacted_report(),
        model=f"model-{index}",
        request_id=f"request-{index}",
        principal=_principal(index),
        outcome=ExchangeOutcome.REFUSED,
        error=ErrorKind.MODEL_NOT_ALLOWED,
        results=(result,),
    )
    metrics.record(report)
    request = judged(model=f"model-{index}", key_id=f"key-{index}")
    end = ended(request=request, is_event_stream=True, tokens=TokenCounts(input=10, output=21))
    metrics.usage.exchange_ended(end, record_of(end), TEN_CENTS)


def test_ten_thousand_models_keys_guardrails_and_errors_make_a_bounded_page() -> None:
    """Each metric has the first hundred and one for the rest, and the rest is counted there."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for index in range(MANY):
        _meet(metrics, index)
    series = _series(registry)
    shown = MAX_LABEL_VALUES + 1
    other = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "openai",
        "gen_ai_request_model": "other",
    }

    assert series["egret_guardrail_verdicts_total"] == shown
    assert series["egret_guardrail_errors_total"] == shown
    assert series["gen_ai_client_token_usage_count"] == 2 * shown
    assert series["gen_ai_server_request_duration_seconds_count"] == shown
    assert series["egret_cost_usd_total"] == shown
    assert max(series.values()) == 2 * shown
    assert registry.get_sample_value("egret_cost_usd_total", other) == pytest.approx(
        (MANY - MAX_LABEL_VALUES) * 0.1
    )


def test_a_hundred_thousand_models_fill_neither_the_page_nor_memory() -> None:
    """A client may get its provider to serve new names without end."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    asked = ended()
    series: list[int] = []
    for first in (0, 1000):
        for index in range(first, 100 * first or 1000):
            request = structs.replace(asked.request, model=f"model-{index}")
            end = structs.replace(asked, request=request)
            metrics.usage.exchange_ended(end, record_of(end))
        series.append(sum(_series(registry).values()))

    assert len(_models(registry)) == MAX_LABEL_VALUES + 1
    assert series[0] == series[1]


def test_models_that_no_provider_served_are_no_series_at_all() -> None:
    """What a client merely asks for takes no place from models that are used."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for index in range(MANY):
        request = judged(model=f"model-{index}")
        for status, way in ((404, AnswerEnd.COMPLETED), (403, AnswerEnd.REFUSED)):
            end = ended(request=request, status=status, end=way)
            metrics.usage.exchange_ended(end, record_of(end))
    metrics.usage.exchange_ended(ended(), record())

    assert _models(registry) == {"gpt-4o", "other"}
