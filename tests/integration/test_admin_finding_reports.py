from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sidecar.admin.finding_reports import FindingSum, finding_sums, recorded_requests
from sidecar.domain.finding import FindingCount, Verdict
from sidecar.storage.finding_counts import FindingCounts
from sidecar.storage.pool import open_pool
from sidecar.storage.usage_store import PostgresUsage
from sidecar.usage.prices import PriceList
from tests.support.postgres import Database
from tests.support.reports import PII
from tests.support.usage import judged, record

AT = datetime(2026, 5, 1, 12, 40, tzinfo=UTC)
PHONE = FindingCount(PII, Verdict.REDACT, "PHONE", "tool", 3)


async def test_sums_begin_with_the_hour_of_the_time(database: Database) -> None:
    """Findings and requests alike, so that a share is of the same hours."""
    async with open_pool(database.settings) as pool:
        counts = FindingCounts(pool, database.settings)
        usage = PostgresUsage(pool, database.settings, batch_seconds=20)
        for number, minutes in enumerate((0, -39, -41)):
            at = AT + timedelta(minutes=minutes)
            counts.note("default", (PHONE,), at=at.timestamp())
            await usage.add([record(request=judged(number, occurred_at=at))], PriceList())
        await counts.flush()
    async with database.server.connect(database.name) as connection:
        for since, count in ((AT, 2), (None, 3)):
            sums = await finding_sums(connection, since=since, policy=None, limit=9)
            assert sums == [
                FindingSum(
                    *("pii", "PHONE", "tool", "redact", "enforce", ["default"]), count, 3 * count
                )
            ]
            assert await recorded_requests(connection, since=since) == count


async def test_without_findings_there_are_no_sums(database: Database) -> None:
    async with database.server.connect(database.name) as connection:
        assert await finding_sums(connection, since=AT, policy=None, limit=9) == []
        assert await recorded_requests(connection, since=AT) == 0
