from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

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
    async with database.server.connect(database.name) as connection:
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
    async with database.server.connect(database.name) as connection:
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
