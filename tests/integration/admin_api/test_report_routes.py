from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from sidecar.admin import usage_reports
from sidecar.admin_api import objects, report_routes
from sidecar.admin_api.roles import Grant, Role
from sidecar.admin_api.sign_in import begin_link_login
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

USAGE = """
INSERT INTO usage (occurred_at, request_id, key_id, team_id, organization_id, operation, provider,
    request_model, status, decision, latency_ms, input_tokens, output_tokens)
VALUES
    (now(), 'r1', 'AAAAAAAAAAA1', 'team_1', 'org_1', 'chat', 'openai', '=cmd|calc', 200, 'allow',
     8, 10, 5),
    (now(), 'r2', 'AAAAAAAAAAA2', 'team_2', 'org_2', 'chat', 'openai', 'gpt-4', 200, 'allow',
     8, 20, 5)
"""


async def test_usage_is_that_of_the_callers_owners(app: FastAPI) -> None:
    """By team and model, over time, and as CSV in which no name is a formula."""
    async with app.state.pool.acquire() as connection:
        await connection.execute("SELECT egret_prepare_usage(1)")
        await connection.execute(USAGE)
    admin, viewer = await session_client(app, "admin"), await session_client(app, "viewer:acme")

    every = (await admin.get(f"{API}/usage")).json()
    own = (await viewer.get(f"{API}/usage")).json()
    of_team = (await viewer.get(f"{API}/usage", params={"team": "acme/search"})).json()
    other = await viewer.get(f"{API}/usage", params={"organization": "globex"})
    points = (await viewer.get(f"{API}/usage/points", params={"unit": "hour"})).json()
    table = await viewer.get(f"{API}/usage.csv", params={"by": "model"})

    assert {one["name"] for one in every} == {"acme/search", "globex/search"}
    assert [one["name"] for one in own] == ["acme/search"]
    assert of_team == own
    assert other.status_code == 404
    assert [one["tokens"] for one in points] == [15]
    assert {one["cost_usd"] for one in (*every, *points)} == {"0.000000000"}
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.text.splitlines()[1].startswith("'=cmd|calc,1,")


async def test_the_largest_sums_stand_before_one_of_all_others(app: FastAPI) -> None:
    """In a report, its CSV, and over time; nothing of the total is missing."""
    async with app.state.pool.acquire() as connection:
        await connection.execute("SELECT egret_prepare_usage(1)")
        await connection.execute(USAGE)
    admin = await session_client(app, "admin")
    one: dict[str, str | int] = {"limit": 1, "by": "key"}

    sums = (await admin.get(f"{API}/usage", params=one)).json()
    points = (await admin.get(f"{API}/usage/points", params=one)).json()
    table = (await admin.get(f"{API}/usage.csv", params=one)).text.splitlines()
    all_of_them = (await admin.get(f"{API}/usage", params=one | {"limit": 2})).json()

    names = ["globex/search/laptop AAAAAAAAAAA2", "all others"]
    assert [(one["name"], one["input_tokens"]) for one in sums] == list(
        zip(names, (20, 10), strict=True)
    )
    assert {one["name"]: one["tokens"] for one in points} == dict(
        zip(names, (25, 15), strict=True)
    )
    assert [line.partition(",")[0] for line in table] == ["name", *names]
    assert [one["name"] for one in all_of_them] == [names[0], "acme/search/laptop AAAAAAAAAAA1"]


