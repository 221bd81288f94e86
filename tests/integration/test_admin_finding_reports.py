from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sidecar.admin.finding_reports import FindingSum, finding_sums, recorded_requests
from sidecar.domain.finding import FindingCount, Verdict
from sidecar.storage.finding_counts import FindingCounts
from sidecar.storage.pool import open_pool
from sidecar.storage.usage_store import PostgresUsage
from sidecar.usage.prices import PriceList
from tests.support.postgres import Database
from tests.support.reports import PII, PRINCIPAL
from tests.support.usage import judged, record

AT = datetime(2026, 5, 1, 12, 40, tzinfo=UTC)
PHONE = FindingCount(PII, Verdict.REDACT, "PHONE", "tool", 3)


async def test_sums_begin_with_the_hour_of_the_time(database: Database) -> None:
    """Findings and requests alike, so that a share is of the same hours."""
    async with open_pool(database.settings) as pool:
        counts = FindingCounts(pool, database.settings, most=100)
        usage = PostgresUsage(pool, database.settings, batch_seconds=20)
        for number, minutes in enumerate((0, -39, -41)):
            at = AT + timedelta(minutes=minutes)
            counts.note("default", (PHONE,), of=PRINCIPAL, at=at.timestamp())
            await usage.add([record(request=judged(number, occurred_at=at))], PriceList())
        await counts.flush()
    async with database.connect() as connection:
        until = AT - timedelta(hours=1)
        found = [
            await finding_sums(
                connection, since=None, until=until, policy=None, limit=9, by_team=by_team
            )
            for by_team in (True, False)
        ]
        assert [one.requests for sums in found for one in sums] == [1, 1]
        for since, count in ((AT, 2), (None, 3)):
            sums = await finding_sums(connection, since=since, policy=None, limit=9)
            assert sums == [
                FindingSum(
                    team=None,
                    guardrail="pii",
                    type="PHONE",
                    role="tool",
                    verdict="redact",
                    mode="enforce",
                    policies=["default"],
                    requests=count,
                    findings=3 * count,
                )
            ]
            assert await recorded_requests(connection, since=since) == count


async def test_without_findings_there_are_no_sums(database: Database) -> None:
    async with database.connect() as connection:
        assert await finding_sums(connection, since=AT, policy=None, limit=9) == []
        assert await recorded_requests(connection, since=AT) == 0


async def test_sums_are_of_one_owner_or_a_row_for_each_team(database: Database) -> None:
    """A team that was deleted is named by its id."""
    lab = replace(PRINCIPAL, team_id="team_lab", organization_id="org_2")
    async with open_pool(database.settings) as pool:
        counts = FindingCounts(pool, database.settings, most=100)
        for owner, times in ((PRINCIPAL, 1), (lab, 2)):
            for _ in range(times):
                counts.note("default", (PHONE,), of=owner, at=AT.timestamp())
            await counts.flush()
    async with database.connect() as connection:
        await connection.execute("INSERT INTO organizations (id, name) VALUES ('org_2', 'globex')")
        await connection.execute(
            "INSERT INTO teams (id, organization_id, name) VALUES ('team_lab', 'org_2', 'lab')"
        )

        async def sums(**options: Any) -> list[tuple[str | None, int]]:
            found = await finding_sums(connection, since=None, policy=None, limit=9, **options)
            return [(one.team, one.requests) for one in found]

        assert await sums() == [(None, 3)]
        assert await sums(within=["org_2"]) == await sums(within=["team_lab"]) == [(None, 2)]
        assert await sums(within=[]) == []
        assert await sums(by_team=True) == [("globex/lab", 2), (PRINCIPAL.team_id, 1)]
