"""Names that dashboards depend on, held against the installed OpenTelemetry conventions."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    service_attributes,
)

from sidecar.domain.subject import Dialect, Operation
from sidecar.telemetry.names import (
    OTLP_ATTRIBUTES,
    OTLP_NAMES,
    EgretAttribute,
    LogEvent,
    MetricName,
    SemconvAttribute,
    SpanName,
)

OURS_ONLY = {
    Operation.COUNT_TOKENS,
    Operation.LIST_MODELS,
    Operation.MODERATION,
    Operation.IMAGE_GENERATION,
    Operation.SPEECH,
    Operation.TRANSCRIPTION,
    Operation.STORED_RESPONSE,
    Operation.INVOKE_MODEL,
}
"""Operations the conventions have no value for; they allow own ones."""


def _constants(owner: object) -> dict[str, str]:
    return {name: value for name, value in vars(owner).items() if name.isupper()}


def test_every_borrowed_attribute_is_spelt_as_the_conventions_spell_it() -> None:
    """The whole class is compared, so that a new constant cannot escape the pin."""
    conventions = {
        **vars(gen_ai_attributes),
        **vars(error_attributes),
        **vars(http_attributes),
        **vars(service_attributes),
    }
    borrowed = _constants(SemconvAttribute)

    assert borrowed == {name: conventions.get(name) for name in borrowed}


@pytest.mark.parametrize("operation", [o for o in Operation if o not in OURS_ONLY])
def test_an_operation_is_a_value_of_the_conventions(operation: Operation) -> None:
    """`gen_ai.operation.name` is taken from the enum's value as it is."""
    assert operation.value in {o.value for o in gen_ai_attributes.GenAiOperationNameValues}


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_dialect_is_a_provider_of_the_conventions(dialect: Dialect) -> None:
    """`gen_ai.provider.name` is taken from the enum's value as it is."""
    assert dialect.value in {p.value for p in gen_ai_attributes.GenAiProviderNameValues}


def test_metrics_of_the_conventions_have_their_names_where_dots_are_allowed() -> None:
    """And their spelling on the page is what Prometheus makes of those."""
    metrics = set(_constants(gen_ai_metrics).values())
    attributes = {*_constants(gen_ai_attributes).values(), error_attributes.ERROR_TYPE}

    assert set(OTLP_NAMES.values()) <= metrics
    for page, name in OTLP_NAMES.items():
        assert page.removesuffix("_seconds") == name.replace(".", "_")
    for label, attribute in OTLP_ATTRIBUTES.items():
        assert label == attribute.replace(".", "_")
        assert attribute in attributes


def test_own_attributes_are_under_one_root_and_distinct() -> None:
    """Nothing of ours can collide with a name the conventions add later."""
    names = list(_constants(EgretAttribute).values())

    assert all(name.startswith("egret.") for name in names)
    assert len(names) == len(set(names))


def test_metric_names_are_what_dashboards_query() -> None:
    """A renamed metric breaks somebody's alert: this list changes only on purpose."""
    assert sorted(_constants(MetricName).values()) == [
        "egret_access_log_ignored",
        "egret_access_log_unmatched",
        "egret_admin_requests",
        "egret_admin_sign_ins_refused",
        "egret_alert_messages",
        "egret_attached",
        "egret_attached_timestamp_seconds",
        "egret_authorizations",
        "egret_body_bytes",
        "egret_budget_remaining_ratio",
        "egret_budget_thresholds_passed",
        "egret_build_info",
        "egret_certificate_expires_timestamp_seconds",
        "egret_cost_incomplete",
        "egret_cost_unknown",
        "egret_cost_usd",
        "egret_database_connections",
        "egret_database_connections_limit",
        "egret_ends_unnamed",
        "egret_event_loop_lag_seconds",
        "egret_event_loop_tasks",
        "egret_exchange_faults",
        "egret_exchanges",
        "egret_gc_pause_seconds",
        "egret_guardrail_errors",
        "egret_guardrail_exemptions",
        "egret_guardrail_findings",
        "egret_guardrail_seconds",
        "egret_guardrail_verdicts",
        "egret_guardrail_volume_warnings",
        "egret_in_flight_exchanges",
        "egret_installation_applied_timestamp_seconds",
        "egret_installation_checked_timestamp_seconds",
        "egret_installation_drift",
        "egret_key_cache_entries",
        "egret_key_cache_oversized",
        "egret_key_changes_heard",
        "egret_key_loads",
        "egret_key_notifications_connected",
        "egret_known_message_bytes",
        "egret_known_message_evictions",
        "egret_known_messages",
        "egret_limit_corrections_waiting",
        "egret_limit_decisions",
        "egret_limit_refusals",
        "egret_limits_local",
        "egret_message_table_bytes",
        "egret_metric_pushes",
        "egret_output_tokens_per_second",
        "egret_overhead_seconds",
        "egret_phase_seconds",
        "egret_policies_loaded_timestamp_seconds",
        "egret_policies_read_timestamp_seconds",
        "egret_policy_reload_failures",
        "egret_policy_version",
        "egret_remote_breaker_state",
        "egret_remote_events",
        "egret_revocation_seconds",
        "egret_shared_cache_operations",
        "egret_shared_messages",
        "egret_spans",
        "egret_unscanned",
        "egret_usage_duplicates",
        "egret_usage_estimated",
        "egret_usage_lost",
        "egret_usage_orphaned_verdicts",
        "egret_usage_records",
        "egret_usage_records_refused",
        "egret_usage_requests",
        "egret_usage_spool_bytes",
        "egret_usage_spool_oldest_seconds",
        "egret_verdicts_unheard",
        "egret_worker_deaths",
        "egret_workers_running",
        "egret_workers_wanted",
        "gen_ai_client_token_usage",
        "gen_ai_server_request_duration_seconds",
        "gen_ai_server_time_per_output_token_seconds",
        "gen_ai_server_time_to_first_token_seconds",
    ]


def test_metrics_of_answers_are_those_of_the_conventions() -> None:
    """In Prometheus's spelling: dots become underscores, seconds are part of the name."""
    conventions = {
        value.replace(".", "_")
        for name, value in vars(gen_ai_metrics).items()
        if name.startswith("GEN_AI_") and isinstance(value, str)
    }
    ours = [name for name in _constants(MetricName).values() if name.startswith("gen_ai_")]

    assert {name.removesuffix("_seconds") for name in ours} <= conventions


@pytest.mark.parametrize("owner", [SpanName, SemconvAttribute, EgretAttribute, LogEvent])
def test_every_name_is_explained_in_the_documentation(owner: type) -> None:
    """A reader who meets a name on a dashboard finds what it means."""
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")

    assert [name for name in _constants(owner).values() if f"`{name}" not in page] == []
