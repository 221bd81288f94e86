"""Findings of guardrails, their cost, and requests that they let pass on errors."""

from __future__ import annotations

from typing import Final

from dashboards.board import (
    EGRET,
    INSTANCE,
    Board,
    Kind,
    Panel,
    Query,
    Row,
    Unit,
    Variable,
    quantile,
    rate,
)

_GUARDRAIL: Final = f'guardrail=~"$guardrail", {EGRET}'
_VERDICTS: Final = "egret_guardrail_verdicts_total"

_VERDICT_ROW: Final = Row(
    "Verdicts",
    (
        Panel(
            title="Verdicts",
            description="Of guardrails in enforce. Only `pass` is a pass.",
            queries=(
                Query(rate(_VERDICTS, "verdict", f'mode="enforce", {_GUARDRAIL}'), "{{verdict}}"),
            ),
            kind=Kind.STACKED,
        ),
        Panel(
            title="Found, by guardrail",
            description=(
                "Verdicts in enforce that changed, refused or flagged a request or an answer."
            ),
            queries=(
                Query(
                    rate(
                        _VERDICTS,
                        "guardrail, verdict",
                        f'mode="enforce", verdict=~"block|redact|flag", {_GUARDRAIL}',
                    ),
                    "{{guardrail}} {{verdict}}",
                ),
            ),
        ),
        Panel(
            title="What shadow would have done",
            description=(
                "Verdicts in shadow, without effect. Look here before you promote a guardrail."
            ),
            queries=(
                Query(
                    rate(
                        _VERDICTS,
                        "guardrail, verdict",
                        f'mode="shadow", verdict!="pass", {_GUARDRAIL}',
                    ),
                    "{{guardrail}} {{verdict}}",
                ),
            ),
        ),
    ),
)

_VOLUME_ROW: Final = Row(
    "Volume",
    (
        Panel(
            title="Found, by type and role",
            description=(
                "Values in enforce. A type that is suddenly frequent, or in a role where it makes "
                "no sense, may be a wrong rule: `egret guardrails audit`."
            ),
            queries=(
                Query(
                    rate(
                        "egret_guardrail_findings_total",
                        "finding_type, role",
                        f'mode="enforce", {_GUARDRAIL}',
                    ),
                    "{{finding_type}} {{role}}",
                ),
            ),
            width=24,
        ),
    ),
)

_OPEN_ROW: Final = Row(
    "Not judged",
    (
        Panel(
            title="Could not tell",
            description=(
                "Errors and timeouts: `_open` passed by the policy's `on_error`, `_closed` "
                "was refused."
            ),
            queries=(
                Query(
                    rate(
                        _VERDICTS,
                        "guardrail, verdict",
                        f'verdict=~"error_.*|timeout_.*", {_GUARDRAIL}',
                    ),
                    "{{guardrail}} {{verdict}}",
                ),
            ),
        ),
        Panel(
            title="What was wrong",
            description="Types of errors; docs/guardrails.md explains each.",
            queries=(
                Query(
                    rate("egret_guardrail_errors_total", "guardrail, error_type", _GUARDRAIL),
                    "{{guardrail}} {{error_type}}",
                ),
            ),
        ),
        Panel(
            title="Content that could not be read",
            description="By reason and by the policy's action. `allow` passed unchecked.",
            queries=(
                Query(rate("egret_unscanned_total", "reason, action"), "{{reason}} {{action}}"),
            ),
        ),
    ),
)

_TIME_ROW: Final = Row(
    "Time",
    (
        Panel(
            title="Seconds of a guardrail, p99",
            description="They run concurrently: the longest decides.",
            queries=(
                Query(
                    quantile(0.99, "egret_guardrail_seconds", "guardrail", _GUARDRAIL),
                    "{{guardrail}}",
                ),
            ),
            unit=Unit.SECONDS,
            width=12,
        ),
        Panel(
            title="All guardrails of an exchange",
            description="The whole step, which ends with the slowest.",
            queries=tuple(
                Query(
                    quantile(share, "egret_phase_seconds", where=f'phase="guardrails", {EGRET}'),
                    name,
                )
                for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
            unit=Unit.SECONDS,
            width=12,
        ),
    ),
)

GUARDRAILS: Final = Board(
    "guardrails",
    "Egret: guardrails",
    "Findings of guardrails, their cost, and requests that they let pass on errors.",
    (_VERDICT_ROW, _VOLUME_ROW, _OPEN_ROW, _TIME_ROW),
    (
        INSTANCE,
        Variable(
            "guardrail", "Guardrail", "label_values(egret_guardrail_verdicts_total, guardrail)"
        ),
    ),
)
