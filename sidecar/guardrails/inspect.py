"""Runs the guardrails of a policy over a request and gives each its outcome.

Local ones come first, in one pass of some ten microseconds: what they block never leaves for a
third party. Remote ones then run concurrently, and the first block cancels the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from sidecar.domain.finding import Finding, GuardrailResult, Verdict
from sidecar.domain.policy import Action, Guardrail, Mode, OnError
from sidecar.domain.subject import Subject
from sidecar.guardrails.local_scan import Failed, Found
from sidecar.guardrails.overlaps import disjoint
from sidecar.guardrails.remote import (
    InspectionSubject,
    RemoteCheckError,
    RemoteChecks,
    RemoteRequest,
    verdict_of,
)
from sidecar.guardrails.rules.catalogue import rank_of
from sidecar.guardrails.snapshot import EffectivePolicy

__all__ = ["InspectionSubject", "Inspector", "Results"]

Results = tuple[GuardrailResult, ...]

_LOCAL_VERDICTS: Final = {
    Action.BLOCK: Verdict.BLOCK,
    Action.REDACT: Verdict.REDACT,
    Action.FLAG: Verdict.FLAG,
}
_CLOSING: Final = frozenset({Verdict.BLOCK, Verdict.ERROR_CLOSED, Verdict.TIMEOUT_CLOSED})


class _DecidedError(Exception):
    """Ends the group of remote checks: a block is known, nothing else can change it."""


class Inspector:
    """Judges requests. `clock` is monotonic seconds."""

    def __init__(self, *, remote: RemoteChecks, clock: Callable[[], float]) -> None:
        self._remote = remote
        self._clock = clock

    def inspect(
        self, policy: EffectivePolicy, subject: Subject, *, about: InspectionSubject
    ) -> Results | Awaitable[Results]:
        """Return one result a guardrail that judges input, in the policy's order.

        At once where nothing remote is to be asked, or nothing it could say matters any more;
        else something to await, whose cancellation cancels every remote check.
        The findings of all results that redact are disjoint.
        """
        local = self._inspect_local(policy, subject)
        if not policy.remote:
            return _ordered(policy, local)
        if any(_decides(result) for result in local.values()) or not subject.parts:
            at = self._clock()
            verdict = Verdict.SKIPPED if subject.parts else Verdict.PASS
            rest = {one.name: _result(one, verdict, at=at) for one in policy.remote}
            return _ordered(policy, local | rest)
        return self._with_remote(policy, local, (subject, about))

    def _inspect_local(
        self, policy: EffectivePolicy, subject: Subject
    ) -> dict[str, GuardrailResult]:
        """Judge in one pass; every local guardrail has the pass's time."""
        started_at = self._clock()
        outcomes = policy.local.scan(subject.parts)
        seconds = self._clock() - started_at
        return {
            guardrail.name: _local_result(guardrail, outcome, (started_at, seconds))
            for guardrail, outcome in zip(policy.local.guardrails, outcomes, strict=True)
        }

    async def _with_remote(
        self,
        policy: EffectivePolicy,
        local: Mapping[str, GuardrailResult],
        asked: tuple[Subject, InspectionSubject],
    ) -> Results:
        started_at = self._clock()
        remote: dict[str, GuardrailResult] = {}
        decided = False
        try:
            async with asyncio.TaskGroup() as group:
                for guardrail in policy.remote:
                    request = RemoteRequest(guardrail, *asked)
                    group.create_task(self._check_or_end(request, remote))
        except* _DecidedError:
            decided = True
        for guardrail in policy.remote:
            if guardrail.name not in remote:
                # Without a decision nobody may have cancelled it: an error, never a pass.
                verdict = Verdict.SKIPPED if decided else _error(guardrail)
                remote[guardrail.name] = _result(
                    guardrail,
                    verdict,
                    at=started_at,
                    seconds=self._clock() - started_at,
                    error_type=None if decided else "cancelled",
                )
        return _ordered(policy, {**local, **remote})

    async def _check_or_end(
        self, request: RemoteRequest, results: dict[str, GuardrailResult]
    ) -> None:
        result = await self._check(request)
        results[request.guardrail.name] = result
        if _decides(result):
            raise _DecidedError

    async def _check(self, request: RemoteRequest) -> GuardrailResult:
        guardrail, at = request.guardrail, self._clock()
        findings: tuple[Finding, ...] = ()
        error_type: str | None = None
        limit = asyncio.timeout(guardrail.timeout_seconds)
        try:
            async with limit:
                answer = await self._remote.check(request)
            verdict, findings = verdict_of(answer, guardrail.action), answer.findings
        except RemoteCheckError as error:
            verdict, error_type = _error(guardrail), error.error_type
        except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
            expired = limit.expired()
            verdict = _timeout(guardrail) if expired else _error(guardrail)
            error_type = "timeout" if expired else type(error).__name__
        result = _result(guardrail, verdict, at=at, error_type=error_type)
        return replace(
            result,
            findings=disjoint(findings, rank=lambda one: rank_of(guardrail, one.type)),
            seconds=self._clock() - at,
        )


def _local_result(
    guardrail: Guardrail, outcome: Found | Failed, span: tuple[float, float]
) -> GuardrailResult:
    at, seconds = span
    match outcome:
        case Found(findings=()):
            return GuardrailResult(guardrail, Verdict.PASS, (), at, seconds)
        case Found(findings=findings):
            verdict = _LOCAL_VERDICTS[guardrail.action]
            return GuardrailResult(guardrail, verdict, findings, at, seconds)
        case Failed(error_type=error_type):
            verdict = _error(guardrail)
            return GuardrailResult(guardrail, verdict, (), at, seconds, error_type)


def _result(
    guardrail: Guardrail,
    verdict: Verdict,
    *,
    at: float,
    seconds: float = 0.0,
    error_type: str | None = None,
) -> GuardrailResult:
    return GuardrailResult(guardrail, verdict, (), at, seconds, error_type)


def _decides(result: GuardrailResult) -> bool:
    """Tell whether the request is refused whatever else comes."""
    return result.guardrail.mode is Mode.ENFORCE and result.verdict in _CLOSING


def _error(guardrail: Guardrail) -> Verdict:
    return Verdict.ERROR_OPEN if guardrail.on_error is OnError.ALLOW else Verdict.ERROR_CLOSED


def _timeout(guardrail: Guardrail) -> Verdict:
    return Verdict.TIMEOUT_OPEN if guardrail.on_error is OnError.ALLOW else Verdict.TIMEOUT_CLOSED


def _ordered(policy: EffectivePolicy, results: Mapping[str, GuardrailResult]) -> Results:
    """Return the results in the policy's order, what is to be redacted made disjoint."""
    ordered = tuple(results[one.name] for one in policy.guardrails if one.name in results)
    redacting = [result for result in ordered if _redacts(result)]
    if len(redacting) < 2:  # noqa: PLR2004 - one guardrail's own findings are disjoint already
        return ordered
    guardrails = {result.guardrail.name: result.guardrail for result in redacting}
    findings = disjoint(
        (finding for result in redacting for finding in result.findings),
        rank=lambda one: rank_of(guardrails[one.guardrail], one.type),
    )
    return tuple(
        replace(
            result,
            findings=tuple(one for one in findings if one.guardrail == result.guardrail.name),
        )
        if _redacts(result)
        else result
        for result in ordered
    )


def _redacts(result: GuardrailResult) -> bool:
    return result.verdict is Verdict.REDACT and result.guardrail.mode is Mode.ENFORCE
