"""Exchange reports for telemetry tests: one whole exchange, each test changes what it is about."""

from __future__ import annotations

from typing import Any, Final

from sidecar.domain.finding import (
    Failure,
    FailureKind,
    Finding,
    GuardrailResult,
    NotedEvent,
    RemoteEvent,
    Verdict,
)
from sidecar.domain.guardrail_settings import (
    DeniedPattern,
    DeniedPatternsSettings,
    PiiSettings,
    RemoteEndpoint,
    SecretsSettings,
    WebhookSettings,
)
from sidecar.domain.policy import Action, Guardrail, Mode, OnError, Policy, UnscannedAction
from sidecar.domain.principal import Principal
from sidecar.domain.report import CacheTier, ExchangeOutcome, ExchangeReport
from sidecar.domain.subject import Dialect, Operation, Route

TRACE_ID: Final = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID: Final = "b7ad6b7169203331"
SAMPLED: Final = f"00-{TRACE_ID}-{PARENT_ID}-01"
UNSAMPLED: Final = f"00-{TRACE_ID}-{PARENT_ID}-00"

WALL_NS: Final = 1_700_000_000_000_000_000
STARTED_AT: Final = 100.0

PII: Final = Guardrail(name="pii", settings=PiiSettings(), action=Action.REDACT)
SECRETS: Final = Guardrail(name="keys", settings=SecretsSettings(), mode=Mode.SHADOW)
WEBHOOK: Final = Guardrail(
    name="tone",
    settings=WebhookSettings(
        RemoteEndpoint("http://tone.test/", headers=(("authorization", "hook-secret"),))
    ),
    action=Action.FLAG,
    on_error=OnError.ALLOW,
)
PATTERNS: Final = Guardrail(
    name="codenames",
    settings=DeniedPatternsSettings((DeniedPattern(name="project", regex="bluebird"),)),
)

POLICY: Final = Policy(
    name="standard",
    version=7,
    guardrails=(PII, SECRETS, WEBHOOK),
    unscanned=UnscannedAction.FLAG,
)
PRINCIPAL: Final = Principal(
    key_id="k1a2b3c4d5e6",
    team_id="t-1",
    team_name="search",
    organization_id="o-1",
    organization_name="acme",
)
CHAT: Final = Route(dialect=Dialect.OPENAI, operation=Operation.CHAT, has_body=True)


def timings(overhead_seconds: float = 0.004) -> dict[str, Any]:
    """Return the times of an exchange of 10 ms, most of it a slow upload."""
    return {
        "wall_ns": WALL_NS,
        "started_at": STARTED_AT,
        "seconds": 0.010,
        "overhead_seconds": overhead_seconds,
        "authorize": (STARTED_AT + 0.0005, 0.0002),
        "read": (STARTED_AT + 0.006, 0.0004),
        "guardrails": (STARTED_AT + 0.0065, 0.003),
    }


def results() -> tuple[GuardrailResult, ...]:
    """Return one redaction, one shadow block and one webhook that failed open."""
    return (
        GuardrailResult(
            guardrail=PII,
            verdict=Verdict.REDACT,
            findings=(
                Finding(guardrail="pii", type="EMAIL", part=0, start=3, end=9),
                Finding(guardrail="pii", type="EMAIL", part=1, start=0, end=6),
                Finding(guardrail="pii", type="IBAN", part=1, start=7, end=9),
            ),
            started_at=STARTED_AT + 0.0065,
            seconds=0.0004,
            score=0.75,
        ),
        GuardrailResult(
            guardrail=SECRETS,
            verdict=Verdict.BLOCK,
            findings=(Finding(guardrail="keys", type="AWS_KEY", part=0, start=0, end=20),),
            started_at=STARTED_AT + 0.0065,
            seconds=0.0004,
        ),
        GuardrailResult(
            guardrail=WEBHOOK,
            verdict=Verdict.ERROR_OPEN,
            findings=(),
            started_at=STARTED_AT + 0.0065,
            seconds=0.003,
            failure=Failure(FailureKind.ERROR, "ClientConnectorError"),
            events=(
                NotedEvent(RemoteEvent.RETRY, STARTED_AT + 0.0075),
                NotedEvent(RemoteEvent.HEDGE, STARTED_AT + 0.0085),
            ),
        ),
    )


def redacted_report() -> ExchangeReport:
    """Return an exchange whose request went on with an address taken out."""
    return ExchangeReport(
        request_id="6f1d2c3b-0000-4000-8000-000000000001",
        outcome=ExchangeOutcome.REDACTED,
        **timings(),
        traceparent=SAMPLED,
        route=CHAT,
        method="POST",
        model="gpt-4o-mini",
        principal=PRINCIPAL,
        policy=POLICY,
        results=results(),
        cache_tier=CacheTier.L1,
        body_bytes=2048,
        processing_modes=("FULL_DUPLEX_STREAMED",),
    )
