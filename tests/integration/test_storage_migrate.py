from __future__ import annotations

import asyncio

import pytest

from sidecar.storage.migrate import Migration, UnknownRevisionError, migrate, pending, pending_sql
from tests.support.postgres import Database

FIRST = Migration(
    revision="0001",
    summary="Organizations, teams, API keys and policies, and the notifications of their changes.",
)


async def tables(database: Database) -> set[str]:
    async with database.connect() as connection:
        rows = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
    return {row["tablename"] for row in rows}


async def test_an_empty_database_is_migrated_once(empty_database: Database) -> None:
    """The first run applies every migration, the second finds nothing to do."""
    before = await pending(empty_database.settings)
    applied = await migrate(empty_database.settings)
    again = await migrate(empty_database.settings)

    assert (before[0], applied, again) == (FIRST, before, ())
    assert await pending(empty_database.settings) == ()
    assert {"api_keys", "teams", "organizations", "policies"} <= await tables(empty_database)


async def test_two_migrations_at_once_apply_each_step_once(empty_database: Database) -> None:
    """The second waits for the first's lock and then finds nothing to do."""
    results = await asyncio.gather(
        migrate(empty_database.settings), migrate(empty_database.settings)
    )

    assert sorted(bool(steps) for steps in results) == [False, True]


async def test_a_schema_from_the_future_is_left_alone(database: Database) -> None:
    """An older Egret refuses to touch what a newer one has migrated."""
    await database.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(UnknownRevisionError, match="9999"):
        await migrate(database.settings)


async def test_a_failing_migration_leaves_nothing_behind(empty_database: Database) -> None:
    """A table in the way of the migration: none of its other tables are made."""
    await empty_database.execute("CREATE TABLE api_keys ()")

    with pytest.raises(Exception, match="already exists"):
        await migrate(empty_database.settings)

    assert await tables(empty_database) == {"api_keys"}


async def test_the_statements_can_be_read_first(empty_database: Database) -> None:
    """What is shown is what would run, and nothing has run."""
    statements = await pending_sql(empty_database.settings)

    assert "CREATE TABLE api_keys" in statements
    assert await tables(empty_database) == set()
    await empty_database.execute(statements)
    assert await pending(empty_database.settings) == ()
