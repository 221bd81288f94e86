"""Names of spans, attributes, metrics and labels."""

from __future__ import annotations

from typing import Final

SERVICE_NAME: Final = "egret"


class SpanName:
    """Names of spans; a guardrail's own name follows `GUARDRAIL` after a space."""

    EXCHANGE: Final = "egret.exchange"
    AUTHORIZE: Final = "authorize"
    READ: Final = "read"
    GUARDRAIL: Final = "guardrail"


class SemconvAttribute:
    """Attributes of the OpenTelemetry semantic conventions that Egret sets."""

    GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
    GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
    GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
    GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
    ERROR_TYPE: Final = "error.type"
    HTTP_REQUEST_METHOD: Final = "http.request.method"
    HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
    SERVICE_NAME: Final = "service.name"
    SERVICE_VERSION: Final = "service.version"
    SERVICE_INSTANCE_ID: Final = "service.instance.id"


class EgretAttribute:
    """Attributes of our own; the conventions have none for guardrails or keys."""

    REQUEST_ID: Final = "egret.request.id"
    BODY_BYTES: Final = "egret.request.body_bytes"
    PROCESSING_MODES: Final = "egret.processing_modes"
    OVERHEAD_SECONDS: Final = "egret.overhead_seconds"
    VERDICT: Final = "egret.verdict"
    KEPT: Final = "egret.trace.kept"
    REFUSAL_KIND: Final = "egret.refusal.kind"
    KEY_ID: Final = "egret.key.id"
    TEAM: Final = "egret.team"
    ORGANIZATION: Final = "egret.organization"
    POLICY_NAME: Final = "egret.policy.name"
    POLICY_VERSION: Final = "egret.policy.version"
    CACHE_TIER: Final = "egret.cache.tier"
    UNSCANNED_REASONS: Final = "egret.unscanned.reasons"
    UNSCANNED_ACTION: Final = "egret.unscanned.action"
    GUARDRAIL_NAME: Final = "egret.guardrail.name"
    GUARDRAIL_TYPE: Final = "egret.guardrail.type"
    GUARDRAIL_VERDICT: Final = "egret.guardrail.verdict"
    GUARDRAIL_ACTION: Final = "egret.guardrail.action"
    GUARDRAIL_MODE: Final = "egret.guardrail.mode"
    GUARDRAIL_STAGE: Final = "egret.guardrail.stage"
    GUARDRAIL_FINDINGS: Final = "egret.guardrail.findings"
    GUARDRAIL_SCORE: Final = "egret.guardrail.score"
    GUARDRAIL_FINDING_TYPES: Final = "egret.guardrail.finding_types"
    GUARDRAIL_FINDING_PLACES: Final = "egret.guardrail.finding_places"


