"""What the spans of an exchange say about it, as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.telemetry import sanitize
from sidecar.telemetry.names import EgretAttribute, SemconvAttribute
from sidecar.telemetry.report import ExchangeOutcome, ExchangeReport

AttributeValue = str | bool | int | float | Sequence[str]

MAX_FINDING_TYPES: Final = 8
MAX_PLACE_CHARACTERS: Final = 200
MAX_PROCESSING_MODES: Final = 4

_FAILED_VERDICTS: Final = frozenset(
    {Verdict.ERROR_OPEN, Verdict.ERROR_CLOSED, Verdict.TIMEOUT_OPEN, Verdict.TIMEOUT_CLOSED}
)


def exchange_attributes(report: ExchangeReport) -> dict[str, AttributeValue]:
    """Return the attributes of `egret.exchange`; `error.type` only where Egret itself failed."""
    attributes: dict[str, AttributeValue] = {
        EgretAttribute.REQUEST_ID: sanitize.request_id(report.request_id),
        EgretAttribute.VERDICT: report.outcome.value,
        EgretAttribute.CACHE_TIER: report.cache_tier.value,
        EgretAttribute.BODY_BYTES: report.body_bytes,
        EgretAttribute.OVERHEAD_SECONDS: report.timings.overhead_seconds,
    }
    _add_request(attributes, report)
    _add_owner(attributes, report)
    _add_unscanned(attributes, report)
    _add_answer(attributes, report)
    return attributes


def guardrail_attributes(result: GuardrailResult) -> dict[str, AttributeValue]:
    """Return the attributes of a guardrail's span; `error.type` only where the check failed."""
    guardrail = result.guardrail
    attributes: dict[str, AttributeValue] = {
        EgretAttribute.GUARDRAIL_NAME: sanitize.policy_text(guardrail.name),
        EgretAttribute.GUARDRAIL_TYPE: sanitize.guardrail_type(guardrail.settings),
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
    if result.verdict in _FAILED_VERDICTS:
        attributes[SemconvAttribute.ERROR_TYPE] = sanitize.word(
            result.error_type or result.verdict.value
        )
    return attributes


def _add_request(attributes: dict[str, AttributeValue], report: ExchangeReport) -> None:
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


def _add_owner(attributes: dict[str, AttributeValue], report: ExchangeReport) -> None:
    if report.principal is not None:
        attributes[EgretAttribute.KEY_ID] = report.principal.key_id
        attributes[EgretAttribute.TEAM] = sanitize.policy_text(report.principal.team_name)
        attributes[EgretAttribute.ORGANIZATION] = sanitize.policy_text(
            report.principal.organization_name
        )
    if report.policy is not None:
        attributes[EgretAttribute.POLICY_NAME] = sanitize.policy_text(report.policy.name)
        attributes[EgretAttribute.POLICY_VERSION] = report.policy.version


def _add_unscanned(attributes: dict[str, AttributeValue], report: ExchangeReport) -> None:
    if report.unscanned:
        attributes[EgretAttribute.UNSCANNED_REASONS] = tuple(
            dict.fromkeys(reason.value for reason in report.unscanned)
        )
        attributes[EgretAttribute.UNSCANNED_ACTION] = report.unscanned_action.value


def _add_answer(attributes: dict[str, AttributeValue], report: ExchangeReport) -> None:
    if report.status is not None:
        attributes[SemconvAttribute.HTTP_RESPONSE_STATUS_CODE] = report.status
    if report.error is not None:
        attributes[EgretAttribute.REFUSAL_KIND] = report.error.value
    if report.outcome is ExchangeOutcome.FAILED or (report.status or 0) >= 500:  # noqa: PLR2004 - 5xx
        kind = "unknown" if report.error is None else report.error.value
        attributes[SemconvAttribute.ERROR_TYPE] = (
            kind if report.error_type is None else sanitize.word(report.error_type)
        )
