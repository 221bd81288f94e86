"""Runs the guardrails of a policy over one request or answer, local ones and remote ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from sidecar.domain.finding import (
    Failed,
    GuardrailResult,
    NotedEvent,
    Outcome,
    RemoteEvent,
    Verdict,
)
from sidecar.domain.policy import (
    Action,
    Guardrail,
    Mode,
    OnError,
    Stage,
)
from sidecar.domain.subject import Subject
from sidecar.guardrails.cooperative import Cooperative
from sidecar.guardrails.local_scan import LocalScan, Outcomes
from sidecar.guardrails.matching.spans import disjoint
from sidecar.guardrails.registry import rank_of
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteChecks,
    RemoteRequest,
    RemoteTimeoutError,
    RequestInfo,
    verdict_of,
)

__all__ = ["GuardrailRunner", "RequestInfo", "Results"]

Results = tuple[GuardrailResult, ...]
T = TypeVar("T")

HOLD_SECONDS: Final = 0.001
"""How long one pass keeps the event loop before others have their turn."""

# An enum's members are slow to look up on Python 3.11, and these are for every guardrail.
_PASS: Final = Verdict.PASS
_REDACT: Final = Verdict.REDACT
_ENFORCE: Final = Mode.ENFORCE

_LOCAL_VERDICTS: Final = {
    Action.BLOCK: Verdict.BLOCK,
    Action.REDACT: Verdict.REDACT,
    Action.FLAG: Verdict.FLAG,
}
GRACE_SECONDS: Final = 0.1
"""How long a remote check may outlive its limit, which it keeps itself, before it is cut off."""

_CLOSING: Final = frozenset({Verdict.BLOCK, Verdict.ERROR_CLOSED, Verdict.TIMEOUT_CLOSED})


class Inspectable(Protocol):
    """The guardrails of one side of an exchange; `guardrails` has all of them in order."""

    @property
    def guardrails(self) -> tuple[Guardrail, ...]:
        """All of them, and maybe some of the other side, in the policy's order."""
        ...

    @property
    def local(self) -> LocalScan:
        """What judges within the process."""
        ...

    @property
    def remote(self) -> tuple[Guardrail, ...]:
        """Those that ask a server."""
        ...


class _DecidedError(Exception):
    """Ends the group of remote checks: a block is known, nothing else can change it."""