class MetricName:
    """Prometheus names, without the `_total`, `_bucket`, `_sum`, `_count` of the exposition."""

    EXCHANGES: Final = "egret_exchanges"
    OVERHEAD_SECONDS: Final = "egret_overhead_seconds"
    PHASE_SECONDS: Final = "egret_phase_seconds"
    AUTHORIZATIONS: Final = "egret_authorizations"
    GUARDRAIL_VERDICTS: Final = "egret_guardrail_verdicts"
    GUARDRAIL_SECONDS: Final = "egret_guardrail_seconds"
    GUARDRAIL_EXEMPTIONS: Final = "egret_guardrail_exemptions"
    GUARDRAIL_FINDINGS: Final = "egret_guardrail_findings"
    GUARDRAIL_VOLUME_WARNINGS: Final = "egret_guardrail_volume_warnings"
    REMOTE_EVENTS: Final = "egret_remote_events"
    GUARDRAIL_ERRORS: Final = "egret_guardrail_errors"
    REMOTE_BREAKER_STATE: Final = "egret_remote_breaker_state"
    LIMIT_REFUSALS: Final = "egret_limit_refusals"
    LIMIT_DECISIONS: Final = "egret_limit_decisions"
    LIMITS_LOCAL: Final = "egret_limits_local"
    LIMIT_CORRECTIONS_WAITING: Final = "egret_limit_corrections_waiting"
    BUDGET_THRESHOLDS: Final = "egret_budget_thresholds_passed"
    BUDGET_REMAINING_RATIO: Final = "egret_budget_remaining_ratio"
    UNSCANNED: Final = "egret_unscanned"
    IN_FLIGHT_EXCHANGES: Final = "egret_in_flight_exchanges"
    BODY_BYTES: Final = "egret_body_bytes"
    EXCHANGE_FAULTS: Final = "egret_exchange_faults"
    POLICY_VERSION: Final = "egret_policy_version"
    POLICIES_READ: Final = "egret_policies_read_timestamp_seconds"
    POLICIES_LOADED: Final = "egret_policies_loaded_timestamp_seconds"
    POLICY_RELOAD_FAILURES: Final = "egret_policy_reload_failures"
    KEY_CACHE_ENTRIES: Final = "egret_key_cache_entries"
    KEY_LOADS: Final = "egret_key_loads"
    KEY_CACHE_OVERSIZED: Final = "egret_key_cache_oversized"
    SHARED_CACHE_OPERATIONS: Final = "egret_shared_cache_operations"
    REVOCATION_SECONDS: Final = "egret_revocation_seconds"
    KEY_NOTIFICATIONS_CONNECTED: Final = "egret_key_notifications_connected"
    KEY_CHANGES_HEARD: Final = "egret_key_changes_heard"
    """Former name of the one above, for one more version; so are the two below."""
    TOKEN_USAGE: Final = "gen_ai_client_token_usage"  # noqa: S105 - no password
    REQUEST_DURATION: Final = "gen_ai_server_request_duration_seconds"
    TIME_TO_FIRST_TOKEN: Final = "gen_ai_server_time_to_first_token_seconds"  # noqa: S105 - no password
    TIME_PER_OUTPUT_TOKEN: Final = "gen_ai_server_time_per_output_token_seconds"  # noqa: S105 - no password
    OUTPUT_TOKENS_PER_SECOND: Final = "egret_output_tokens_per_second"
    USAGE_RECORDS: Final = "egret_usage_records"
    USAGE_RECORDS_REFUSED: Final = "egret_usage_records_refused"
    USAGE_DUPLICATES: Final = "egret_usage_duplicates"
    USAGE_REQUESTS: Final = "egret_usage_requests"
    USAGE_ESTIMATED: Final = "egret_usage_estimated"
    ACCESS_LOG_IGNORED: Final = "egret_access_log_ignored"
    USAGE_LOST: Final = "egret_usage_lost"
    ACCESS_LOG_UNMATCHED: Final = "egret_access_log_unmatched"
    ENDS_UNNAMED: Final = "egret_ends_unnamed"
    USAGE_ORPHANED_VERDICTS: Final = "egret_usage_orphaned_verdicts"
    VERDICTS_UNHEARD: Final = "egret_verdicts_unheard"
    USAGE_SPOOL_BYTES: Final = "egret_usage_spool_bytes"
    USAGE_SPOOL_OLDEST_SECONDS: Final = "egret_usage_spool_oldest_seconds"
    COST_USD: Final = "egret_cost_usd"
    COST_UNKNOWN: Final = "egret_cost_unknown"
    COST_INCOMPLETE: Final = "egret_cost_incomplete"
    SPANS: Final = "egret_spans"
    LOOP_LAG_SECONDS: Final = "egret_event_loop_lag_seconds"
    EVENT_LOOP_TASKS: Final = "egret_event_loop_tasks"
    KNOWN_MESSAGES: Final = "egret_known_messages"
    KNOWN_MESSAGE_BYTES: Final = "egret_known_message_bytes"
    KNOWN_MESSAGE_EVICTIONS: Final = "egret_known_message_evictions"
    MESSAGE_TABLE_BYTES: Final = "egret_message_table_bytes"
    SHARED_MESSAGES: Final = "egret_shared_messages"
    GC_PAUSE_SECONDS: Final = "egret_gc_pause_seconds"
    DATABASE_CONNECTIONS: Final = "egret_database_connections"
    DATABASE_CONNECTIONS_LIMIT: Final = "egret_database_connections_limit"
    ATTACHED: Final = "egret_attached"
    ATTACHED_TIMESTAMP: Final = "egret_attached_timestamp_seconds"
    INSTALLATION_DRIFT: Final = "egret_installation_drift"
    INSTALLATION_CHECKED: Final = "egret_installation_checked_timestamp_seconds"
    INSTALLATION_APPLIED: Final = "egret_installation_applied_timestamp_seconds"
    METRIC_PUSHES: Final = "egret_metric_pushes"
    WORKERS_WANTED: Final = "egret_workers_wanted"
    WORKERS_RUNNING: Final = "egret_workers_running"
    WORKER_DEATHS: Final = "egret_worker_deaths"
    CERTIFICATE_EXPIRES: Final = "egret_certificate_expires_timestamp_seconds"
    BUILD: Final = "egret_build_info"
    ADMIN_REQUESTS: Final = "egret_admin_requests"
    ADMIN_SIGN_INS_REFUSED: Final = "egret_admin_sign_ins_refused"
    ALERT_MESSAGES: Final = "egret_alert_messages"


