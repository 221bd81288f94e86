"""Records of usage for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from sidecar.domain.usage import (
    AnswerEnd,
    DecisionKind,
    ExchangeEnded,
    JudgedRequest,
    TokenCounts,
    UsageRecord,
)

MOMENT: Final = datetime(2026, 11, 25, 9, 30, 15, 123456, tzinfo=UTC)


def judged(number: int = 1, **changes: object) -> JudgedRequest:
    """Return a request that was let through."""
    request = JudgedRequest(
        request_id=f"request-{number}",
        occurred_at=MOMENT,
        key_id="AAAAAAAAAAA1",
        team_id="team_1",
        organization_id="org_1",
        decision=DecisionKind.ALLOW,
        operation="chat",
        provider="openai",
        model="gpt-4o",
    )
    return replace(request, **changes)


def ended(number: int = 1, **changes: object) -> ExchangeEnded:
    """Return how a request ended that was answered."""
    end = ExchangeEnded(
        request=judged(number),
        status=200,
        end=AnswerEnd.COMPLETED,
        tokens=TokenCounts(input=100, output=20),
        response_model="gpt-4o-2024-08-06",
        latency_seconds=0.25,
        first_token_seconds=0.125,
        output_seconds=0.1,
    )
    return replace(end, **changes)


def record(number: int = 1, **changes: object) -> UsageRecord:
    """Return what is kept of a request."""
    kept = UsageRecord(
        request=judged(number),
        status=200,
        end=AnswerEnd.COMPLETED,
        tokens=TokenCounts(input=100, output=20),
        is_estimated=False,
        response_model="gpt-4o-2024-08-06",
        latency_seconds=0.25,
        first_token_seconds=0.125,
    )
    return replace(kept, **changes)
