from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from sidecar.admin_api import access
from sidecar.settings.process import Settings
from sidecar.settings.stores import PostgresSettings
from tests.support.admin_api import (
    API,
    admin_settings,
    client_of,
    running_app,
    session_client,
    token_client,
)
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker

TEAM = {"name": "maps"}
TEAMS = f"{API}/organizations/acme/teams"


async def execute(app: FastAPI, statement: str) -> None:
    async with app.state.pool.acquire() as connection:
        await connection.execute(statement)


async def test_a_change_needs_the_sessions_token_and_the_sites_origin(app: FastAPI) -> None:
    """A page of another site has neither, though the browser sends the cookie."""
    alice = await session_client(app, "admin")
    other = await session_client(app, "admin", person="eve@example.com")

    refused = [
        await alice.post(TEAMS, json=TEAM, headers=headers)
        for headers in (
            {"x-csrf-token": ""},
            {"x-csrf-token": other.headers["x-csrf-token"]},
            {"origin": "https://evil.example.com"},
            {"origin": "null"},
            {"origin": "", "referer": "https://evil.example.com/"},
        )
    ]
    made = await alice.post(TEAMS, json=TEAM)

    assert [one.status_code for one in refused] == [403] * 5
    assert made.status_code == 201


async def test_a_session_ends_by_idleness_by_age_and_by_log_out(app: FastAPI) -> None:
    """Each time with 401, in the middle of an edit too, and nothing is changed."""
    idle, old, ended = [
        await session_client(app, "admin", person=name) for name in ("idle", "old", "ended")
    ]
    await execute(
        app,
        "UPDATE admin_sessions SET seen_at = now() - interval '31 minutes' WHERE person = 'idle';"
        "UPDATE admin_sessions SET expires_at = now() - interval '1 s' WHERE person = 'old'",
    )
    kept = await session_client(app, "admin", person="kept")
    left = await ended.post("/logout")

    answers = [await one.post(TEAMS, json=TEAM) for one in (idle, old, ended, kept)]

    assert left.status_code == 303
    assert [one.status_code for one in answers] == [401, 401, 401, 201]
    assert answers[0].headers["content-type"] == "application/problem+json"


async def test_a_session_in_use_does_not_end_by_idleness(database: Database) -> None:
    """Though its last use is written now and then only; a session beside it ends."""
    async with running_app(admin_settings(database, session_idle_seconds=60)) as app:
        alice, bob = [await session_client(app, "admin", person=name) for name in ("a", "b")]
        answers = []
        for _ in range(2):
            aged = "UPDATE admin_sessions SET seen_at = seen_at - interval '40 s'"
            await execute(app, aged)
            answers.append(await alice.get(f"{API}/me"))
        answers.append(await bob.get(f"{API}/me"))

    assert [one.status_code for one in answers] == [200, 200, 401]


async def test_tokens_end_at_once_and_never_pass_for_sessions(app: FastAPI) -> None:
    """Revoked or expired, mistyped, or those of API keys; a token needs no form's token."""
    bot = await token_client(app, "operator:acme")
    before = await bot.post(TEAMS, json=TEAM)
    await execute(app, "UPDATE admin_tokens SET expires_at = now()")
    after = await bot.get(TEAMS.replace("/teams", ""))
    strange = [
        await client_of(app, authorization=text).get(f"{API}/me")
        for text in ("Bearer ega_x", "Bearer egk_AAAAAAAAAAA1", "Basic YTpi", "Bearer", "")
    ]

    assert (before.status_code, after.status_code) == (201, 401)
    assert [one.status_code for one in strange] == [401] * 5


async def test_a_token_may_do_no_more_than_its_scopes(app: FastAPI) -> None:
    """Of the role operator, it only reads."""
    from sidecar.admin_api.roles import Permission  # noqa: PLC0415

    bot = await token_client(app, "operator:acme", scopes=[Permission.VIEW])

    assert (await bot.get(f"{API}/keys/AAAAAAAAAAA1")).status_code == 200
    assert (await bot.post(TEAMS, json=TEAM)).status_code == 403


