from __future__ import annotations

import asyncio
import gc
import time

import pytest
from fastapi import FastAPI

from sidecar.admin_api import installation_routes
from tests.support.admin_api import API, admin_settings, running_app, session_client, token_client
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker

FILES = {
    "policies.yaml": "kind: Policy\nname: strict\nguardrails: [{name: a, type: pii}]\n",
    "owners.yaml": "kind: Organization\nname: initech\npolicy: strict\n",
}


async def test_files_are_planned_applied_and_exported(app: FastAPI) -> None:
    """A second plan has no change; what is exported is what was applied."""
    admin = await session_client(app, "admin")

    plan = (await admin.post(f"{API}/installation/plan", json={"files": FILES})).json()
    applied = await admin.post(
        f"{API}/installation/apply",
        json={"files": FILES, "digest": plan["digest"], "note": "files"},
    )
    again = (await admin.post(f"{API}/installation/plan", json={"files": FILES})).json()
    exported = (await admin.get(f"{API}/installation")).json()

    assert [(one["action"], one["kind"]) for one in plan["changes"]] == [
        ("create", "Policy"),
        ("create", "Organization"),
    ]
    assert applied.status_code == 200
    assert (again["is_drift"], again["unchanged"]) == (False, 2)
    assert "policy: strict" in exported["files"]["organizations/initech.yaml"]


async def test_other_requests_get_their_turn_beside_a_plan_of_many_changes(app: FastAPI) -> None:
    """The loop is never held for more than a small part of the time that it takes."""
    admin = await session_client(app, "admin")
    keys = (
        f"kind: Key\nid: '{number:012d}'\nsecret_sha256: '{number:064x}'\n"
        f"team: acme/ads\nname: k{number}\nlimits: [requests/minute=5]\n"
        for number in range(2_000)
    )
    body = {"files": {"a.yaml": "---\n".join(keys)}}
    gaps: list[float] = []

    async def look() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0)
            gaps.append(time.monotonic() - before)

    await admin.post(f"{API}/installation/plan", json={"files": FILES})  # imports
    gc.disable()  # it would walk all objects of the tests
    try:
        for path in ("plan", "apply", "plan"):
            gaps.clear()
            looking = asyncio.ensure_future(look())
            answer = await admin.post(f"{API}/installation/{path}", json=body, timeout=300)
            looking.cancel()
            assert answer.status_code == 200, answer.text
            assert max(gaps) < sum(gaps) / 8, path
    finally:
        gc.enable()


async def test_of_two_who_apply_at_once_one_gets_the_new_plan_to_look_at(
    app: FastAPI,
) -> None:
    """Both have seen the same plan; the second changes nothing."""
    alice, bob = [await session_client(app, "admin", person=name) for name in ("alice", "bob")]
    plan = (await alice.post(f"{API}/installation/plan", json={"files": FILES})).json()
    body = {"files": FILES, "digest": plan["digest"]}

    first, second = await asyncio.gather(
        *(one.post(f"{API}/installation/apply", json=body) for one in (alice, bob))
    )

    assert sorted((first.status_code, second.status_code)) in ([200, 409], [200, 412])


async def test_two_who_apply_at_once_need_no_more_connections_than_a_small_pool_has(
    database: Database,
) -> None:
    """Each stores a new policy before all else, by a connection beside its own.

    Reports and applies together have fewer than half of the connections, so each finds a second.
    """
    settings = admin_settings(database, pool_size=2)
    hasty = settings.postgres.model_copy(update={"acquire_seconds": 2})
    async with running_app(settings.model_copy(update={"postgres": hasty})) as app:
        programs = [await token_client(app, "admin", name=name) for name in ("ci", "cd")]
        answers = await asyncio.gather(
            *(
                one.post(f"{API}/installation/apply", json={"files": _new_policy(name)})
                for one, name in zip(programs, ("red", "blue"), strict=True)
            )
        )

    assert [one.status_code for one in answers] == [200, 200], [one.text for one in answers]


def _new_policy(name: str) -> dict[str, str]:
    policy = f"kind: Policy\nname: {name}\nunscanned: allow\n"
    return {f"{name}.yaml": f"{policy}---\nkind: Organization\nname: {name}\npolicy: {name}\n"}


async def test_files_with_faults_change_nothing(app: FastAPI) -> None:
    """Each fault has its file."""
    admin, operator = await session_client(app, "admin"), await session_client(app, "operator")
    bad = {"a.yaml": "kind: Team\nname: nobody/none\n", "b.yaml": "kind: Dance\n"}

    refused = await admin.post(f"{API}/installation/apply", json={"files": bad})
    forbidden = await operator.post(f"{API}/installation/apply", json={"files": FILES})

    assert refused.status_code == 422
    assert {one["in"] for one in refused.json()["errors"]} <= {"a.yaml", "b.yaml"}
    assert forbidden.status_code == 403


async def test_a_new_policy_reaches_the_workers_before_it_is_bound(
    app: FastAPI, database: Database
) -> None:
    """A key bound to a policy that a worker has not compiled would be refused."""
    admin = await session_client(app, "admin")
    async with reporting_worker(database) as worker, asyncio.TaskGroup() as group:
        applying = group.create_task(
            admin.post(f"{API}/installation/apply", json={"files": FILES})
        )
        async with app.state.pool.acquire() as connection:
            while not await connection.fetchval("SELECT count(*) FROM policies"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            bound_early = await connection.fetchval(
                "SELECT count(*) FROM organizations WHERE policy_name IS NOT NULL"
            )
        worker.policies_loaded({"strict": 1})

    assert bound_early == 0
    assert applying.result().status_code == 200


async def test_a_policy_is_not_bound_while_a_live_worker_does_not_serve_it(
    app: FastAPI, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That worker would refuse every request of the organization."""
    monkeypatch.setattr(installation_routes, "WAIT_SECONDS", 0.5)
    admin = await session_client(app, "admin")
    url, body = f"{API}/installation/apply", {"files": FILES}

    async with reporting_worker(database) as worker:
        late = await admin.post(url, json=body)
        listed = [one["name"] for one in (await admin.get(f"{API}/policies")).json()]
        owner = await admin.get(f"{API}/organizations/initech")
        worker.policies_loaded({"strict": 1})
        monkeypatch.undo()
        again = await admin.post(url, json=body)

    assert (late.status_code, late.headers["retry-after"]) == (503, "5")
    assert "1 of 1 workers do not serve the new policies yet" in late.json()["detail"]
    assert (listed, owner.status_code) == (["strict"], 404)
    assert again.status_code == 200


async def test_files_may_be_larger_than_other_bodies(app: FastAPI) -> None:
    """As large as the command line reads them: 413 comes above 32 MiB, not above 4."""
    alice = await session_client(app, "admin")
    text = f"# {'x' * 5_000_000}"

    files = await alice.post(f"{API}/installation/plan", json={"files": {"a.yaml": text}})
    policy = await alice.post(f"{API}/policies/plan", json={"documents": text})

    assert (files.status_code, policy.status_code) == (422, 413)
    assert files.json()["detail"] == "the files hold no object"
    assert policy.json()["detail"] == "the body has more than 4 MiB"
