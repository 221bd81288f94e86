from __future__ import annotations

import pytest

from sidecar.admin.installation.objects import InstallationError, Kind, parse_files
from sidecar.admin.installation.plan import (
    NOT_SHOWN,
    FieldDifference,
    InstallationPlan,
    PlannedAction,
    StoredObject,
    plan_document,
    plan_installation,
)
from sidecar.policy.parse import PolicyDocument
from sidecar.storage.postgres_policies import StoredPolicy
from tests.support.installation import DIGEST, joined, key, organization, policy, price, team

ALL = joined(policy(), price(), organization(), team(), key())


def stored(*documents: str, file_set: str | None = "default") -> list[StoredObject]:
    """Return the objects of documents as if they had been applied."""
    return [
        StoredObject(
            one.kind,
            one.name,
            StoredPolicy(one.name, 3, one.content.text)
            if isinstance(one.content, PolicyDocument)
            else one.content,
            file_set,
        )
        for one in parse_files([("before.yaml", joined(*documents))])
    ]


def plan(
    text: str, before: list[StoredObject], *, prunes: bool = False, file_set: str = "default"
) -> InstallationPlan:
    """Plan the changes from *before* to the documents of *text*."""
    wanted = parse_files([("a.yaml", text)])
    return plan_installation(wanted, before, file_set=file_set, prunes=prunes, deleted={})


def faults(text: str, before: list[StoredObject], *, prunes: bool = False) -> list[str]:
    with pytest.raises(InstallationError) as caught:
        plan(text, before, prunes=prunes)
    return [str(fault) for fault in caught.value.faults]


ROUTE = "kind: AlertRoute\nname: ops\nchannel: slack\nsecret: env:ALERT_A\n"
FACTORY = "limits: [{limit: cost/day=5, time_zone: Factory}]\n"


def test_a_time_zone_of_a_machine_is_refused_unless_it_is_stored() -> None:
    """Former versions stored them, and an export has to be applied again."""
    route, owner = f"{ROUTE}time_zone: localtime\n", organization(more=FACTORY)
    reason = "is no time zone, or one that each machine sets"
    for text, before in [(route, []), (route, stored(ROUTE)), (owner, stored(organization()))]:
        (found,) = faults(text, before)
        assert reason in found
    assert plan(joined(route, owner), stored(route, owner)).unchanged == 2


def test_quiet_hours_of_the_whole_day_are_refused_unless_they_are_stored() -> None:
    """Former versions took them, and an export has to be applied again."""
    route = f"{ROUTE}quiet_hours: 08:00-08:00\n"
    for before in ([], stored(ROUTE)):
        (found,) = faults(route, before)
        assert "08:00-08:00 is the whole day" in found
    assert plan(route, stored(route)).unchanged == 1


def test_an_empty_installation_gets_every_object() -> None:
    found = plan(ALL, [])

    assert [(one.action, one.kind) for one in found.changes] == [
        (PlannedAction.CREATE, kind)
        for kind in (Kind.POLICY, Kind.PRICE, Kind.ORGANIZATION, Kind.TEAM, Kind.KEY)
    ]
    assert found.changes[3].reason == "a.yaml, line 15 adds it"


def test_the_same_objects_are_no_change() -> None:
    found = plan(ALL, stored(ALL))

    assert (found.changes, found.adopted, found.unchanged) == ((), (), 5)
    assert not found.is_drift


def test_a_change_has_each_field_before_and_after() -> None:
    """A field that the file leaves out goes back to its default."""
    before = stored(organization(more="limits: [cost/month=10]\nallowed_models: [gpt-*]\n"))

    (change,) = plan(organization(more="limits: [cost/month=20]\n"), before).changes

    assert change.fields == (
        FieldDifference("allowed_models", ["gpt-*"], None),
        FieldDifference("limits", ["cost/month=10"], ["cost/month=20"]),
    )


def test_digests_are_not_shown() -> None:
    before = stored(organization(), team(), key())
    after = key().replace(DIGEST, DIGEST.replace("1", "2"))

    (change,) = plan(after, before).changes

    assert change.fields == (FieldDifference("secret_sha256", NOT_SHOWN, NOT_SHOWN),)


def test_a_policy_changes_with_its_meaning_and_not_with_its_spelling() -> None:
    before = stored(policy())

    assert plan(f"# a comment\n{policy()}", before).changes == ()
    (change,) = plan(policy(more=", action: flag"), before).changes
    assert change.policy is not None
    assert change.policy.version == 3
    assert "+  action: flag" in change.policy.diff


def test_only_objects_of_the_set_are_deleted() -> None:
    """Objects of other sets, and of none, stay."""
    before = [
        *stored(organization("ours")),
        *stored(organization("theirs"), file_set="other"),
        *stored(organization("by-hand"), file_set=None),
    ]

    kept = plan(organization(), before)
    pruned = plan(organization(), before, prunes=True)

    assert kept.left == ((Kind.ORGANIZATION, "ours"),)
    assert [(one.action, one.name) for one in pruned.changes] == [
        (PlannedAction.CREATE, "acme"),
        (PlannedAction.DELETE, "ours"),
    ]
    assert pruned.changes[1].reason == "the set default owns it, and no file names it"