async def test_the_audit_log_names_the_person(app: FastAPI) -> None:
    """And the token, for a program."""
    alice, bot = await session_client(app, "admin"), await token_client(app, "admin", name="ci")
    await alice.post(TEAMS, json=TEAM)
    await bot.delete(f"{TEAMS}/maps")

    async with app.state.pool.acquire() as connection:
        rows = await connection.fetch(
            "SELECT actor, action FROM audit_log WHERE object_type = 'teams' AND actor IS NOT NULL"
            " ORDER BY id"
        )
        token_id = await connection.fetchval("SELECT id FROM admin_tokens")

    assert [tuple(row) for row in rows] == [
        ("alice@example.com", "insert"),
        (f"token ci {token_id}", "delete"),
    ]


async def test_without_the_database_there_is_a_problem_to_try_again(database: Database) -> None:
    """503 with Retry-After, below the API and for pages; health is that of the process."""
    away = PostgresSettings(dsn=SecretStr("postgresql://nobody@127.0.0.1:1/none"))
    settings = admin_settings(database).model_copy(update={"postgres": away})
    async with running_app(settings) as app:
        bot = client_of(app, authorization="Bearer ega_" + "A" * 12 + "_" + "A" * 43 + "A" * 6)
        browser = client_of(app)
        browser.cookies.set("egret_admin", "a" * 43)

        read = await browser.get(f"{API}/me")
        health = await bot.get("/healthz")

    assert (read.status_code, read.headers["retry-after"]) == (503, "5")
    assert read.json()["title"] == "Service Unavailable"
    assert health.status_code == 200


async def test_the_answer_waits_until_the_workers_have_the_change(
    app: FastAPI, database: Database
) -> None:
    """With `wait=true`, and says how many they are."""
    alice = await session_client(app, "admin")
    async with reporting_worker(database):
        changed = await alice.post(f"{API}/keys/AAAAAAAAAAA1/revoke?wait=true")

    assert changed.headers["egret-in-force"] == "workers=1, behind=0"


async def test_too_many_requests_of_one_person_are_refused(database: Database) -> None:
    """With the seconds to wait; another person goes on."""
    settings: Settings = admin_settings(database, requests_per_second=0.1)
    async with running_app(settings) as app:
        alice, bob = [await session_client(app, "admin", person=name) for name in ("a", "b")]
        codes = [(await alice.get(f"{API}/me")).status_code for _ in range(2)]
        refused = await alice.get(f"{API}/me")

        assert codes == [200, 429]
        assert int(refused.headers["retry-after"]) >= 1
        assert (await bob.get(f"{API}/me")).status_code == 200


async def test_guesses_of_tokens_are_slowed_by_address(database: Database) -> None:
    """Ten a minute by default; people behind the same proxy can log in meanwhile."""
    async with running_app(admin_settings(database, logins_per_minute=3)) as app:
        guesser = client_of(app, authorization="Bearer ega_guess")
        codes = [(await guesser.get(f"{API}/me")).status_code for _ in range(5)]
        login = await client_of(app).get("/login/link", params={"token": "a" * 43})

    assert codes == [401, 401, 401, 429, 429]
    assert login.status_code != 429


async def test_refused_credentials_of_an_address_cost_a_bounded_number_of_queries(
    database: Database,
) -> None:
    """Wrong cookies and tokens alike; good ones do not count, and are let in meanwhile."""
    settings = admin_settings(database, requests_per_second=0.5)
    async with running_app(settings) as app:
        alice, bob = [await session_client(app, "admin", person=name) for name in ("a", "b")]
        good = [await one.get(f"{API}/me") for one in (alice, bob) for _ in range(5)]
        stranger = client_of(app)
        stranger.cookies.set("egret_admin", "a" * 43)
        refused = [await stranger.get(f"{API}/me") for _ in range(4)]
        stranger.headers["authorization"] = "Bearer ega_" + "A" * 12 + "_" + "A" * 43 + "A" * 6
        refused += [await stranger.get(f"{API}/me") for _ in range(2)]
        carol = await session_client(app, "admin", person="c")
        program = await token_client(app, "viewer")
        good += [await one.get(f"{API}/me") for one in (carol, program)]

    assert [one.status_code for one in good] == [200] * 12
    assert [one.status_code for one in refused] == [401] * 5 + [429]
    assert refused[-1].headers["retry-after"] == "2"


