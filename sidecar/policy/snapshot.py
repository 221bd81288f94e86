"""The compiled policies of a worker, and the policy in force for a key, route and model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

import jsonschema_rs
import re2

from sidecar.domain.guardrail_settings import JsonSchemaSettings
from sidecar.domain.policy import (
    EVERYWHERE,
    Guardrail,
    Mode,
    Policy,
    RequestScope,
    Stage,
    StreamUsage,
    UnscannedAction,
    judges_input,
)
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import Operation
from sidecar.guardrails.applicability import Applicability, applicability_of, applies_to_model
from sidecar.guardrails.cooperative import Cooperative, run_sync
from sidecar.guardrails.detectors.numbers import load_numbering_plans
from sidecar.guardrails.detectors.prompt_injection.scoring import shipped_scorer
from sidecar.guardrails.json_schema.check import json_schema_check
from sidecar.guardrails.local_scan import LocalScan
from sidecar.guardrails.matching.database import CompileError, ExpressionDatabase, load_database
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.registry import (
    expressions_in_turn,
    is_remote,
    rules_in_turn,
    rules_of,
    whole_text_check,
)
from sidecar.guardrails.streaming.response_policy import AnswerPolicy, answer_policy
from sidecar.policy.compilation import (
    CompiledPolicies,
    compile_database,
    compile_in_subprocess,
    policies_with_default,
)
from sidecar.policy.parse import DEFAULT_POLICY_NAME

_STRICTNESS: Final = (UnscannedAction.ALLOW, UnscannedAction.FLAG, UnscannedAction.BLOCK)

_SIDES: Final = {
    Stage.INPUT: frozenset({Stage.INPUT}),
    Stage.OUTPUT: frozenset({Stage.OUTPUT}),
    Stage.BOTH: frozenset({Stage.INPUT, Stage.OUTPUT}),
}


@dataclass(frozen=True, slots=True)
class MissingPolicy:
    """A binding names a policy the store does not have: nothing can be judged by it."""

    name: str


def resolve(policies: Mapping[str, Policy], binding: PolicyBinding) -> Policy | MissingPolicy:
    """Return the nearest policy with the mandatory guardrails of the levels above it.

    A mandatory guardrail takes the place of one of the same name below, where it holds: one that
    is for some requests only stands before its namesake, see `prevailing`. The level that brings
    one also sets the least for `unscanned`: what cannot be read would slip past it otherwise.
    """
    names = [name for name in (binding.key, binding.team, binding.organization) if name]
    for name in names or [DEFAULT_POLICY_NAME]:
        if name not in policies:
            return MissingPolicy(name)
    nearest = policies[names[0] if names else DEFAULT_POLICY_NAME]
    # The organization has the last word; a policy bound twice speaks once.
    above = dict.fromkeys(name for name in (binding.organization, binding.team) if name)
    above.pop(nearest.name, None)
    return _with_mandatory(nearest, [policies[name] for name in above])


def _with_mandatory(nearest: Policy, above: Iterable[Policy]) -> Policy:
    candidates: dict[str, list[Guardrail]] = {}
    unscanned = nearest.unscanned
    for policy in above:
        mandatory = [guardrail for guardrail in policy.guardrails if guardrail.mandatory]
        if mandatory:
            unscanned = max(unscanned, policy.unscanned, key=_STRICTNESS.index)
        for guardrail in mandatory:
            candidates.setdefault(guardrail.name, []).append(guardrail)
    if not candidates:
        return nearest
    for guardrail in nearest.guardrails:
        candidates.setdefault(guardrail.name, []).append(guardrail)
    ordered = (one for same in candidates.values() for one in _enforced_first(same))
    guardrails = tuple(prevailing(ordered, is_certain=lambda one: one.scope == EVERYWHERE))
    return replace(nearest, guardrails=guardrails, unscanned=unscanned)


def _enforced_first(same: Iterable[Guardrail]) -> list[Guardrail]:
    """Order namesakes: one in shadow demands nothing, so none that is enforced gives way to it."""
    return sorted(same, key=lambda one: one.mode is Mode.SHADOW)


def prevailing(
    guardrails: Iterable[Guardrail], *, is_certain: Callable[[Guardrail], bool]
) -> Iterator[Guardrail]:
    """Return those of *guardrails* that count, of namesakes the first.

    One that is not certain to hold leaves its namesakes in, to stand behind it. One that looks
    at requests only does not take the place of a namesake that looks at answers.
    """
    covered: dict[str, frozenset[Stage]] = {}
    for guardrail in guardrails:
        taken = covered.get(guardrail.name, frozenset())
        sides = _SIDES[guardrail.stage] - taken
        if not sides:
            continue
        if is_certain(guardrail):
            covered[guardrail.name] = taken | sides
        is_whole = sides == _SIDES[guardrail.stage]
        yield guardrail if is_whole else replace(guardrail, stage=next(iter(sides)))


MAX_VARIANTS: Final = 256
"""Forms that are kept; a client chooses route and model, and so among the forms."""

Form = TypeVar("Form")


class RequestVariants(Generic[Form]):
    """By what the headers tell: the route, the key, and the time."""

    def __init__(
        self,
        guardrails: tuple[Guardrail, ...],
        build: Callable[[tuple[Guardrail, ...], tuple[str, ...]], Form],
    ) -> None:
        """*build* takes the guardrails that hold, and the names of those exempted from."""
        self._guardrails = guardrails
        self._build = build
        self._scoped = tuple(one for one in guardrails if one.scope.depends_on_headers)
        self._is_by_route = not any(one.scope.depends_on_key for one in guardrails)
        self._by_route: dict[Operation | None, Form] = {}
        self._forms: dict[tuple[Applicability, ...], Form] = {}

    def __call__(self, request_scope: RequestScope) -> Form:
        """Return the form for *request_scope*."""
        if not self._is_by_route:
            return self._form(request_scope)
        known = self._by_route.get(request_scope.operation)
        if known is None:
            known = self._by_route[request_scope.operation] = self._form(request_scope)
        return known

    def _form(self, circumstances: RequestScope) -> Form:
        standings = tuple(applicability_of(one, circumstances) for one in self._scoped)
        known = self._forms.get(standings)
        if known is None:
            known = _kept(self._forms, standings, self._built(standings))
        return known

    def _built(self, standings: tuple[Applicability, ...]) -> Form:
        stands = {id(one): how for one, how in zip(self._scoped, standings, strict=True)}
        hold = (
            one
            for one in self._guardrails
            if stands.get(id(one), Applicability.APPLIES) is Applicability.APPLIES
        )
        exempt = (one.name for one in self._scoped if stands[id(one)] is Applicability.EXEMPT)
        return self._build(tuple(hold), tuple(dict.fromkeys(exempt)))


class ModelVariants(Generic[Form]):
    """By the model that a request is for."""

    def __init__(
        self, guardrails: tuple[Guardrail, ...], build: Callable[[tuple[Guardrail, ...]], Form]
    ) -> None:
        self._guardrails = guardrails
        self._build = build
        self._scoped = tuple(one for one in guardrails if one.scope.models is not None)
        self._forms: dict[tuple[bool, ...], Form] = {}

    def __call__(self, model: str | None) -> Form:
        """Return the form for *model*, None where the request names none."""
        holding = tuple(applies_to_model(one, model) for one in self._scoped)
        known = self._forms.get(holding)
        if known is None:
            known = _kept(self._forms, holding, self._build(self._hold(holding)))
        return known

    def _hold(self, holding: Iterable[bool]) -> tuple[Guardrail, ...]:
        out = {id(one) for one, holds in zip(self._scoped, holding, strict=True) if not holds}
        return tuple(one for one in self._guardrails if id(one) not in out)


_Key = TypeVar("_Key")


def _kept(forms: dict[_Key, Form], key: _Key, form: Form) -> Form:
    if len(forms) >= MAX_VARIANTS:
        forms.clear()
    forms[key] = form
    return form


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
    requests only, a request gets one of its `request_variants`, where there are any, and of that
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
    request_variants: RequestVariants[EffectivePolicy] | None = field(
        default=None, repr=False, compare=False
    )
    model_variants: ModelVariants[EffectivePolicy] | None = field(
        default=None, repr=False, compare=False
    )

    def for_model(self, model: str | None) -> EffectivePolicy:
        """Return what holds for a request, once its model is known; None names no model."""
        return self if self.model_variants is None else self.model_variants(model)


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

        forms = RequestVariants(policy.guardrails, build)
        return replace(self._compiled(policy), request_variants=forms)

    def _with_model_forms(self, policy: Policy, *, exempted: tuple[str, ...]) -> EffectivePolicy:
        compiled = replace(self._compiled(policy), exempted=exempted)
        if all(one.scope.models is None for one in policy.guardrails):
            return compiled

        def build(hold: tuple[Guardrail, ...]) -> EffectivePolicy:
            counting = tuple(prevailing(hold, is_certain=lambda _: True))
            formed = self._compiled(replace(policy, guardrails=counting))
            return replace(formed, exempted=exempted)

        return replace(compiled, model_variants=ModelVariants(policy.guardrails, build))

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


def _prepare(policies: Sequence[Policy]) -> Cooperative[None]:
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
) -> Cooperative[PolicySnapshot]:
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
    run_sync(_prepare(policies))  # tells what is wrong by the policy's name
    compiled = CompiledPolicies(tuple(policies), database or compile_database(policies))
    return run_sync(snapshot_steps(compiled))
