from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest
from msgspec import structs

from sidecar.domain.finding import FindingCount, Verdict
from sidecar.domain.policy import Mode
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.finding_counts import FindingCounts
from sidecar.storage.pool import UNAVAILABLE, open_pool
from tests.support.postgres import Database
from tests.support.reports import PII, PRINCIPAL

HOUR = datetime(2027, 1, 31, 12, tzinfo=UTC)
AT = HOUR.timestamp() + 60
PHONE = FindingCount(PII, Verdict.REDACT, "PHONE", "tool", 7)
EMAIL = FindingCount(PII, Verdict.REDACT, "EMAIL", "answer", 1)


@asynccontextmanager
async def counting(
    settings: PostgresSettings, *, most: int = 100, flush_seconds: float = 3600
) -> AsyncIterator[FindingCounts]:
    async with open_pool(settings) as pool:
        yield FindingCounts(pool, settings, most=most, flush_seconds=flush_seconds)


async def written(database: Database) -> list[tuple[object, ...]]:
    async with database.connect() as connection:
        rows = await connection.fetch(
            "SELECT * FROM findings_by_hour ORDER BY 1, 2, 3, 4, 5, 6, 7"
        )
    return [tuple(row) for row in rows]


async def test_findings_are_added_up_by_hour_type_and_role(database: Database) -> None:
    async with counting(database.settings) as counts:
        counts.note("default", (PHONE, EMAIL), of=PRINCIPAL, at=AT)
        counts.note("default", (PHONE,), of=PRINCIPAL, at=AT + 3500)
        await counts.flush()
        counts.note("default", (PHONE,), of=PRINCIPAL, at=AT)
        counts.note("default", (PHONE,), of=PRINCIPAL, at=AT + 3600)
        shadow = replace(PII, mode=Mode.SHADOW)
        counts.note("finance", (structs.replace(PHONE, guardrail=shadow),), of=PRINCIPAL, at=AT)
        await counts.flush()
        assert (counts.pending, counts.dropped) == (0, 0)
    later = HOUR.replace(hour=13)
    assert await written(database) == [
        (HOUR, "default", "pii", "EMAIL", "answer", "redact", "enforce", 1, 1),
        (HOUR, "default", "pii", "PHONE", "tool", "redact", "enforce", 3, 21),
        (HOUR, "finance", "pii", "PHONE", "tool", "redact", "shadow", 1, 7),
        (later, "default", "pii", "PHONE", "tool", "redact", "enforce", 1, 7),
    ]


async def test_counts_of_findings_wait_for_a_database_that_is_away(database: Database) -> None:
    """As while an older schema is in place: a failed batch is kept and added to."""
    async with counting(database.settings) as counts:
        await database.execute("ALTER TABLE findings_by_hour RENAME TO away")
        counts.note("default", (PHONE,), of=PRINCIPAL, at=AT)
        with pytest.raises(asyncpg.UndefinedTableError):
            await counts.flush()
        counts.note("default", (PHONE,), of=PRINCIPAL, at=AT)
        assert counts.pending == 1
        await database.execute("ALTER TABLE away RENAME TO findings_by_hour")
        await counts.flush()
    assert [row[-2:] for row in await written(database)] == [(2, 14)]


async def test_memory_of_counts_is_bounded(database: Database) -> None:
    async with counting(database.settings, most=2) as counts:
        for policy in ("a", "b", "c", "a", "c"):
            counts.note(policy, (PHONE,), of=PRINCIPAL, at=AT)
        assert (counts.pending, counts.dropped) == (2, 2)


async def test_remaining_counts_are_written_at_the_end(database: Database) -> None:
    async with counting(database.settings, flush_seconds=0.001) as counts:
        task = asyncio.ensure_future(counts.run())
        counts.note("default", (PHONE,), of=PRINCIPAL, at=AT)
        while counts.pending:  # noqa: ASYNC110 - the task has no event for it
            await asyncio.sleep(0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        counts.note("default", (PHONE,), of=PRINCIPAL, at=AT)
        await counts.aclose()
    assert [row[-2:] for row in await written(database)] == [(2, 14)]


async def test_counting_outlives_a_database_without_a_schema(empty_database: Database) -> None:
    async with counting(empty_database.settings, flush_seconds=0.001) as counts:
        counts.note("default", (PHONE,), of=PRINCIPAL, at=AT)
        task = asyncio.ensure_future(counts.run())
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()
        with suppress(asyncio.CancelledError, *UNAVAILABLE):
            await task
        await counts.aclose()
        assert counts.pending == 1


async def test_workers_that_add_to_the_same_rows_do_not_deadlock(database: Database) -> None:
    async def work(types: list[str]) -> None:
        async with counting(database.settings) as counts:
            for _ in range(40):
                for type_ in types:
                    counts.note(
                        "default", (structs.replace(PHONE, type=type_),), of=PRINCIPAL, at=AT
                    )
                await counts.flush()

    await asyncio.gather(work(["A", "B", "C"]), work(["C", "B", "A"]), work(["B", "C", "A"]))
    assert [row[-2:] for row in await written(database)] == [(120, 840)] * 3
