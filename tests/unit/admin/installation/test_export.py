from __future__ import annotations

from sidecar.admin.installation.export import document_text, export_files, masked_policies
from sidecar.admin.installation.objects import Kind, parse_files
from sidecar.admin.installation.plan import StoredObject, plan_installation
from sidecar.storage.postgres_policies import StoredPolicy
from tests.support.installation import DIGEST, exported, joined, key, organization, price, team

POLICY = StoredPolicy(
    "strict",
    2,
    "# by hand\nname: strict\nguardrails:\n"
    "- {name: dlp, type: webhook, url: 'https://dlp.example/?token=t0k', headers: {a: hunter2}}\n",
)
TREE = joined(
    price("'*'", "0.000001"),
    organization(more="enabled: false\nallowed_models: []\n"),
    team(more="limits: [{limit: tokens/minute=5, burst: 2, time_zone: UTC}]\n"),
    key("123456789012", "on", more="priority: batch\nreplaced_by: bbbbbbbbbbbb\n"),
    key("bbbbbbbbbbbb", "on", more="tags: ['yes', a]\nnot_before: 2026-01-01T00:00:00.000001Z\n"),
)


def tree() -> tuple[StoredObject, ...]:
    objects = (
        StoredObject(one.kind, one.name, one.content, "default")  # type: ignore[arg-type]  # no policy
        for one in parse_files([("a", TREE)])
    )
    return (StoredObject(Kind.POLICY, "strict", POLICY, "default"), *objects)


def test_an_export_is_no_change() -> None:
    wanted = parse_files([("export.yaml", exported(tree()))])

    plan = plan_installation(wanted, tree(), file_set="default", prunes=True)

    assert (plan.changes, plan.unchanged) == ((), 6)


def test_values_of_headers_and_queries_are_not_exported() -> None:
    text = exported(tree())

    assert "hunter2" not in text
    assert "t0k" not in text
    assert "# `***` stands for a value that is not in this file." in text
    assert masked_policies(tree()) == ("strict",)


def test_a_folder_has_a_file_for_each_team_with_its_keys() -> None:
    files = dict(export_files(tree()))

    assert list(files) == [
        "policies/strict.yaml",
        "prices.yaml",
        "organizations/acme.yaml",
        "teams/acme/search.yaml",
    ]
    assert files["teams/acme/search.yaml"].count("kind: Key") == 2


def test_a_document_begins_with_its_kind_and_name_and_leaves_defaults_out() -> None:
    assert document_text(tree()[2]) == (
        "kind: Organization\nname: acme\nenabled: false\nallowed_models: []\n"
    )
    assert document_text(tree()[4]) == (
        f"kind: Key\nid: '123456789012'\nsecret_sha256: '{DIGEST}'\nteam: acme/search\n"
        "name: 'on'\nreplaced_by: bbbbbbbbbbbb\npriority: batch\n"
    )
