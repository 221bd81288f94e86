from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from sidecar.admin_api import access
from sidecar.admin_api.access import Requirement
from sidecar.admin_api.roles import INSTALLATION_WIDE
from tests.support.admin_api import client_of
from tests.support.console import EDIT, Visitor, World
from tests.support.postgres import Database


async def test_without_a_session_a_page_leads_to_the_login(console: FastAPI) -> None:
    client = client_of(console)

    answer = await client.get("/keys")
    login = await client.get(answer.headers["location"])

    assert answer.status_code == httpx.codes.SEE_OTHER
    assert "egret admin login-link" in login.text


async def test_a_link_shows_a_button_and_its_token_as_text(console: FastAPI) -> None:
    answer = await client_of(console).get("/login/link?token=%22%3E%3Cscript%3E")

    assert "&#34;&gt;&lt;script&gt;" in answer.text
    assert "Log in" in answer.text


async def test_an_expired_session_gives_an_edited_text_back(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/policies/strict/edit")
    async with console.state.pool.acquire() as connection:
        await connection.execute("DELETE FROM admin_sessions")

    page = await visitor.send("/policies/+editor", {**EDIT, "step": "apply"}, status=401)

    assert "unsaved &lt;words&gt;" in page
    assert 'href="/login" target="_blank"' in page
    # Signed in again in another tab: the token is of the new session, the text is the old one.
    again = await Visitor.of(console, "admin")
    visitor.client.cookies = again.client.cookies
    page = await visitor.send("/policies/+editor", {**EDIT, "step": "apply"}, status=403)
    assert "unsaved &lt;words&gt;" in page
    await visitor.send("/policies/+editor", {**EDIT, "step": "apply"})
    assert "version 2" in visitor.page


FORM = {"content-type": "application/x-www-form-urlencoded"}


async def endless() -> AsyncIterator[bytes]:
    yield b"name=umbrella"
    await asyncio.Event().wait()


async def test_a_form_without_a_session_is_refused_unread(console: FastAPI) -> None:
    async with asyncio.timeout(5):
        answer = await client_of(console).post("/organizations", content=endless(), headers=FORM)

    assert answer.status_code == httpx.codes.UNAUTHORIZED
    assert "umbrella" not in answer.text


async def test_a_form_that_does_not_end_in_time_is_not_given_back(
    console: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "BODY_SECONDS", 0.01)
    visitor = await Visitor.of(console, "admin")
    slow = await visitor.client.post("/organizations", content=endless(), headers=FORM)
    async with console.state.pool.acquire() as connection:
        await connection.execute("DELETE FROM admin_sessions")

    expired = await visitor.client.post("/organizations", content=endless(), headers=FORM)

    assert [slow.status_code, expired.status_code] == [408, 401]
    assert "umbrella" not in slow.text + expired.text


async def test_a_form_in_a_codec_of_the_client_is_not_read(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/organizations")
    sent = {"name": (None, "umbrella"), "csrf_token": (None, visitor.token)}
    post = visitor.client.build_request("POST", "/organizations", files=sent)
    post.headers["content-type"] += "; charset=punycode"

    known = await visitor.client.send(post)
    async with console.state.pool.acquire() as connection:
        await connection.execute("DELETE FROM admin_sessions")
    expired = await visitor.client.send(post)

    assert [known.status_code, expired.status_code] == [415, 401]
    assert "umbrella" not in known.text + expired.text


async def test_an_address_gets_few_forms_back(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/organizations")
    async with console.state.pool.acquire() as connection:
        await connection.execute("DELETE FROM admin_sessions")

    pages = [
        await visitor.send("/organizations", {"name": "umbrella"}, status=401) for _ in range(11)
    ]

    assert ["umbrella" in page for page in pages] == [True] * 10 + [False]


async def test_a_form_of_another_site_changes_nothing(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/organizations")
    visitor.client.headers["origin"] = "https://evil.example"

    refused = await visitor.send("/organizations", {"name": "umbrella"}, status=403)
    visitor.client.cookies.clear()  # as browsers leave out `SameSite=Lax`
    signed_out = await visitor.send("/organizations", {"name": "umbrella"}, status=401)

    # Given back, with the token of the session, one click would send it after all.
    assert "umbrella" not in refused + signed_out
    assert "<form" not in refused + signed_out
    again = await Visitor.of(console, "admin")
    assert "umbrella" not in await again.get("/organizations")


async def test_while_the_database_is_away_a_page_says_so_and_the_form_is_kept(
    console: FastAPI,
) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/organizations")
    await console.state.pool.close()

    page = await visitor.send("/organizations", {"name": "umbrella"}, status=503)

    assert "the database gave no answer" in visitor.text
    assert 'value="umbrella"' in page


async def test_static_files_are_kept_by_browsers_and_pages_are_not(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.client.get("/")
    script = await visitor.client.get("/static/vendor/htmx.min.js")
    outside = await visitor.client.get("/static/../rendering.py")

    assert page.headers["cache-control"] == "no-store"
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert outside.status_code == httpx.codes.NOT_FOUND


def console_routes(console: FastAPI) -> list[APIRoute]:
    package = str(Path("sidecar", "console"))
    return [
        route
        for route in console.routes
        if isinstance(route, APIRoute) and package in route.endpoint.__code__.co_filename
    ]


def test_every_page_declares_its_permission(console: FastAPI) -> None:
    for route in console_routes(console):
        calls = [one.call for one in route.dependant.dependencies]
        assert any(isinstance(one, Requirement) for one in calls), route.path


HOSTILE_VALUES = [
    "",
    "\x00",
    "<script>",
    "9" * 40,
    "-1",
    "\u202e",
    "x" * 10_000,
    "'; --",
    "\ud83d",
]
FIELDS = [
    "name", "policy", "budget", "kind", "amount", "models", "operations", "sources", "tags",
    "remove", "time_zone", "expires", "grace", "priority", "enabled", "version", "document",
    "guardrail", "mode", "sample", "side", "step", "note", "key",
]  # fmt: skip
QUERY = ["organization", "team", "state", "tag", "after", "by", "span", "measure", "kind",
         "object_id", "policy", "watch", "name", "next"]  # fmt: skip


async def test_no_value_of_a_form_or_an_address_is_a_fault_of_the_server(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/")
    token = {"csrf_token": visitor.token}
    places = {
        "organization": "acme", "team": "search", "key_id": world.keys[0], "name": "strict",
        "version": "1", "route": "none",
    }  # fmt: skip

    for route in console_routes(console):
        path = re.sub(r"{(\w+)}", lambda found: places[found[1]], route.path)
        for value in HOSTILE_VALUES:
            strange = value.encode(errors="replace").decode()
            if "GET" in (route.methods or ()):
                answer = await visitor.client.get(path, params=dict.fromkeys(QUERY, strange))
            else:
                form = dict.fromkeys(FIELDS, strange)
                answer = await visitor.client.post(path, data=form | token)
            assert answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR, (path, value[:20])


async def test_no_page_shows_or_changes_an_owner_of_another_organization(
    console: FastAPI, world: World, database: Database
) -> None:
    visitor = await Visitor.of(console, "admin:globex")
    await visitor.get("/")
    token = {"csrf_token": visitor.token, "enabled": "no", "name": "red", "remove": "cost/month"}
    places = {
        "organization": "acme", "team": "search", "key_id": world.keys[0], "name": "strict",
        "version": "1", "route": "none",
    }  # fmt: skip
    rows = "SELECT md5(string_agg(o::text, '')) FROM (SELECT * FROM {} ORDER BY 1) AS o"
    tables = ("organizations", "teams", "api_keys", "policies")

    async def state() -> list[str]:
        async with database.connect() as connection:
            return [await connection.fetchval(rows.format(table)) for table in tables]

    before = await state()
    for route in console_routes(console):
        path = re.sub(r"{(\w+)}", lambda found: places[found[1]], route.path)
        if "GET" in (route.methods or ()):
            answer = await visitor.client.get(path)
            assert "acme" not in answer.text, path
        else:
            answer = await visitor.client.post(path, data=token)
            assert answer.status_code in {403, 404, 409}, path
        if {"organization", "key_id"} & set(route.param_convertors):
            assert answer.status_code == httpx.codes.NOT_FOUND or is_installation_wide(route)
    assert await state() == before


def is_installation_wide(route: APIRoute) -> bool:
    """Whether the page needs a permission that no organization can have."""
    calls = [one.call for one in route.dependant.dependencies]
    found = [one.permission for one in calls if isinstance(one, Requirement)]
    return any(one in INSTALLATION_WIDE for one in found)