class GuardrailRunner:
    """Judges requests. `clock` is monotonic seconds."""

    def __init__(self, *, remote: RemoteChecks, clock: Callable[[], float]) -> None:
        self._remote = remote
        self._clock = clock
        self._turn = asyncio.Lock()

    def inspect(
        self, policy: Inspectable, subject: Subject, *, about: RequestInfo
    ) -> Results | Awaitable[Results]:
        """Return one result a guardrail that judges input, in the policy's order.

        At once where the local pass is short and nothing remote is to be asked, or nothing it
        could say matters any more; else something to await, whose cancellation cancels every
        remote check. The findings of all results that redact are disjoint.
        """
        steps, started_at = policy.local.steps(subject.parts, subject.runs), self._clock()
        outcomes = self._advance(steps, until=started_at + HOLD_SECONDS)
        if outcomes is None:
            return self._inspect_run_cooperatively(policy, steps, started_at, (subject, about))
        return self._go_on(policy, self._local_results(policy, outcomes, started_at),
                           (subject, about))  # fmt: skip

    def run_cooperatively(
        self, steps: Cooperative[tuple[T, ...]]
    ) -> tuple[T, ...] | Awaitable[tuple[T, ...]]:
        """Do all of the work now where it is short, else in turns with that of others."""
        done = self._advance(steps, until=self._clock() + HOLD_SECONDS)
        return self._finish(steps) if done is None else done

    def _advance(self, steps: Cooperative[tuple[T, ...]], *, until: float) -> tuple[T, ...] | None:
        """Work for a while; return the outcomes, or None where more is to be done."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                outcomes: tuple[T, ...] = end.value
                return outcomes
            if self._clock() >= until:
                return None

    async def _finish(self, steps: Cooperative[tuple[T, ...]]) -> tuple[T, ...]:
        """Go on with long work; one piece of it at a time, ten would hold ten times."""
        outcomes: tuple[T, ...] | None = None
        while outcomes is None:
            await asyncio.sleep(0)
            async with self._turn:
                outcomes = self._advance(steps, until=self._clock() + HOLD_SECONDS)
        return outcomes

    async def _inspect_run_cooperatively(
        self,
        policy: Inspectable,
        steps: Cooperative[Outcomes],
        started_at: float,
        asked: tuple[Subject, RequestInfo],
    ) -> Results:
        """Go on where `inspect` left off."""
        outcomes = await self._finish(steps)
        results = self._go_on(policy, self._local_results(policy, outcomes, started_at), asked)
        return results if isinstance(results, tuple) else await results

    def _local_results(
        self, policy: Inspectable, outcomes: Outcomes, started_at: float
    ) -> dict[str, GuardrailResult]:
        """Word the outcomes of one pass; every local guardrail has the pass's time."""
        seconds = self._clock() - started_at
        return {
            guardrail.name: _local_result(guardrail, outcome, (started_at, seconds))
            for guardrail, outcome in zip(policy.local.guardrails, outcomes, strict=True)
        }

    def _go_on(
        self,
        policy: Inspectable,
        local: dict[str, GuardrailResult],
        asked: tuple[Subject, RequestInfo],
    ) -> Results | Awaitable[Results]:
        """Ask the remote checks, where that can still matter."""
        subject, _ = asked
        if not policy.remote:
            return _ordered(policy, local)
        if any(_decides(result) for result in local.values()) or not subject.parts:
            at = self._clock()
            verdict = Verdict.SKIPPED if subject.parts else Verdict.PASS
            rest = {one.name: _result(one, verdict, at=at) for one in policy.remote}
            return _ordered(policy, local | rest)
        return self._with_remote(policy, local, asked)

    async def _with_remote(
        self,
        policy: Inspectable,
        local: Mapping[str, GuardrailResult],
        asked: tuple[Subject, RequestInfo],
    ) -> Results:
        started_at = self._clock()
        remote: dict[str, GuardrailResult] = {}
        decided = False
        try:
            async with asyncio.TaskGroup() as group:
                for guardrail in policy.remote:
                    group.create_task(self._check_or_end(guardrail, asked, remote))
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
        self,
        guardrail: Guardrail,
        asked: tuple[Subject, RequestInfo],
        results: dict[str, GuardrailResult],
    ) -> None:
        events: list[NotedEvent] = []

        def note(event: RemoteEvent) -> None:
            events.append(NotedEvent(event, self._clock()))

        request = RemoteRequest(guardrail, *asked, stage=Stage.INPUT, note=note)
        result = replace(await self._check(request), events=tuple(events))
        results[guardrail.name] = result
        if _decides(result):
            raise _DecidedError

    async def _check(self, request: RemoteRequest) -> GuardrailResult:
        guardrail, at = request.guardrail, self._clock()
        answer, error_type = RemoteAnswer("pass"), None
        limit = asyncio.timeout(guardrail.timeout_seconds + GRACE_SECONDS)
        try:
            async with limit:
                answer = await self._remote.check(request)
            verdict = verdict_of(answer, guardrail.action)
        except RemoteTimeoutError as error:
            verdict, error_type = _timeout(guardrail), error.error_type
        except RemoteCheckError as error:
            verdict, error_type = _error(guardrail), error.error_type
        except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
            expired = limit.expired()
            verdict = _timeout(guardrail) if expired else _error(guardrail)
            error_type = "timeout" if expired else type(error).__name__
        return replace(
            _result(guardrail, verdict, at=at, error_type=error_type),
            findings=disjoint(answer.findings, rank=lambda one: rank_of(guardrail, one.type)),
            seconds=self._clock() - at,
            score=answer.score,
        )


def _local_result(
    guardrail: Guardrail, outcome: Outcome, span: tuple[float, float]
) -> GuardrailResult:
    at, seconds = span
    if isinstance(outcome, Failed):
        return GuardrailResult(guardrail, _error(guardrail), (), at, seconds, outcome.error_type)
    findings = outcome.findings
    verdict = _LOCAL_VERDICTS[guardrail.action] if findings else _PASS
    return GuardrailResult(guardrail, verdict, findings, at, seconds, None, outcome.score)


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


def _ordered(policy: Inspectable, results: Mapping[str, GuardrailResult]) -> Results:
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
    return result.verdict is _REDACT and result.guardrail.mode is _ENFORCE
