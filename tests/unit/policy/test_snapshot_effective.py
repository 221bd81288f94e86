from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.domain.guardrail_settings import PiiSettings, SecretsSettings
from sidecar.domain.policy import Action, Guardrail, Policy, UnscannedAction
from sidecar.domain.principal import PolicyBinding
from sidecar.policy.snapshot import MissingPolicy, resolve

SECRETS = Guardrail("secrets", SecretsSettings(), mandatory=True)
LOOSE_SECRETS = Guardrail("secrets", SecretsSettings(types=("JWT",)), action=Action.FLAG)
PII = Guardrail("pii", PiiSettings())
TEAM_PII = Guardrail("pii", PiiSettings(regions=("DE",)), mandatory=True)

POLICIES = {
    policy.name: policy
    for policy in (
        Policy("default", 0, (PII,)),
        Policy("org", 1, (SECRETS, PII)),
        Policy("team", 2, (TEAM_PII,), unscanned=UnscannedAction.FLAG),
        Policy("key", 3, (LOOSE_SECRETS, PII), unscanned=UnscannedAction.ALLOW),
        Policy("lax", 4, (), unscanned=UnscannedAction.ALLOW),
        Policy("org-lax", 5, (PII,)),
        Policy("copy", 6, (replace(SECRETS, mandatory=False), TEAM_PII)),
    )
}


def holding(binding: PolicyBinding) -> tuple[str, tuple[Guardrail, ...], UnscannedAction]:
    policy = resolve(POLICIES, binding)
    assert isinstance(policy, Policy)
    return policy.name, policy.guardrails, policy.unscanned


BLOCK, FLAG, ALLOW = UnscannedAction.BLOCK, UnscannedAction.FLAG, UnscannedAction.ALLOW
CASES = {
    "nothing_bound": (PolicyBinding(), ("default", (PII,), BLOCK)),
    "organization": (PolicyBinding(organization="org"), ("org", (SECRETS, PII), BLOCK)),
    "team_before_organization": (
        PolicyBinding(team="team", organization="org"),
        ("team", (SECRETS, TEAM_PII), BLOCK),
    ),
    "key_before_all": (
        PolicyBinding(key="key", team="team", organization="org"),
        (
            "key",
            (
                SECRETS,
                TEAM_PII,
                replace(LOOSE_SECRETS, name="secrets.key"),
                replace(PII, name="pii.key"),
            ),
            BLOCK,
        ),
    ),
    "team_sets_the_least_for_unscanned": (
        PolicyBinding(key="lax", team="team"),
        ("lax", (TEAM_PII,), FLAG),
    ),
    "a_copy_below_runs_once": (
        PolicyBinding(key="copy", team="team", organization="org"),
        ("copy", (SECRETS, TEAM_PII), BLOCK),
    ),
    "nothing_mandatory_above": (
        PolicyBinding(key="lax", organization="org-lax"),
        ("lax", (), ALLOW),
    ),
    "same_policy_at_two_levels": (
        PolicyBinding(key="org", organization="org"),
        ("org", (SECRETS, PII), BLOCK),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_nearest_policy_holds_with_what_is_mandatory_above(case: str) -> None:
    """Namesakes below judge too, under a name of their own; the strictest `unscanned` holds."""
    binding, expected = CASES[case]
    assert holding(binding) == expected


@pytest.mark.parametrize(
    "binding",
    [
        PolicyBinding(key="gone"),
        PolicyBinding(key="key", team="gone"),
        PolicyBinding(key="key", organization="gone"),
    ],
)
def test_a_missing_policy_at_any_level_is_told(binding: PolicyBinding) -> None:
    """A policy that is not there may have been the one with the mandatory guardrails."""
    assert resolve(POLICIES, binding) == MissingPolicy("gone")
