"""The compiled policies of a worker, and the policy in force for a key, route and model."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar, assert_never
from weakref import WeakValueDictionary

import jsonschema_rs

from sidecar.domain.cooperative import SLICE_FINDINGS, Cooperative, run_sync
from sidecar.domain.guardrail_settings import JsonSchemaSettings
from sidecar.domain.policy import (
    FULL_ROLLOUT,
    ExemptLevel,
    Guardrail,
    Policy,
    ProviderChoice,
    RequestScope,
    Stage,
    StreamUsage,
    UncountedAction,
    UnscannedAction,
    judges_input,
    name_beside,
)
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.validation import may_be_model
from sidecar.guardrails.detectors.phone import load_numbering_plans
from sidecar.guardrails.detectors.prompt_injection.scoring import shipped_scorer
from sidecar.guardrails.json_schema.check import json_schema_check
from sidecar.guardrails.local_scan import LocalScan
from sidecar.guardrails.matching.database import CompileError, ExpressionDatabase, load_database
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.registry import (
    core_database,
    is_remote,
    rules_of,
    whole_text_check,
)
from sidecar.guardrails.streaming.response_policy import AnswerPolicy, answer_policy
from sidecar.policy.compilation import CompiledPolicy, compile_policy
from sidecar.policy.parse import DEFAULT_POLICY_NAME, default_policy

_STRICTNESS: Final = (UnscannedAction.ALLOW, UnscannedAction.FLAG, UnscannedAction.BLOCK)


class Applicability(enum.Enum):
    """Whether a guardrail is for a request."""

    APPLIES = "applies"
    OUT_OF_SCOPE = "out of scope"
    EXEMPT = "exempt"


def applicability_of(guardrail: Guardrail, request_scope: RequestScope) -> Applicability:
    """Return whether *guardrail* is for a request whose model is not known yet."""
    scope, operation = guardrail.scope, request_scope.operation
    # Of stored content it is unknown which operation has made it, or will read it.
    is_known = operation is not None and not operation.spec.is_stored
    if scope.routes is not None and is_known and operation not in scope.routes:
        return Applicability.OUT_OF_SCOPE
    if (
        scope.rollout < FULL_ROLLOUT
        and rollout_position(guardrail.name, request_scope.key_id) >= scope.rollout
    ):
        return Applicability.OUT_OF_SCOPE
    for exemption in scope.exceptions:
        match exemption.level:
            case ExemptLevel.KEY:
                is_meant = exemption.name == request_scope.key_id
            case ExemptLevel.TEAM:
                is_meant = exemption.name == request_scope.team
            case _:
                assert_never(exemption.level)
        if is_meant and request_scope.at < exemption.ends_at:
            return Applicability.EXEMPT
    return Applicability.APPLIES


def applies_to_model(guardrail: Guardrail, model: str | None) -> bool:
    """Return whether *guardrail* is for *model*, None if the request names none."""
    globs = guardrail.scope.models
    return globs is None or model is None or may_be_model(model, globs)


def rollout_position(guardrail: str, key_id: str) -> int:
    """Return the position of a key in a guardrail's roll-out, from 0 to 9999.

    A key keeps its position, so that a roll-out that grows keeps the keys it has, and a client
    that tries again does not get another answer.
    """
    digest = hashlib.sha256(f"{guardrail}\0{key_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * FULL_ROLLOUT >> 64


@dataclass(frozen=True, slots=True)
class MissingPolicy:
    """A binding names a policy the store does not have: nothing can be judged by it.

    One that `is_pending` is in the store, and not compiled yet.
    """

    name: str
    is_pending: bool = False


def resolve(policies: Mapping[str, Policy], binding: PolicyBinding) -> Policy | MissingPolicy:
    """Return the nearest policy with the mandatory guardrails of the levels above it.

    Namesakes that differ all judge, under names of their own: neither level loosens the other.
    A level with a mandatory guardrail also sets the least for `unscanned`: content that cannot be
    read would slip past it otherwise.
    """
    names = [name for name in (binding.key, binding.team, binding.organization) if name]
    for name in names or [DEFAULT_POLICY_NAME]:
        if name not in policies:
            return MissingPolicy(name)
    nearest = policies[names[0] if names else DEFAULT_POLICY_NAME]
    # The organization comes first; a policy bound twice counts once.
    above = dict.fromkeys(name for name in (binding.organization, binding.team) if name)
    above.pop(nearest.name, None)
    guardrails: dict[str, Guardrail] = {}
    demanded: list[Guardrail] = []
    unscanned = nearest.unscanned
    for policy in (*(policies[name] for name in above), nearest):
        for one in policy.guardrails:
            if not one.mandatory and policy is not nearest:
                continue
            unscanned = max(unscanned, policy.unscanned, key=_STRICTNESS.index)
            if replace(one, mandatory=True) in demanded:
                continue  # a copy of one above would search every text twice
            name = name_beside(one.name, policy.name) if one.name in guardrails else one.name
            guardrails[name] = one if name == one.name else replace(one, name=name)
            if one.mandatory:
                demanded.append(one)
    return replace(nearest, guardrails=tuple(guardrails.values()), unscanned=unscanned)


MAX_VARIANTS: Final = 256
"""Variants that are kept; a client chooses route and model, and so among them."""

Facts = TypeVar("Facts")
Variant = TypeVar("Variant")


class PolicyVariants(Generic[Facts, Variant]):
    """The variants of a policy by the guardrails that apply to a request, each built once."""

    def __init__(
        self,
        guardrails: tuple[Guardrail, ...],
        *,
        is_scoped: Callable[[Guardrail], bool],
        applicability: Callable[[Guardrail, Facts], Applicability],
        build: Callable[[tuple[Guardrail, ...], tuple[str, ...]], Variant],
    ) -> None:
        """*build* takes the guardrails that apply, and the names of those exempted from."""
        self._guardrails = guardrails
        self._scoped = tuple(filter(is_scoped, guardrails))
        self._applicability = applicability
        self._build = build
        self._known: dict[tuple[Applicability, ...], Variant] = {}

    def __call__(self, facts: Facts) -> Variant:
        """Return the variant for a request of which these *facts* are known."""
        found = tuple([self._applicability(one, facts) for one in self._scoped])
        known = self._known.get(found)
        if known is None:
            by_id = {id(one): how for one, how in zip(self._scoped, found, strict=True)}
            applies = Applicability.APPLIES
            left = (one for one in self._guardrails if by_id.get(id(one), applies) is applies)
            exempt = (one.name for one in self._scoped if by_id[id(one)] is Applicability.EXEMPT)
            if len(self._known) >= MAX_VARIANTS:
                self._known.clear()
            known = self._known[found] = self._build(tuple(left), tuple(dict.fromkeys(exempt)))
        return known


MAX_REMEMBERED: Final = 10_000
"""Bindings whose effective policy is kept; far more than most stores have combinations in use."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class EffectivePolicy:
    """The policy in force for one binding. `guardrails` has inherited mandatory ones first.

    `needs_body` is whether judging takes more than the headers. If guardrails are for some
    requests only, a request gets one of the `request_variants`, and of that the variant
    `for_model`. `exempted` names guardrails that an exception has taken out.
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
    uncounted: UncountedAction = UncountedAction.BLOCK
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    restores_aliases: bool = False
    provider: ProviderChoice | None = None
    request_variants: PolicyVariants[RequestScope, EffectivePolicy] | None = field(
        default=None, repr=False, compare=False
    )
    model_variants: PolicyVariants[str | None, EffectivePolicy] | None = field(
        default=None, repr=False, compare=False
    )

    def for_model(self, model: str | None) -> EffectivePolicy:
        """Return the policy for a request, once its model is known; None names no model."""
        return self if self.model_variants is None else self.model_variants(model)


Databases = tuple[ExpressionDatabase, ...]
"""Those of one policy's expressions, or of several policies', beside `core_database`."""

_loaded: Final = WeakValueDictionary[tuple[Expression, ...], ExpressionDatabase]()
_scans: Final = WeakValueDictionary[tuple[Guardrail, ...], LocalScan]()
_effective: Final = WeakValueDictionary[Policy, EffectivePolicy]()
"""Policies of equal content share their databases, scans and all, in old and new snapshots."""


class PolicySnapshot:
    """The policies of the store at one time, with the databases of their expressions.

    Does not change, but belongs to one thread: a scan uses a database's only scratch space.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        databases: Mapping[str, Databases],
        *,
        known: Mapping[PolicyBinding, EffectivePolicy | MissingPolicy],
        pending: Collection[str],
    ) -> None:
        """*known* are bindings looked up before; *policies* and *pending* have a default."""
        self._policies = policies
        self._pending = pending
        self._databases = databases
        self._effective = dict(known)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Every policy by name, the built-in default included where it holds."""
        return tuple(self._policies[name] for name in sorted(self._policies))

    @property
    def bindings(self) -> tuple[PolicyBinding, ...]:
        """The bindings that were looked up so far."""
        return tuple(self._effective)

    def effective(self, binding: PolicyBinding) -> EffectivePolicy | MissingPolicy:
        """Return the policy in force for *binding*; the same object for equal bindings."""
        known = self._effective.get(binding)
        if known is None:
            if len(self._effective) >= MAX_REMEMBERED:
                del self._effective[next(iter(self._effective))]
            known = self._build(binding)
            if not isinstance(known, MissingPolicy) or not known.is_pending:
                self._effective[binding] = known
        return known

    def with_changes(
        self,
        compiled: Iterable[CompiledPolicy],
        *,
        without: Collection[str],
        pending: Collection[str],
        prepared_for: Iterable[PolicyBinding],
    ) -> Cooperative[PolicySnapshot]:
        """Build the snapshot with *compiled* in place of their namesakes, as `snapshot_steps`."""
        policies = {name: one for name, one in self._policies.items() if name not in without}
        databases = {name: self._databases[name] for name in policies}
        changed = {*without}
        for one in compiled:
            yield from _prepare(one.policy)
            name = one.policy.name
            changed.add(name)
            policies[name] = one.policy
            found: list[ExpressionDatabase] = []
            for expressions, dumped in one.databases:
                database = _loaded.get(expressions) or load_database(dumped, expressions)
                _loaded[expressions] = database
                found.append(database)
                yield
            databases[name] = tuple(found)
        if DEFAULT_POLICY_NAME not in policies and DEFAULT_POLICY_NAME not in pending:
            default = policies[DEFAULT_POLICY_NAME] = default_policy()
            databases[DEFAULT_POLICY_NAME] = ()
            yield from _prepare(default)
        known: dict[PolicyBinding, EffectivePolicy | MissingPolicy] = {}
        for count, binding in enumerate(self.bindings, start=1):
            one_known = self._effective.get(binding)
            if one_known is not None and changed.isdisjoint(_names_of(binding)):
                known[binding] = one_known
            if not count % SLICE_FINDINGS:
                yield
        snapshot = PolicySnapshot(policies, databases, known=known, pending=frozenset(pending))
        for binding in prepared_for:
            yield
            snapshot.effective(binding)
        return snapshot

    def _build(self, binding: PolicyBinding) -> EffectivePolicy | MissingPolicy:
        policy = resolve(self._policies, binding)
        if isinstance(policy, MissingPolicy):
            return replace(policy, is_pending=policy.name in self._pending)
        known = _effective.get(policy)
        if known is None:
            some = dict.fromkeys(
                one for name in _names_of(binding) for one in self._databases[name]
            )
            known = _effective[policy] = _with_request_variants(policy, tuple(some))
        return known


def _names_of(binding: PolicyBinding) -> Sequence[str]:
    """Return the names of the policies that are in force together for *binding*."""
    return [name for name in binding if name] or [DEFAULT_POLICY_NAME]


def _with_request_variants(policy: Policy, databases: Databases) -> EffectivePolicy:
    if not any(one.scope.depends_on_caller for one in policy.guardrails):
        return _with_model_variants(policy, databases, exempted=())

    def build(applying: tuple[Guardrail, ...], exempted: tuple[str, ...]) -> EffectivePolicy:
        left = replace(policy, guardrails=applying)
        return _with_model_variants(left, databases, exempted=exempted)

    variants = PolicyVariants(
        policy.guardrails,
        is_scoped=lambda one: one.scope.depends_on_caller,
        applicability=applicability_of,
        build=build,
    )
    return replace(_compiled(policy, databases), request_variants=variants)


def _with_model_variants(
    policy: Policy, databases: Databases, *, exempted: tuple[str, ...]
) -> EffectivePolicy:
    compiled = replace(_compiled(policy, databases), exempted=exempted)
    if all(one.scope.models is None for one in policy.guardrails):
        return compiled

    def applicability(guardrail: Guardrail, model: str | None) -> Applicability:
        applies = applies_to_model(guardrail, model)
        return Applicability.APPLIES if applies else Applicability.OUT_OF_SCOPE

    def build(applying: tuple[Guardrail, ...], _: tuple[str, ...]) -> EffectivePolicy:
        left = replace(policy, guardrails=applying)
        return replace(_compiled(left, databases), exempted=exempted)

    variants = PolicyVariants(
        policy.guardrails,
        is_scoped=lambda one: one.scope.models is not None,
        applicability=applicability,
        build=build,
    )
    return replace(compiled, model_variants=variants)


def _compiled(policy: Policy, databases: Databases) -> EffectivePolicy:
    def scan_of(guardrails: tuple[Guardrail, ...]) -> LocalScan:
        known = _scans.get(guardrails)
        if known is None:
            rules = (rule for one in guardrails for rule in rules_of(one.settings))
            needed = {rule.expression for rule in rules}
            beside = [one for one in databases if not needed.isdisjoint(one.ids)]
            database = core_database().beside(beside)
            known = _scans[guardrails] = LocalScan(guardrails, database=database, ids=database.ids)
        return known

    inputs = tuple(
        one if one.stage is Stage.INPUT else replace(one, stage=Stage.INPUT)
        for one in policy.guardrails
        if judges_input(one)
    )
    return EffectivePolicy(
        name=policy.name,
        version=policy.version,
        guardrails=policy.guardrails,
        unscanned=policy.unscanned,
        allowed_models=policy.allowed_models,
        needs_body=bool(inputs)
        or policy.allowed_models is not None
        or policy.stream_usage in {StreamUsage.HIDE, StreamUsage.PASS}
        or bool(policy.aliases),
        local=scan_of(inputs),
        remote=tuple(guardrail for guardrail in inputs if is_remote(guardrail)),
        answers=answer_policy(policy.guardrails, scan_of),
        stream_usage=policy.stream_usage,
        uncounted=policy.uncounted,
        aliases=dict(policy.aliases),
        restores_aliases=policy.restores_aliases,
        provider=policy.provider,
    )


def _prepare(policy: Policy) -> Cooperative[None]:
    """Make checks and load their tables now: within an exchange that is late, and could fail."""
    try:
        for one in policy.guardrails:
            if (check := whole_text_check(one.settings)) is not None:
                check.load()
                yield
            if isinstance(one.settings, JsonSchemaSettings):
                json_schema_check(one.settings)
                yield
    except jsonschema_rs.ValidationError:
        raise CompileError(f"a schema of policy {policy.name} cannot be used") from None


def snapshot_steps(
    compiled: Iterable[CompiledPolicy],
    *,
    before: PolicySnapshot | None = None,
    without: Collection[str] = (),
    pending: Collection[str] = (),
    prepared_for: Iterable[PolicyBinding] = (),
) -> Cooperative[PolicySnapshot]:
    """Build a snapshot in slices of a millisecond, ready for the bindings *prepared_for*.

    It has the policies from *before*, but for those *without*, and *compiled* in place of their
    namesakes. Those *pending* come in a later one.

    Raises:
        CompileError: a schema cannot be used, or a database is of other expressions.
    """
    load_numbering_plans()
    shipped_scorer()  # compiled before the first request, not with a policy that comes later
    core_database()
    before = before or PolicySnapshot({}, {}, known={}, pending=())
    return (
        yield from before.with_changes(
            compiled, without=without, pending=pending, prepared_for=prepared_for
        )
    )


def build_snapshot(policies: Iterable[Policy]) -> PolicySnapshot:
    """Build a snapshot of *policies*, with the built-in default if none has its name.

    They are compiled here, which takes hundreds of milliseconds.

    Raises:
        CompileError: as `snapshot_steps` does, or an expression cannot be compiled.
    """
    return run_sync(snapshot_steps([compile_policy(one) for one in policies]))
