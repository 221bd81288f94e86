"""Workers report to the database."""

from __future__ import annotations

import secrets

from sidecar.storage.worker_status import reported_workers
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker as worker


async def rows(database: Database) -> int:
    async with database.connect() as connection:
        return len(await reported_workers(connection))


async def test_a_worker_that_starts_takes_over_the_row_of_one_that_was_killed(
    database: Database,
) -> None:
    """The row of the killed one would be waited for."""
    async with worker(database) as killed, worker(database) as started:
        one = await rows(database)
        await killed.aclose()
        await started.report()
        left = await rows(database)

    assert (one, left, await rows(database)) == (1, 1, 0)


async def test_a_row_that_has_the_policies_is_not_written_with_them_again(
    database: Database,
) -> None:
    """With a thousand policies, ten reports take less than the first one."""
    names = [f"team-{secrets.token_hex(8)}" for _ in range(1_000)]
    written: list[int] = []
    async with (
        worker(database, listens=False) as status,
        database.server.connect(database.name) as connection,
    ):
        for reports in (1, 10):
            before = await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
            if reports == 1:
                status.policies_loaded(dict.fromkeys(names, 1))
            for _ in range(reports):
                status.barrier_received(secrets.token_hex(8))
                await status.report()
            written.append(
                await connection.fetchval(
                    "SELECT pg_current_wal_insert_lsn() - $1::text::pg_lsn", before
                )
            )
        (reported,) = await reported_workers(connection)

    assert written[1] < written[0]
    assert reported.policies == dict.fromkeys(names, 1)
    assert len(reported.acknowledged) == 11


async def test_a_token_that_the_database_cannot_hold_is_not_acknowledged(
    database: Database,
) -> None:
    """Any client of Valkey can publish one: no report would be written with it."""
    async with worker(database, listens=False) as status:
        status.barrier_received("\0")
        status.barrier_received("b1")
        await status.report()
        async with database.server.connect(database.name) as connection:
            (reported,) = await reported_workers(connection)

    assert reported.acknowledged == {"b1"}


async def test_a_row_that_was_deleted_is_written_again_with_its_policies(
    database: Database,
) -> None:
    """By hand, or by a worker that ends and takes it for one of the dead."""
    async with worker(database, listens=False) as status:
        status.policies_loaded({"strict": 2})
        await status.report()
        async with database.server.connect(database.name) as connection:
            await connection.execute("DELETE FROM workers")
            await status.report()
            (reported,) = await reported_workers(connection)

    assert reported.policies == {"strict": 2}


async def test_of_the_policies_that_workers_serve_only_those_named_are_read(
    database: Database,
) -> None:
    async with worker(database, listens=False) as status:
        status.policies_loaded({"one": 1, "two": 2})
        await status.report()
        async with database.server.connect(database.name) as connection:
            (none,) = await reported_workers(connection, policies=())
            (some,) = await reported_workers(connection, policies=("two", "unknown"))

    assert (none.policies, some.policies) == ({}, {"two": 2})
