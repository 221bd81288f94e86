from __future__ import annotations

import asyncio

import pytest

from sidecar.storage.pool import open_pool
from sidecar.storage.postgres_policies import (
    PolicyChangedError,
    PolicyStoreUnavailableError,
    PostgresPolicyStore,
    StoredPolicy,
    apply_policy,
    load_policy,
)
from tests.support.postgres import Database


async def in_force(database: Database) -> tuple[StoredPolicy, ...]:
    async with open_pool(database.settings) as pool:
        return await PostgresPolicyStore(pool, database.settings).load_policies()


async def test_the_latest_version_of_each_policy_is_in_force_and_all_are_kept(
    database: Database,
) -> None:
    """By name; an earlier version can still be read."""
    async with database.connect() as connection:
        await apply_policy(connection, "b", document="1", expected_version=0)
        await apply_policy(connection, "a", document="2", expected_version=0)
        await apply_policy(connection, "b", document="3", expected_version=1)

        assert await load_policy(connection, "b", version=1) == StoredPolicy("b", 1, "1")
    assert await in_force(database) == (StoredPolicy("a", 1, "2"), StoredPolicy("b", 2, "3"))


async def test_of_policies_that_were_read_before_only_those_that_changed_are_read(
    database: Database,
) -> None:
    """New, newer, gone, made anew, or written over by hand."""
    async with (
        database.server.connect(database.name) as connection,
        open_pool(database.settings) as pool,
    ):
        store = PostgresPolicyStore(pool, database.settings)
        for name in ("again", "changed", "gone", "same", "written"):
            await apply_policy(connection, name, document="1", expected_version=0)
        first = await store.load_policies()
        unchanged = await store.load_policies()
        await apply_policy(connection, "added", document="2", expected_version=0)
        await apply_policy(connection, "changed", document="2", expected_version=1)
        await connection.execute("DELETE FROM policies WHERE name IN ('again', 'gone')")
        await apply_policy(connection, "again", document="2", expected_version=0)
        await connection.execute(
            "UPDATE policy_versions SET document = '2' WHERE policy_name = 'written'"
        )
        changed = await store.load_policies()

    assert unchanged is first
    assert changed == (
        StoredPolicy("added", 1, "2"),
        StoredPolicy("again", 2, "2"),
        StoredPolicy("changed", 2, "2"),
        StoredPolicy("same", 1, "1"),
        StoredPolicy("written", 1, "2"),
    )
    assert changed[3] is first[3]


async def test_no_version_of_a_policy_is_used_twice(database: Database) -> None:
    """Each policy of a name continues behind those that were deleted, whoever deleted them."""
    async with database.connect() as connection:
        await apply_policy(connection, "a", document="1", expected_version=0)
        await apply_policy(connection, "a", document="2", expected_version=1)
        versions = []
        for _ in range(2):
            await connection.execute("DELETE FROM policies WHERE name = 'a'")
            made = await apply_policy(connection, "a", document="1", expected_version=0)
            versions.append(made.version)
        await apply_policy(connection, "b", document="1", expected_version=0)

    assert versions == [3, 4]
    assert await in_force(database) == (StoredPolicy("a", 4, "1"), StoredPolicy("b", 1, "1"))


@pytest.mark.parametrize("seen", [0, 2], ids=["before the first", "a version to come"])
async def test_a_change_planned_against_another_version_is_refused(
    database: Database, seen: int
) -> None:
    """Someone else was faster: the version in force stays."""
    async with database.connect() as connection:
        await apply_policy(connection, "a", document="1", expected_version=0)

        with pytest.raises(PolicyChangedError, match=f"at version 1 now, planned against {seen}"):
            await apply_policy(connection, "a", document="2", expected_version=seen)
    assert await in_force(database) == (StoredPolicy("a", 1, "1"),)


async def test_of_two_first_versions_at_once_one_wins(database: Database) -> None:
    """The other is told, whichever came first."""

    async def apply(document: str) -> StoredPolicy:
        async with database.connect() as connection:
            return await apply_policy(connection, "a", document=document, expected_version=0)

    results = await asyncio.gather(apply("1"), apply("2"), return_exceptions=True)

    winners = tuple(result for result in results if isinstance(result, StoredPolicy))
    losers = [type(result) for result in results if isinstance(result, BaseException)]
    assert (await in_force(database), len(winners), losers) == (winners, 1, [PolicyChangedError])


async def test_policies_of_a_database_that_is_not_migrated_are_unavailable(
    empty_database: Database,
) -> None:
    """No schema is not «no policies»."""
    with pytest.raises(PolicyStoreUnavailableError):
        await in_force(empty_database)
