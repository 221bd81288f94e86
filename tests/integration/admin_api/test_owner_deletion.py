from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from sidecar.admin.owner_deletion import Dependents, described
from tests.support.admin_api import API, session_client, token_client
from tests.support.postgres import Database, wait_for_lock


async def test_tokens_and_alert_routes_that_go_with_an_organization_are_counted(
    app: FastAPI,
) -> None:
    """They go without `cascade` too; those of its teams are among them, others' are not."""
    alice = await session_client(app, "admin")
    for name, grant in (("a", "operator:acme"), ("b", "viewer:acme/ads"), ("c", "viewer:globex")):
        await token_client(app, grant, name=name)
    async with app.state.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO alert_routes (name, channel, secret, organization_id)"
            " VALUES ('a', 'slack', 'env:ALERT_A', 'org_1'), ('b', 'slack', 'env:ALERT_B', NULL)"
        )
    acme = f"{API}/organizations/acme"

    refused = await alice.delete(acme)
    of_team = await alice.get(f"{acme}/teams/ads/dependents")
    of_organization = await alice.get(f"{acme}/dependents")
    deleted = await alice.delete(acme, params={"cascade": "true"})

    assert refused.json()["detail"] == "it still has 2 teams and 2 keys (2 active)"
    counts = {"teams": 0, "keys": 1, "active_keys": 1, "alert_routes": 0, "tokens": 1}
    assert of_team.json() == counts
    counts = {"teams": 2, "keys": 2, "active_keys": 2, "alert_routes": 1, "tokens": 2}
    assert of_organization.json() == deleted.json() == counts
    words = described(Dependents(**counts))
    assert words == "2 teams, 2 keys (2 active), 2 API tokens and 1 alert route"


@pytest.mark.parametrize(
    ("path", "made"),
    [
        (
            "organizations/initech",
            "INSERT INTO teams (id, organization_id, name) VALUES ('team_9', 'org_9', 'tps')",
        ),
        (
            "organizations/acme/teams/empty",
            (
                "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
                " VALUES ('AAAAAAAAAAA9', sha256('nine'), 'team_8', 'laptop')"
            ),
        ),
    ],
    ids=["team-of-an-organization", "key-of-a-team"],
)
async def test_a_deletion_without_cascade_spares_objects_that_were_made_meanwhile(
    app: FastAPI, database: Database, path: str, made: str
) -> None:
    """Another person makes one after the dependents were counted."""
    admin = await session_client(app, "admin")
    async with database.connect() as other, database.connect() as third:
        await other.execute(
            "INSERT INTO organizations (id, name) VALUES ('org_9', 'initech');"
            "INSERT INTO teams (id, organization_id, name) VALUES ('team_8', 'org_1', 'empty')"
        )
        async with asyncio.TaskGroup() as tasks, other.transaction():
            await other.execute("LOCK TABLE alert_routes")
            deletion = tasks.create_task(admin.delete(f"{API}/{path}"))
            await wait_for_lock(third, "SELECT count(*) FROM alert_routes%")
            await third.execute(made)
        answer = deletion.result()
        left = await third.fetchval(
            "SELECT (SELECT count(*) FROM teams WHERE id = 'team_9')"
            " + (SELECT count(*) FROM api_keys WHERE public_id = 'AAAAAAAAAAA9')"
        )

    assert (answer.status_code, left) == (409, 1)
    assert "meanwhile" in answer.json()["detail"]
