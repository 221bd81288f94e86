from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

import asyncpg
import pytest

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.key_activity import ROWS_AT_ONCE, KeyActivity
from sidecar.storage.pool import UNAVAILABLE, open_pool
from tests.support.postgres import Database

OWNERS = """
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme');
INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name)
    SELECT 'AAAAAAAAAAA' || number, sha256('secret'), 'team_1', 'key-' || number
    FROM generate_series(1, 3) AS number
"""
ONE, TWO, GONE = "AAAAAAAAAAA1", "AAAAAAAAAAA2", "AAAAAAAAAAA9"


@asynccontextmanager
async def activity(
    settings: PostgresSettings, *, most: int = 100, flush_seconds: float = 3600
) -> AsyncIterator[KeyActivity]:
    async with open_pool(settings) as pool:
        yield KeyActivity(pool, settings, most=most, flush_seconds=flush_seconds)


async def written(database: Database) -> list[tuple[str, float, int, int]]:
    async with database.connect() as connection:
        rows = await connection.fetch(
            "SELECT key_id, extract(epoch FROM last_used_at)::float8, requests, refused"
            " FROM key_activity ORDER BY key_id"
        )
    return [tuple(row) for row in rows]


async def test_uses_are_added_up_key_by_key(database: Database) -> None:
    """Two batches, out of order in time: the latest use stays, counts add up."""
    await database.execute(OWNERS)
    async with activity(database.settings) as uses:
        uses.note(ONE, refused=False, at=1000.5)
        uses.note(ONE, refused=True, at=999.0)
        uses.note(TWO, refused=False, at=5.0)
        await uses.flush()
        uses.note(ONE, refused=False, at=500.0)
        await uses.flush()

        assert (uses.pending, uses.dropped) == (0, 0)
    assert await written(database) == [(ONE, 1000.5, 3, 1), (TWO, 5.0, 1, 0)]


async def test_a_key_that_is_gone_does_not_spoil_its_batch(database: Database) -> None:
    """Deleted since it was used: it is left out, the others are written."""
    await database.execute(OWNERS)
    async with activity(database.settings) as uses:
        uses.note(GONE, refused=False, at=1.0)
        uses.note(ONE, refused=False, at=1.0)
        await uses.flush()

        assert uses.pending == 0
    assert await written(database) == [(ONE, 1.0, 1, 0)]


async def test_uses_go_with_their_key(database: Database) -> None:
    """Who deletes a key does not leave its counts to a successor of the same id."""
    await database.execute(OWNERS)
    async with activity(database.settings) as uses:
        uses.note(ONE, refused=False, at=1.0)
        uses.note(TWO, refused=False, at=1.0)
        await uses.flush()
    await database.execute("DELETE FROM api_keys WHERE name = 'key-1'")

    assert await written(database) == [(TWO, 1.0, 1, 0)]


async def test_counts_wait_for_a_database_that_is_away(database: Database) -> None:
    """A failed batch is kept, and what came meanwhile is added to it."""
    async with activity(database.settings) as uses:
        await database.execute(OWNERS)
        await database.execute("ALTER TABLE key_activity RENAME TO away")
        uses.note(ONE, refused=False, at=1.0)
        with pytest.raises(asyncpg.UndefinedTableError):
            await uses.flush()
        uses.note(ONE, refused=True, at=2.0)
        assert uses.pending == 1
        await database.execute("ALTER TABLE away RENAME TO key_activity")
        await uses.flush()

    assert await written(database) == [(ONE, 2.0, 2, 1)]


async def test_counts_are_written_once_over_connections_that_a_restart_has_ended(
    database: Database,
) -> None:
    """All of the pool; a worker that stops right then would lose its counts."""
    await database.execute(OWNERS)
    settings = database.settings
    async with open_pool(settings) as pool:
        uses = KeyActivity(pool, settings, most=100)
        async with AsyncExitStack() as stack:
            idle = [
                await stack.enter_async_context(pool.acquire()) for _ in range(settings.pool_size)
            ]
            processes = [one.get_server_pid() for one in idle]
        for process in processes:  # without a turn of the loop: the pool does not see their end
            os.kill(process, signal.SIGTERM)
        while any(os.path.exists(f"/proc/{one}") for one in processes):  # noqa: PTH110, ASYNC240
            time.sleep(0.001)  # noqa: ASYNC251
        uses.note(ONE, refused=False, at=1.0)
        await uses.flush()

        assert uses.pending == 0
    assert await written(database) == [(ONE, 1.0, 1, 0)]


