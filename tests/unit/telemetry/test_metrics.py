"""What a scrape of one worker says after exchanges ended."""

from __future__ import annotations

import dataclasses
import time

import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry, Counter, generate_latest

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.guardrail_settings import DeniedTermsSettings, PiiSettings
from sidecar.domain.policy import Guardrail
from sidecar.domain.report import CacheTier, ExchangeOutcome, FaultKind
from sidecar.domain.subject import UnscannedReason
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.sanitize import LabelCap
from tests.support.cpu_time import python_calls
from tests.support.reports import POLICY, redacted_report


def _samples(registry: CollectorRegistry) -> set[str]:
    """Return every sample that is not zero, but for buckets and the time a metric was made."""
    lines = generate_latest(registry).decode().splitlines()
    return {
        line
        for line in lines
        if not line.startswith("#")
        and "_bucket" not in line
        and "_created" not in line
        and not line.endswith(" 0.0")
    }


def test_an_exchange_is_counted_by_outcome_phase_key_and_guardrail(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """The whole exposition after one redacted exchange."""
    metrics.record(redacted_report())

    assert _samples(registry) == {
        'egret_exchanges_total{error="none",operation="chat",outcome="redacted"} 1.0',
        "egret_overhead_seconds_count 1.0",
        "egret_overhead_seconds_sum 0.004",
        'egret_phase_seconds_count{phase="authorize"} 1.0',
        'egret_phase_seconds_sum{phase="authorize"} 0.0002',
        'egret_phase_seconds_count{phase="read"} 1.0',
        'egret_phase_seconds_sum{phase="read"} 0.0004',
        'egret_phase_seconds_count{phase="guardrails"} 1.0',
        'egret_phase_seconds_sum{phase="guardrails"} 0.003',
        "egret_body_bytes_count 1.0",
        "egret_body_bytes_sum 2048.0",
        'egret_authorizations_total{outcome="authorized",tier="l1"} 1.0',
        (
            'egret_guardrail_verdicts_total{action="redact",guardrail="pii",mode="enforce",stage="input",'
            'type="pii",verdict="redact"} 1.0'
        ),
        (
            'egret_guardrail_verdicts_total{action="block",guardrail="keys",mode="shadow",stage="input",'
            'type="secrets",verdict="block"} 1.0'
        ),
        (
            'egret_guardrail_verdicts_total{action="flag",guardrail="tone",mode="enforce",stage="input",'
            'type="webhook",verdict="error_open"} 1.0'
        ),
        'egret_guardrail_errors_total{error_type="ClientConnectorError",guardrail="tone"} 1.0',
        'egret_remote_events_total{event="retry",guardrail="tone"} 1.0',
        'egret_remote_events_total{event="hedge",guardrail="tone"} 1.0',
        'egret_guardrail_seconds_count{guardrail="pii"} 1.0',
        'egret_guardrail_seconds_sum{guardrail="pii"} 0.0004',
        'egret_guardrail_seconds_count{guardrail="keys"} 1.0',
        'egret_guardrail_seconds_sum{guardrail="keys"} 0.0004',
        'egret_guardrail_seconds_count{guardrail="tone"} 1.0',
        'egret_guardrail_seconds_sum{guardrail="tone"} 0.003',
    }


@pytest.mark.parametrize(
    ("error", "tier", "sample"),
    [
        (ErrorKind.MISSING_API_KEY, CacheTier.NONE, 'outcome="missing_api_key",tier="none"'),
        (ErrorKind.REVOKED_API_KEY, CacheTier.L1, 'outcome="revoked_api_key",tier="l1"'),
        (
            ErrorKind.INVALID_API_KEY,
            CacheTier.NEGATIVE,
            'outcome="invalid_api_key",tier="negative"',
        ),
        (
            ErrorKind.AUTHORIZATION_UNAVAILABLE,
            CacheTier.STORE,
            'outcome="authorization_unavailable",tier="store"',
        ),
        (ErrorKind.MODEL_NOT_ALLOWED, CacheTier.L1, 'outcome="model_not_allowed",tier="l1"'),
        (ErrorKind.SOURCE_NOT_ALLOWED, CacheTier.L1, 'outcome="source_not_allowed",tier="l1"'),
        (
            ErrorKind.OPERATION_NOT_ALLOWED,
            CacheTier.L1,
            'outcome="operation_not_allowed",tier="l1"',
        ),
        (
            ErrorKind.CREDENTIAL_IN_QUERY,
            CacheTier.NONE,
            'outcome="credential_in_query",tier="none"',
        ),
        (ErrorKind.CONTENT_BLOCKED, CacheTier.L1, 'outcome="authorized",tier="l1"'),
    ],
    ids=lambda value: getattr(value, "value", None) or None,
)
def test_a_judged_key_is_counted_by_what_was_said_of_it(
    metrics: Metrics, registry: CollectorRegistry, error: ErrorKind, tier: CacheTier, sample: str
) -> None:
    """A key that passed counts as authorized even where the content was refused later."""
    report = structs.replace(
        redacted_report(), outcome=ExchangeOutcome.REFUSED, error=error, cache_tier=tier
    )
    metrics.record(report)

    assert {line for line in _samples(registry) if "authorizations" in line} == {
        f"egret_authorizations_total{{{sample}}} 1.0"
    }


def test_an_exchange_that_ended_before_its_key_was_judged_counts_no_authorization(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """An aborted stream is not an accepted key."""
    metrics.record(
        structs.replace(redacted_report(), principal=None, outcome=ExchangeOutcome.ABORTED)
    )

    assert not {line for line in _samples(registry) if "authorizations" in line}


def test_unscanned_content_is_counted_once_a_reason_and_exchange(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """A request of a hundred images is one unscanned request."""
    reasons = (UnscannedReason.IMAGE,) * 100 + (UnscannedReason.FILE,)
    metrics.record(structs.replace(redacted_report(), unscanned=reasons))

    assert {line for line in _samples(registry) if "unscanned" in line} == {
        'egret_unscanned_total{action="flag",reason="image"} 1.0',
        'egret_unscanned_total{action="flag",reason="file"} 1.0',
    }


def test_a_cost_that_lacks_a_tool_s_is_counted(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Unless Egret refused the request, which cost nothing."""
    report = structs.replace(redacted_report(), billed_tools=("web_search", "code"))
    for error in (None, None, ErrorKind.CONTENT_BLOCKED):
        metrics.record(structs.replace(report, error=error))

    assert {line for line in _samples(registry) if "incomplete" in line} == {
        'egret_cost_incomplete_total{tool="web_search"} 2.0',
        'egret_cost_incomplete_total{tool="code"} 2.0',
    }


def test_every_kind_of_fault_is_there_before_the_first_one(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """A rate over a counter that appears with its first fault misses that fault."""
    metrics.fault(FaultKind.DEADLINE)
    text = generate_latest(registry).decode()

    assert {
        line for line in text.splitlines() if line.startswith("egret_exchange_faults_total")
    } == {
        f'egret_exchange_faults_total{{kind="{kind.value}"}} {float(kind is FaultKind.DEADLINE)}'
        for kind in FaultKind
    }


def test_the_state_of_a_worker_is_shown_as_it_was_last_told(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Gauges follow; a failed reload leaves the version."""
    metrics.exchange_began()
    metrics.exchange_began()
    metrics.exchange_ended()
    metrics.policies_loaded((POLICY,))
    metrics.policies_loaded((dataclasses.replace(POLICY, version=8),))
    metrics.policy_reload_failed()
    metrics.keys.cache_holds(12, loads=3)

    metrics.policies_read()
    samples = _samples(registry)
    moments = {line for line in samples if "_timestamp_seconds" in line}

    assert {line.split()[0] for line in moments} == {
        "egret_policies_loaded_timestamp_seconds",
        "egret_policies_read_timestamp_seconds",
    }
    assert all(abs(float(line.split()[1]) - time.time()) < 60 for line in moments)
    assert samples - moments == {
        "egret_in_flight_exchanges 1.0",
        'egret_policy_version{policy="standard"} 8.0',
        "egret_policy_reload_failures_total 1.0",
        "egret_key_cache_entries 12.0",
        "egret_key_loads 3.0",
    }


def test_of_many_policies_only_the_version_that_has_changed_is_written(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Requests wait meanwhile."""
    many = [dataclasses.replace(POLICY, name=f"team-{number}") for number in range(1_000)]
    metrics.policies_loaded(many)
    many[7] = dataclasses.replace(many[7], version=8)

    calls = python_calls(lambda: metrics.policies_loaded(many))

    assert registry.get_sample_value("egret_policy_version", {"policy": "team-7"}) == 8
    assert calls < len(many) / 10


def test_labels_stay_bounded_under_a_thousand_guardrails_keys_and_models(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Nothing that grows with clients is a label, and what grows with policies has a cap."""
    for index in range(1000):
        guardrail = Guardrail(name=f"guardrail-{index}", settings=PiiSettings())
        metrics.record(
            structs.replace(
                redacted_report(),
                model=f"model-{index}",
                request_id=f"request-{index}",
                results=(
                    GuardrailResult(guardrail, Verdict.PASS, (), started_at=0.0, seconds=0.0001),
                ),
            )
        )
    samples = _samples(registry)
    verdicts = {line for line in samples if line.startswith("egret_guardrail_verdicts_total")}

    assert len(verdicts) == 101
    assert [line for line in verdicts if 'guardrail="other"' in line] == [
        (
            'egret_guardrail_verdicts_total{action="block",guardrail="other",mode="enforce",stage="input",'
            'type="pii",verdict="pass"} 900.0'
        ),
    ]
    assert not [line for line in samples if "model-" in line or "request-" in line]


def test_guardrails_of_one_name_in_turn_have_their_samples_looked_up_once(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the policies of many teams have them: a look-up takes longer than all else."""
    first = redacted_report().results[0]
    settings = DeniedTermsSettings(("bluebird",))
    results = [
        one._replace(guardrail=dataclasses.replace(one.guardrail, settings=settings))
        for one in (first, first._replace(verdict=Verdict.PASS), first)
    ]
    reports = [structs.replace(redacted_report(), results=(one,)) for one in (first, *results)]
    for report in reports:
        metrics.record(report)
    looked_up: list[object] = []
    counters = type(metrics._guardrail_verdicts)
    labels = counters.labels

    def counted(self: Counter, *values: object) -> Counter:
        looked_up.append(values)
        return labels(self, *values)

    monkeypatch.setattr(counters, "labels", counted)
    for report in reports:
        metrics.record(report)

    assert looked_up == []


def test_a_guardrail_that_changed_is_counted_under_its_new_action(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """A policy reload reuses names: what was remembered of the old one must not count."""
    old = redacted_report().results[0]
    new = old._replace(guardrail=dataclasses.replace(old.guardrail))
    changed = old._replace(guardrail=Guardrail(name="pii", settings=old.guardrail.settings))
    for result in (old, new, changed):
        metrics.record(structs.replace(redacted_report(), results=(result,)))

    assert {line for line in _samples(registry) if "guardrail_verdicts" in line} == {
        (
            'egret_guardrail_verdicts_total{action="redact",guardrail="pii",mode="enforce",stage="input",'
            'type="pii",verdict="redact"} 2.0'
        ),
        (
            'egret_guardrail_verdicts_total{action="block",guardrail="pii",mode="enforce",stage="input",'
            'type="pii",verdict="redact"} 1.0'
        ),
    }


def test_a_cap_keeps_the_first_values_and_folds_the_rest() -> None:
    """A value once shown stays shown."""
    cap = LabelCap(limit=2)

    assert [cap(value) for value in ("a", "b", "c", "a", "d", "b")] == [
        "a",
        "b",
        "other",
        "a",
        "other",
        "b",
    ]
