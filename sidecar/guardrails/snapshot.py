"""All policies compiled: built once, swapped as a whole, pinned for the life of an exchange."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import jsonschema_rs
import re2

from sidecar.domain.local_guardrails import JsonSchemaSettings
from sidecar.domain.policy import Guardrail, Policy, Stage, StreamUsage, UnscannedAction
from sidecar.domain.principal import PolicyBinding
from sidecar.guardrails.answer_policy import AnswerPolicy, answer_policy
from sidecar.guardrails.compilation import (
    CompiledPolicies,
    compile_database,
    compile_in_subprocess,
    policies_with_default,
)
from sidecar.guardrails.database import CompileError, ExpressionDatabase, load_database
from sidecar.guardrails.effective import MissingPolicy, judges_input, prevailing, resolve
from sidecar.guardrails.forms import ModelForms, RequestForms
from sidecar.guardrails.json_schema.check import json_schema_check
from sidecar.guardrails.local_scan import LocalScan
from sidecar.guardrails.prompt_injection.scoring import shipped_scorer
from sidecar.guardrails.rules.catalogue import (
    expressions_in_turn,
    is_remote,
    rules_in_turn,
    rules_of,
)
from sidecar.guardrails.rules.numbering import load_numbering_plans
from sidecar.guardrails.rules.rule import Expression
from sidecar.guardrails.slices import Steps, run_to_end
from sidecar.guardrails.whole_text.catalogue import whole_text_check

__all__ = [
    "CompileError",
    "CompiledPolicies",
    "EffectivePolicy",
    "MissingPolicy",
    "PolicySnapshot",
    "build_snapshot",
    "compile_database",
    "compile_in_subprocess",
    "snapshot_steps",
]

MAX_REMEMBERED: Final = 10_000
"""Bindings whose effective policy is kept; far more than a store has combinations in use."""


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """What holds for one binding. `guardrails` has inherited mandatory ones first.

    `needs_body` tells whether judging takes more than the headers. Where guardrails are for some
    requests only, a request gets one of its `request_forms`, where there are any, and of that
    the form `for_model`. `exempted` names guardrails that an exception has taken out.
    """

    name: str
    version: int
    guardrails: tuple[Guardrail, ...]
    unscanned: UnscannedAction
    allowed_models: tuple[str, ...] | None
    needs_body: bool
    local: LocalScan = field(repr=False, compare=False)
    remote: tuple[Guardrail, ...] = field(repr=False)
    answers: AnswerPolicy = field(repr=False)
    exempted: tuple[str, ...] = ()
    stream_usage: StreamUsage | None = None
    merged: Policy = field(kw_only=True, repr=False)
    """The same as one policy, for reports."""
    request_forms: RequestForms[EffectivePolicy] | None = field(
        default=None, repr=False, compare=False
    )
    model_forms: ModelForms[EffectivePolicy] | None = field(
        default=None, repr=False, compare=False
    )

    def for_model(self, model: str | None) -> EffectivePolicy:
        """Return what holds for a request, once its model is known; None names no model."""
        return self if self.model_forms is None else self.model_forms(model)


class PolicySnapshot:
    """The policies of the store at one time, with their compiled database.

    Does not change, but belongs to one thread: a scan uses the database's only scratch space.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        expressions: Sequence[Expression],
        database: ExpressionDatabase,
    ) -> None:
        """*policies* have a default; *expressions* are those of *database*, by id."""
        self._policies = {policy.name: policy for policy in policies}
        self._ids = {expression: index for index, expression in enumerate(expressions)}
        self._database = database
        self._effective: dict[PolicyBinding, EffectivePolicy | MissingPolicy] = {}

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Every policy by name, the built-in default included where it holds."""
        return tuple(self._policies[name] for name in sorted(self._policies))

    @property
    def bindings(self) -> tuple[PolicyBinding, ...]:
        """Those that were asked for so far."""
        return tuple(self._effective)

    def effective(self, binding: PolicyBinding) -> EffectivePolicy | MissingPolicy:
        """Return what holds for *binding*; the same object for equal bindings."""
        known = self._effective.get(binding)
        if known is None:
            if len(self._effective) >= MAX_REMEMBERED:
                self._effective.clear()
            known = self._effective[binding] = self._build(binding)
        return known

    def _build(self, binding: PolicyBinding) -> EffectivePolicy | MissingPolicy:
        policy = resolve(self._policies, binding)
        if isinstance(policy, MissingPolicy):
            return policy
        if not any(one.scope.depends_on_headers for one in policy.guardrails):
            return self._with_model_forms(policy, exempted=())

        def build(hold: tuple[Guardrail, ...], exempted: tuple[str, ...]) -> EffectivePolicy:
            counting = tuple(prevailing(hold, is_certain=lambda one: one.scope.models is None))
            return self._with_model_forms(replace(policy, guardrails=counting), exempted=exempted)

        forms = RequestForms(policy.guardrails, build)
        return replace(self._compiled(policy), request_forms=forms)

    def _with_model_forms(self, policy: Policy, *, exempted: tuple[str, ...]) -> EffectivePolicy:
        compiled = replace(self._compiled(policy), exempted=exempted)
        if all(one.scope.models is None for one in policy.guardrails):
            return compiled

        def build(hold: tuple[Guardrail, ...]) -> EffectivePolicy:
            counting = tuple(prevailing(hold, is_certain=lambda _: True))
            formed = self._compiled(replace(policy, guardrails=counting))
            return replace(formed, exempted=exempted)

        return replace(compiled, model_forms=ModelForms(policy.guardrails, build))

    def _compiled(self, policy: Policy) -> EffectivePolicy:
        inputs = tuple(
            replace(guardrail, stage=Stage.INPUT)
            for guardrail in policy.guardrails
            if judges_input(guardrail)
        )
        return EffectivePolicy(
            name=policy.name,
            version=policy.version,
            guardrails=policy.guardrails,
            unscanned=policy.unscanned,
            allowed_models=policy.allowed_models,
            needs_body=bool(inputs)
            or policy.allowed_models is not None
            or policy.stream_usage in {StreamUsage.HIDE, StreamUsage.PASS},
            local=self._scan_of(inputs),
            remote=tuple(guardrail for guardrail in inputs if is_remote(guardrail)),
            answers=answer_policy(policy.guardrails, self._scan_of),
            stream_usage=policy.stream_usage,
            merged=policy,
        )

    def _scan_of(self, guardrails: tuple[Guardrail, ...]) -> LocalScan:
        return LocalScan(guardrails, database=self._database, ids=self._ids)


def _prepare(policies: Sequence[Policy]) -> Steps[None]:
    """Make ready what judges now: within an exchange it would be late, and could fail."""
    for policy in policies:
        try:
            for one in policy.guardrails:
                for rule in rules_in_turn(one.settings):
                    _ = rule.pattern
                    yield
                rules_of(one.settings)
                yield
                if (check := whole_text_check(one.settings)) is not None:
                    check.load()
                    yield
                if isinstance(one.settings, JsonSchemaSettings):
                    json_schema_check(one.settings)
                    yield
        except re2.error:
            raise CompileError(f"an expression of policy {policy.name} is not RE2") from None
        except jsonschema_rs.ValidationError:
            raise CompileError(f"a schema of policy {policy.name} cannot be used") from None


def snapshot_steps(
    compiled: CompiledPolicies, *, prepared_for: Iterable[PolicyBinding] = ()
) -> Steps[PolicySnapshot]:
    """Build a snapshot in slices of a millisecond, ready for the bindings *prepared_for*.

    Raises:
        CompileError: an expression cannot be compiled, or the database is of other policies.
    """
    load_numbering_plans()
    shipped_scorer()  # compiled before the first request, not with a policy that comes later
    policies = policies_with_default(compiled.policies)
    yield from _prepare(policies)
    expressions = yield from expressions_in_turn(policies)
    yield
    database = load_database(compiled.database, expressions)
    yield
    snapshot = PolicySnapshot(policies, expressions=expressions, database=database)
    for binding in prepared_for:
        yield
        snapshot.effective(binding)
    return snapshot


def build_snapshot(policies: Sequence[Policy], *, database: bytes | None = None) -> PolicySnapshot:
    """Build a snapshot of *policies*, with the built-in default where none is named so.

    Without *database* it is compiled here, which takes hundreds of milliseconds.

    Raises:
        CompileError: as `snapshot_steps` does.
    """
    run_to_end(_prepare(policies))  # tells what is wrong by the policy's name
    compiled = CompiledPolicies(tuple(policies), database or compile_database(policies))
    return run_to_end(snapshot_steps(compiled))