@pytest.mark.parametrize("path", ["/keys", "/keys?limit=5"])
async def test_pages_without_a_session_lead_to_the_login_and_back(app: FastAPI, path: str) -> None:
    """The console's pages; here one that needs no console."""
    from fastapi import APIRouter  # noqa: PLC0415

    from sidecar.admin_api.access import AccessRoute, requires  # noqa: PLC0415
    from sidecar.admin_api.roles import Permission  # noqa: PLC0415

    router = APIRouter(route_class=AccessRoute)

    async def page() -> None: ...

    router.add_api_route("/keys", page, dependencies=[requires(Permission.VIEW)])
    app.include_router(router)

    answer = await client_of(app).get(path)

    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/keys")


async def test_two_changes_at_once_of_one_read_are_one_change(app: FastAPI) -> None:
    """The second has the entity tag of before, and gets 412."""
    alice = await session_client(app, "admin")
    url = f"{TEAMS}/search"
    tag = (await alice.get(url)).headers["etag"]

    answers = await asyncio.gather(
        *(alice.patch(url, json={"name": name}, headers={"if-match": tag}) for name in ("x", "y"))
    )

    assert sorted(one.status_code for one in answers) in ([200, 404], [200, 412])


async def test_a_parameter_that_is_not_known_changes_nothing(app: FastAPI) -> None:
    """A misspelt `dry_run` would make the change, a misspelt filter would list everything."""
    admin = await session_client(app, "admin")
    policy = {"documents": "name: strict\nguardrails: []\n"}

    applied = await admin.post(f"{API}/policies/apply", params={"dryrun": "true"}, json=policy)
    refused = [
        await admin.get(f"{API}/keys", params={"stat": "active"}),
        await admin.get(f"{API}/keys", params={"wait": "true"}),
        await admin.get(f"{API}/keys", params={"limit": ["1", "2"]}),
        await admin.post(TEAMS, params={"wait": "soon"}, json=TEAM),
    ]
    listed = await admin.get(f"{API}/policies")

    assert [one.status_code for one in (applied, *refused)] == [422] * 5
    assert applied.json()["errors"] == [
        {"in": "query.dryrun", "fault": "is not a known parameter"}
    ]
    assert applied.json()["hint"] == "known parameters: dry_run, wait"
    assert listed.json() == []


async def test_bodies_that_do_not_end_keep_no_other_person_out(database: Database) -> None:
    """A connection is borrowed once the body is there, and one person has half of them."""
    settings = admin_settings(database, pool_size=2)
    settings = settings.model_copy(
        update={"postgres": settings.postgres.model_copy(update={"acquire_seconds": 0.5})}
    )
    is_over = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"name": '
        await is_over.wait()
        yield b'"maps"}'

    async with running_app(settings) as app:
        await execute(app, "INSERT INTO organizations (name) VALUES ('acme')")
        lead, alice = await token_client(app, "operator:acme"), await session_client(app, "admin")
        json = {"content-type": "application/json"}
        async with asyncio.TaskGroup() as tasks:
            slow = [
                tasks.create_task(lead.post(TEAMS, content=slowly(), headers=json))
                for _ in range(4)
            ]
            await asyncio.sleep(0.1)
            answer = await alice.get(f"{API}/teams")
            is_over.set()
        codes = sorted(one.result().status_code for one in slow)

    assert answer.status_code == 200
    assert codes == [201, 409, 409, 409]


async def test_a_body_that_does_not_end_in_time_is_refused(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client's mistake: the database is not at fault."""
    monkeypatch.setattr(access, "BODY_SECONDS", 0.01)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    lead = await token_client(app, "operator:acme")
    answer = await lead.post(
        TEAMS, content=endless(), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 408
    assert "nothing was changed" in answer.json()["detail"]
