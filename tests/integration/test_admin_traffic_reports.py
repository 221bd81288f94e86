from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from sidecar.admin import traffic_reports
from sidecar.admin.traffic_reports import (
    BUCKET,
    keys_in_use,
    latency_by_hour,
    latency_since,
    percentile,
    traffic_by_hour,
)
from tests.support.console import fill
from tests.support.postgres import Database


async def test_traffic_has_every_hour_and_only_owners_within(database: Database) -> None:
    async with database.connect() as connection:
        await fill(connection)
        now = datetime.now(UTC)
        team = await connection.fetchval("SELECT id FROM teams WHERE name = 'lab'")
        since = now - timedelta(hours=24)

        hours = await traffic_by_hour(connection, since=since, until=now, within=None)
        of_team = await traffic_by_hour(connection, since=since, until=now, within=[team])

        assert len(hours) == 25
        assert sum(hour.requests for hour in hours) == 840
        assert sum(hour.cost_usd for hour in of_team) == Decimal(21)
        assert await keys_in_use(connection, within=None) == 3
        assert await keys_in_use(connection, within=[team]) == 1
        assert await keys_in_use(connection, within=[]) == 0


async def test_latency_counts_completed_requests_alone(database: Database) -> None:
    now = datetime.now(UTC)
    async with database.connect() as connection:
        await connection.executemany(
            "INSERT INTO usage (occurred_at, request_id, key_id, team_id, organization_id, status,"
            " decision, latency_ms, ended) VALUES ($1, $2, 'k', 't', 'o', 200, 'allow', $3, $4)",
            [
                (now, "1", 100.0, "completed"),
                (now, "2", 300.0, "completed"),
                (now, "3", 9000.0, "failed"),
                (now - timedelta(hours=2), "4", 9000.0, "completed"),
            ],
        )

        latest = await latency_since(connection, now - timedelta(minutes=15), within=None)
        none = await latency_since(connection, now - timedelta(minutes=15), within=["other"])
        since = now - timedelta(hours=2)
        hours = await latency_by_hour(connection, since=since, until=now, within=["t"])
        others = await latency_by_hour(connection, since=since, until=now, within=["other"])

    assert (latest.requests, latest.p50_ms) == (2, 200.0)
    assert (none.requests, none.p50_ms) == (0, None)
    assert [hour.p50_ms for hour in hours] == [8974, None, 102]
    assert [hour.p95_ms for hour in hours] == [8974, None, 290]
    assert {(hour.p50_ms, hour.p95_ms) for hour in others} == {(None, None)}


def test_a_percentile_is_within_a_twentieth_of_a_latency() -> None:
    for milliseconds in (40.0, 100.0, 3210.0):
        bucket = int(math.log(milliseconds) / math.log(BUCKET))
        assert percentile({bucket: 5}, 0.95) == pytest.approx(milliseconds, rel=0.06)
    assert percentile({3: 19, 40: 1}, 0.95) == percentile({3: 1}, 0.5)
    assert percentile({}, 0.5) is None


_EARLIER = """
INSERT INTO usage_by_hour
SELECT now() - n * interval '1 minute', 'k', 't', 'o', '', 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1
FROM generate_series(0, 20000) AS n;
INSERT INTO latency_by_hour
SELECT now() - n * interval '1 minute', 't', 'o', 9, 1 FROM generate_series(0, 20000) AS n;
ANALYZE usage_by_hour, latency_by_hour;
"""


@pytest.mark.parametrize("statement", [traffic_reports._HOURS, traffic_reports._BUCKETS])
async def test_a_day_of_traffic_is_read_without_the_days_before(
    database: Database, statement: str
) -> None:
    """The overview reads it every few seconds, and sums by hour are kept for ever."""
    now = datetime.now(UTC)

    def rows(node: dict[str, Any]) -> int:
        own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        below = sum(map(rows, node.get("Plans", ())))
        return int(own * node["Actual Loops"] * ("Relation Name" in node)) + below

    async with database.server.connect(database.name) as connection:
        await connection.execute(_EARLIER)
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        text = await connection.fetchval(explain, now - timedelta(hours=24), now, None)

    assert 0 < rows(json.loads(text)[0]["Plan"]) <= 25 * 60