async def test_memory_is_bounded_while_the_database_is_away(database: Database) -> None:
    """Keys past the bound are not counted, and that is known; those within it still are."""
    async with activity(database.settings, most=2) as uses:
        for key_id in (ONE, TWO, GONE, ONE, GONE):
            uses.note(key_id, refused=False, at=1.0)

        assert (uses.pending, uses.dropped) == (2, 2)


async def test_what_is_left_is_written_at_the_end(database: Database) -> None:
    """A worker that drains loses nothing; its background task may be cancelled at any moment."""
    await database.execute(OWNERS)
    async with activity(database.settings, flush_seconds=0.001) as uses:
        task = asyncio.ensure_future(uses.run())
        uses.note(ONE, refused=False, at=1.0)
        while uses.pending:  # noqa: ASYNC110 - the task says nothing
            await asyncio.sleep(0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        uses.note(ONE, refused=False, at=2.0)
        await uses.aclose()

    assert await written(database) == [(ONE, 2.0, 2, 0)]


async def test_the_task_outlives_a_failing_database(empty_database: Database) -> None:
    """Without a schema it goes on trying, and the end is not held up."""
    async with activity(empty_database.settings, flush_seconds=0.001) as uses:
        uses.note(ONE, refused=False, at=1.0)
        task = asyncio.ensure_future(uses.run())
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()
        with suppress(asyncio.CancelledError, *UNAVAILABLE):
            await task
        await uses.aclose()

        assert uses.pending == 1


async def test_two_workers_that_write_the_same_keys_do_not_deadlock(database: Database) -> None:
    """Many batches at once, each with the keys in another order: every use is counted."""
    await database.execute(OWNERS)
    ids = [f"AAAAAAAAAAA{number}" for number in (1, 2, 3)]

    async def work(order: list[str]) -> None:
        async with activity(database.settings) as uses:
            for _ in range(40):
                for key_id in order:
                    uses.note(key_id, refused=False, at=1.0)
                await uses.flush()

    await asyncio.gather(work(ids), work(ids[::-1]), work(ids[1:] + ids[:1]))

    assert await written(database) == [(key_id, 1.0, 120, 0) for key_id in ids]


async def test_a_batch_that_the_database_takes_too_slowly_is_not_counted_twice(
    database: Database,
) -> None:
    """A statement that the worker gives up is not committed by the server later."""
    await database.execute(OWNERS)
    await database.execute("INSERT INTO key_activity SELECT public_id, now(), 0, 0 FROM api_keys")
    hurried = database.settings.model_copy(update={"query_seconds": 0.3})
    async with activity(hurried) as uses, database.connect() as other:
        uses.note(ONE, refused=False, at=1.0)
        async with other.transaction():
            await other.execute("SELECT FROM key_activity FOR UPDATE")
            for _ in range(3):
                with pytest.raises(UNAVAILABLE):
                    await uses.flush()
        await other.execute("SELECT pg_sleep(0.3)")  # time for the server to commit
        await uses.flush()

    assert [row[2] for row in await written(database)] == [1, 0, 0]


async def test_a_large_batch_is_written_in_pieces(database: Database) -> None:
    """What the database has taken of it is not added again when the rest fails."""
    await database.execute(OWNERS)
    await database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'not now'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON key_activity FOR EACH ROW"
        f" WHEN (NEW.key_id = '{TWO}') EXECUTE FUNCTION refuse()"
    )
    async with activity(database.settings, most=10_000) as uses:
        uses.note(ONE, refused=False, at=1.0)
        for number in range(ROWS_AT_ONCE - 1):
            uses.note(f"gone-{number}", refused=False, at=1.0)
        uses.note(TWO, refused=False, at=1.0)
        with pytest.raises(asyncpg.RaiseError):
            await uses.flush()
        assert uses.pending == 1
        await database.execute("DROP TRIGGER refuse ON key_activity")
        await uses.flush()

    assert await written(database) == [(ONE, 1.0, 1, 0), (TWO, 1.0, 1, 0)]


async def test_counting_tells_nobody_and_leaves_no_entry_in_the_audit_log(
    database: Database,
) -> None:
    """It is no administrative change."""
    await database.execute(OWNERS)
    await database.execute("DELETE FROM audit_log")
    async with activity(database.settings) as uses:
        uses.note(ONE, refused=False, at=datetime(2026, 1, 1, tzinfo=UTC).timestamp())
        await uses.flush()

    async with database.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM audit_log") == 0
