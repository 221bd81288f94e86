"""Commands wait for the workers that report to the database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar.cli import in_force
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker as worker

POLICY = "name: strict\nguardrails: [{name: a, type: pii}]\n"


async def run(database: Database, *arguments: str) -> Ran:
    return await asyncio.to_thread(Egret(database.dsn), *arguments)


@pytest.fixture
async def organization(database: Database) -> str:
    assert (await run(database, "orgs", "create", "acme")).code == 0
    return "acme"


async def test_a_change_is_in_force_once_every_worker_has_received_it(
    database: Database, organization: str
) -> None:
    """With their number; a worker that has ended is not waited for."""
    async with worker(database), worker(database, "/run/worker-1.sock"):
        both = await run(database, "orgs", "disable", organization)
    none = await run(database, "orgs", "enable", organization)

    assert (both.code, both.err) == (0, "This is in force in 2 workers.\n")
    assert (none.code, none.err) == (0, "This is stored; no worker is running.\n")


async def test_a_policy_is_in_force_once_every_worker_serves_its_version(
    database: Database, tmp_path: Path
) -> None:
    """That it was received is not enough: compiling takes a while."""
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    async with worker(database) as status, asyncio.TaskGroup() as group:
        applying = group.create_task(run(database, "policy", "apply", "-f", str(file), "--yes"))
        while not status._acknowledged:  # noqa: ASYNC110 - tells nobody
            await asyncio.sleep(0.01)
        is_early = applying.done()
        status.policies_loaded({"strict": 1})

    assert not is_early
    assert applying.result().err == "strict: version 1 is in force in 1 worker\n"


async def test_a_policy_applied_anew_is_not_in_force_in_a_worker_that_serves_the_deleted_one(
    database: Database, tmp_path: Path
) -> None:
    """No version of the deleted one is used again."""
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    await run(database, "policy", "apply", "-f", str(file), "--yes")
    await database.execute("DELETE FROM policies")
    async with worker(database) as status, asyncio.TaskGroup() as group:
        status.policies_loaded({"strict": 1})
        applying = group.create_task(run(database, "policy", "apply", "-f", str(file), "--yes"))
        while not status._acknowledged:  # noqa: ASYNC110 - tells nobody
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # for some looks at the reports
        is_early = applying.done()
        status.policies_loaded({"strict": 2})

    assert not is_early
    assert applying.result().err == "strict: version 2 is in force in 1 worker\n"


@pytest.mark.parametrize("is_cut_off", [False, True], ids=["not listening", "not reporting"])
async def test_workers_that_do_not_follow_are_named_and_the_command_fails(
    database: Database, organization: str, monkeypatch: pytest.MonkeyPatch, *, is_cut_off: bool
) -> None:
    """The change is stored all the same; one that no longer reports is not waited for."""
    monkeypatch.setattr(in_force, "WAIT_SECONDS", 60.0 if is_cut_off else 0.3)
    async with worker(database), worker(database, "/run/worker-1.sock", listens=False):
        if is_cut_off:
            await database.execute(
                "UPDATE workers SET seen_at = now() - interval '40 s'"
                " WHERE socket = '/run/worker-1.sock'"
            )
        ran = await run(database, "orgs", "disable", organization)

    assert ran.code == 1
    assert "1 of 2 workers did not confirm it" in ran.err
    assert "/run/worker-1.sock" in ran.err
    assert "/run/worker-0.sock" not in ran.err
    assert "no worker" in (await run(database, "orgs", "disable", organization)).err


async def test_no_wait_says_that_the_change_is_stored(
    database: Database, organization: str
) -> None:
    """And returns at once."""
    async with worker(database, listens=False):
        ran = await run(database, "orgs", "disable", organization, "--no-wait")

    assert (ran.code, ran.err) == (0, "This is stored; workers follow within seconds.\n")


async def test_on_an_older_schema_a_change_is_stored_and_migrating_is_advised(
    database: Database, organization: str
) -> None:
    """A key must be revocable before the migration as well."""
    await database.execute("DROP TABLE workers")

    ran = await run(database, "orgs", "disable", organization)

    assert (ran.code, "is stored; run `egret migrate`" in ran.err) == (0, True)
