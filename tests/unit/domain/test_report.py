"""The record of one finished request, as telemetry reads it."""

from __future__ import annotations

from msgspec import structs

from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.policy import UnscannedAction
from tests.support.reports import PII, STARTED_AT, redacted_report, results


def test_a_guardrail_has_its_own_time_or_that_of_its_pass() -> None:
    """All local guardrails of a request share one pass."""
    report = redacted_report()
    passed = GuardrailResult(PII, Verdict.PASS)

    assert report.step_of(results()[2]) == (STARTED_AT + 0.0065, 0.003)
    assert report.step_of(passed) == report.guardrails
    assert structs.replace(report, guardrails=None).step_of(passed) == (STARTED_AT, 0.0)


def test_without_a_policy_unread_content_is_blocked() -> None:
    """As by a policy that does not mention it."""
    report = redacted_report()

    assert report.unscanned_action is UnscannedAction.FLAG
    assert structs.replace(report, policy=None).unscanned_action is UnscannedAction.BLOCK
