"""What a policy makes of requests that were kept: as in an exchange, but nobody waits for it.

Every key counts as one that the policy holds for: roll-outs are complete, exceptions are over.
Guardrails that ask a server are left out: a rehearsal never sends a text anywhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final, assert_never

from sidecar.apis.request_text import read_request
from sidecar.apis.routes import recognise
from sidecar.checks.admission import Admitted
from sidecar.checks.body_need import BodyNeed, body_need
from sidecar.checks.unread import judge_unread
from sidecar.decision.decide import decide, decide_unscanned
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
from sidecar.guardrails.cooperative import run_sync
from sidecar.guardrails.registry import is_remote
from sidecar.guardrails.remote.checks import NoRemoteChecks
from sidecar.guardrails.runner import GuardrailRunner, RequestInfo
from sidecar.keys.authorize import is_model_allowed
from sidecar.policy.compilation import CompiledPolicies, compile_in_subprocess
from sidecar.policy.snapshot import EffectivePolicy, PolicySnapshot, snapshot_steps

_NAME: Final = "\0rehearsed"
"""Of the policy as it is rehearsed: no document can name one so."""
_JSON: Final = Headers((("content-type", b"application/json"),))


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request that was kept: its path with the query, and its body as the client sent it."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What became of one request.

    `error` is why it was refused. `acted` names guardrails whose verdict was not to pass, in
    shadow or not, with that verdict.
    """

    outcome: ExchangeOutcome
    error: ErrorKind | None = None
    acted: tuple[tuple[Guardrail, Verdict], ...] = ()


class Rehearsal:
    """One policy, compiled."""

    def __init__(self, snapshot: PolicySnapshot) -> None:
        self._snapshot = snapshot
        self._inspector = GuardrailRunner(remote=NoRemoteChecks(), clock=time.perf_counter)

    @classmethod
    async def of(cls, document: str) -> Rehearsal:
        """Compile the policy of *document*, whose expressions were checked.

        Raises:
            CompileError: it cannot be compiled within the limits.
        """
        compiled = await compile_in_subprocess([(document, 1)])
        policy = compiled.policies[0]
        local = tuple(
            replace(one, scope=replace(one.scope, rollout=FULL_ROLLOUT, exceptions=()))
            for one in policy.guardrails
            if not is_remote(one)
        )
        rehearsed = replace(policy, name=_NAME, guardrails=local)
        policies = CompiledPolicies((policy, rehearsed), compiled.database)
        return cls(run_sync(snapshot_steps(policies)))

    async def judge(self, request: KeptRequest) -> Rehearsed:
        """Return what the policy makes of *request*."""
        route = recognise(request.method, request.path)
        policy = self._policy(route if isinstance(route, Route) else None)
        # A key without limits, on an Envoy whose routes do not go by the model.
        admitted = Admitted(policy, policy.allowed_models)
        need = body_need(route, admitted, has_body=bool(request.body), names_route=False)
        match need:
            case BodyNeed.WHOLE:
                assert isinstance(route, Route)  # noqa: S101 - others have no body to be read
                return await self._read(request.body, route, policy)
            case BodyNeed.NONE:
                return Rehearsed(ExchangeOutcome.ALLOWED)
            case Unreadable(reason):
                return _unread(reason, None, policy)
            case _:
                assert_never(need)

    async def _read(self, body: bytes, route: Route, policy: EffectivePolicy) -> Rehearsed:
        read = read_request(route, _JSON, body)
        match read:
            case Malformed():
                return Rehearsed(ExchangeOutcome.REFUSED, ErrorKind.INVALID_BODY)
            case Unreadable(reason):
                return _unread(reason, route.model, policy)
            case Subject():
                return await self._judge(read, policy)
            case _:
                assert_never(read)

    async def _judge(self, subject: Subject, policy: EffectivePolicy) -> Rehearsed:
        named = (subject.model, *subject.other_models)
        if not all(is_model_allowed(one, policy.allowed_models) for one in named):
            return Rehearsed(ExchangeOutcome.REFUSED, ErrorKind.MODEL_NOT_ALLOWED)
        # As in an exchange: of several models nobody knows which one runs.
        policy = policy.for_model(None if subject.other_models else subject.model)
        unscanned = decide_unscanned(subject.unscanned, policy.unscanned)
        if isinstance(unscanned, Deny):
            return _refused(unscanned.error)
        about = RequestInfo(request_id="", key_id="", model=subject.model)
        results = self._inspector.inspect(policy, subject, about=about)
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


def _unread(reason: UnscannedReason, model: str | None, policy: EffectivePolicy) -> Rehearsed:
    reasons = (reason,)
    error = judge_unread(
        reasons, action=policy.unscanned, model=model, allowed_models=policy.allowed_models
    )
    return _of_unscanned(reasons, policy) if error is None else _refused(error)


def _of_unscanned(reasons: tuple[UnscannedReason, ...], policy: EffectivePolicy) -> Rehearsed:
    """Return what a request comes to of which some could not be read, and which passes."""
    is_flagged = bool(reasons) and policy.unscanned is UnscannedAction.FLAG
    return Rehearsed(ExchangeOutcome.FLAGGED if is_flagged else ExchangeOutcome.ALLOWED)


def _refused(error: ClientError) -> Rehearsed:
    return Rehearsed(ExchangeOutcome.REFUSED, error.kind)


def _of_results(results: tuple[GuardrailResult, ...]) -> Rehearsed:
    acted = tuple(
        (one.guardrail, one.verdict) for one in results if one.verdict is not Verdict.PASS
    )
    decision = decide(results)
    match decision:
        case Deny(error):
            return Rehearsed(ExchangeOutcome.REFUSED, error.kind, acted)
        case Redact():
            return Rehearsed(ExchangeOutcome.REDACTED, None, acted)
        case Allow():
            is_flagged = any(
                verdict is Verdict.FLAG and guardrail.mode is Mode.ENFORCE
                for guardrail, verdict in acted
            )
            outcome = ExchangeOutcome.FLAGGED if is_flagged else ExchangeOutcome.ALLOWED
            return Rehearsed(outcome, None, acted)
        case _:
            assert_never(decision)
