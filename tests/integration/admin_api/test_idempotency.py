from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from sidecar.admin_api import access
from tests.support.admin_api import API, session_client, token_client
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker

TEAMS = f"{API}/organizations/acme/teams"
ONCE = {"idempotency-key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


async def test_a_change_that_is_sent_again_happens_once(app: FastAPI) -> None:
    """The second gets the answer of the first, also if both come at the same time."""
    alice = await session_client(app, "admin")

    first, second = await asyncio.gather(
        *(alice.post(TEAMS, json={"name": "maps"}, headers=ONCE) for _ in range(2))
    )

    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert {one.headers.get("idempotent-replayed") for one in (first, second)} == {None, "true"}


async def test_a_change_that_is_sent_again_waits_for_workers_and_has_its_tag(
    app: FastAPI, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection may have broken while the first waited."""
    monkeypatch.setattr(access, "WAIT_SECONDS", 1.0)
    alice = await session_client(app, "admin")
    policies = f"{API}/policies/apply"
    put: dict[str, Any] = {"json": {"enabled": False}, "headers": ONCE, "params": {"wait": "true"}}
    apply = {**put, "json": {"documents": "name: strict"}, "headers": {"idempotency-key": "a"}}

    async with reporting_worker(database) as started:
        patched = [await alice.patch(f"{TEAMS}/search", **put) for _ in range(2)]
        compiling = [await alice.post(policies, **apply) for _ in range(2)]
        started.policies_loaded({"strict": 1})
        serving = await alice.post(policies, **apply)

    answers = (*patched, *compiling, serving)
    behind = [one.headers.get("egret-in-force", "")[-8:] for one in answers]
    assert behind == ["behind=0", "behind=0", "behind=1", "behind=1", "behind=0"]
    assert patched[0].headers["etag"] == patched[1].headers["etag"]
    assert patched[1].headers["idempotent-replayed"] == "true"


async def test_a_key_is_for_one_request_of_one_person(app: FastAPI) -> None:
    """Another request with it is a fault; another person's is their own; a failure frees it."""
    alice, bob = [await session_client(app, "admin", person=name) for name in ("a", "b")]

    failed = await alice.post(TEAMS, json={"name": "search"}, headers=ONCE)
    made = await alice.post(TEAMS, json={"name": "maps"}, headers=ONCE)
    other = await alice.post(TEAMS, json={"name": "news"}, headers=ONCE)
    of_bob = await bob.post(TEAMS, json={"name": "news"}, headers=ONCE)

    assert [one.status_code for one in (failed, made, other, of_bob)] == [409, 201, 422, 201]


async def test_an_answer_with_a_secret_is_not_kept(app: FastAPI) -> None:
    """The key is made once; the second answer says that it was."""
    alice = await session_client(app, "admin")
    url = f"{TEAMS}/search/keys"

    first = await alice.post(url, json={"name": "ci"}, headers=ONCE)
    second = await alice.post(url, json={"name": "ci"}, headers=ONCE)
    listed = await alice.get(f"{API}/keys", params={"team": "acme/search"})
    async with app.state.pool.acquire() as connection:
        kept = await connection.fetchval("SELECT body FROM admin_idempotency_keys")

    assert (first.status_code, second.status_code) == (201, 409)
    assert kept is None
    assert [one["name"] for one in listed.json()["items"]] == ["ci", "laptop"]


async def test_a_token_gets_no_answer_of_another_with_its_name(app: FastAPI) -> None:
    """Tokens of two organizations may have one name, and their pipelines one key."""
    ours = await token_client(app, "admin:acme", name="ci")
    theirs = await token_client(app, "admin:globex", name="ci")
    url, change = f"{TEAMS}/search", {"enabled": False}

    done = await ours.patch(url, json=change, headers=ONCE)
    peek = await theirs.patch(url, json=change, headers=ONCE)
    own = await theirs.patch(url.replace("acme", "globex"), json=change, headers=ONCE)

    assert [one.status_code for one in (done, peek, own)] == [200, 404, 200]
