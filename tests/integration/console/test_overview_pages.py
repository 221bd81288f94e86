from __future__ import annotations

from fastapi import FastAPI

from tests.support.console import HOSTILE, Visitor, World

PAGES = [
    "/", "/overview/live", "/usage", "/usage?by=tag", "/usage?by=model&span=24h&measure=tokens",
    "/usage.csv?by=model", "/keys", "/keys/new", "/keys/{key}", "/organizations",
    "/organizations/acme", "/organizations/acme/teams/search",
    "/organizations/acme/teams/search/keys/new", "/limits", "/policies", "/policies/strict",
    "/policies/strict/edit", "/policies/strict/versions/1", "/policies/default",
    "/policies/+editor",
    "/findings", "/findings?by=team", "/audit", "/tokens", "/prices", "/doctor",
    "/in-force?watch=abcd", "/static/console.css",
]  # fmt: skip


async def test_every_page_answers_without_an_inline_script_or_style(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "admin")

    for path in PAGES:
        await visitor.get(path.format(key=world.keys[0]))


async def test_the_overview_sums_the_last_day_and_shows_the_latest_changes(
    console: FastAPI,
) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.get("/")

    assert "840" in page
    assert "$42.00" in page
    assert "2 of 2" in page
    assert "Latest changes" in page


async def test_an_overview_counts_only_owners_that_the_person_may_view(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "viewer:acme/search")

    page = await visitor.get("/")

    assert "280" in page
    assert "acme/search" in page
    assert "acme/support" not in page
    assert "globex" not in page
    assert "Latest changes" not in page


async def test_a_model_that_is_named_by_a_client_is_text_on_the_page(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.get("/usage?by=model")

    assert "<img" not in page
    assert "<bdi>&lt;img src=x onerror=alert(1)&gt;&#39; OR 1=1 --" in page
    assert "\x1b" not in page
    assert HOSTILE not in page
