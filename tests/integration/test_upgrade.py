"""One version back: yesterday's workers on today's schema, today's on yesterday's."""

from __future__ import annotations

import asyncio
import io
import secrets

import pytest
from alembic import command

from sidecar.domain.principal import KeyRecord
from sidecar.keys.credentials import generate
from sidecar.keys.ports import KeyStoreUnavailableError
from sidecar.settings.process import Settings
from sidecar.settings.stores import CacheSettings
from sidecar.storage import migrate
from sidecar.storage.migrate import REVISION
from sidecar.storage.pool import open_pool
from sidecar.worker.supervisor import SchemaWatch
from tests.support.key_worker import key_worker
from tests.support.postgres import Database
from tests.support.published_schema import published, surface_of

PREVIOUS = "0011"
LONG_AGO = "0008"
"""Without limits, which every worker of today reads with a key."""


async def test_workers_that_are_out_there_find_all_they_know(database: Database) -> None:
    """While pods are replaced. A change that takes something away needs two releases."""
    async with database.connect() as connection:
        assert (await surface_of(connection)).lacks(published()) == []


@pytest.mark.parametrize(
    ("change", "lack"),
    [
        ("ALTER TABLE usage DROP COLUMN status CASCADE", "usage.status: gone"),
        ("ALTER TABLE teams ALTER name TYPE varchar(9)", "teams.name: character varying(9)"),
        ("DROP FUNCTION egret_last_change()", "egret_last_change(): gone"),
        ("ALTER TABLE key_activity ADD why text NOT NULL", "key_activity.why: new"),
    ],
    ids=["a column gone", "a type", "a function gone", "a column to be named"],
)
async def test_what_they_would_miss_is_named(database: Database, change: str, lack: str) -> None:
    """What may be added: tables, and columns that may be left out."""
    async with database.connect() as connection:
        await connection.execute("ALTER TABLE teams ADD COLUMN note text")
        await connection.execute(change)
        (found,) = [
            one for one in (await surface_of(connection)).lacks(published()) if lack in one
        ]
    assert found.startswith(lack)


@pytest.fixture
async def behind(empty_database: Database, revision: str) -> Database:
    """A database that was migrated so far, with one key."""
    statements = io.StringIO()
    command.upgrade(migrate._config(statements), f"base:{revision}", sql=True)
    async with empty_database.connect() as connection:
        await connection.execute(statements.getvalue())
        await connection.execute("INSERT INTO organizations (id, name) VALUES ('org_1', 'acme')")
        await connection.execute(
            "INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search')"
        )
    return empty_database


@pytest.mark.parametrize(
    ("revision", "is_served"), [(PREVIOUS, True), (LONG_AGO, False)], ids=["one", "several"]
)
async def test_a_worker_on_an_older_schema_judges_or_refuses(
    behind: Database,
    *,
    revision: str,  # noqa: ARG001 - of the database
    is_served: bool,
) -> None:
    """One step back keys are judged; where a column is missing, nobody is let in unseen."""
    key = generate(secrets.token_bytes)
    await behind.execute(
        "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
        " VALUES ($1, $2, 'team_1', 'laptop')",
        key.key_id,
        key.secret_sha256,
    )
    settings = Settings(postgres=behind.settings, cache=CacheSettings())
    async with key_worker(settings, is_fenced=False) as worker:
        if is_served:
            assert isinstance((await worker.authorize(key)).verdict, KeyRecord)
        else:
            with pytest.raises(KeyStoreUnavailableError):
                await worker.authorize(key)


async def test_a_worker_tells_how_the_schema_stands_whenever_that_changes(
    database: Database,
) -> None:
    """Current, behind, from the future, none; and nothing while it stays as it is."""
    told: asyncio.Queue[str] = asyncio.Queue()
    async with (
        open_pool(database.settings) as pool,
        database.connect() as connection,
        asyncio.timeout(60),
    ):
        watch = SchemaWatch(pool, database.settings, on_change=told.put_nowait, seconds=0.01)
        watching = asyncio.ensure_future(watch.run())
        assert await told.get() == REVISION
        for revision in (PREVIOUS, "9999", REVISION):
            await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
            assert await told.get() == revision
        await connection.execute("ALTER TABLE alembic_version RENAME TO elsewhere")
        assert not await told.get()
        watching.cancel()
    assert told.empty()
