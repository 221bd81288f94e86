"""Runs one text through a policy, guardrail by guardrail, with the cost of each."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sidecar.apis.response_structure import AnswerPiece
from sidecar.domain.finding import GuardrailResult
from sidecar.domain.guardrail_settings import (
    JsonSchemaSettings,
    LanguageSettings,
    MaxTokensSettings,
)
from sidecar.domain.policy import EVERYWHERE, Guardrail, Policy, Stage, judges_input
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import Subject
from sidecar.guardrails.cooperative import run_sync
from sidecar.guardrails.json_schema.check import (
    SchemaGuardrail,
    check_structure,
    schema_guardrails,
)
from sidecar.guardrails.registry import is_remote, judges_texts
from sidecar.guardrails.remote.checks import NoRemoteChecks
from sidecar.guardrails.runner import GuardrailRunner, RequestInfo
from sidecar.guardrails.streaming.response_policy import judges_output
from sidecar.policy.compilation import CompiledPolicies, compile_in_subprocess
from sidecar.policy.snapshot import EffectivePolicy, PolicySnapshot, snapshot_steps

MAX_RUNS: Final = 200
MAX_RUN_SECONDS: Final = 0.1
"""How often, and for how long, a pass is repeated for the median of its time."""

_PREFIX: Final = "\0"
"""Of policies made here: no document can name one so."""


@dataclass(frozen=True, slots=True)
class TimedResult:
    """A guardrail's result, and the time of a pass that asks it alone."""

    result: GuardrailResult
    microseconds: float


@dataclass(frozen=True, slots=True)
class PolicyTestResult:
    """What a policy makes of a text.

    `results` are what is decided by; `not_asked` are guardrails that a trial leaves out.
    """

    judged: tuple[TimedResult, ...]
    not_asked: tuple[Guardrail, ...]
    pass_microseconds: float

    @property
    def results(self) -> tuple[GuardrailResult, ...]:
        """The guardrails' results, in the policy's order."""
        return tuple(one.result for one in self.judged)


async def run_policy_test(
    document: str, subject: Subject, *, side: Stage = Stage.INPUT
) -> PolicyTestResult:
    """Judge *subject* by the policy of *document*, whose expressions were checked.

    *side* `OUTPUT` takes each text for what a model says, or for the arguments of a call.

    Raises:
        CompileError: it cannot be compiled within the limits.
    """
    compiled = await compile_in_subprocess([(document, 1)])
    policy = compiled.policies[0]
    judges = judges_output if side is Stage.OUTPUT else judges_input
    asked = tuple(one for one in policy.guardrails if judges(one))
    local = tuple(
        replace(one, scope=EVERYWHERE, stage=Stage.INPUT) for one in asked if judges_texts(one)
    )
    snapshot = _snapshot(compiled, policy, local)
    whole = _effective(snapshot, _PREFIX)
    about = RequestInfo(request_id="", key_id="", model=subject.model)
    results = GuardrailRunner(remote=NoRemoteChecks(), clock=time.perf_counter).inspect(
        whole, subject, about=about
    )
    results = results if isinstance(results, tuple) else await results
    judged = {one.guardrail.name: _alone(snapshot, one, subject) for one in results}
    judged |= {one.guardrail.name: _of_structure(one, subject) for one in schema_guardrails(asked)}
    return PolicyTestResult(
        judged=tuple(judged[one.name] for one in asked if one.name in judged),
        not_asked=tuple(one for one in asked if is_remote(one)),
        pass_microseconds=_microseconds(lambda: whole.local.scan(subject.parts, subject.runs)),
    )


def _alone(snapshot: PolicySnapshot, result: GuardrailResult, subject: Subject) -> TimedResult:
    policy = _effective(snapshot, _PREFIX + result.guardrail.name)
    time_taken = _microseconds(lambda: policy.local.scan(subject.parts, subject.runs))
    return TimedResult(result, time_taken)


def _of_structure(one: SchemaGuardrail, subject: Subject) -> TimedResult:
    settings = one.guardrail.settings
    assert isinstance(settings, JsonSchemaSettings)  # noqa: S101 - nothing else has structure
    pieces = [AnswerPiece(settings.of, part.content, "answer") for part in subject.parts]

    def judge() -> GuardrailResult:
        return run_sync(check_structure([one], pieces, clock=time.perf_counter))[0]

    return TimedResult(judge(), _microseconds(judge))


def _snapshot(
    compiled: CompiledPolicies, policy: Policy, local: tuple[Guardrail, ...]
) -> PolicySnapshot:
    """Return the policy, and one of each guardrail alone, over the same database."""
    whole = replace(policy, name=_PREFIX, guardrails=local)
    alone = (replace(policy, name=_PREFIX + one.name, guardrails=(one,)) for one in local)
    policies = {one.name: one for one in (*alone, whole, policy)}
    named = CompiledPolicies(tuple(policies.values()), compiled.database)
    return run_sync(snapshot_steps(named))


def _effective(snapshot: PolicySnapshot, name: str) -> EffectivePolicy:
    found = snapshot.effective(PolicyBinding(key=name))
    assert isinstance(found, EffectivePolicy)  # noqa: S101 - it was put in
    return found


def _microseconds(judge: Callable[[], object]) -> float:
    taken: list[float] = []
    until = time.perf_counter() + MAX_RUN_SECONDS
    while not taken or (len(taken) < MAX_RUNS and time.perf_counter() < until):
        began_at = time.perf_counter()
        judge()
        taken.append(time.perf_counter() - began_at)
    return statistics.median(taken) * 1e6


_NEEDED: Final[Mapping[str, tuple[str, str]]] = {
    LanguageSettings.guardrail_type: ("language", "py3langid"),
    MaxTokensSettings.guardrail_type: ("tokens", "quicktok"),
}
"""Extra and module by the guardrail's type."""


def missing_extras() -> Mapping[str, str]:
    """Return the extras that are not installed here, by the type of the guardrail that needs them.

    Nothing is imported: that would take half a second and 145 MB.
    """
    return {
        kind: extra
        for kind, (extra, module) in _NEEDED.items()
        if importlib.util.find_spec(module) is None
    }
