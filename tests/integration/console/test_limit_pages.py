from __future__ import annotations

import html
import re

import pytest
from fastapi import FastAPI

from sidecar.console import limit_pages
from tests.support.console import Visitor, World

TEAM = "/organizations/acme/teams/search"


async def test_a_budget_is_a_bar_with_the_forecast_of_its_end(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.get("/limits")

    assert "cost/month=10.00" in page
    assert 'class="bar"' in page
    assert "No price is set" in page
    assert "by records" in page


async def test_a_limit_is_set_replaced_and_removed_by_forms(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get(TEAM)

    await visitor.send(f"{TEAM}/limits", {"kind": "cost/month", "amount": "$20"})
    page = await visitor.send(f"{TEAM}/limits", {"kind": "requests/minute", "amount": "60"})
    assert "cost/month=20.00" in page
    assert "requests/minute=60" in page
    few = {"kind": "requests/minute", "amount": "5", "models": "o3*"}
    page = await visitor.send(f"{TEAM}/limits", few)
    (of_every_model,) = re.findall(r'value="(\w+/requests/minute/\w+)"', page)[:1]
    page = await visitor.send(f"{TEAM}/limits", {"remove": of_every_model})
    assert "requests/minute=60" not in page
    assert "requests/minute=5" in page, "of other models"
    key = f"/keys/{world.keys[0]}"
    page = await visitor.send(f"{key}/limits", {"kind": "tokens/day", "amount": "5000"})
    assert "tokens/day=5000" in page
    page = await visitor.send(
        "/organizations/acme/limits", {"kind": "concurrent", "amount": "8", "models": "gpt-4*"}
    )
    assert "concurrent=8" in page


async def test_words_that_are_no_limit_change_nothing(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get(TEAM)

    await visitor.send(f"{TEAM}/limits", {"kind": "cost/month", "amount": "1e99"}, status=409)
    await visitor.send(f"{TEAM}/limits", {"kind": "joy/month", "amount": "1"}, status=409)
    await visitor.send(f"{TEAM}/limits", {"kind": "cost/month"}, status=422)
    await visitor.send(f"{TEAM}/limits", {"remove": "tokens/day"}, status=409)

    assert "cost/month=10.00" in await visitor.get(TEAM)


async def test_limits_that_cannot_be_read_are_named_and_hide_no_others(
    console: FastAPI, world: World
) -> None:
    """Such as a newer Egret wrote: a team sees no organization's."""
    visitor = await Visitor.of(console, "admin")
    async with console.state.pool.acquire() as connection:
        await connection.execute(
            "UPDATE organizations SET limits = '[{\"measure\": \"smiles\"}]' WHERE name = 'acme'"
        )

    for path in ("/limits", "/limits?organization=acme", TEAM, f"/keys/{world.keys[0]}"):
        page = await visitor.get(path)
        assert "the limits of organization acme cannot be read" in page
        assert "cost/month=10.00" in page
    page = await visitor.get("/organizations/acme")
    assert "the limits of organization acme cannot be read" in page
    assert "No limit is set" not in page
    lead = await Visitor.of(console, "viewer:acme/search")
    assert "cannot be read" not in await lead.get("/limits")
    assert "cannot be read" not in await lead.get(TEAM)


async def test_limits_of_other_teams_are_not_listed(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "viewer:acme/support")

    page = await visitor.get("/limits")

    assert "acme/search" not in page
    assert "No limit is set." in page


async def test_a_team_sees_no_budget_of_its_organization(console: FastAPI, world: World) -> None:
    """Nor how much of it the other teams have used, as with the API."""
    admin, viewer = [await Visitor.of(console, one) for one in ("admin", "viewer:acme/search")]
    await admin.get("/organizations/acme")
    await admin.send("/organizations/acme/limits", {"kind": "cost/month", "amount": "777"})

    for path in (TEAM, f"/keys/{world.keys[0]}"):
        assert "cost/month=777.00" in await admin.get(path)
        page = await viewer.get(path)
        assert "cost/month=10.00" in page
        assert "777" not in page


async def test_owners_with_limits_come_page_by_page(
    console: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one organization after the other; each owner is on one page."""
    monkeypatch.setattr(limit_pages, "MOST_OWNERS", 2)
    monkeypatch.setattr(limit_pages, "MOST_ORGANIZATIONS", 1)
    limit = '[{"measure": "requests", "window": "minute", "amount": 7}]'
    async with console.state.pool.acquire() as connection:
        await connection.execute("UPDATE organizations SET limits = $1", limit)
        await connection.execute("UPDATE teams SET limits = $1 WHERE name <> 'search'", limit)
    visitor = await Visitor.of(console, "viewer")

    pages, path = [], "/limits"
    while path:
        page = await visitor.get(path)
        pages.append(re.findall(r'data-label="Owner">(\w+ <bdi[^>]*>[^<]+)', page))
        link = re.search(r'href="(/limits\?[^"]+)"', page)
        path = html.unescape(link[1]) if link else ""

    names = [[re.sub("<.*>", "", one) for one in page] for page in pages]
    assert names == [
        ["organization acme", "team acme/search"],
        ["team acme/support"],
        ["organization globex", "team globex/lab"],
    ]
