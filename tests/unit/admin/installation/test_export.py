from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.admin.installation.export import document_text, export_files, masked_policies
from sidecar.admin.installation.objects import DOCUMENTS, Kind, parse_files
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

    plan = plan_installation(wanted, tree(), file_set="default", prunes=True, deleted={})

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


NAMES = st.sampled_from(
    ["on", "null", "no", "1e5", "0x1f", "0o17", "123", "1.5", "12-30", "y", "nan", "2026-01-01"]
) | st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)
GLOBS = st.sampled_from(
    ["*", "null", "~", "1e5", "a: b", "a #b", "- a", "'", '"', " a ", "&a"]
) | (
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
        lambda text: "\x7f" not in text
    )
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "localtime", "Factory"])
LIMITS = st.builds(
    lambda limit, zone, models: {"limit": limit, "time_zone": zone, "models": models},
    st.sampled_from(["cost/day=5", "cost/month=0.000001", "cost/week=1000", "tokens/minute=5"]),
    ZONES,
    st.none() | st.lists(GLOBS, min_size=1, max_size=3),
)
OWNER = {
    "enabled": st.booleans(),
    "policy": st.none() | NAMES,
    "allowed_models": st.none() | st.lists(GLOBS, max_size=3),
    "limits": st.lists(LIMITS, max_size=1),
}
MOMENTS = st.none() | st.sampled_from(
    ["1970-01-02T00:00:00Z", "2026-10-25T02:30:00.000001+02:00", "9998-12-30T00:00:00Z"]
)
TEAMS = st.builds(lambda organization, team: f"{organization}/{team}", NAMES, NAMES)
DOLLARS = st.none() | st.decimals(0, 99_999_999, places=6)
OBJECTS = st.one_of(
    st.tuples(st.just(Kind.ORGANIZATION), st.fixed_dictionaries({"name": NAMES, **OWNER})),
    st.tuples(st.just(Kind.TEAM), st.fixed_dictionaries({"name": TEAMS, **OWNER})),
    st.tuples(st.just(Kind.KEY), st.fixed_dictionaries({
        "id": st.sampled_from(["123456789012", "0x1234567890", "1e1234567890"]),
        "secret_sha256": st.just(DIGEST),
        "team": TEAMS,
        "name": NAMES,
        "expires_at": MOMENTS,
        "revoked_at": MOMENTS,
        "allowed_operations": st.none() | st.just(["chat"]),
        "allowed_sources": st.none() | st.lists(
            st.sampled_from(["10.0.0.0/8", "::1/128", "1.2.3.4"]), min_size=1, unique=True
        ),
        "tags": st.lists(NAMES, min_size=1, unique=True, max_size=3),
        **OWNER,
    })),
    st.tuples(st.just(Kind.PRICE), st.fixed_dictionaries({
        "model": GLOBS,
        "valid_from": MOMENTS.filter(bool),
        "input": DOLLARS.filter(lambda amount: amount is not None),
        "output": DOLLARS.filter(lambda amount: amount is not None),
        "cached_input": DOLLARS,
    })),
    st.tuples(st.just(Kind.ALERT_ROUTE), st.fixed_dictionaries({
        "name": NAMES,
        "channel": st.just("webhook"),
        "url": st.sampled_from(["https://a/?b=c%20d&e=#"[:-1], "http://[::1]:80/x:%20y"]),
        "secret": st.sampled_from(["env:ALERT_1", "file:1e5"]),
        "organization": st.none() | NAMES,
        "quiet_hours": st.sampled_from([None, "22:00-07:00", "12:30-12:30"]),
        "time_zone": ZONES,
    })),
)  # fmt: skip


@given(made=OBJECTS)
def test_every_object_that_can_be_stored_is_exported_as_it_is(
    made: tuple[Kind, dict[str, object]],
) -> None:
    kind, fields = made
    content = DOCUMENTS[kind].model_validate(fields)
    stored = StoredObject(kind, content.identity, content, "default")

    (read,) = parse_files([("export.yaml", document_text(stored))])

    assert (read.kind, read.name, read.content) == (kind, stored.name, content)
