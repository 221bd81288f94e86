"""Replays recorded requests against a policy, with the steps of a live request.

Every key counts as one that the policy holds for: roll-outs are complete, exceptions are over.
Remote guardrails are left out: a replay never sends a text anywhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final, assert_never

from sidecar.apis.request_text import read_request
from sidecar.apis.routes import recognise
from sidecar.domain.cooperative import run_sync
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.finding import Allow, Deny, GuardrailResult, Redact, Verdict
from sidecar.domain.http import Headers
from sidecar.domain.policy import FULL_ROLLOUT, Guardrail, Mode, RequestScope, UnscannedAction
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.report import ExchangeOutcome
from sidecar.domain.subject import (
    Malformed,
    Route,
    Subject,
    Unreadable,
    UnscannedReason,
)
from sidecar.guardrails.registry import is_remote
from sidecar.guardrails.remote.checks import NoRemoteChecks, RequestInfo
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.pipeline.admission import requires_body, unscannable
from sidecar.pipeline.content import judge_subject, refuse_unread
from sidecar.pipeline.decide import decide
from sidecar.policy.compilation import compile_in_subprocess
from sidecar.policy.snapshot import EffectivePolicy, PolicySnapshot, snapshot_steps

_NAME: Final = "\0rehearsed"
"""Of the policy as it is rehearsed: no document can name one so."""
_JSON: Final = Headers((("content-type", b"application/json"),))


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A recorded request: its path with the query, and its body as the client sent it."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of one replayed request.

    `error` is why it was refused. `acted` names guardrails whose verdict was not to pass, in
    shadow or not, with that verdict.
    """

    outcome: ExchangeOutcome
    error: ErrorKind | None = None
    acted: tuple[tuple[Guardrail, Verdict], ...] = ()


class PolicyReplay:
    """One policy, compiled."""

    def __init__(self, snapshot: PolicySnapshot) -> None:
        self._snapshot = snapshot
        self._runner = GuardrailRunner(remote=NoRemoteChecks(), clock=time.perf_counter)

    @classmethod
    async def compile(cls, document: str) -> PolicyReplay:
        """Compile the policy of *document*, whose expressions were checked.

        Raises:
            CompileError: it cannot be compiled within the limits.
        """
        (compiled,) = await compile_in_subprocess([document])
        policy = compiled.policy
        local = tuple(
            replace(one, scope=replace(one.scope, rollout=FULL_ROLLOUT, exceptions=()))
            for one in policy.guardrails
            if not is_remote(one)
        )
        rehearsed = replace(policy, name=_NAME, guardrails=local)
        return cls(run_sync(snapshot_steps([compiled, replace(compiled, policy=rehearsed)])))

    async def judge(self, request: KeptRequest) -> ReplayResult:
        """Return the policy's verdict on *request*."""
        route = recognise(request.method, request.path)
        policy = self._policy(route if isinstance(route, Route) else None)
        reason = unscannable(route, has_body=bool(request.body))
        if reason is not None or not isinstance(route, Route):
            return _unread(reason or UnscannedReason.UNKNOWN_ROUTE, None, policy)
        # A key without limits, on an Envoy whose routes do not go by the model.
        if not requires_body(route, policy, names_route=False):
            return ReplayResult(ExchangeOutcome.ALLOWED)
        read = read_request(route, _JSON, request.body)
        match read:
            case Malformed():
                return ReplayResult(ExchangeOutcome.REFUSED, ErrorKind.INVALID_BODY)
            case Unreadable(reason):
                return _unread(reason, route.model, policy)
            case Subject():
                return await self._judge(read, route, policy)
            case _:
                assert_never(read)

    async def _judge(
        self, subject: Subject, route: Route, policy: EffectivePolicy
    ) -> ReplayResult:
        policy, refused = judge_subject(subject, route, policy, policy.allowed_models)
        if refused is not None:
            return _refused(refused)
        about = RequestInfo(request_id="", key_id="", model=subject.model)
        results = self._runner.inspect(policy, subject, about=about)
        judged = _of_results(results if isinstance(results, tuple) else await results)
        if judged.outcome is not ExchangeOutcome.ALLOWED:
            return judged
        return replace(judged, outcome=_of_unscanned(subject.unscanned, policy).outcome)

    def _policy(self, route: Route | None) -> EffectivePolicy:
        policy = self._snapshot.effective(PolicyBinding(key=_NAME))
        assert isinstance(policy, EffectivePolicy)  # noqa: S101 - it was put in
        if policy.request_variants is None:
            return policy
        operation = None if route is None else route.operation
        return policy.request_variants(
            RequestScope(operation=operation, key_id="", team="", at=0.0)
        )


def _unread(reason: UnscannedReason, model: str | None, policy: EffectivePolicy) -> ReplayResult:
    error = refuse_unread(reason, model, policy, policy.allowed_models)
    return _of_unscanned((reason,), policy) if error is None else _refused(error)


def _of_unscanned(reasons: tuple[UnscannedReason, ...], policy: EffectivePolicy) -> ReplayResult:
    """Return the result of a request that passes although some of it could not be read."""
    is_flagged = bool(reasons) and policy.unscanned is UnscannedAction.FLAG
    return ReplayResult(ExchangeOutcome.FLAGGED if is_flagged else ExchangeOutcome.ALLOWED)


def _refused(error: ClientError) -> ReplayResult:
    return ReplayResult(ExchangeOutcome.REFUSED, error.kind)


def _of_results(results: tuple[GuardrailResult, ...]) -> ReplayResult:
    acted = tuple(
        (one.guardrail, one.verdict) for one in results if one.verdict is not Verdict.PASS
    )
    decision = decide(results)
    match decision:
        case Deny(error):
            return ReplayResult(ExchangeOutcome.REFUSED, error.kind, acted)
        case Redact():
            return ReplayResult(ExchangeOutcome.REDACTED, None, acted)
        case Allow():
            is_flagged = any(
                verdict is Verdict.FLAG and guardrail.mode is Mode.ENFORCE
                for guardrail, verdict in acted
            )
            outcome = ExchangeOutcome.FLAGGED if is_flagged else ExchangeOutcome.ALLOWED
            return ReplayResult(outcome, None, acted)
        case _:
            assert_never(decision)
