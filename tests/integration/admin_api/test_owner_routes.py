from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import asyncpg
import pytest
from fastapi import FastAPI

from tests.support.admin_api import API, session_client

HOSTILE = [
    "<script>alert(1)</script>",
    "'; DROP TABLE teams; --",
    "\x1b[31mred\x1b[0m",
    "a" * 10_240,
    "\u202eevil",
    "nul\x00byte",
    "\ud800",
    "",
    "Upper",
]


async def test_an_organization_and_its_teams_live_by_the_api(app: FastAPI) -> None:
    """Create, show, change, list page by page, refuse to delete with keys, delete."""
    alice = await session_client(app, "admin")
    await alice.post(f"{API}/organizations", json={"name": "initech", "allowed_models": ["gpt-*"]})
    await alice.post(f"{API}/organizations/initech/teams", json={"name": "tps"})

    shown = await alice.patch(
        f"{API}/organizations/initech", json={"name": "initrode", "enabled": False}
    )
    first = (await alice.get(f"{API}/organizations", params={"limit": 2})).json()
    second = (await alice.get(f"{API}/organizations", params={"after": first["next"]})).json()
    teams = (await alice.get(f"{API}/teams", params={"limit": 2})).json()
    rest = (await alice.get(f"{API}/teams", params={"after": teams["next"]})).json()
    full = await alice.delete(f"{API}/organizations/acme")
    gone = await alice.delete(f"{API}/organizations/initrode", params={"cascade": "true"})

    body = shown.json()
    assert (body["name"], body["enabled"], body["allowed_models"]) == (
        "initrode",
        False,
        ["gpt-*"],
    )
    assert [one["name"] for one in first["items"] + second["items"]] == [
        "acme",
        "globex",
        "initrode",
    ]
    assert [one["name"] for one in teams["items"] + rest["items"]] == [
        "ads",
        "search",
        "search",
        "tps",
    ]
    assert full.status_code == 409
    assert "2 teams and 2 keys (2 active)" in full.json()["detail"]
    assert gone.json() == {
        "teams": 1, "keys": 0, "active_keys": 0, "alert_routes": 0, "tokens": 0,
    }  # fmt: skip


async def test_a_name_that_is_no_name_is_refused_and_not_repeated(app: FastAPI) -> None:
    """HTML, SQL, escapes of a terminal, 10 KB, right to left."""
    alice = await session_client(app, "admin")

    answers = [
        await alice.post(
            f"{API}/organizations/acme/teams",
            content=b'{"name": ' + json_text(name) + b"}",
            headers={"content-type": "application/json"},
        )
        for name in HOSTILE
    ]
    paths = [
        await alice.get(f"{API}/organizations/{quote(name, safe='', errors='replace')}/teams/x")
        for name in HOSTILE
        if name
    ]

    assert [one.status_code for one in answers] == [422] * len(HOSTILE)
    assert max(len(one.content) for one in answers) < 1000
    assert {one.status_code for one in paths} <= {404, 422}


async def test_a_glob_that_can_be_no_models_is_refused(app: FastAPI) -> None:
    alice = await session_client(app, "admin")
    teams = f"{API}/organizations/acme/teams"

    answers = [
        await alice.post(teams, json={"name": "ci", "allowed_models": ["gpt\t4"]}),
        await alice.patch(f"{teams}/search", json={"allowed_models": ["gpt\t4"]}),
        await alice.post(f"{teams}/search/keys", json={"name": "ci", "allowed_models": ["a\t4"]}),
    ]
    empty = await alice.post(teams, json={"name": "ci", "allowed_models": [""]})

    assert [one.status_code for one in (*answers, empty)] == [422] * 4
    assert all("is no model: write a name or a glob" in one.text for one in answers)


def json_text(text: str) -> bytes:
    return ("".join(['"', *(f"\\u{ord(one):04x}" for one in text), '"'])).encode()


async def _pieces() -> AsyncIterator[bytes]:
    for _ in range(80):
        yield b"a" * 65_536


async def test_a_body_that_is_too_large_or_has_unknown_fields_is_refused(app: FastAPI) -> None:
    """413 before it is read whole, 422 for a mistyped field."""
    alice = await session_client(app, "admin")
    url = f"{API}/organizations/acme/teams"

    large = await alice.post(url, json={"name": "a" * (5 * 1024 * 1024)})
    endless = await alice.post(url, content=_pieces())
    unknown = await alice.post(url, json={"name": "a", "model": ["gpt-4"]})
    broken = await alice.post(
        url, content=b'{"name": ', headers={"content-type": "application/json"}
    )

    refused = (large, endless, unknown, broken)
    assert [one.status_code for one in refused] == [413, 413, 422, 422]
    assert {one.headers["content-type"] for one in refused} == {"application/problem+json"}
    assert all("content-security-policy" in one.headers for one in refused)
    assert unknown.json()["errors"][0]["in"] == "body.model"


async def test_pages_lose_no_name_in_a_database_of_another_collation(app: FastAPI) -> None:
    """That of English puts `ab` before `a-c`, which Python sorts the other way round."""
    async with app.state.pool.acquire() as connection:
        try:
            await connection.execute(
                "CREATE COLLATION en (provider = libc, locale = 'en_US.UTF-8')"
            )
        except asyncpg.PostgresError:
            pytest.skip("this machine has no locale en_US")
        await connection.execute(
            "ALTER TABLE organizations ALTER COLUMN name TYPE text COLLATE en;"
            "ALTER TABLE teams ALTER COLUMN name TYPE text COLLATE en;"
            "INSERT INTO organizations (id, name) VALUES ('o1', 'ab'), ('o2', 'a-c');"
            "INSERT INTO teams (organization_id, name) VALUES ('o1', 'ab'), ('o1', 'a-c')"
        )
    alice = await session_client(app, "admin")

    for path, names in (
        ("organizations", ["a-c", "ab", "acme", "globex"]),
        ("teams", ["a-c", "ab", "ads", "search", "search"]),
    ):
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            url, query = f"{API}/{path}", {"limit": "1", **after}
            page = (await alice.get(url, params=query)).json()
            found += [one["name"] for one in page["items"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert found == names
