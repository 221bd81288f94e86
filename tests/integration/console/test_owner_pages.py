from __future__ import annotations

import re

import pytest
from fastapi import FastAPI

from sidecar.console import owner_pages
from tests.support.admin_api import token_client
from tests.support.console import Visitor

TEAM = "/organizations/acme/teams/search"


async def test_one_form_makes_a_team_with_a_policy_and_a_budget(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/organizations")
    await visitor.send("/organizations", {"name": "umbrella", "policy": "strict"})

    page = await visitor.send(
        "/organizations/umbrella/teams", {"name": "red", "policy": "strict", "budget": "250"}
    )

    assert "umbrella/red" in page
    assert "cost/month=250.00" in page
    assert 'href="/policies/strict"' in page


async def test_a_team_with_a_wrong_budget_is_not_made_at_all(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/organizations/acme")

    page = await visitor.send(
        "/organizations/acme/teams", {"name": "red", "budget": "plenty"}, status=409
    )

    assert "is no amount" in visitor.text
    assert 'value="red"' in page
    await visitor.get("/organizations/acme/teams/red", status=404)


async def test_a_taken_name_is_refused_on_the_page_of_the_form(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/organizations")

    await visitor.send("/organizations", {"name": "acme"}, status=409)

    assert "organization acme exists already" in visitor.text


async def test_policy_models_and_state_of_owners_change_and_are_in_the_audit_log(
    console: FastAPI,
) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get(TEAM)

    await visitor.send(f"{TEAM}/change", {"policy": "strict"})
    await visitor.send(f"{TEAM}/change", {"models": "gpt-4* claude-*"})
    team = await visitor.send(f"{TEAM}/change", {"enabled": "no"})
    organization = await visitor.send("/organizations/acme/change", {"enabled": "no"})

    assert "gpt-4*, claude-*" in team
    assert "disabled" in team
    assert "alice@example.com" in team
    assert "disabled" in organization
    await visitor.send(f"{TEAM}/change", {"policy": "no-such"}, status=409)


@pytest.mark.parametrize("path", ["/organizations/acme", TEAM])
async def test_models_of_an_owner_that_another_person_changed_meanwhile_are_not_replaced(
    console: FastAPI, path: str
) -> None:
    first, second = await Visitor.of(console, "admin"), await Visitor.of(console, "admin")
    seen = re.search(r'name="seen" value="([^"]+)"', await first.get(path))
    assert seen is not None
    await second.get(path)
    await second.send(f"{path}/change", {"models": "gpt-4o"})

    stale = {"models": "gpt-4o o3", "seen": seen[1]}
    page = await first.send(f"{path}/change", stale, status=409)

    assert "this was changed since the page was read" in page
    assert 'value="gpt-4o"' in page


async def test_an_owner_that_something_depends_on_is_not_deleted(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get(TEAM)
    await visitor.send("/organizations/acme/teams", {"name": "empty"})

    await token_client(console, "viewer:acme")
    assert "1 API token: API tokens" in await visitor.get("/organizations/acme")
    assert "1 API token" not in await visitor.get(TEAM)
    await visitor.send(f"{TEAM}/delete", {}, status=409)
    assert "it still has 1 key" in visitor.text
    await visitor.send("/organizations/acme/delete", {}, status=409)
    await visitor.send("/organizations/acme/teams/empty/delete", {})
    await visitor.get("/organizations/acme/teams/empty", status=404)


async def test_an_operator_of_one_organization_sees_and_changes_no_other(
    console: FastAPI,
) -> None:
    visitor = await Visitor.of(console, "operator:acme")

    page = await visitor.get("/organizations")

    assert "globex" not in page
    await visitor.get("/organizations/globex", status=404)
    await visitor.send("/organizations/globex/teams", {"name": "red"}, status=404)
    await visitor.send("/organizations", {"name": "umbrella"}, status=403)
    await visitor.send("/organizations/acme/change", {"enabled": "no"}, status=403)
    await visitor.send(f"{TEAM}/change", {"policy": "strict"}, status=403)
    await visitor.send("/organizations/acme/teams", {"name": "r", "policy": "strict"}, status=403)
    await visitor.get("/organizations/acme")
    await visitor.send("/organizations/acme/teams", {"name": "red", "budget": "5"})


async def test_organizations_and_teams_come_page_by_page(
    console: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose names have the filter in them; of each organization its first teams."""
    monkeypatch.setattr(owner_pages, "PAGE_SIZE", 1)
    monkeypatch.setattr(owner_pages, "MOST_TEAMS", 1)
    visitor = await Visitor.of(console, "viewer")

    first = await visitor.get("/organizations?filter=c")
    second = await visitor.get("/organizations?after=acme")
    of_one = await visitor.get("/organizations/acme")
    rest = await visitor.get("/organizations/acme?after=search")

    links = [re.findall(r'href="/organizations/(\w+(?:/teams/\w+)?)"', page)
             for page in (first, second, of_one, rest)]  # fmt: skip
    assert links[:2] == [["acme", "acme/teams/search"], ["globex", "globex/teams/lab"]]
    assert links[2:] == [["acme/teams/search"], ["acme/teams/support"]]
    assert "and more" in first
    assert "Next page" not in first + second + rest
    assert "after=search" in of_one