OTLP_NAMES: Final = {
    MetricName.TOKEN_USAGE: "gen_ai.client.token.usage",
    MetricName.REQUEST_DURATION: "gen_ai.server.request.duration",
    MetricName.TIME_TO_FIRST_TOKEN: "gen_ai.server.time_to_first_token",
    MetricName.TIME_PER_OUTPUT_TOKEN: "gen_ai.server.time_per_output_token",
}
"""Metrics of the conventions, as they are called where dots are allowed."""

OTLP_ATTRIBUTES: Final = {
    "gen_ai_operation_name": SemconvAttribute.GEN_AI_OPERATION_NAME,
    "gen_ai_provider_name": SemconvAttribute.GEN_AI_PROVIDER_NAME,
    "gen_ai_request_model": SemconvAttribute.GEN_AI_REQUEST_MODEL,
    "gen_ai_token_type": "gen_ai.token.type",
    "error_type": SemconvAttribute.ERROR_TYPE,
}

WITH_EXEMPLARS: Final = (
    MetricName.OVERHEAD_SECONDS,
    MetricName.PHASE_SECONDS,
    MetricName.GUARDRAIL_SECONDS,
    MetricName.REQUEST_DURATION,
    MetricName.TIME_TO_FIRST_TOKEN,
)
"""Histograms whose buckets lead to a trace."""


class LogEvent:
    """Event names of log lines written from this package."""

    EXCHANGE_COMPLETED: Final = "exchange.completed"
    EXCHANGE_FAULT: Final = "exchange.fault"
    SLOW_REQUEST: Final = "slow_request"
    TELEMETRY_FAILED: Final = "telemetry.failed"
    BREAKER_OPENED: Final = "guardrails.breaker_opened"
    BREAKER_CLOSED: Final = "guardrails.breaker_closed"
    VOLUME: Final = "guardrails.volume"
    BUDGET_THRESHOLD: Final = "budget.threshold"
    ADJUSTMENTS_LOST: Final = "limits.adjustments_lost"
    SCRAPE_FAILED: Final = "metrics.scrape_failed"
    METRICS_NO_ROOM: Final = "metrics.no_room"
    METRICS_DAMAGED: Final = "metrics.damaged"
    PUSH_FAILED: Final = "metrics.push_failed"
    LIBRARY: Final = "library.log"
    ADMIN_STARTED: Final = "admin.started"
    ADMIN_PROXIES_UNSET: Final = "admin.proxies_unset"
    ADMIN_LOGIN: Final = "admin.login"
    ADMIN_LOGIN_REFUSED: Final = "admin.login_refused"
    ADMIN_FAILED: Final = "admin.failed"


OVERFLOW: Final = "other"
"""Stands for every value beyond a label's cap, and for client text that is not shown."""

NONE: Final = "none"
"""The value of a label that does not apply, since Prometheus has no absent label."""
