"""Which guardrails hold for a key, out of the policies bound at its levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sidecar.domain.policy import Guardrail, Mode, Policy, Stage, UnscannedAction
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.scope import EVERYWHERE
from sidecar.guardrails.policy_document import DEFAULT_POLICY_NAME

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


def judges_input(guardrail: Guardrail) -> bool:
    """Tell whether *guardrail* looks at requests."""
    return guardrail.stage in {Stage.INPUT, Stage.BOTH}
