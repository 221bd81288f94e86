"""Guardrails of what a program reads of an answer, and what comes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sidecar.dialects.answer_structure import AnswerPiece
from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.local_guardrails import JsonSchemaSettings
from sidecar.domain.policy import Action, Guardrail, OnError, Stage
from sidecar.guardrails.json_schema.check import JsonSchemaCheck, json_schema_check
from sidecar.guardrails.outcomes import Failed, Outcome
from sidecar.guardrails.slices import Steps


@dataclass(frozen=True, slots=True)
class Structured:
    """A guardrail and its check."""

    guardrail: Guardrail
    check: JsonSchemaCheck = field(repr=False, compare=False)


def structured_of(guardrails: Iterable[Guardrail]) -> tuple[Structured, ...]:
    """Return those of *guardrails* that judge structure, ready to run."""
    return tuple(
        Structured(one, json_schema_check(one.settings))
        for one in guardrails
        if isinstance(one.settings, JsonSchemaSettings)
    )


def judge_pieces(
    structured: Iterable[Structured],
    read: Sequence[AnswerPiece] | Failed,
    *,
    clock: Callable[[], float],
) -> Steps[tuple[GuardrailResult, ...]]:
    """Return one result a guardrail. What cannot be read has the direction of `on_error`."""
    results: list[GuardrailResult] = []
    for one in structured:
        began = clock()
        outcome = read if isinstance(read, Failed) else (yield from _judged(one, read))
        results.append(_result(one.guardrail, outcome, (began, clock() - began)))
    return tuple(results)


def _judged(one: Structured, pieces: Sequence[AnswerPiece]) -> Steps[Outcome]:
    try:
        return (yield from one.check.judge(one.guardrail.name, pieces))
    except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
        return Failed(type(error).__name__)


def _result(guardrail: Guardrail, outcome: Outcome, span: tuple[float, float]) -> GuardrailResult:
    began, seconds = span
    if isinstance(outcome, Failed):
        opens = guardrail.on_error is OnError.ALLOW
        verdict = Verdict.ERROR_OPEN if opens else Verdict.ERROR_CLOSED
        error = outcome.error_type
        return GuardrailResult(guardrail, verdict, (), began, seconds, error, stage=Stage.OUTPUT)
    found = Verdict.FLAG if guardrail.action is Action.FLAG else Verdict.BLOCK
    verdict = found if outcome.findings else Verdict.PASS
    return GuardrailResult(
        guardrail, verdict, outcome.findings, began, seconds, stage=Stage.OUTPUT
    )
