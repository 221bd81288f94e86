"""What a key is for, on the command line; and lists of many keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.command_line import Egret

NARROW = (
    *("--operation", "embeddings", "--operation", "chat"),
    *("--source", "192.0.2.0/24", "--source", "2001:db8::1"),
    *("--tag", "env=prod", "--tag", "owner=ml"),
)
SCOPES = {
    "allowed_operations": ["chat", "embeddings"],
    "allowed_sources": ["192.0.2.0/24", "2001:db8::1/128"],
    "tags": ["env=prod", "owner=ml"],
}


@pytest.fixture
def egret(egret: Egret) -> Egret:
    """With an organization of two teams, and another."""
    egret.prepare(
        "orgs create acme",
        "orgs create zoo",
        "teams create search --org acme",
        "teams create ads --org acme",
        "teams create apes --org zoo",
    )
    return egret


def create(egret: Egret, name: str, *options: str, team: str = "search") -> Any:
    return egret(*("keys", "create", "--team", team, "--name", name, "-o", "json"), *options).json


def scopes_of(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in SCOPES}


def names(egret: Egret, *options: str) -> list[str]:
    return [row["name"] for row in egret("keys", "list", "-o", "json", *options).json]


def test_a_key_is_made_for_what_its_options_say_and_rotation_keeps_it(egret: Egret) -> None:
    """Operations and tags in order and once each, an address as a network of one."""
    created = create(egret, "laptop", *NARROW, "--not-before", "2030-01-01", "--tag", "env=prod")

    rotated = egret("keys", "rotate", created["key_id"], "-o", "json").json

    assert scopes_of(created) == scopes_of(rotated) == SCOPES
    assert {row["not_before"] for row in (created, rotated)} == {"2030-01-01T00:00:00Z"}
    assert (created["state"], rotated["state"]) == ("not_yet", "not_yet")


def test_what_a_key_is_for_can_be_changed_and_all_else_stays(egret: Egret) -> None:
    """A list replaces the one before; a key becomes wide again only by saying so."""
    key_id = create(egret, "laptop", "--model", "gpt-*", *NARROW)["key_id"]

    narrowed = egret("keys", "set", key_id, "--operation", "chat", "-o", "json").json
    widened = egret(
        *("keys", "set", key_id, "-o", "json", "--any-model", "--any-operation", "--any-source"),
        *("--no-tags", "--not-before", "1d"),
    ).json

    assert scopes_of(narrowed) == SCOPES | {"allowed_operations": ["chat"]}
    assert narrowed["allowed_models"] == ["gpt-*"]
    assert scopes_of(widened) == {"allowed_operations": None, "allowed_sources": None, "tags": []}
    assert widened["allowed_models"] is None
    begins_in = datetime.fromisoformat(widened["not_before"]) - datetime.now(UTC)
    assert timedelta(hours=23) < begins_in <= timedelta(days=1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param(
            ["--operation", "fly"],
            "--operation: there is no operation 'fly'; there are ",
            id="operation",
        ),
        pytest.param(
            ["--source", "192.0.2.1/24"],
            "--source: '192.0.2.1/24' is no network, write for example 192.0.2.0/24",
            id="an address in a network",
        ),
        pytest.param(["--tag", "A"], "--tag: 'A' is no tag", id="tag"),
        pytest.param(["--not-before", "soon"], "--not-before: 'soon' is no time", id="time"),
        pytest.param(
            ["--source", "::/0", "--any-source"],
            "--source and --any-source exclude each other; choose one",
            id="both",
        ),
        pytest.param([], "nothing to set; see `egret keys set --help`", id="nothing"),
    ],
)
def test_what_cannot_be_set_is_refused_and_changes_nothing(
    egret: Egret, options: list[str], error: str
) -> None:
    """Wrong usage, with what would be right."""
    created = create(egret, "laptop", *NARROW)

    ran = egret("keys", "set", created["key_id"], *options)

    shown = egret("keys", "show", created["key_id"], "-o", "json").json
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {error}")
    assert scopes_of(shown) == SCOPES


def test_a_key_cannot_begin_after_it_expires(egret: Egret) -> None:
    """Nothing is changed; a key that has expired can be given a beginning before that."""
    key_id = create(egret, "laptop", "--expires", "10d")["key_id"]

    late = egret("keys", "set", key_id, "--not-before", "30d")
    early = egret("keys", "set", key_id, "--not-before", "2d", "-o", "json")
    egret("keys", "expire", key_id)
    past = egret("keys", "set", key_id, "--not-before", "2020-01-01")

    assert (late.code, late.out) == (1, "")
    assert late.err.startswith("error: key laptop would never be good: it begins at 2")
    assert late.err.endswith("; give a later expiry, or an earlier start\n")
    assert (early.code, past.code) == (0, 0)


def test_a_glob_that_can_be_no_models_changes_no_key(egret: Egret) -> None:
    created = create(egret, "laptop", *NARROW)

    ran = egret("keys", "set", created["key_id"], "--model", "")

    shown = egret("keys", "show", created["key_id"], "-o", "json").json
    assert (ran.code, ran.err.startswith("error: '' is no model")) == (1, True)
    assert shown["allowed_models"] == created["allowed_models"]


def test_a_revoked_key_cannot_be_changed(egret: Egret) -> None:
    """It ended for good."""
    key_id = create(egret, "laptop")["key_id"]
    egret("keys", "revoke", key_id)

    ran = egret("keys", "set", key_id, "--tag", "env=prod")

    assert (ran.code, ran.err) == (
        1,
        f"error: key {key_id} is revoked; create another with `egret keys create`\n",
    )


def test_keys_are_listed_page_by_page(egret: Egret) -> None:
    """By name within a team; each page says how to go on, and the last says nothing."""
    for name in ("delta", "alpha", "charlie", "bravo", "echo"):
        create(egret, name)
    pages: list[list[str]] = []
    after: list[str] = []
    while True:
        ran = egret("keys", "list", "--team", "search", "--limit", "2", "-o", "json", *after)
        pages.append([row["name"] for row in ran.json])
        if not ran.err:
            break
        last = ran.json[-1]["key_id"]
        assert ran.err == f"there are more: --after {last}\n"
        after = ["--after", last]

    assert pages == [["alpha", "bravo"], ["charlie", "delta"], ["echo"]]


def test_a_page_goes_on_where_it_was_whatever_came_and_went(egret: Egret) -> None:
    """The last key of a page may be revoked meanwhile, and another come before it."""
    ids = {name: create(egret, name)["key_id"] for name in ("bravo", "charlie", "delta")}
    egret("keys", "revoke", ids["bravo"])
    create(egret, "alpha")

    assert names(egret, "--team", "search", "--after", ids["bravo"]) == ["charlie", "delta"]


def test_lists_are_chosen_by_owner_state_and_tag(egret: Egret) -> None:
    """Each alone and together."""
    create(egret, "good")
    create(egret, "tagged", "--tag", "env=prod")
    egret("keys", "expire", create(egret, "old", "--tag", "env=prod")["key_id"])
    create(egret, "early", "--not-before", "1d")
    create(egret, "ape", team="apes")
    create(egret, "ad", team="ads")
    egret("keys", "revoke", create(egret, "gone")["key_id"])
    egret("keys", "disable", create(egret, "off")["key_id"])

    assert sorted(names(egret, "--organization", "zoo")) == ["ape"]
    assert sorted(names(egret, "--org", "acme", "--state", "active")) == ["ad", "good", "tagged"]
    assert names(egret, "--team", "search", "--state", "active") == ["good", "tagged"]
    assert {
        state: names(egret, "--state", state)
        for state in ("revoked", "expired", "not_yet", "disabled")
    } == {"revoked": ["gone"], "expired": ["old"], "not_yet": ["early"], "disabled": ["off"]}
    assert sorted(names(egret, "--tag", "env=prod")) == ["old", "tagged"]
    assert names(egret, "--tag", "env=prod", "--state", "expired", "--team", "search") == ["old"]
    assert names(egret, "--tag", "none") == []


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        pytest.param(
            ["--organization", "nope"],
            1,
            "error: there is no organization nope; see `egret orgs list`\n",
            id="organization",
        ),
        pytest.param(
            ["--after", "AAAAAAAAAAAA"],
            1,
            "error: there is no key AAAAAAAAAAAA to go on after; begin again without `after`\n",
            id="a place that is gone",
        ),
        pytest.param(
            ["--after", "not-an-id"],
            2,
            "error: KEY_ID is not the id of a key; see `egret keys list`\n",
            id="no id",
        ),
    ],
)
def test_a_list_of_what_is_not_there_says_so(
    egret: Egret, options: list[str], code: int, error: str
) -> None:
    """An empty list would read as an answer."""
    ran = egret("keys", "list", *options)

    assert (ran.code, ran.out, ran.err) == (code, "", error)
