from __future__ import annotations

import pytest

from sidecar.domain.policy import Policy, RequestScope
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import Operation
from sidecar.policy.parse import parse_policies
from sidecar.policy.snapshot import MAX_VARIANTS, EffectivePolicy
from tests.support.guardrails import snapshot_of

CHAT, EMBEDDINGS = Operation.CHAT, Operation.EMBEDDINGS


def asking(operation: Operation = CHAT) -> RequestScope:
    return RequestScope(operation=operation, key_id="abcdefghijkl", team="acme/search", at=0.0)


def for_request(
    effective: object, request_scope: RequestScope, model: str | None
) -> EffectivePolicy:
    """Return what a request is judged by in the end."""
    assert isinstance(effective, EffectivePolicy)
    if effective.request_variants is not None:
        effective = effective.request_variants(request_scope)
    return effective.for_model(model)


def judged_by(
    policies: str, *, operation: Operation = CHAT, model: str | None = "gpt-5"
) -> list[str]:
    """Return the guardrails that hold as `name/mode/stage action`."""
    snapshot = snapshot_of(parse_policies(policies))
    binding = PolicyBinding(
        key="key" if "key" in {one.name for one in snapshot.policies} else None,
        organization="org" if "org" in {one.name for one in snapshot.policies} else None,
    )
    formed = for_request(snapshot.effective(binding), asking(operation), model)
    return [
        f"{one.name} {one.action.value} {one.mode.value} {'mandatory' if one.mandatory else 'own'}"
        for one in formed.guardrails
    ]


def two_levels(above: str, below: str) -> str:
    redact = "" if "action" in below else ", action: redact"
    return (
        f"name: org\nguardrails: [{{name: a, type: secrets, mandatory: true{above}}}]\n---\n"
        f"name: key\nguardrails: [{{name: a, type: secrets{redact}{below}}}]\n"
    )


ABOVE, OWN = "a block enforce mandatory", "a.key redact enforce own"
SHADOW = "a block shadow mandatory"
EXEMPT = ", exceptions: [{key: abcdefghijkl, until: 2027-01-31, reason: x}]"


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [
        pytest.param("", "", [ABOVE, OWN], id="both"),
        pytest.param("", ", action: block", [ABOVE], id="a copy once"),
        pytest.param(", action: flag", "", ["a flag enforce mandatory", OWN], id="a weaker one"),
        pytest.param("", ", mode: shadow", [ABOVE, "a.key redact shadow own"], id="shadow below"),
        pytest.param("", ", routes: [embeddings]", [ABOVE], id="against a route below"),
        pytest.param("", ", models: [o3]", [ABOVE], id="against a model below"),
        pytest.param("", ", rollout: 0%", [ABOVE], id="against a roll-out below"),
        pytest.param("", EXEMPT, [ABOVE], id="against an exception below"),
        pytest.param(", routes: [embeddings]", "", [OWN], id="for another route"),
        pytest.param(", models: [o3]", "", [OWN], id="for another model"),
        pytest.param(", rollout: 0%", "", [OWN], id="not rolled out yet"),
        pytest.param(EXEMPT, "", [OWN], id="exempted from the one above only"),
        pytest.param(", mode: shadow", "", [SHADOW, OWN], id="in shadow above"),
        pytest.param(EXEMPT, ", routes: [embeddings]", [], id="neither holds"),
    ],
)
def test_a_mandatory_guardrail_and_its_namesake_both_judge_where_they_are_for(
    above: str, below: str, expected: list[str]
) -> None:
    """Neither level loosens the other."""
    assert judged_by(two_levels(above, below)) == expected


def test_guardrails_hold_by_route_and_model() -> None:
    """A request is judged by those whose scope it is in, in the policy's order."""
    text = (
        "name: default\nguardrails:\n"
        "  - {name: a, type: secrets}\n"
        "  - {name: b, type: pii, routes: [embeddings]}\n"
        "  - {name: c, type: pii, models: ['gpt-5*']}\n"
        "  - {name: d, type: pii, routes: [chat], models: [o3]}\n"
    )

    def names(operation: Operation, model: str | None) -> str:
        judged = judged_by(text, operation=operation, model=model)
        return "".join(one[0] for one in judged)

    assert names(CHAT, "gpt-5-mini") == "ac"
    assert names(CHAT, "o3") == "ad"
    assert names(CHAT, "claude") == "a"
    assert names(CHAT, None) == "acd"
    assert names(EMBEDDINGS, "o3") == "ab"


def test_a_route_that_no_guardrail_is_for_needs_no_body() -> None:
    """A body that nobody looks at is not waited for."""
    snapshot = snapshot_of(
        parse_policies("name: default\nguardrails: [{name: a, type: pii, routes: [chat]}]")
    )
    policy = snapshot.effective(PolicyBinding())
    assert isinstance(policy, EffectivePolicy)
    assert policy.request_variants is not None

    assert policy.request_variants(asking(CHAT)).needs_body
    assert not policy.request_variants(asking(EMBEDDINGS)).needs_body


def test_equal_circumstances_get_the_same_form_and_an_exception_is_named() -> None:
    """Each form is built once; what an exception took out can be counted."""
    text = f"name: default\nguardrails: [{{name: a, type: pii{EXEMPT}}}, {{name: b, type: pii}}]"
    policy = snapshot_of(parse_policies(text)).effective(PolicyBinding())

    first = for_request(policy, asking(), "o3")
    again = for_request(policy, asking(EMBEDDINGS), None)

    assert first is again
    assert (first.exempted, [one.name for one in first.guardrails]) == (("a",), ["b"])


def test_a_policy_that_is_for_every_request_has_no_variants() -> None:
    """The usual policy costs nothing more."""
    policy = snapshot_of(()).effective(PolicyBinding())
    assert isinstance(policy, EffectivePolicy)

    assert (policy.request_variants, policy.model_variants) == (None, None)
    assert policy.for_model("gpt-5") is policy


def test_more_variants_than_are_kept_are_built_anew() -> None:
    """A client that tries every model cannot fill the worker's memory."""
    letters = "abcdefghi"
    scoped = "\n".join(
        f"  - {{name: {one}, type: pii, types: [US_SSN], models: ['*{one}*']}}" for one in letters
    )
    text = f"name: default\nguardrails:\n{scoped}\n"
    policy = snapshot_of(parse_policies(text)).effective(PolicyBinding())
    assert isinstance(policy, EffectivePolicy)
    first = policy.for_model("a")
    assert policy.for_model("a") is first

    for mask in range(1, MAX_VARIANTS + 2):
        model = "".join(one for bit, one in enumerate(letters) if mask >> bit & 1)
        assert [one.name for one in policy.for_model(model).guardrails] == list(model)

    assert policy.for_model("a") is not first
    assert policy.for_model("a") == first


def test_an_unconditional_policy_of_one_level_is_left_as_it_is() -> None:
    """Guardrails of one policy never displace each other."""
    assert judged_by("name: org\nguardrails: [{name: a, type: pii}, {name: b, type: pii}]") == [
        "a block enforce own",
        "b block enforce own",
    ]


def test_policy_value_equality_sees_the_scope() -> None:
    """A changed selector is a change, and a plan shows it."""

    def one(extra: str) -> Policy:
        return parse_policies(f"name: p\nguardrails: [{{name: a, type: pii{extra}}}]")[0]

    assert one("") == one(", rollout: 100%")
    assert len({one(""), one(", rollout: 10%"), one(", routes: [chat]"), one(EXEMPT)}) == 4
