"""Whatever policies are bound at three levels, what is mandatory above holds where it is for."""

from __future__ import annotations

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
from sidecar.guardrails.applicability import Applicability, applicability_of, applies_to_model
from sidecar.policy.snapshot import EffectivePolicy
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


def on(side: Stage, guardrails: tuple[Guardrail, ...]) -> dict[str, Guardrail]:
    return {one.name: one for one in guardrails if one.stage in {side, Stage.BOTH}}


@given(levels, levels, levels, request_scope, models)
def test_of_namesakes_that_hold_the_highest_counts_and_shadow_takes_nothing_away(
    organization: tuple[Guardrail, ...],
    team: tuple[Guardrail, ...],
    key: tuple[Guardrail, ...],
    asked: RequestScope,
    model: str | None,
) -> None:
    """On each side of the exchange alone, and never two of one name."""
    bound = {"organization": organization, "team": team, "key": key}
    policies = [Policy(name, 1, guardrails) for name, guardrails in bound.items()]
    policies.append(DEFAULT)
    snapshot = snapshot_of(policies)
    policy = snapshot.effective(PolicyBinding(key="key", team="team", organization="organization"))
    assert isinstance(policy, EffectivePolicy)
    if policy.request_variants is not None:
        policy = policy.request_variants(asked)
    policy = policy.for_model(model)

    for side in (Stage.INPUT, Stage.OUTPUT):
        candidates = [
            one
            for level in (organization, team)
            for one in on(side, level).values()
            if one.mandatory
        ]
        candidates += on(side, key).values()
        expected: dict[str, Guardrail] = {}
        for one in sorted(candidates, key=lambda one: one.mode is Mode.SHADOW):
            if holds(one, asked, model):
                expected.setdefault(one.name, one)
        judging = [one for one in policy.guardrails if one.stage in {side, Stage.BOTH}]
        assert len(judging) == len({one.name for one in judging})
        assert {one.name: (one.action, one.mode, one.scope) for one in judging} == {
            one.name: (one.action, one.mode, one.scope) for one in expected.values()
        }
    assert policy.needs_body is any(judges_input(one) for one in policy.guardrails)
