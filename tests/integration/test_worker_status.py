"""Workers report to the database."""

from __future__ import annotations

from sidecar.storage.worker_status import reported_workers
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker as worker


async def rows(database: Database) -> int:
    async with database.server.connect(database.name) as connection:
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
