from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI

from sidecar.admin_api.roles import Permission
from sidecar.admin_api.sign_in import end_sessions_of
from tests.support.admin_api import (
    API,
    client_of,
    pages_of,
    session_client,
    token_client,
)
from tests.support.postgres import Database, wait_for_lock


async def test_a_token_is_shown_once_works_and_is_revoked(app: FastAPI) -> None:
    """Listed with its creator and last use."""
    admin = await session_client(app, "admin:acme")

    made = await admin.post(
        f"{API}/tokens", json={"name": "ci", "role": "operator", "organization": "acme"}
    )
    bot = client_of(app, authorization=f"Bearer {made.json()['token']}")
    works = await bot.get(f"{API}/me")
    listed = await admin.get(f"{API}/tokens")
    revoked = await admin.post(f"{API}/tokens/{made.json()['details']['id']}/revoke")
    ended = await bot.get(f"{API}/me")

    assert made.status_code == 201
    assert works.json()["person"] == f"token ci {made.json()['details']['id']}"
    assert made.json()["token"] not in listed.text
    assert listed.json()[0]["created_by"] == "alice@example.com"
    assert listed.json()[0]["last_used_at"] is not None
    assert revoked.json()["revoked_at"] is not None
    assert ended.status_code == 401


async def test_no_token_has_a_permission_that_its_creator_lacks(app: FastAPI) -> None:
    """Of another organization, of the installation, or beyond the scopes of its own token."""
    admin = await session_client(app, "admin:acme")
    bot = await token_client(app, "admin:acme", scopes=[Permission.MANAGE_TOKENS, Permission.VIEW])

    refused = [
        await admin.post(f"{API}/tokens", json={"name": "a", "role": "viewer"}),
        await admin.post(
            f"{API}/tokens", json={"name": "a", "role": "viewer", "organization": "globex"}
        ),
        await bot.post(
            f"{API}/tokens", json={"name": "a", "role": "admin", "organization": "acme"}
        ),
    ]
    made = await bot.post(
        f"{API}/tokens",
        json={"name": "a", "role": "admin", "organization": "acme", "scopes": ["view"]},
    )

    assert [one.status_code for one in refused] == [403, 404, 403]
    assert made.status_code == 201


async def test_no_token_outlives_the_token_that_makes_it(app: FastAPI) -> None:
    """A program that is to end would let itself in for ever."""
    bot = await token_client(app, "admin:acme")
    async with app.state.pool.acquire() as connection:
        await connection.execute("UPDATE admin_tokens SET expires_at = now() + interval '30 days'")

    made = [
        await bot.post(
            f"{API}/tokens",
            json={
                "name": f"bot-{days or 0}",
                "role": "viewer",
                "organization": "acme",
                "expires_in_days": days,
            },
        )
        for days in (None, 31, 29)
    ]

    assert [one.status_code for one in made] == [403, 403, 201]
    assert "it would outlive the token that makes it" in made[0].text


async def test_tokens_of_others_are_not_there(app: FastAPI) -> None:
    """Neither in the list nor to revoke."""
    admin = await session_client(app, "admin:acme")
    await token_client(app, "viewer:globex")
    async with app.state.pool.acquire() as connection:
        token_id = await connection.fetchval("SELECT id FROM admin_tokens")

    listed = await admin.get(f"{API}/tokens")
    revoked = await admin.post(f"{API}/tokens/{token_id}/revoke")

    assert (listed.json(), revoked.status_code) == ([], 404)


async def test_tokens_come_page_by_page_if_a_caller_asks_for_pages(app: FastAPI) -> None:
    """In the order of the whole list, which callers without `limit` get as before."""
    for name in ("c", "b", "a", "b2"):
        await token_client(app, "operator:acme", name=name)
    admin = await session_client(app, "admin:acme")
    whole = (await admin.get(f"{API}/tokens")).json()
    await admin.post(f"{API}/tokens/{whole[0]['id']}/revoke")

    pages = await pages_of(admin, "/tokens", limit=2)
    wrong = await admin.get(f"{API}/tokens", params={"after": "a"})

    assert [one["name"] for one in whole] == ["a", "b", "b2", "c"]
    assert [[one["name"] for one in page] for page in pages] == [["b", "b2"], ["c", "a"]]
    assert (wrong.status_code, "`after`" in wrong.json()["detail"]) == (422, True)


async def test_a_token_of_an_organization_that_is_being_deleted_is_refused_with_the_cause(
    app: FastAPI, database: Database
) -> None:
    """The refusal names the organization, and no policy."""
    admin = await session_client(app, "admin")
    body = {"name": "ci", "role": "viewer", "organization": "initech"}
    async with database.connect() as other, database.connect() as third:
        await other.execute("INSERT INTO organizations (id, name) VALUES ('org_9', 'initech')")
        async with asyncio.TaskGroup() as tasks, other.transaction():
            await other.execute("DELETE FROM organizations WHERE id = 'org_9'")
            creation = tasks.create_task(admin.post(f"{API}/tokens", json=body))
            await wait_for_lock(third, "%INSERT INTO admin_tokens%")
        answer = creation.result()

    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        "the team or organization of token ci was deleted meanwhile",
    )


async def test_a_token_that_is_revoked_while_its_request_arrives_changes_nothing(
    app: FastAPI,
) -> None:
    """Else a leaked one could leave a successor behind: a body may take half a minute."""
    admin, bot = await session_client(app, "admin"), await token_client(app, "admin")
    (leaked,) = (await admin.get(f"{API}/tokens")).json()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"name": "successor",'
        await admin.post(f"{API}/tokens/{leaked['id']}/revoke")
        yield b'"role": "admin"}'

    headers = {"content-type": "application/json"}
    answer = await bot.post(f"{API}/tokens", content=body(), headers=headers)
    names = [one["name"] for one in (await admin.get(f"{API}/tokens")).json()]

    assert (answer.status_code, names) == (401, [leaked["name"]])


async def test_a_session_that_ends_while_its_request_arrives_changes_nothing(
    app: FastAPI,
) -> None:
    admin, other = await session_client(app, "admin"), await session_client(app, "admin")

    async def body() -> AsyncIterator[bytes]:
        yield b'{"name": "successor",'
        async with app.state.services.pool.acquire() as connection:
            await end_sessions_of(connection, "alice@example.com")
        yield b'"role": "admin"}'

    headers = {"content-type": "application/json"}
    answer = await admin.post(f"{API}/tokens", content=body(), headers=headers)
    ended = await other.get(f"{API}/me")
    left = await (await session_client(app, "admin")).get(f"{API}/tokens")

    assert (answer.status_code, ended.status_code, left.json()) == (401, 401, [])
