from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.domain.finding import Failure, FailureKind, GuardrailResult, Verdict
from sidecar.domain.policy import Mode
from sidecar.domain.report import Clocks, ExchangeOutcome
from sidecar.pipeline.record import RequestRecord
from tests.support.reports import PII, PRINCIPAL, SECRETS, WEBHOOK

CLOCKS = Clocks(monotonic=lambda: 0.0, wall=lambda: 0.0)


@pytest.mark.parametrize("verdict", [Verdict.TIMEOUT_OPEN, Verdict.TIMEOUT_CLOSED])
def test_a_failure_in_shadow_is_not_in_the_account_of_a_request(verdict: Verdict) -> None:
    """Nothing passed unchecked by it; its findings, and failures in enforce, are."""
    timeout = Failure(FailureKind.TIMEOUT, "TimeoutError")
    assert SECRETS.mode is Mode.SHADOW
    record = RequestRecord(
        clocks=CLOCKS,
        started_at=0.0,
        wall_ns=0,
        principal=PRINCIPAL,
        results=(
            GuardrailResult(SECRETS, verdict, failure=timeout),
            GuardrailResult(replace(SECRETS, name="found"), Verdict.BLOCK),
            GuardrailResult(WEBHOOK, Verdict.TIMEOUT_OPEN, failure=timeout),
            GuardrailResult(PII, Verdict.PASS),
        ),
    )

    judged = record.judged_request(ExchangeOutcome.ALLOWED, "gpt-4o")

    assert judged is not None
    assert judged.guardrails == {"found": "block", "tone": "timeout_open"}