async def test_an_answer_without_pages_is_bounded(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that would be longer is refused, and says how to ask for less."""
    for module in (objects, report_routes):
        monkeypatch.setattr(module, "MAX_ROWS", 1)
    monkeypatch.setattr(usage_reports, "MAX_POINTS", 1)
    async with app.state.pool.acquire() as connection:
        await connection.execute("SELECT egret_prepare_usage(1)")
        await connection.execute(USAGE)
    admin = await session_client(app, "admin")
    prices = [{"model": name, "input": 1, "output": 1} for name in "ab"]
    await admin.post(f"{API}/prices", json=prices)
    paths = ("usage", "usage.csv", "usage/points", "prices")

    refused = [await admin.get(f"{API}/{path}") for path in paths]
    pages = [
        await admin.get(f"{API}/{path}", params={"team": "acme/search"}) for path in paths[:3]
    ]
    page = await admin.get(f"{API}/prices", params={"limit": 2})

    assert {one.status_code for one in refused} == {422}
    assert {one.json()["detail"] for one in refused} == {
        "the answer has more than 1 rows",
        "the report has more than 1 points in time",
    }
    assert {one.status_code for one in (*pages, page)} == {200}


async def test_slow_reports_delay_neither_a_login_nor_a_revocation(database: Database) -> None:
    """Not those of two people, who have all connections between them."""
    settings = admin_settings(database, pool_size=6)
    settings = settings.model_copy(
        update={"postgres": settings.postgres.model_copy(update={"acquire_seconds": 0.5})}
    )
    async with running_app(settings) as app, database.connect() as other:
        people = [await session_client(app, "admin", person=name) for name in ("alice", "bob")]
        token = await token_client(app, "viewer")
        token_id = (await token.get(f"{API}/me")).json()["person"].rpartition(" ")[2]
        link = await begin_link_login(other, "carol", [Grant(Role.VIEWER)])
        async with other.transaction():
            await other.execute("LOCK TABLE usage_by_day, usage_by_hour")
            async with asyncio.TaskGroup() as tasks:
                reports = [
                    tasks.create_task(one.get(f"{API}/usage")) for one in people for _ in range(6)
                ]
                await asyncio.sleep(0.2)
                login = await client_of(app).post("/login/link", data={"token": link})
                revoked = await people[0].post(f"{API}/tokens/{token_id}/revoke")
                refused = await token.get(f"{API}/me")
                await other.execute("ROLLBACK; BEGIN")
        codes = {one.result().status_code for one in reports}

    assert (login.status_code, revoked.status_code, refused.status_code) == (303, 200, 401)
    assert codes == {200}


async def test_a_query_that_takes_too_long_is_ended_in_the_database(database: Database) -> None:
    """And the answer says that less is to be asked for."""
    settings = admin_settings(database, query_seconds=0.3)
    async with running_app(settings) as app, database.connect() as other:
        admin = await session_client(app, "admin")
        async with other.transaction():
            await other.execute("LOCK TABLE usage_by_day")
            answer = await admin.get(f"{API}/usage")
            running = await other.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                # Those of alerts, which add up budgets, wait for this table as well.
                " AND query NOT LIKE '%WITH asked AS%'"
            )
        async with asyncio.timeout(60):
            while (after := await admin.get(f"{API}/usage")).status_code == 503:
                pass  # a busy machine may need longer for an empty table, too

    assert (answer.status_code, running, after.status_code) == (503, 0, 200)
    assert answer.json()["hint"].startswith("ask for a shorter time")


async def test_times_that_are_no_period_are_refused(app: FastAPI) -> None:
    """And so are hours of a year, and years that neither Python nor PostgreSQL can count from."""
    admin = await session_client(app, "admin")
    since = {"since": "2026-01-01T00:00:00Z"}

    answers = [
        await admin.get(f"{API}/usage", params={**since, "until": "2025-01-01T00:00:00Z"}),
        await admin.get(
            f"{API}/usage/points",
            params={**since, "until": "2026-12-01T00:00:00Z", "unit": "hour"},
        ),
        await admin.get(f"{API}/usage", params={"until": "0001-01-05T00:00:00Z"}),
        await admin.get(f"{API}/audit", params={"since": "9999-12-31T23:59:59-14:00"}),
    ]

    assert [one.status_code for one in answers] == [422] * 4


async def test_a_query_for_two_owners_at_once_is_refused(app: FastAPI) -> None:
    """One of them was the answer to both, in silence."""
    admin = await session_client(app, "admin")
    two = {"organization": "acme", "team": "globex/search"}

    answers = [
        *[await admin.get(f"{API}/{one}", params=two) for one in ("usage", "keys", "budgets")],
        await admin.get(f"{API}/budgets", params={"organization": "acme", "key": "AAAAAAAAAAA2"}),
        await admin.get(f"{API}/usage", params={"organization": "acme", "team": "acme/search"}),
    ]

    assert [one.status_code for one in answers] == [422] * 4 + [200]


async def test_the_audit_log_of_an_organization_has_no_entry_of_another(app: FastAPI) -> None:
    """Entries of owners, keys and tokens, deleted ones too, page by page."""
    admin = await session_client(app, "admin")
    for organization in ("acme", "globex"):
        url = f"{API}/organizations/{organization}/teams"
        await admin.post(url, json={"name": "maps"})
        await admin.patch(f"{url}/search", json={"enabled": False})
        await admin.delete(f"{url}/maps")
        await token_client(app, f"viewer:{organization}")
        await admin.post(f"{API}/keys/AAAAAAAAAAA{1 + (organization == 'globex')}/revoke")
    operator = await session_client(app, "operator:acme")

    seen: list[dict[str, object]] = []
    after: dict[str, str] = {}
    while True:
        page = (await operator.get(f"{API}/audit", params={"limit": 4, **after})).json()
        seen += page["items"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    of_other = (await operator.get(f"{API}/audit", params={"object_id": "AAAAAAAAAAA2"})).json()
    findings = await operator.get(f"{API}/findings")

    changes = [(one["object_type"], one["action"]) for one in reversed(seen)]
    assert changes[-5:] == [
        ("teams", "insert"),
        ("teams", "update"),
        ("teams", "delete"),
        ("admin_tokens", "insert"),
        ("api_keys", "update"),
    ]
    assert len(changes) == len({one["id"] for one in seen}) == 5 + 1 + 2 + 2
    assert of_other["items"] == []
    assert (findings.status_code, findings.json()) == (200, [])


async def test_findings_of_an_unknown_policy_do_not_pass_for_none(app: FastAPI) -> None:
    """To those who may see policies; the built-in one is known."""
    viewer, operator = (
        await session_client(app, "viewer"),
        await session_client(app, "operator:acme"),
    )
    found = [
        await client.get(f"{API}/findings", params={"policy": policy})
        for client in (viewer, operator)
        for policy in ("nope", "default")
    ]
    assert [one.status_code for one in found] == [404, 200, 200, 200]


async def test_an_audit_log_of_things_that_there_are_none_of_is_refused(app: FastAPI) -> None:
    """It would read as if nothing had changed."""
    admin = await session_client(app, "admin")
    answer = await admin.get(f"{API}/audit", params={"object_type": "keys"})

    assert answer.status_code == 422
    assert "api_keys" in answer.text


async def test_workers_are_listed_with_what_they_serve(app: FastAPI, database: Database) -> None:
    """For those who may view the installation."""
    viewer = await session_client(app, "viewer")
    async with reporting_worker(database) as worker:
        await worker.report()
        workers = (await viewer.get(f"{API}/workers")).json()

    assert [(one["host"], one["is_live"]) for one in workers] == [("here", True)]
