"""Whatever policies are bound at three levels, what is mandatory above holds where it is for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.guardrail_settings import MaxInputSettings
from sidecar.domain.policy import (
    EVERYWHERE,
    Action,
    Guardrail,
    Mode,
    Policy,
    RequestScope,
    Scope,
    Stage,
    judges_input,
)
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import Operation
from sidecar.policy.snapshot import (
    Applicability,
    EffectivePolicy,
    applicability_of,
    applies_to_model,
)
from tests.support.guardrails import snapshot_of

scopes = st.just(EVERYWHERE) | st.builds(
    Scope,
    routes=st.none() | st.just((Operation.CHAT,)),
    models=st.none() | st.just(("gpt*",)),
    rollout=st.sampled_from([0, 10_000]),
)
guardrails = st.builds(
    Guardrail,
    name=st.sampled_from("ab"),
    settings=st.just(MaxInputSettings(max_characters=1)),
    stage=st.sampled_from([Stage.INPUT, Stage.BOTH, Stage.OUTPUT]),
    action=st.sampled_from(Action),
    mode=st.sampled_from(Mode),
    mandatory=st.booleans(),
    scope=scopes,
)
levels = st.lists(guardrails, max_size=2, unique_by=lambda one: one.name).map(tuple)
request_scope = st.builds(
    RequestScope,
    operation=st.sampled_from([Operation.CHAT, Operation.EMBEDDINGS, None]),
    key_id=st.just("abcdefghijkl"),
    team=st.just("acme/search"),
    at=st.just(0.0),
)
models = st.sampled_from(["gpt-5", "claude", None])
DEFAULT = Policy("default", 1)
"""In place of the built-in one, which would be compiled for every example."""


def holds(guardrail: Guardrail, asked: RequestScope, model: str | None) -> bool:
    stands = applicability_of(guardrail, asked) is Applicability.APPLIES
    return stands and applies_to_model(guardrail, model)


@given(levels, levels, levels, request_scope, models)
def test_every_mandatory_guardrail_above_and_every_one_of_the_nearest_policy_judges(
    organization: tuple[Guardrail, ...],
    team: tuple[Guardrail, ...],
    key: tuple[Guardrail, ...],
    asked: RequestScope,
    model: str | None,
) -> None:
    """Each where it is for, under a name of its own; a copy once."""
    bound = {"organization": organization, "team": team, "key": key}
    policies = [Policy(name, 1, guardrails) for name, guardrails in bound.items()]
    policies.append(DEFAULT)
    snapshot = snapshot_of(policies)
    policy = snapshot.effective(PolicyBinding(key="key", team="team", organization="organization"))
    assert isinstance(policy, EffectivePolicy)
    if policy.request_variants is not None:
        policy = policy.request_variants(asked)
    policy = policy.for_model(model)

    candidates = [one for level in (organization, team) for one in level if one.mandatory]
    demanded = set(candidates)
    candidates += [one for one in key if replace(one, mandatory=True) not in demanded]
    expected = {one for one in candidates if holds(one, asked, model)}
    judging = policy.guardrails
    assert len(judging) == len({one.name for one in judging})
    assert {replace(one, name=one.name.split(".")[0]) for one in judging} == expected
    assert policy.needs_body is any(judges_input(one) for one in policy.guardrails)