def test_an_object_comes_under_the_set_that_names_it() -> None:
    """One without an owner does so at once; from another set it is a change to confirm."""
    by_hand = plan(organization(), stored(organization(), file_set=None))
    taken = plan(organization(), stored(organization(), file_set="platform"))

    assert (by_hand.changes, len(by_hand.adopted)) == ((), 1)
    assert taken.changes[0].fields == (FieldDifference("set", "platform", "default"),)
    assert taken.changes[0].reason == "the set platform owned it"


def test_objects_that_others_need_are_not_deleted() -> None:
    before = [
        *stored(organization(), policy()),
        *stored(team(more="policy: strict\n"), file_set="x"),
    ]

    assert faults(organization("other"), before, prunes=True) == [
        "--prune: organization acme cannot be deleted: team acme/search needs it",
        "--prune: policy strict cannot be deleted: team acme/search needs it",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            team(), "a.yaml: line 2, column 7: name: there is no organization acme", id="team"
        ),
        pytest.param(
            key(), "a.yaml: line 4, column 7: team: there is no team acme/search", id="key"
        ),
        pytest.param(
            organization(more="policy: strict\n"),
            "a.yaml: line 3, column 9: policy: there is no policy strict",
            id="policy",
        ),
        pytest.param(
            joined(organization(), team(), key(more="replaced_by: bbbbbbbbbbbb\n")),
            "a.yaml: line 12, column 14: replaced_by: there is no key bbbbbbbbbbbb",
            id="successor",
        ),
        pytest.param(
            joined(organization(), team(), key(), key("bbbbbbbbbbbb")),
            "a.yaml: line 17, column 7: name: team acme/search has a key named ci already:"
            " abcdefghijkl",
            id="name of a key",
        ),
    ],
)
def test_an_object_that_is_not_there_is_named_with_its_place(text: str, expected: str) -> None:
    assert faults(text, []) == [expected]


@pytest.mark.parametrize(
    ("since", "words"),
    [
        ("revoked_at: 2026-03-01T00:00:00Z\n", "was revoked at 2026-03-01 00:00:00Z"),
        ("replaced_by: bbbbbbbbbbbb\nexpires_at: 2026-03-01\n", "was replaced by bbbbbbbbbbbb"),
    ],
)
def test_a_file_lets_no_ended_key_in_again(since: str, words: str) -> None:
    """It is older than the revocation or rotation: nothing changes, and that is reported."""
    before = stored(organization(), team(), key(more=since), key("bbbbbbbbbbbb", "ci"))

    found = plan(key(more="tags: [a]\n"), before)

    assert found.changes == ()
    assert found.kept == (f"a.yaml, line 1: key abcdefghijkl {words} and stays as it is",)
    assert found.is_drift


WEBHOOK = (
    "kind: Policy\nname: strict\nguardrails:\n"
    "- {{name: dlp, type: webhook, url: 'https://dlp.example/check', headers: {{x-key: '{0}'}}}}\n"
)


def test_a_masked_value_is_never_stored() -> None:
    """It is accepted where the policy in force is the same but for the values that are masked."""
    before = stored(WEBHOOK.format("hunter2"))
    fault = (
        "a.yaml: line 4, column 81: guardrails[0].headers.x-key: `***` stands for a value that the"
        " file does not hold (write the value itself)"
    )

    assert plan(WEBHOOK.format("***"), before).changes == ()
    assert faults(WEBHOOK.format("***").replace("dlp.example", "evil.example"), before) == [
        fault.replace("column 81", "column 82")
    ]
    assert faults(WEBHOOK.format("***"), []) == [fault]


def test_a_plan_for_programs_has_each_action_and_the_objects_in_no_file() -> None:
    before = stored(organization())
    found = plan_document(plan(organization("new"), before, prunes=True))
    kept = plan_document(plan(organization("new"), before, prunes=False))

    assert [one["action"] for one in found["changes"]] == ["create", "delete"]
    assert (found["left"], kept["left"]) == ([], ["organization acme"])


def test_new_policies_that_others_bind_are_a_step_of_their_own() -> None:
    """Workers refuse requests under a policy that they have not compiled yet."""
    text = joined(policy("bound"), policy("free"), organization(more="policy: bound\n"))

    first, rest = plan(text, []).in_steps()

    assert [one.name for one in first.changes] == ["bound"]
    assert [one.name for one in rest.changes] == ["free", "acme"]
    assert rest == plan(text, stored(policy("bound")))


@pytest.mark.parametrize("text", [ALL, joined(policy("default"), organization())])
def test_a_plan_without_new_policies_that_are_bound_is_one_step(text: str) -> None:
    found = plan(text, [])

    assert found.in_steps() == (found,)
