"""Which guardrails hold for a key, out of the policies bound at its levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sidecar.domain.policy import Guardrail, Policy, Stage, UnscannedAction
from sidecar.domain.principal import PolicyBinding
from sidecar.guardrails.policy_document import DEFAULT_POLICY_NAME

_STRICTNESS: Final = (UnscannedAction.ALLOW, UnscannedAction.FLAG, UnscannedAction.BLOCK)


@dataclass(frozen=True, slots=True)
class MissingPolicy:
    """A binding names a policy the store does not have: nothing can be judged by it."""

    name: str


def resolve(policies: Mapping[str, Policy], binding: PolicyBinding) -> Policy | MissingPolicy:
    """Return the nearest policy with the mandatory guardrails of the levels above it.

    A mandatory guardrail takes the place of one of the same name below. The level that brings
    one also sets the least for `unscanned`: what cannot be read would slip past it otherwise.
    """
    names = [name for name in (binding.key, binding.team, binding.organization) if name]
    for name in names or [DEFAULT_POLICY_NAME]:
        if name not in policies:
            return MissingPolicy(name)
    nearest = policies[names[0] if names else DEFAULT_POLICY_NAME]
    effective = nearest
    for above in (binding.team, binding.organization):  # the organization has the last word
        if above and policies[above] is not nearest:
            effective = _with_mandatory(effective, policies[above])
    return effective


def _with_mandatory(policy: Policy, above: Policy) -> Policy:
    mandatory = tuple(guardrail for guardrail in above.guardrails if guardrail.mandatory)
    if not mandatory:
        return policy
    taken = {guardrail.name for guardrail in mandatory}
    own = tuple(guardrail for guardrail in policy.guardrails if guardrail.name not in taken)
    return replace(
        policy,
        guardrails=(*mandatory, *own),
        unscanned=max(policy.unscanned, above.unscanned, key=_STRICTNESS.index),
    )


def judges_input(guardrail: Guardrail) -> bool:
    """Tell whether *guardrail* looks at requests."""
    return guardrail.stage in {Stage.INPUT, Stage.BOTH}
